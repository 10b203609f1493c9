/**
 * `npm run bench:report [-- FILE] [--out FOLDER] [--page NAME]`: turns the results of a run into bar charts, light and
 * dark, and a Markdown page with every table. Defaults to bench/out/latest.json, docs/ and benchmarks.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { barChart } from './chart.mjs'
import { bandwidthText, banner, cells, shapeText, skippedLines } from './table.mjs'

/** The charts: one panel per case, in this order, of those the run has. */
const CHARTS = [
  {
    name: 'forward',
    title: 'Sequence log-probs from logits',
    cases: ['forward-32000-float32', 'forward-128256-float32'],
  },
  {
    name: 'step',
    title: 'DPO: logits to loss and gradient',
    cases: ['step-32000-float32', 'step-128256-float32', 'step-32000-bfloat16'],
  },
]

/** @typedef {import('./measure.mjs').CaseResult} CaseResult */

/** @param {CaseResult} result */
function panel({ entries, shape, dtype }) {
  const [first] = entries
  const limit = first.share === undefined ? undefined : first.bytesPerSecond / first.share
  return {
    title: `vocabulary of ${shape[2].toLocaleString('en')}, ${dtype}`,
    limit: limit && { label: 'the memory itself', value: limit / 1e9 },
    bars: entries.map(({ title, bytesPerSecond, peer }) => ({
      label: title.trim(),
      value: bytesPerSecond / 1e9,
      ours: peer === first.peer,
    })),
  }
}

/** @param {string[][]} rows head first */
function markdownTable([head, ...rows]) {
  const line = (/** @type {string[]} */ row) => `| ${row.map((cell) => cell.trim()).join(' | ')} |`
  return [line(head), line(head.map((_, i) => (i === 0 ? '---' : '--:'))), ...rows.map(line)].join('\n')
}

/** @param {CaseResult} result */
function section(result) {
  const { name, title, shape, dtype, entries, rooflines, skipped } = result
  const notes = [
    ...rooflines.map(bandwidthText),
    ...entries.filter(({ note }) => note).map((entry) => `${entry.title.trim()}: ${entry.note}`),
    ...skippedLines(skipped),
  ]
  const list = notes.map((note) => `- ${note}`).join('\n')
  const heading = `### ${name}\n\n${title}; ${shapeText(shape, dtype)}`
  return `${heading}\n\n${entries.length > 0 ? markdownTable(cells(result)) : 'Nothing ran.'}\n\n${list}`
}

/** @param {string} name @param {string} title */
const picture = (name, title) => `<picture>
  <source media="(prefers-color-scheme: dark)" srcset="assets/bench-${name}-dark.svg">
  <img alt="${title}, GB/s of logits" src="assets/bench-${name}-light.svg">
</picture>`

/**
 * @param {{ date: string, command: string, machine: any, versions: any, cases: CaseResult[] }} run
 * @param {string} out
 * @param {string} name of the page
 */
export function writeReport(run, out, name) {
  const assets = join(out, 'assets')
  mkdirSync(assets, { recursive: true })
  const pictures = []
  const unit = `GB/s of logits, more is better; ${run.machine.cpu}, ${run.machine.threads} threads`
  for (const { name, title, cases } of CHARTS) {
    const found = cases.flatMap((wanted) => run.cases.filter((one) => one.name === wanted && one.entries.length > 0))
    if (found.length === 0) continue
    for (const theme of /** @type {const} */ (['light', 'dark'])) {
      const svg = barChart({ title, unit, panels: found.map(panel) }, theme)
      writeFileSync(join(assets, `bench-${name}-${theme}.svg`), svg)
    }
    pictures.push(picture(name, title))
  }
  const intro = `# Benchmarks

Written by \`npm run bench:report\` from one run of \`${run.command}\`, ${run.date.slice(0, 10)}, on:

${banner(run.machine, run.versions)
  .split('\n')
  .map((text) => `- ${text}`)
  .join('\n')}

Each peer runs in its own process, on the same random normal logits, and must agree with ours before it is timed.
Repetitions of all peers and of the memory's own bandwidth are interleaved; inputs rotate so that none is in a cache.
*GB/s* is of logits handed in. *Roofline* is the time the memory needs for the fewest bytes the work must move, divided
by the time taken; where an output layer is in it, the time that multiply-adds alone take, and *GFLOP/s* counts what tokens
that count need, the logits twice where there is a gradient. *Memory* is the peak beyond the inputs, a gradient array
included. Slow peers are given fewer tokens, where the name says so; *time ÷ ours* is per logit.`
  const page = [intro, ...pictures, ...run.cases.map(section)].join('\n\n')
  writeFileSync(join(out, `${name}.md`), `${page}\n`)
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: 'string', default: fileURLToPath(new URL('../docs', import.meta.url)) },
    page: { type: 'string', default: 'benchmarks' },
  },
})
const file = positionals[0] ?? fileURLToPath(new URL('out/latest.json', import.meta.url))
writeReport(JSON.parse(readFileSync(file, 'utf8')), values.out, values.page)
console.log(`${join(values.out, `${values.page}.md`)} from ${file}`)
