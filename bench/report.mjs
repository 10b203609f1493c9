/**
 * `npm run bench:report [-- FILE …] [--out FOLDER]`: writes one Markdown page of all runs. Defaults to the runs in
 * bench/results and to docs/.
 * `npm run bench:report -- FILE --keep NAME [--machine WORDS] [--note WORDS] [--pages]`: puts the compact form of a run into
 * bench/results first; with --pages, the tables of README.md and docs/performance.md too, see pages.mjs.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { allCases } from './cases.mjs'
import { compact, compactText } from './compact.mjs'
import { withTables } from './pages.mjs'
import { bandwidthText, banner, duration, percent, shapeText, times } from './table.mjs'

/** @typedef {import('./compact.mjs').CompactRun} CompactRun */
/** @typedef {import('./compact.mjs').CompactCase} CompactCase */
/** @typedef {import('./compact.mjs').CompactEntry} CompactEntry */

/** Columns of the tables: each shows the fastest of these formulations of a library. */
const LIBRARIES = [
  { title: 'onnxruntime-node', peers: ['onnxruntime'] },
  { title: 'onnxruntime-web', peers: ['onnxruntime-web'] },
  { title: 'PyTorch', peers: ['torch-eager', 'torch-cross-entropy', 'torch-compile'] },
  { title: 'JAX (XLA)', peers: ['jax'] },
  { title: "TRL's head", peers: ['trl'] },
  { title: 'TensorFlow.js', peers: ['tfjs-wasm', 'tfjs-wasm-custom', 'tfjs-cpu', 'tfjs-node'] },
  { title: 'jax-js', peers: ['jax-js'] },
  { title: 'plain loops', peers: ['plain-js'] },
]

/** What there is to measure today: kept runs may have more. */
const GROUPS = new Set(
  ['cpu', 'wasm'].flatMap((backend) =>
    allCases({ megabytes: 256, threads: 2, allThreads: 2, backend, instructionSets: ['avx2'] }).map(
      ({ group }) => group,
    ),
  ),
)

const RESULTS = fileURLToPath(new URL('results', import.meta.url))

/** @param {string[][]} rows head first */
function markdownTable([head, ...rows]) {
  const line = (/** @type {string[]} */ row) => `| ${row.join(' | ')} |`
  return [line(head), line(head.map((_, i) => (i === 0 ? '---' : '--:'))), ...rows.map(line)].join('\n')
}

/** Time ÷ ours of the fastest of those peers. */
function fastest(/** @type {CompactEntry[]} */ entries, /** @type {string[]} */ peers) {
  const own = entries.filter(({ peer, ratio }) => peers.includes(peer) && ratio !== undefined)
  if (own.length === 0) return ''
  const best = own.reduce((a, b) => ((a.ratio ?? 0) <= (b.ratio ?? 0) ? a : b))
  return times(best.ratio ?? 0)
}

/** The entries of a case that are not libraries: our variants, and the adapters. */
function others(/** @type {CompactEntry[]} */ entries) {
  const known = LIBRARIES.flatMap(({ peers }) => peers)
  const rest = entries.slice(1).filter(({ peer }) => !known.includes(peer))
  return rest
    .map(({ title, ratio }) => `${title.replace('fused-preference-loss, ', '')} ${times(ratio ?? 0)}`)
    .join(', ')
}

/** @param {CompactRun} run */
function section({ name, note, date, command, machine, versions, cases }) {
  const ran = cases.filter(({ group, entries }) => GROUPS.has(group) && entries.length > 0)
  const columns = LIBRARIES.filter(({ peers }) =>
    ran.some(({ entries }) => entries.some((e) => peers.includes(e.peer))),
  )
  const head = ['case', 'ours', 'roofline', ...columns.map(({ title }) => title), 'others']
  const rows = ran.map(({ name, shape, dtype, entries }) => [
    `${name} ${shapeText(shape, dtype)}`,
    duration(entries[0].median),
    entries[0].share === undefined ? '' : percent(entries[0].share),
    ...columns.map(({ peers }) => fastest(entries, peers)),
    others(entries),
  ])
  const [{ meter = 'memory', threads = machine.threads, bandwidth }] = ran.length > 0 ? ran : cases
  const about = [
    `\`${command}\`, ${date.slice(0, 10)}`,
    ...banner(machine, versions).split('\n'),
    ...(note === undefined ? [] : [note]),
    ...(bandwidth ? [bandwidthText({ meter, threads, bandwidth })] : []),
  ]
  return `## ${name}\n\n${about.map((text) => `- ${text}`).join('\n')}\n\n${markdownTable([head, ...rows])}`
}

