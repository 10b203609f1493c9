/** How CMake is configured in a clone. setup and prebuild use the same options because they share the build folder. */
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** The path of the first nvcc on the PATH; undefined where there is none. */
export function nvcc() {
  const name = process.platform === 'win32' ? 'nvcc.exe' : 'nvcc'
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean)
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path))
}

/** Options for cmake-js. */
export function cmakeOptions() {
  // Tests run the kernels of the CUDA backend on the host.
  const options = process.platform === 'win32' ? [] : ['--CDFPL_HOST_EXECUTION=ON']
  return ['--log-level', 'error', ...options]
}

/** Makes CMake look for nvcc again: CMake remembers a failed search. */
export function forgetMissingNvcc(/** @type {string} */ build) {
  const cache = join(build, 'CMakeCache.txt')
  if (nvcc() === undefined || !existsSync(cache)) return
  if (/^CMAKE_CUDA_COMPILER:\w+=NOTFOUND$/m.test(readFileSync(cache, 'utf8'))) rmSync(cache)
}
