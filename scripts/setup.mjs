/**
 * Brings a clone to where tests, demo and benchmarks can run: installs the dependencies, compiles the addon, builds
 * dist. Each step only when it is needed; needs Node, npm, cmake and a C++ compiler.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

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
if (newest('build/Release/fused_preference_loss.node') < nativeSources) {
  console.log('setup: compiling the addon')
  // The kernels of the CUDA backend are tested on the host.
  const options = process.platform === 'win32' ? [] : ['--CDFPL_HOST_EXECUTION=ON']
  run(bin('cmake-js'), ['configure', '--log-level', 'error', ...options])
  run(bin('cmake-js'), ['compile', '--log-level', 'error', ...options])
}

const librarySources = Math.max(newest('lib'), newest('tsdown.config.ts'), newest('package.json'))
if (newest('dist/index.mjs') < librarySources) {
  console.log('setup: building dist')
  run(bin('tsdown'), ['--logLevel', 'warn'])
}
