/** How CMake is configured in a clone: by setup and by prebuild alike, as they share the build folder. */
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
  // The kernels of the CUDA backend are tested on the host.
  const options = process.platform === 'win32' ? [] : ['--CDFPL_HOST_EXECUTION=ON']
  return ['--log-level', 'error', ...options]
}

/** Makes CMake look for nvcc again, which it never does once it has found none. */
export function forgetMissingNvcc(build) {
  const cache = join(build, 'CMakeCache.txt')
  if (nvcc() === undefined || !existsSync(cache)) return
  if (/^CMAKE_CUDA_COMPILER:\w+=NOTFOUND$/m.test(readFileSync(cache, 'utf8'))) rmSync(cache)
}
