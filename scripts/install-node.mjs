/**
 * Installs the newest Node.js, in the version of scripts/newest-node/package.json, beside that file, unless it is there
 * already, and prints the folder for the PATH:
 *
 *   PATH="$(node scripts/install-node.mjs):$PATH" npx vitest run
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('newest-node', import.meta.url))
const platform = process.platform === 'win32' ? 'win' : process.platform
const { optionalDependencies } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
const name = Object.keys(optionalDependencies).find((name) => name.endsWith(`-${platform}-${process.arch}`))
if (name === undefined) throw new Error(`scripts/newest-node has no Node.js for ${platform}-${process.arch}`)
const installed = join(folder, 'node_modules', name)
const manifest = join(installed, 'package.json')

if (!existsSync(manifest) || JSON.parse(readFileSync(manifest, 'utf8')).version !== optionalDependencies[name]) {
  /** @type {import('node:child_process').ExecFileSyncOptions} */
  const options = { cwd: folder, stdio: ['ignore', 2, 2], shell: process.platform === 'win32' }
  execFileSync('npm', ['ci', '--no-audit', '--no-fund', '--ignore-scripts'], options)
}
console.log(join(installed, 'bin'))
