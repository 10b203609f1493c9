/** Helpers of the scripts around test/native: checks for required programs, and builds with other flags. */
import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('..', import.meta.url))

/** Whether a program can be run. */
export const has = (/** @type {string} */ program) => spawnSync(program, ['--version']).error === undefined

/**
 * Exits with a message on how to install the missing programs, unless all are there: name → Debian package. Installs
 * nothing.
 * @param {Record<string, string>} programs
 */
export function need(programs) {
  const missing = Object.keys(programs).filter((program) => !has(program))
  if (missing.length === 0) return
  const packages = [...new Set(missing.map((program) => programs[program]))].join(' ')
  console.error(`missing: ${missing.join(', ')}. On Debian: apt-get install ${packages}`)
  process.exit(1)
}

/**
 * Runs a program from the root of the repository; its output is shown unless `capture` asks for it.
 * @param {string} command
 * @param {string[]} args
 * @param {{ env?: Record<string, string>, capture?: boolean }} [options]
 */
export function run(command, args, { env, capture = false } = {}) {
  return execFileSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', capture ? 'pipe' : 'inherit', 'inherit'],
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
}

/** AddressSanitizer and UndefinedBehaviorSanitizer. */
export const ADDRESS =
  '-O1 -g -DFPL_DEBUG -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all'

/**
 * Builds `target` of test/native with those and returns its path. With Clang the native tests and the fuzz target are of one
 * build, as to compile the kernels takes minutes.
 * @param {string} target
 */
export function buildAddressed(target, compiler = 'clang++') {
  const flags = `${ADDRESS} -fsanitize=float-cast-overflow`
  return compiler === 'clang++'
    ? buildNative('asan-clang', target, flags, compiler, ['-DFUZZ=ON'])
    : buildNative('asan', target, flags, compiler)
}

/**
 * Builds `target` of test/native with these flags and returns its path.
 * @param {string} name
 * @param {string} target
 * @param {string} flags
 */
export function buildNative(name, target, flags, compiler = 'g++', more = /** @type {string[]} */ ([])) {
  const directory = join(root, 'build', 'tests', name)
  const options = [
    '-DCMAKE_BUILD_TYPE=Release',
    `-DCMAKE_CXX_COMPILER=${compiler}`,
    `-DCMAKE_CXX_FLAGS=${flags}`,
    ...more,
  ]
  run('cmake', ['-S', 'test/native', '-B', directory, ...options], { capture: true })
  run('cmake', ['--build', directory, '--target', target, '--parallel', '2'], { capture: true })
  return join(directory, target)
}

/**
 * Builds the addon with these flags, and with `host` also the CUDA backend for the host, and returns the environment
 * variables with which lib finds them.
 * @param {string} name
 * @param {string} flags
 */
export function buildAddon(name, flags, { host = false, compiler = 'g++' } = {}) {
  const directory = join(root, 'build', 'tests', name)
  const cmakeJs = join(root, 'node_modules', '.bin', 'cmake-js')
  const options = ['--out', join(directory, 'build'), `--CDCMAKE_CXX_FLAGS=${flags}`, '--CDFPL_CUDA=OFF']
  options.push(`--CDCMAKE_CXX_COMPILER=${compiler}`)
  options.push(`--CDFPL_HOST_EXECUTION=${host ? 'ON' : 'OFF'}`)
  run(cmakeJs, ['compile', '--log-level', 'error', ...options], { capture: true })
  const environment = { FUSED_PREFERENCE_LOSS_PREBUILD: directory }
  if (!host) return environment
  const library = (/** @type {string} */ part) =>
    join(directory, 'build', 'Release', `fused_preference_loss_host${part}.so`)
  return {
    ...environment,
    FUSED_PREFERENCE_LOSS_CUDA_LIBRARY: library(''),
    FUSED_PREFERENCE_LOSS_CUBLASLT: library('_cublaslt'),
    FUSED_PREFERENCE_LOSS_NCCL: library('_nccl'),
  }
}
