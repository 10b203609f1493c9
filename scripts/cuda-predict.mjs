/**
 * `npm run cuda:predict`: the times on GPUs that follow from the bytes that calls have to move and from the instructions that
 * their kernels have at most, as docs/performance.md lists them.
 *
 *   npm run cuda:predict -- results/bench-cuda.json results/bench-head.json
 *
 * holds measurements of bench/cuda against the same predictions, made for the GPU and the speeds that were measured beside
 * them, and fails where one is broken.
 */
import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { MOST_INSTRUCTIONS, VOCAB } from './cuda-counts.mjs'

/**
 * Multiprocessors, their clock in GHz, the terabytes a second that a copy reads and writes, and the teraflops of a large
 * product of bfloat16. The last two are assumed until they are measured.
 * @typedef {{ name: string, multiprocessors: number, clock: number, copy: number, products: number }} Gpu
 * @type {readonly Gpu[]}
 */
const GPUS = [
  { name: 'H100', multiprocessors: 132, clock: 1.98, copy: 3.0, products: 790 },
  { name: 'H200', multiprocessors: 132, clock: 1.98, copy: 4.3, products: 790 },
  { name: 'A100', multiprocessors: 108, clock: 1.41, copy: 1.77, products: 270 },
  { name: 'B200', multiprocessors: 148, clock: 1.92, copy: 7.0, products: 1600 },
]

/** Shares of a peak that a kernel reaches: of a copy's speed, of the instructions that are issued, of a product's rate. */
const OF_COPY = 0.95
const OF_ISSUE = 0.8
const OF_PRODUCTS = 0.9
/** Milliseconds between two kernels of a call, in a stream and in a graph. */
const GAP = 0.005
/** How far from its prediction a median may be. */
const TOLERANCE = 0.1

const ROWS = 8192
const SIZES = { bfloat16: 2, float32: 4 }
/** Warps of a multiprocessor that issue an instruction in a clock, and their threads. */
const [ISSUED, WARP] = [4, 32]

/**
 * A kernel that goes over logits: their number, the bytes that it moves of each, and its instructions for each.
 * @typedef {{ logits: number, bytes: number, instructions: number }} Pass
 */

const passOf = (
  /** @type {'sweep' | 'gradient' | 'row'} */ kernel,
  /** @type {keyof typeof SIZES} */ dtype,
  /** @type {number} */ logits,
  bytes = (kernel === 'sweep' ? 1 : 2) * SIZES[dtype],
) => {
  const most = (/** @type {string} */ name) =>
    MOST_INSTRUCTIONS[`${name}Kernel<${dtype === 'float32' ? 'f32' : 'bf16'}>`]
  // A row that is read and written in one go is counted as it is written; before that it is read as by a sweep.
  const instructions = kernel === 'row' ? most('sweep') + most('row') : most(kernel)
  return { logits, bytes, instructions }
}

/** Milliseconds of a pass for its bytes alone, and for its instructions alone. */
export function limitsOf(/** @type {Pass} */ { logits, bytes, instructions }, /** @type {Gpu} */ gpu) {
  const issues = gpu.multiprocessors * ISSUED * gpu.clock * 1e9
  return {
    memory: (1e3 * logits * bytes) / (gpu.copy * 1e12),
    issue: (1e3 * logits * instructions) / WARP / issues,
  }
}

/** Milliseconds of a call. */
export function predict(
  /** @type {Call} */ { passes, launches = 1 + passes.length, products = 0 },
  /** @type {Gpu} */ gpu,
) {
  const times = passes.map((pass) => {
    const { memory, issue } = limitsOf(pass, gpu)
    return Math.max(memory / OF_COPY, issue / OF_ISSUE)
  })
  const gaps = (launches - 1) * GAP
  const product = (products * PRODUCT) / gpu.products / 1e9 / OF_PRODUCTS
  return times.reduce((sum, ms) => sum + ms, gaps + product)
}

/** Operations of a product with the weight of the output layer that bench/cuda/head.mjs measures. */
const PRODUCT = 2 * ROWS * 4096 * VOCAB

/**
 * What is predicted of a call, and the measurement of `run.sh bench`, or `head`, that proves or breaks it. `launches`:
 * defaults to that of each pass and that of the loss.
 * @typedef {{ name: string, moves: string, case: string, stage: string, passes: Pass[], launches?: number, products?: number }} Call
 */
const call = (
  /** @type {string} */ name,
  /** @type {string} */ moves,
  /** @type {keyof typeof SIZES} */ dtype,
  /** @type {{ rows?: number, masked?: number, stage?: string }} */ { rows = ROWS, masked = 0, stage = 'step' },
) => {
  const logits = rows * (1 - masked) * VOCAB
  const passes = [passOf('sweep', dtype, logits)]
  if (stage !== 'forward') passes.push(passOf('gradient', dtype, logits))
  return {
    name,
    moves,
    case: `${dtype}-v${VOCAB}-rows${rows}${masked ? `-masked${100 * masked}` : ''}`,
    stage,
    passes,
  }
}

/** A call whose rows are read and written in one go, and two launches: rows' values or zeros for sequences, and results. */
const inOneGo = (/** @type {string} */ name, /** @type {keyof typeof SIZES} */ dtype, /** @type {string} */ stage) => ({
  name,
  moves: 'R + W',
  case: `${dtype}-v${VOCAB}-rows${ROWS}`,
  stage,
  passes: [passOf('row', dtype, ROWS * VOCAB)],
  launches: 3,
})