const INTRO = `# Benchmarks

\`npm run bench:report\` writes this page from the runs in [bench/results](../bench/results), one per machine. Those files also
have the middle three fifths of the samples, the memory and the differences of every peer. \`npm run bench\` measures your machine.

Each peer runs in its own process on the same random normal logits and must agree with this package before it is timed. The
repetitions of all peers are interleaved with measurements of the memory's bandwidth, and inputs rotate so that none stays in a
cache. While one is measured, the processes of the others are stopped. Repetitions with less than 0.8 of the processor time of
their threads are dropped, though never all: on a virtual machine, threads share a core for seconds on end. *Roofline* is the
time that the memory needs for the fewest bytes, divided by the time taken: 100 % is optimal. For an output layer (\`linear-…\`)
it is the time that the multiply-adds alone take, in bfloat16 those of the CPU's instruction for pairs. There \`npm run bench\` says
with which of oneDNN's kernels PyTorch multiplies, and on a CPU with AMX it measures PyTorch without AMX as well; the errors
against float64 are measured once for each width. The columns of libraries are *time ÷ ours* of the library's fastest
formulation: 16 means 16 times slower than this package. Slow peers get fewer tokens, and the ratio is per logit. PyTorch
versions before 2 are left out, and so are cases that \`npm run bench\` has no more. In runs before 2026-11-26 the fastest
formulation of TensorFlow.js was one by log-sum-exp; one by softmax, found since,
[takes an eighth of its time](performance.md#beside-other-implementations) for the forward and a quarter for the step.

**WebAssembly.** \`npm run bench -- --backend wasm\` measures the wasm backend in Node.js, and \`npm run bench -- --browser\` in
Chromium (\`/usr/bin/chromium\`, or the path in \`CHROMIUM\`), where each peer has a page in a process of its own and runs in a
worker of it. Ours and its peers take one thread; \`--threads 2\` gives two to all that have them. There *roofline* is the copies
alone: those of logits and gradient, from an array of JavaScript into a module's memory and back, or the multiply-adds of
WebAssembly's vectors. Results are compared with those of float64 arithmetic. \`--quick\` takes three minutes for either;
\`npm run bench:peers -- --web\` installs onnxruntime-web, without which they run as well.`

/**
 * @param {CompactRun[]} runs
 * @param {string} out
 */
export function writeReport(runs, out) {
  mkdirSync(out, { recursive: true })
  writeFileSync(join(out, 'benchmarks.md'), `${[INTRO, ...runs.map(section)].join('\n\n')}\n`)
}

/** @param {CompactRun} run */
function writePages(run) {
  const path = { readme: '../README.md', performance: '../docs/performance.md' }
  const url = { readme: new URL(path.readme, import.meta.url), performance: new URL(path.performance, import.meta.url) }
  const before = { readme: readFileSync(url.readme, 'utf8'), performance: readFileSync(url.performance, 'utf8') }
  const after = withTables(before, run)
  writeFileSync(url.readme, after.readme)
  writeFileSync(url.performance, after.performance)
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: 'string', default: fileURLToPath(new URL('../docs', import.meta.url)) },
    keep: { type: 'string' },
    machine: { type: 'string' },
    note: { type: 'string' },
    pages: { type: 'boolean', default: false },
  },
})
if (values.pages && values.keep === undefined) throw new RangeError('--pages needs --keep NAME')
const read = (/** @type {string} */ file) => JSON.parse(readFileSync(file, 'utf8'))
if (values.keep !== undefined) {
  if (positionals.length !== 1) throw new RangeError('--keep takes one FILE')
  const file = join(RESULTS, `${values.keep}.json`)
  writeFileSync(file, compactText(compact(read(positionals[0]), values.machine, values.note)))
  console.log(`${file} from ${positionals[0]}`)
  if (values.pages) writePages(read(file))
}
const kept = readdirSync(RESULTS).filter((name) => name.endsWith('.json'))
const files =
  values.keep === undefined && positionals.length > 0 ? positionals : kept.map((name) => join(RESULTS, name))
const runs = files.map((file) => compact(read(file))).sort((a, b) => (a.date < b.date ? 1 : -1))
writeReport(runs, values.out)
console.log(`${join(values.out, 'benchmarks.md')} from ${files.length} run${files.length === 1 ? '' : 's'}`)
