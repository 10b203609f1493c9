/** Formats native/, test/native/ and test/ptx/ with clang-format (--write), or lists the files that are not formatted. */
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const directory = dirname(createRequire(import.meta.url).resolve('clang-format/package.json'))
/** @type {Partial<Record<NodeJS.Platform, string>>} */
const folders = { linux: 'linux_x64', darwin: 'darwin_x64', win32: 'win32' }
const platform = folders[process.platform]
if (!platform) throw new Error(`clang-format has no binary for ${process.platform}`)
const program = join(directory, 'bin', platform, 'clang-format')
const files = ['native', 'test/native', 'test/ptx'].flatMap((folder) =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(h|cc|inl|cu|cuh)$/.test(name))
    .map((name) => join(folder, name)),
)
const mode = process.argv.includes('--write') ? ['-i'] : ['--dry-run', '--Werror']
try {
  execFileSync(program, [...mode, ...files], { stdio: 'inherit' })
} catch {
  process.exit(1)
}
