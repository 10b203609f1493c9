/**
 * Writes the generated parts of docs/api.md from the package's published types, their docstrings, and the errors that
 * its functions throw. Needs a built `dist` (`npm run setup`).
 *
 *   node scripts/api.mjs [--check]
 *
 * --check   writes nothing; fails when the page is out of date
 *
 * A generated part stands between `<!-- api: KIND NAME -->` and `<!-- end -->`, where NAME is the name of an export,
 * with the subpath in front unless it belongs to the main module (`tfjs/fusedPreferenceLoss`):
 *
 *   function NAME   the signature, the docstring, its parameters, result and errors
 *   options NAME a table of the options: type, default, meaning and, where api/wrong-values.mjs has one, the error of a
 *   wrong value fields NAME a table of the fields: type and meaning class NAME a table of the methods losses the inputs
 *   and constants that each loss needs and takes types SUBPATH   every export of the subpath that has no other part
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { exportsOf } from './api/declarations.mjs'
import { lossTable } from './api/losses.mjs'
import { classTable, fieldTable, functionEntry, optionTable, typeList } from './api/tables.mjs'

const PAGE = fileURLToPath(new URL('../docs/api.md', import.meta.url))
const PART = /^(<!-- api: (\w+)(?: (\S+))? -->\n).*?^(<!-- end -->)$/gms

/** The page with its generated parts written again. Throws when an export has no part, or a part no export. */
export async function rendered(page) {
  const modules = exportsOf()
  const shown = new Set()
  const parts = Array.from(page.matchAll(PART), ([, , kind, name = 'main']) => ({ kind, name }))
  for (const { kind, name } of parts) if (kind !== 'types' && kind !== 'losses') shown.add(key(name))
  const bodies = []
  for (const { kind, name } of parts) bodies.push(await body(kind, name, modules, shown))
  const missing = [...modules.keys()].filter(
    (path) => !parts.some((part) => part.kind === 'types' && part.name === path),
  )
  if (missing.length > 0) throw new Error(`docs/api.md has no part 'types' for ${missing.join(', ')}`)
  let next = 0
  return page.replaceAll(PART, (_, open, _kind, _name, close) => `${open}\n${bodies[next++]}\n\n${close}`)
}

/** `NAME` as `main/NAME`. */
const key = (/** @type {string} */ name) => (name.includes('/') ? name : `main/${name}`)

async function body(kind, name, modules, shown) {
  if (kind === 'losses') return lossTable(modules.get('main').get('LossType'))
  if (kind === 'types') return typeList(name, modules.get(name), shown)
  const [path, symbol] = key(name).split('/')
  const declared = modules.get(path)?.get(symbol)
  if (!declared) throw new Error(`docs/api.md names ${name}, which is not exported`)
  if (kind === 'function') return functionEntry(symbol, declared)
  if (kind === 'options') return optionTable(symbol, declared, path)
  if (kind === 'fields') return fieldTable(declared)
  if (kind === 'class') return classTable(declared)
  throw new Error(`docs/api.md has a part of the unknown kind '${kind}'`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const page = readFileSync(PAGE, 'utf8')
  const now = await rendered(page)
  if (!process.argv.includes('--check')) writeFileSync(PAGE, now)
  else if (now !== page) {
    console.error('docs/api.md is out of date: npm run docs:api')
    process.exitCode = 1
  }
}
