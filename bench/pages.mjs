/**
 * The tables of README.md and docs/performance.md that come from one run: `npm run bench:report -- FILE --keep NAME --pages`
 * writes them. A table is found by its head; the words around it are written by hand.
 *
 * @typedef {import('./compact.mjs').CompactRun} CompactRun
 * @typedef {import('./compact.mjs').CompactCase} CompactCase
 */
import { HEAD_VARIANTS } from './cases.mjs'
import { ACCURACY_HEAD, accuracyOf, duration, percent } from './table.mjs'

const TORCH = ['torch-eager', 'torch-cross-entropy', 'torch-compile']
const TFJS = ['tfjs-wasm', 'tfjs-wasm-custom']
const FORMULATIONS = { 'torch-eager': 'eager', 'torch-cross-entropy': 'cross_entropy', 'torch-compile': 'compiled' }

/** Two digits, or whole numbers. */
const short = (/** @type {number} */ ratio) => (ratio < 99.5 ? ratio.toPrecision(2) : String(Math.round(ratio)))

/** '2.15' of '2.15.0'. */
const minor = (/** @type {string} */ version = '') => version.split('.').slice(0, 2).join('.')

/** The fastest entry of these peers, if any ran. */
function fastest(/** @type {CompactCase | undefined} */ one, /** @type {readonly string[]} */ peers) {
  const own = (one?.entries ?? []).filter(({ peer, ratio }) => peers.includes(peer) && ratio !== undefined)
  return own.toSorted((a, b) => Number(a.ratio) - Number(b.ratio))[0]
}

const table = (/** @type {string[][]} */ rows) => rows.map((row) => `| ${row.join(' | ')} |`).join('\n')

/** README's first table: float32 logits beside other libraries. @param {CompactRun} run */
export function headline({ cases, versions }) {
  const named = (/** @type {string} */ name) => cases.find((one) => one.name === name)
  const cell = (/** @type {string} */ stage, /** @type {readonly string[]} */ peers) => {
    const found = [32000, 128256].map((vocab) => fastest(named(`${stage}-${vocab}-float32`), peers)?.ratio)
    return found.every((ratio) => ratio !== undefined) ? found.map((ratio) => short(Number(ratio))).join(' / ') : ''
  }
  /** @type {[string, readonly string[]][]} */
  const rows = [
    [`PyTorch ${minor(versions.torch)}: the fastest of eager, \`cross_entropy\` and \`torch.compile\``, TORCH],
    [`onnxruntime-node ${minor(versions['onnxruntime-node'])}`, ['onnxruntime']],
    [`jax-js ${minor(versions['@jax-js/jax'])}, wasm`, ['jax-js']],
    [`TensorFlow.js ${minor(versions['@tensorflow/tfjs'])}, wasm, its fastest formulation`, TFJS],
    ['plain JavaScript loops', ['plain-js']],
  ]
  return table([
    ['time ÷ ours, float32, vocabulary 32 000 / 128 256', 'log-prob of each sequence', 'DPO: loss and gradient'],
    ['---', '--:', '--:'],
    ...rows.map(([title, peers]) => [title, cell('forward', peers), cell('step', peers) || 'has no gradients']),
  ]).replace('| --- | --: | --: |', '|---|--:|--:|')
}

const STAGES = { forward: 'log-probs', step: 'DPO with its gradient' }

/** Logits beside PyTorch's fastest formulation. @param {CompactRun} run */
export function besidePyTorch({ name, date, cases }) {
  const rows = Object.entries(STAGES).flatMap(([stage, title]) =>
    ['float32', 'bfloat16'].flatMap((dtype) => {
      const own = cases.filter((one) => one.group === stage && one.dtype === dtype && fastest(one, TORCH))
      return own.map((one, i) => {
        const [ours, best] = [one.entries[0], /** @type {import('./compact.mjs').CompactEntry} */ (fastest(one, TORCH))]
        const formulation = FORMULATIONS[/** @type {keyof typeof FORMULATIONS} */ (best.peer)]
        return [
          ...[i === 0 ? `${title}, ${dtype}` : '', `[${one.shape.join(', ')}]`, duration(ours.median)],
          ...[`${duration(best.median)}, ${formulation}`, short(Number(best.ratio))],
        ]
      })
    }),
  )
  return table([[`${name}, ${date.slice(0, 10)}`, 'shape', 'ours', 'PyTorch', '÷ ours'], RIGHT(4), ...rows])
}

const RIGHT = (/** @type {number} */ count) => ['---', ...Array.from({ length: count }, () => '--:')]

/**
 * The columns of output layers beside ours: other ways of ours by their titles, and peers by their names.
 * @type {[string, (entry: import('./compact.mjs').CompactEntry) => boolean][]}
 */
const BESIDE_LAYERS = [
  ...HEAD_VARIANTS.map(({ label }) => titled(label)),
  ['PyTorch', ({ peer }) => TORCH.includes(peer)],
  ['PyTorch without AMX', ({ peer }) => peer === 'torch-without-amx'],
  ["TRL's head", ({ peer }) => peer === 'trl'],
  ['JAX (XLA)', ({ peer }) => peer === 'jax'],
  ['OpenBLAS, products alone', ({ peer }) => peer === 'blas-products'],
]

