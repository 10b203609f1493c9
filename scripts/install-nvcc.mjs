/**
 * Installs NVIDIA's CUDA compiler from PyPI into scripts/toolchain/nvcc, unless it is there already, and prints the
 * folder for the PATH:
 *
 *   export PATH="$(node scripts/install-nvcc.mjs):$PATH"
 *
 * Needs Linux on x64 and a python3 with venv, but no driver and no GPU.
 */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installPackages } from './python-packages.mjs'

const toolchain = fileURLToPath(new URL('toolchain', import.meta.url))
const options = ['--no-deps', '--require-hashes']
const python = installPackages(join(toolchain, 'nvcc'), join(toolchain, 'nvcc.txt'), options)
const packages = execFileSync(python, ['-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], {
  encoding: 'utf8',
})
console.log(join(packages.trim(), 'nvidia/cu13/bin'))
