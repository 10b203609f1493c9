/** The CUDA compiler, if there is one. */
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** The path of the first nvcc on the PATH; undefined where there is none. */
export function nvcc() {
  const name = process.platform === 'win32' ? 'nvcc.exe' : 'nvcc'
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean)
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path))
}
