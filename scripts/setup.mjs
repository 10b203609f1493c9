/**
 * Prepares a clone for tests, demo and benchmarks: installs the dependencies, compiles the addon and builds dist, each
 * step only when it is needed; with --dependencies the first step alone. Needs Node, npm, cmake and a C++ compiler. Of
 * several processes that are started at once, as by mpirun, one does the work, and the others wait for it.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, statSync, utimesSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cmakeOptions, forgetMissingNvcc, nvcc } from './cmake-options.mjs'
import { withLock } from './lock.mjs'
import { distIsCurrent, wasmIsCurrent } from './shipped.mjs'
import { zig } from './zig.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const bin = (/** @type {string} */ name) =>
  join(root, 'node_modules', '.bin', process.platform === 'win32' ? `${name}.cmd` : name)
const run = (/** @type {string} */ command, /** @type {string[]} */ args) =>
  execFileSync(command, args, { cwd: root, stdio: 'inherit', shell: process.platform === 'win32' })

/**
 * Time of the newest file under `path`; 0 when there is no file.
 * @returns {number}
 */
function newest(/** @type {string} */ path) {
  const full = join(root, path)
  if (!existsSync(full)) return 0
  const stats = statSync(full)
  if (!stats.isDirectory()) return stats.mtimeMs
  return Math.max(0, ...readdirSync(full).map((name) => newest(join(path, name))))
}

await withLock(join(root, '.setup.lock'), setUp, (owner) =>
  console.log(`setup: waiting for that of process ${owner}; if there is none, delete .setup.lock`),
)

function setUp() {
  if (newest('node_modules/.package-lock.json') < newest('package-lock.json')) {
    console.log('setup: installing dependencies')
    run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'])
  }
  if (process.argv.includes('--dependencies')) return

  const nativeSources = Math.max(newest('native'), newest('CMakeLists.txt'))
  const cudaLibrary = `fused_preference_loss_cuda.${process.platform === 'win32' ? 'dll' : 'so'}`
  const built = ['fused_preference_loss.node', ...(nvcc() ? [cudaLibrary] : [])].map((name) => `build/Release/${name}`)
  if (built.some((path) => newest(path) < nativeSources)) {
    console.log(`setup: compiling the addon${nvcc() ? ' and the CUDA library' : ''}`)
    const begun = new Date()
    forgetMissingNvcc(join(root, 'build'))
    run(bin('cmake-js'), ['configure', ...cmakeOptions()])
    run(bin('cmake-js'), ['compile', ...cmakeOptions()])
    // Outputs that do not depend on the changed sources keep their old times, but they are up to date: with the sources as
    // they were then.
    for (const path of built.filter((path) => existsSync(join(root, path)))) utimesSync(join(root, path), begun, begun)
  }

  if (!wasmIsCurrent()) {
    if (existsSync(zig)) run(process.execPath, [join('scripts', 'build-wasm.mjs')])
    else console.log('setup: wasm left out; npm run build:wasm installs its compiler and builds it')
  }

  if (!distIsCurrent()) {
    console.log('setup: building dist')
    run(bin('tsdown'), ['--logLevel', 'warn'])
  }
}
