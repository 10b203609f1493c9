/**
 * Refuses a package in which a part is missing or older than its sources: every platform's binary, the CUDA library,
 * the WebAssembly modules, dist. `npm pack` and `npm publish` run it first. A packed tarball is unpacked and compared with this repository.
 *
 *   node scripts/check-package.mjs [TARBALL] [--without NAME …] [--release]
 *
 * --without NAME    a part that may be missing: a target of scripts/prebuild.mjs, cuda or wasm; missing parts are printed
 * --release         also require the repository's address and a dated section of CHANGELOG.md
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { PART_NAMES, problemsOf, releaseProblems } from './shipped.mjs'

const { values, positionals } = parseArgs({
  options: { without: { type: 'string', multiple: true, default: [] }, release: { type: 'boolean' } },
  allowPositionals: true,
})
const unknown = values.without.find((name) => !PART_NAMES.includes(name))
if (unknown !== undefined || positionals.length > 1) {
  console.error(
    `check-package: ${unknown ? `'${unknown}' is not one of ${PART_NAMES.join(', ')}` : 'one tarball at a time'}`,
  )
  process.exit(2)
}

const root = fileURLToPath(new URL('..', import.meta.url))
const [tarball] = positionals
const folder = tarball === undefined ? root : unpacked(resolve(tarball))
const problems = problemsOf(folder, { without: values.without })
if (values.release) problems.push(...releaseProblems({ repository: process.env.GITHUB_REPOSITORY }))
if (folder !== root) rmSync(folder, { recursive: true })

for (const name of values.without) console.log(`check-package: left out ${name}`)
if (problems.length > 0) {
  console.error(`check-package: ${tarball ?? 'the package'} cannot be published\n  ${problems.join('\n  ')}`)
  console.error(
    '`npm run setup` builds dist; `npm run prebuild:all`, with nvcc on the PATH, and `npm run build:wasm` build the rest',
  )
  process.exit(1)
}
console.log(`check-package: ${tarball ?? 'the package'} is complete`)

/** Unpacks a tarball into a new folder and returns the package's folder. */
function unpacked(/** @type {string} */ file) {
  const target = mkdtempSync(join(tmpdir(), 'fused-preference-loss-check-'))
  execFileSync('tar', ['-xzf', file, '-C', target, '--strip-components=1'])
  return target
}
