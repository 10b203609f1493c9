/**
 * Prints the path of Deno: `$DENO`, the one on the PATH, or that of test/package/web, which it installs on Linux x64 unless
 * it is there.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const web = fileURLToPath(new URL('../test/package/web', import.meta.url))
const installed = join(web, 'node_modules/@deno/linux-x64-glibc/deno')

/** Undefined where there is none. */
export const findDeno = () =>
  [process.env.DENO, 'deno', installed].find((path) => path && spawnSync(path, ['--version']).status === 0)

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  if (findDeno() === undefined && process.platform === 'linux' && process.arch === 'x64') {
    const flags = ['--no-audit', '--no-fund', '--ignore-scripts', '--omit=dev']
    execFileSync('npm', ['ci', ...flags], { cwd: web, stdio: ['ignore', 2, 2] })
  }
  const path = findDeno()
  if (path === undefined) process.exit(1)
  console.log(path)
}