/**
 * @param {string} label
 * @returns {[string, (entry: import('./compact.mjs').CompactEntry) => boolean]}
 */
function titled(label) {
  return [label, ({ title }) => title === label]
}

/**
 * Output layers of one type: time, share of the multiply-adds on one thread and on all, and what ran beside them.
 * @param {CompactRun} run @param {string} dtype
 */
export function layers({ cases }, dtype) {
  const own = cases.filter(
    ({ group, entries }) => group.endsWith(`-${dtype}`) && entries[0] && group.startsWith('linear'),
  )
  const beside = BESIDE_LAYERS.filter(([, isOne]) => own.some(({ entries }) => entries.some(isOne)))
  const share = (/** @type {number | undefined} */ value) => (value === undefined ? '' : percent(value))
  const rows = own.map(({ name, entries }) => {
    const [, stage, rows] = /** @type {RegExpExecArray} */ (/^linear-(\w+)-(\d+x\d+)/.exec(name))
    const [ours, alone] = [entries[0], entries.find(({ title }) => title === '1 thread')]
    return [
      ...[`${stage}, ${rows.replace('x', ' × ')}`, duration(ours.median), share(ours.share), share(alone?.share)],
      ...beside.map(([, isOne]) => {
        const ratios = entries.filter(isOne).map(({ ratio }) => Number(ratio))
        return ratios.length > 0 ? short(Math.min(...ratios)) : ''
      }),
    ]
  })
  const head = [`output layer, ${dtype}: rows × width`, 'ours', 'share', 'share, 1 thread']
  return table([[...head, ...beside.map(([title]) => `${title} ÷ ours`)], RIGHT(3 + beside.length), ...rows])
}

/** Errors of output layers against float64, of each peer at its widest. @param {CompactRun} run */
export function layerErrors({ cases }) {
  /** @type {Map<string, string[]>} */
  const rows = new Map()
  for (const { group, dtype, entries } of cases) {
    if (group !== `linear-step-${dtype}`) continue
    for (const { peer, title, accuracy } of entries) {
      const name = peer === 'ours' && title !== entries[0].title ? `${entries[0].title}, ${title}` : title
      if (accuracy) rows.set(`${dtype}: ${name}`, accuracyOf(accuracy))
    }
  }
  const head = ['errors of output layers', ...ACCURACY_HEAD]
  return table([head, RIGHT(6), ...[...rows].map(([title, cells]) => [title, ...cells])])
}

/**
 * The text with another table in the place of the one with that head.
 * @param {string} text
 * @param {RegExp} head
 * @param {string} replacement
 */
export function withTable(text, head, replacement) {
  const lines = text.split('\n')
  const first = lines.findIndex((line) => head.test(line))
  if (first < 0) throw new RangeError(`no table has a head like ${head}`)
  const count = lines.slice(first).findIndex((line) => !line.startsWith('|'))
  return [...lines.slice(0, first), replacement, ...lines.slice(count < 0 ? lines.length : first + count)].join('\n')
}

/** The text with something else between two comments of that name. */
export function withRegion(/** @type {string} */ text, /** @type {string} */ name, /** @type {string} */ replacement) {
  const [begin, end] = [`<!-- ${name} -->\n`, `<!-- end of ${name} -->`]
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new RangeError(`no region is called '${name}'`)
  return `${text.slice(0, from + begin.length)}${replacement}\n${text.slice(to)}`
}

/**
 * The pages with the tables of a run; tables of which it has not every case stay as they are.
 * @param {{ readme: string, performance: string }} pages
 * @param {CompactRun} run
 */
export function withTables({ readme, performance }, run) {
  const ran = run.cases.filter(({ entries }) => entries.length > 0)
  const beside = (/** @type {string} */ name) =>
    ['forward', 'step'].every((stage) =>
      fastest(
        ran.find((one) => one.name === `${stage}-${name}`),
        TORCH,
      ),
    )
  const isPlain = ['32000', '128256'].every((vocab) => beside(`${vocab}-float32`))
  const hasLogits = isPlain && beside('32000-bfloat16')
  const dtypes = ['float32', 'bfloat16'].filter((dtype) => ran.some(({ group }) => group === `linear-step-${dtype}`))
  let text = performance
  if (hasLogits) text = withTable(text, /^\|[^|]*\| shape \| ours \| PyTorch \|/, besidePyTorch(run))
  if (dtypes.length === 2) {
    const about = `${run.name}, ${run.date.slice(0, 10)}, ${run.machine.threads} threads.`
    const tables = [about, ...dtypes.map((dtype) => layers(run, dtype)), layerErrors(run)]
    text = withRegion(text, 'output layers', tables.join('\n\n'))
  }
  return { performance: text, readme: isPlain ? withTable(readme, /^\| time ÷ ours, float32/, headline(run)) : readme }
}
