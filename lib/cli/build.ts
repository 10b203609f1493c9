/**
 * `build`: compiles the addon on this machine, for platforms without a binary in the package. An install never runs it.
 */
import { type SpawnOptions, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { readArguments } from './arguments.js'
import type { Command, Option } from './command.js'
import { manifest, packageRoot } from './package-root.js'

const OPTIONS = {
  'no-cuda': { type: 'boolean', help: 'leave out the CUDA library, which is compiled where nvcc is found' },
} satisfies Record<string, Option>

export const command: Command = {
  summary: 'compile the native binary here; needs cmake and a C++17 compiler',
  options: OPTIONS,
  run(args) {
    const { values } = readArguments(args, OPTIONS)
    const tools = toolsFolder()
    if (tools === undefined) return 1
    const cmakeJs = createRequire(join(tools, 'x.js')).resolve('cmake-js/bin/cmake-js')
    const cuda = values['no-cuda'] ? 'OFF' : 'ON'
    console.log(
      `Compiling in ${join(packageRoot, 'build')}${values['no-cuda'] ? '' : ', with CUDA where nvcc is found'}`,
    )
    const options = ['--log-level', 'error', `--CDFPL_CUDA=${cuda}`]
    // NODE_PATH: CMakeLists.txt asks Node for the folder of node-addon-api.
    const env = { ...process.env, NODE_PATH: join(tools, 'node_modules') }
    const status = run(process.execPath, [cmakeJs, 'rebuild', ...options], { cwd: packageRoot, env })
    if (status === 0) console.log('Done; `npx fused-preference-loss inspect` shows what is loaded now')
    return status
  },
}

/**
 * The folder whose node_modules has the build tools: the package's own in a clone, else a folder to install them in.
 */
function toolsFolder(): string | undefined {
  const names = ['cmake-js', 'node-addon-api']
  if (names.every((name) => existsSync(join(packageRoot, 'node_modules', name)))) return packageRoot
  // Beside the build folder, which cmake-js empties.
  const folder = join(packageRoot, 'build-tools')
  const dependencies = Object.fromEntries(names.map((name) => [name, manifest.devDependencies[name]]))
  console.log(`Installing ${names.join(' and ')} in ${folder}`)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ private: true, dependencies }))
  return install(folder) === 0 ? folder : undefined
}

/**
 * On Windows npm is a script, which needs a shell. The shell gets neither the folder, whose name may hold spaces, nor a
 * version.
 */
function install(cwd: string): number {
  const args = ['install', '--no-audit', '--no-fund']
  return process.platform === 'win32'
    ? run(`npm ${args.join(' ')}`, [], { cwd, shell: true })
    : run('npm', args, { cwd })
}

function run(program: string, args: string[], options: SpawnOptions): number {
  const { status, error } = spawnSync(program, args, { stdio: 'inherit', ...options })
  if (error) throw error
  return status ?? 1
}
