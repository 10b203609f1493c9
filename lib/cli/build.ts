/**
 * `build`: compiles the addon on this machine, for platforms without a binary in the package. Never run by an install.
 */
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Command } from './command.js'
import { manifest, packageRoot } from './package-root.js'

export const command: Command = {
  summary: 'compile the native binary here; needs cmake and a C++17 compiler (--no-cuda)',
  run(args) {
    const { values } = parseArgs({ args, options: { 'no-cuda': { type: 'boolean' } } })
    const tools = toolsFolder()
    if (tools === undefined) return 1
    const cmakeJs = createRequire(join(tools, 'x.js')).resolve('cmake-js/bin/cmake-js')
    const cuda = values['no-cuda'] ? 'OFF' : 'ON'
    console.log(
      `Compiling in ${join(packageRoot, 'build')}${values['no-cuda'] ? '' : ', with CUDA where nvcc is found'}`,
    )
    const options = ['--log-level', 'error', `--CDFPL_CUDA=${cuda}`]
    // NODE_PATH: CMakeLists.txt asks Node where node-addon-api is.
    const status = run(process.execPath, [cmakeJs, 'rebuild', ...options], { NODE_PATH: join(tools, 'node_modules') })
    if (status === 0) console.log('Done; `npx fused-preference-loss inspect` shows what is loaded now')
    return status
  },
}

/** The folder whose node_modules has the build tools: the package's own in a clone, else one they are installed in. */
function toolsFolder(): string | undefined {
  const names = ['cmake-js', 'node-addon-api']
  try {
    const load = createRequire(join(packageRoot, 'x.js'))
    for (const name of names) load.resolve(`${name}/package.json`)
    return packageRoot
  } catch {
    // Beside the build folder, which cmake-js empties.
    const folder = join(packageRoot, 'build-tools')
    const packages = names.map((name) => `${name}@${manifest.devDependencies[name]}`)
    console.log(`Installing ${packages.join(' and ')} in ${folder}`)
    const args = ['install', '--prefix', folder, '--no-save', '--no-audit', '--no-fund', ...packages]
    return run('npm', args) === 0 ? folder : undefined
  }
}

function run(program: string, args: string[], env: Record<string, string> = {}): number {
  const shell = process.platform === 'win32' && program === 'npm'
  const { status, error } = spawnSync(program, args, {
    cwd: packageRoot,
    env: { ...process.env, ...env },
    stdio: 'inherit',
    shell,
  })
  if (error) throw error
  return status ?? 1
}