/** @type {readonly Call[]} */
export const CALLS = [
  call('forward', 'R', 'bfloat16', { stage: 'forward' }),
  call('step', 'R + R + W', 'bfloat16', {}),
  call('step, half masked, those rows left alone', 'half of it', 'bfloat16', { masked: 0.5 }),
  call('step of 64 rows, in a graph', 'R + R + W', 'bfloat16', { rows: 64, stage: 'step in a graph' }),
  call('forward, float32', 'R', 'float32', { stage: 'forward' }),
  call('step, float32', 'R + R + W', 'float32', {}),
  inOneGo('step with a deferred scale', 'bfloat16', 'deferred scale'),
  inOneGo('cross-entropy with its gradient', 'bfloat16', 'cross-entropy'),
  inOneGo('step with a deferred scale, float32', 'float32', 'deferred scale'),
  {
    name: 'step of an output layer of width 4096',
    moves: 'three products; R, R + W / 2 of float32',
    case: 'head',
    stage: 'step',
    products: 3,
    passes: [passOf('sweep', 'float32', ROWS * VOCAB), passOf('gradient', 'float32', ROWS * VOCAB, 6)],
  },
]

const digits = (/** @type {number} */ ms) => `${ms.toPrecision(ms < 1 ? 2 : 3)} ms`

/** The rows of a table: of each call its time on each GPU, and the most of the bytes' time in which instructions are issued. */
export function table() {
  const heads = [
    '',
    'moves',
    ...GPUS.map(({ name, copy }) => `${name} (${copy.toFixed(2).replace(/0$/, '')} TB/s)`),
    'broken by',
  ]
  const rows = CALLS.map((each) => {
    const cells = GPUS.map((gpu) => {
      const shares = each.passes.map((pass) => {
        const { memory, issue } = limitsOf(pass, gpu)
        return issue / memory
      })
      return `${digits(predict(each, gpu))}, ${Math.round(100 * Math.max(...shares))} %`
    })
    return [each.name, each.moves, ...cells, `\`${each.case}\`, ${each.stage}`]
  })
  return [heads, heads.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`.replace(/\| {2}\|/g, '| |'))
}

/** @typedef {{ name: string, holds: boolean, measured?: number, predicted?: number }} Judged */

/**
 * What has become of the predictions: of calls that a file should have measured and has not, that they do not hold.
 * @param {any[]} files what bench/cuda has written
 * @returns {Judged[]}
 */
export function judge(files) {
  const device = files.find((file) => file.device)?.device
  const known = GPUS.find(({ name }) => device?.name.includes(name))
  if (!known) throw new Error(`there are no predictions for ${device?.name ?? 'a GPU without a name'}`)
  const results = files.flatMap((file) => [
    ...(file.results ?? []),
    ...(file.cases ?? []).flatMap((/** @type {any} */ one) => one.results),
  ])
  const cases = files.flatMap((file) => file.cases ?? [])
  // Terabytes a second; of what is timed in a graph, in a graph.
  const copyOf = (/** @type {Call} */ { case: name, stage }) => {
    const found = cases.find((one) => one.name === name)
    const own = stage.endsWith('in a graph') ? found?.bandwidthInGraph : found?.bandwidth
    const speeds = cases.map(({ bandwidth }) => bandwidth).filter((speed) => speed > 0)
    return own ? own / 1e3 : speeds.length > 0 ? Math.max(...speeds) / 1e3 : known.copy
  }
  const isGiven = (/** @type {Call} */ { products }) => files.some((file) => (products ? file.results : file.cases))
  const product = results.find(({ peer }) => peer === 'cublas')
  /** @returns {Judged[]} */
  const judgeOne = (/** @type {Call} */ each) => {
    const found = results.find((one) => one.peer === 'ours' && one.case === each.case && one.stage === each.stage)
    if (!found) return isGiven(each) ? [{ name: each.name, holds: false }] : []
    const copy = copyOf(each)
    const products = product?.teraflops ?? known.products
    const predicted = predict(each, { ...known, multiprocessors: device.multiprocessors, copy, products })
    const holds = Math.abs(found.ms / predicted - 1) <= TOLERANCE
    return [{ name: each.name, measured: found.ms, predicted, holds }]
  }
  return CALLS.flatMap(judgeOne)
}

function main(/** @type {string[]} */ paths) {
  if (paths.length === 0) return console.log(table().join('\n'))
  const found = judge(paths.map((path) => JSON.parse(readFileSync(path, 'utf8'))))
  for (const { name, measured, predicted, holds } of found) {
    if (measured === undefined || predicted === undefined) {
      console.log(`${name.padEnd(40)} not measured`)
      continue
    }
    const off = `${(100 * (measured / predicted - 1)).toFixed(0)} %`
    console.log(
      `${name.padEnd(40)} ${digits(measured).padStart(9)}, predicted ${digits(predicted).padStart(9)}, off by ${off.padStart(5)}: ${holds ? 'holds' : 'BROKEN'}`,
    )
  }
  if (found.length === 0 || !found.every(({ holds }) => holds)) process.exitCode = 1
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) main(process.argv.slice(2))
