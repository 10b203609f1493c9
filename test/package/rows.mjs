/**
 * The rows of docs/platforms.md: each is a test that passes, fails, or cannot run on this machine.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { root, scratch } from './support.mjs'

/** @typedef {{ name: string, result: string, seconds: string, note: string }} Row */
/** @type {{ title: string, rows: Row[] }[]} */
const groups = []
/** @type {Row[]} */
let rows = []

/** What this machine lacks for a row. */
export class CannotRun extends Error {}

/**
 * The path of a program or file of the system, or a row that says it is missing.
 * @param {string} path
 * @param {string} what
 */
export function need(path, what) {
  if (!existsSync(path)) throw new CannotRun(`needs ${what}`)
  return path
}

export function group(/** @type {string} */ title) {
  rows = []
  groups.push({ title, rows })
  console.log(`\n${title}`)
}

/**
 * One row: `test` returns a short finding, and throws when it fails or cannot run.
 * @param {string} name
 * @param {() => string | void | Promise<string | void>} test
 */
export async function row(name, test) {
  const start = performance.now()
  let result
  let note
  try {
    note = await test()
    result = 'passed'
  } catch (error) {
    result = error instanceof CannotRun ? 'could not be run here' : '**failed**'
    const { message } = /** @type {Error} */ (error)
    note = message.split('\n')[0]
    if (result === '**failed**') console.log(message)
  }
  const seconds = (performance.now() - start) / 1000
  rows.push({ name, result, seconds: result === 'passed' ? seconds.toFixed(1) : '', note: note ?? '' })
  console.log(`  ${name}: ${result}${note ? ` (${note})` : ''}, ${seconds.toFixed(1)} s`)
}

/** Prints the number of rows of each kind; a failed one is a failure of the process. */
export function closingLine() {
  const all = groups.flatMap((each) => each.rows)
  const count = (/** @type {string} */ result) => all.filter((each) => each.result === result).length
  console.log(`\n${count('passed')} passed, ${count('**failed**')} failed, ${count('could not be run here')} skipped`)
  process.exitCode = count('**failed**') > 0 ? 1 : 0
}

/** Writes the groups into docs/platforms.md, under what platforms.md here says; groups of other runs stay there. */
export function writeDocument() {
  const file = join(root, 'docs/platforms.md')
  const template = readFileSync(fileURLToPath(new URL('platforms.md', import.meta.url)), 'utf8')
  const titles = template.match(/^## .*/gm) ?? []
  const earlier = readFileSync(file, 'utf8').split(/^(?=## )/m)
  const sections = new Map(earlier.slice(1).map((text) => [text.slice(3, text.indexOf('\n')), text.trimEnd()]))
  for (const title of titles) sections.delete(title.slice(3))
  for (const { title, rows } of groups) sections.set(title, section(title, rows))
  writeFileSync(file, `${[template.trimEnd(), ...sections.values()].join('\n\n')}\n`)
}

/**
 * @param {string} title
 * @param {Row[]} rows
 */
function section(title, rows) {
  const lines = rows.map(({ name, result, seconds, note }) => {
    const short = note.replaceAll('|', '\\|').replaceAll(scratch, '…').replaceAll(root, '')
    return `| ${name} | ${result} | ${seconds} | ${short} |`
  })
  return [`## ${title}\n`, '| | result | seconds | |', '|---|---|---|---|', ...lines].join('\n')
}
