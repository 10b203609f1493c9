/**
 * Points the links of README.md, and package.json's other addresses, to the repository that package.json names. npm
 * shows the README without the repository around it, so its links are absolute.
 *
 *   node scripts/links.mjs [--check]
 *
 * --check   writes nothing; fails when a file would change
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const FILES = ['README.md', 'package.json']

/** The repository's page, from the manifest's `repository`. */
export function pageOf({ repository }) {
  const [, page] = /^git\+(https:\/\/github\.com\/[^/]+\/[^/]+)\.git$/.exec(repository?.url ?? '') ?? []
  if (page === undefined)
    throw new Error(`package.json: repository.url is '${repository?.url}', not git+https://github.com/….git`)
  return page
}

/** The text, with every GitHub address of a repository of this package's name replaced by `page`. */
export function linked(text, page) {
  const name = page.slice(page.lastIndexOf('/') + 1)
  return text.replaceAll(new RegExp(`https://github\\.com/[^/\\s]+/${name}(?![\\w-])`, 'g'), page)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const page = pageOf(JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')))
  for (const file of FILES) {
    const text = readFileSync(join(ROOT, file), 'utf8')
    const now = linked(text, page)
    if (now === text) continue
    if (process.argv.includes('--check')) {
      console.error(`${file} links to another repository than ${page}: npm run docs:links`)
      process.exitCode = 1
    } else writeFileSync(join(ROOT, file), now)
  }
}
