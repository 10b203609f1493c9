/**
 * Installs NVIDIA's CUDA compiler from PyPI into scripts/toolchain/nvcc, unless it is there already, and prints the
 * folder for the PATH:
 *
 *   export PATH="$(node scripts/install-nvcc.mjs):$PATH"
 *
 * Needs Linux on x64 and a python3 with venv, but no driver and no GPU.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const toolchain = fileURLToPath(new URL('toolchain', import.meta.url))
const list = join(toolchain, 'nvcc.txt')
const environment = join(toolchain, 'nvcc')
const python = join(environment, 'bin/python')
/** A copy of the list of packages, written once all of them are installed. */
const installed = join(environment, 'installed.txt')

// Standard output is only for the PATH; all other output goes to standard error.
const run = (/** @type {string} */ command, /** @type {string[]} */ args) =>
  execFileSync(command, args, { stdio: ['ignore', 2, 2] })

if (!existsSync(installed) || readFileSync(installed, 'utf8') !== readFileSync(list, 'utf8')) {
  rmSync(environment, { recursive: true, force: true })
  run('python3', ['-m', 'venv', environment])
  run(python, ['-m', 'pip', 'install', '--quiet', '--no-deps', '--require-hashes', '--requirement', list])
  writeFileSync(installed, readFileSync(list))
}
const packages = execFileSync(python, ['-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], {
  encoding: 'utf8',
})
console.log(join(packages.trim(), 'nvidia/cu13/bin'))
