/**
 * Installs NVIDIA's NCCL from PyPI (300 MB) into scripts/toolchain/nccl, unless it is there already, and prints its
 * folder, with which test/nccl.test.ts compares native/cuda/nccl.h.
 *
 * Needs Linux on x64 and a python3 with venv, but no driver and no GPU.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installPackages } from './python-packages.mjs'

const toolchain = fileURLToPath(new URL('toolchain', import.meta.url))
const environment = join(toolchain, 'nccl')

/** The folder with NCCL's `include` and `lib`; undefined where it has not been installed. */
export function ncclFolder() {
  const libraries = join(environment, 'lib')
  if (!existsSync(libraries)) return undefined
  const folders = readdirSync(libraries).map((python) => join(libraries, python, 'site-packages', 'nvidia', 'nccl'))
  return folders.find((folder) => existsSync(folder))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  installPackages(environment, join(toolchain, 'nccl.txt'), ['--no-deps', '--require-hashes'])
  console.log(ncclFolder())
}
