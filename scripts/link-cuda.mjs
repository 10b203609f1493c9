/**
 * Links the CUDA library that the package ships from what CMake has compiled on this machine, with the system's compiler: nvcc
 * does not take Zig's C++ library. The C library is Zig's, as old as that of the addon, and the C++ library is the system's
 * and becomes part of the file, so that the CUDA library runs wherever Node.js does.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { nvcc } from './cmake-options.mjs'
import { CUDA_LIBRARY } from './shipped.mjs'
import { OLDEST_LINUX, zig } from './zig.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))

/** @param {string} build the folder of CMake */
export function linkCuda(build, /** @type {string} */ output) {
  const sources = readFileSync(join(root, 'native/cuda/sources.txt'), 'utf8').trim().split(/\s+/)
  const objects = sources.map((source) => join(build, 'CMakeFiles', `${CUDA_LIBRARY}.dir`, `${source}.o`))
  const ofCompiler = ['libstdc++.a', 'libgcc_eh.a'].map((name) =>
    execFileSync(process.env.CXX ?? 'c++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim(),
  )
  const options = [
    ...['-target', `x86_64-${OLDEST_LINUX}`, '-w', '-shared', '-s', '-fPIC', '-O2', '-o', output],
    `-Wl,--version-script=${join(root, 'native/cuda/exports.map')}`,
  ]
  const libraries = [cudaRuntime(), ...ofCompiler, '-ldl', '-lpthread', '-lrt', '-lm']
  const inputs = [...objects, join(root, 'scripts/toolchain/newer-glibc.c'), ...libraries]
  execFileSync(zig, ['cc', ...options, ...inputs], { stdio: 'inherit' })
}

/** The CUDA runtime of nvcc, which becomes part of the library. */
function cudaRuntime() {
  const home = dirname(dirname(realpathSync(/** @type {string} */ (nvcc()))))
  const paths = ['lib', 'lib64', 'targets/x86_64-linux/lib'].map((folder) => join(home, folder, 'libcudart_static.a'))
  const found = paths.find((path) => existsSync(path))
  if (!found) throw new Error(`there is none of ${paths.join(', ')}`)
  return found
}
