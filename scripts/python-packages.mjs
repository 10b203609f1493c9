/**
 * Packages of PyPI in a virtual environment.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

// Standard output is for what a script prints; all other output goes to standard error.
const run = (/** @type {string} */ command, /** @type {string[]} */ args) =>
  execFileSync(command, args, { stdio: ['ignore', 2, 2] })

/**
 * Installs the packages of a list, unless they are there already.
 * @param {string} environment folder
 * @param {string} list requirements file
 * @param {string[]} options of pip
 * @returns {string} the environment's python
 */
export function installPackages(environment, list, options = []) {
  const python = join(environment, 'bin/python')
  /** A copy of the list, written once all of it is installed. */
  const installed = join(environment, 'installed.txt')
  if (!existsSync(installed) || readFileSync(installed, 'utf8') !== readFileSync(list, 'utf8')) {
    rmSync(environment, { recursive: true, force: true })
    run('python3', ['-m', 'venv', environment])
    run(python, ['-m', 'pip', 'install', '--quiet', ...options, '--requirement', list])
    writeFileSync(installed, readFileSync(list))
  }
  return python
}
