/**
 * Brings a clone to where tests, demo and benchmarks can run: installs the dependencies, compiles the addon, builds
 * dist. Each step only when it is needed; needs Node, npm, cmake and a C++ compiler.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { nvcc } from './nvcc.mjs'
import { distIsCurrent } from './shipped.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const bin = (name) => join(root, 'node_modules', '.bin', process.platform === 'win32' ? `${name}.cmd` : name)
const run = (command, args) =>
  execFileSync(command, args, { cwd: root, stdio: 'inherit', shell: process.platform === 'win32' })

/** Time of the newest file under `path`; 0 when there is none. */
function newest(path) {
  const full = join(root, path)
  if (!existsSync(full)) return 0
  const stats = statSync(full)
  if (!stats.isDirectory()) return stats.mtimeMs
  return Math.max(0, ...readdirSync(full).map((name) => newest(join(path, name))))
}

if (newest('node_modules/.package-lock.json') < newest('package-lock.json')) {
  console.log('setup: installing dependencies')
  run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'])
}

const nativeSources = Math.max(newest('native'), newest('CMakeLists.txt'))
const compiler = nvcc()
const built = ['fused_preference_loss.node', ...(compiler ? ['fused_preference_loss_cuda.so'] : [])]
if (built.some((name) => newest(`build/Release/${name}`) < nativeSources)) {
  console.log(`setup: compiling the addon${compiler ? ' and the CUDA library' : ''}`)
  // The kernels of the CUDA backend are tested on the host.
  const options = process.platform === 'win32' ? [] : ['--CDFPL_HOST_EXECUTION=ON']
  if (compiler) options.push(`--CDCMAKE_CUDA_COMPILER=${compiler}`)
  run(bin('cmake-js'), ['configure', '--log-level', 'error', ...options])
  run(bin('cmake-js'), ['compile', '--log-level', 'error', ...options])
}

if (!distIsCurrent()) {
  console.log('setup: building dist')
  run(bin('tsdown'), ['--logLevel', 'warn'])
}
