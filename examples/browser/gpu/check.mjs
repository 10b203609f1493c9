// The check: calls on the GPU against the same calls on the package's plain TypeScript, which is written from the formulas
// and computes in float64.
import {
  crossEntropy,
  fusedLinearPreferenceLoss,
  fusedPreferenceLoss,
  fusedUnpairedPreferenceLoss,
} from 'fused-preference-loss'
import { create, download, numbers, upload } from './buffers.mjs'
import { mostUlps, shareOff } from './differences.mjs'

/**
 * @typedef {import('fused-preference-loss').Logits} Logits
 * @typedef {Record<string, unknown>} Options
 * @typedef {{ loss: number, tokenLogProbs?: Float32Array }} Result
 *
 * @typedef {object} Case a call of logits
 * @property {string} name
 * @property {number} [vocab]
 * @property {'float32' | 'float16' | 'bfloat16'} [dtype]
 * @property {(values: Float32Array, vocab: number) => void} [change] of the logits
 * @property {(logits: Logits, labels: Int32Array, place: Options) => Promise<Result>} call
 */

/** How far results may be apart: in ULP of float32, as in the package's tests; the layer's as a share of the largest. */
const BOUNDS = { logProb: 4, gradient: 8, layer: 2e-6 }

const [BATCH, TIME] = [4, 3]
const LOSSES = /** @type {const} */ (['sigmoid', 'ipo', 'hinge', 'simpo', 'orpo', 'dpop', 'apo_zero', 'sft'])
const NO_REFERENCE = ['simpo', 'orpo', 'sft']
const outputs = /** @type {const} */ (['tokenLogProbs'])

const pairs =
  (/** @type {(typeof LOSSES)[number]} */ lossType) =>
  (/** @type {Logits} */ logits, /** @type {Int32Array} */ labels, /** @type {Options} */ place) => {
    const reference = NO_REFERENCE.includes(lossType) ? undefined : { chosen: [-21, -30], rejected: [-22.5, -28] }
    return fusedPreferenceLoss(logits, labels, { lossType, reference, outputs, ...place })
  }

/** @type {Case[]} */
const CASES = [
  ...LOSSES.map((lossType) => ({ name: lossType, call: pairs(lossType) })),
  {
    name: 'kto',
    call: (logits, labels, place) => {
      const reference = { logProbs: [-20, -22, -19, -25] }
      const desirable = [true, false, true, true]
      return fusedUnpairedPreferenceLoss(logits, labels, { desirable, reference, kl: 0.1, outputs, ...place })
    },
  },
  {
    name: 'cross-entropy',
    call: (logits, labels, place) => crossEntropy(logits, labels, { outputs, ...place }),
  },
  ...[1, 5, 50257].map((vocab) => ({
    name: `a vocabulary of ${vocab.toLocaleString('en')}`,
    vocab,
    call: pairs('sigmoid'),
  })),
  { name: 'float16', dtype: 'float16', call: pairs('sigmoid') },
  { name: 'bfloat16', dtype: 'bfloat16', call: pairs('sigmoid') },
  {
    name: '−∞ and NaN',
    change: (values, vocab) => {
      values.fill(Number.NEGATIVE_INFINITY, 10, vocab / 2)
      values[TIME * vocab + 3] = Number.NaN
    },
    call: pairs('sigmoid'),
  },
]

/** How many results there will be. */
export const CHECKS = CASES.length + 1

/**
 * Yields the result of each check as it is there.
 * @param {GPUDevice} device
 * @returns {AsyncGenerator<import('../events.js').Checked>}
 */
export async function* check(device) {
  for (const given of CASES) yield await checked(given.name, () => ofLogits(device, given))
  yield await checked('the output layer', () => ofLayer(device))
}

/**
 * @param {string} name
 * @param {() => Promise<Omit<import('../events.js').Checked, 'name'>>} run
 */
async function checked(name, run) {
  try {
    return { name, ...(await run()) }
  } catch (error) {
    return { name, ok: false, problem: error instanceof Error ? error.message : String(error) }
  }
}

async function ofLogits(
  /** @type {GPUDevice} */ device,
  /** @type {Case} */ { vocab = 1000, dtype = 'float32', change, call },
) {
  const shape = [BATCH, TIME, vocab]
  const { values, labels } = inputs(vocab)
  change?.(values, vocab)
  const data = dtype === 'float32' ? values : Uint16Array.from(values, dtype === 'float16' ? halfOf : brainOf)
  const logits = upload(device, data)
  const gradient = create(device, values.byteLength)
  const options = { gradientDType: 'float32' }
  const onGpu = await call({ data: logits, shape, dtype }, labels, { ...options, gpuDevice: device, gradient })
  const written = new Float32Array(await download(device, gradient))
  const wanted = new Float32Array(values.length)
  const plain = await call({ data, shape, dtype }, labels, { ...options, backend: 'js', gradient: wanted })
  for (const buffer of [logits, gradient]) buffer.destroy()
  const logProb = mostUlps(onGpu.tokenLogProbs ?? [], plain.tokenLogProbs ?? [])
  const gradientUlps = mostUlps(written, wanted)
  const isLossRight =
    Math.abs(onGpu.loss - plain.loss) <= 1e-6 * Math.max(1, Math.abs(plain.loss)) ||
    (Number.isNaN(onGpu.loss) && Number.isNaN(plain.loss))
  const ok = isLossRight && logProb <= BOUNDS.logProb && gradientUlps <= BOUNDS.gradient
  return { ok, logProb, gradient: gradientUlps }
}

async function ofLayer(/** @type {GPUDevice} */ device) {
  const [vocab, width] = [1000, 32]
  const { labels } = inputs(vocab)
  const next = numbers(2)
  const some = (/** @type {number} */ length, /** @type {number} */ size) =>
    Float32Array.from({ length }, () => size * (next() + next() - 1))
  const parts = { hidden: some(BATCH * TIME * width, 2), weight: some(vocab * width, 0.5) }
  const call = (/** @type {Record<keyof typeof parts, any>} */ data, /** @type {Options} */ place) =>
    fusedLinearPreferenceLoss(
      { data: data.hidden, shape: [BATCH, TIME, width], dtype: 'float32' },
      { data: data.weight, shape: [vocab, width], dtype: 'float32' },
      labels,
      { lossType: 'simpo', ...place },
    )
  const buffers = { hidden: upload(device, parts.hidden), weight: upload(device, parts.weight) }
  const onGpu = await call(buffers, { gpuDevice: device, gradient: true })
  const plain = await call(parts, { backend: 'js', gradient: true })
  let off = Math.abs(onGpu.loss / plain.loss - 1)
  for (const name of /** @type {const} */ (['gradHidden', 'gradWeight'])) {
    const buffer = /** @type {GPUBuffer} */ (onGpu[name]?.data)
    off = Math.max(
      off,
      shareOff(new Float32Array(await download(device, buffer)), /** @type {any} */ (plain[name]).data),
    )
    buffer.destroy()
  }
  for (const buffer of Object.values(buffers)) buffer.destroy()
  return { ok: off <= BOUNDS.layer, share: off }
}

/** Logits, and labels of which one does not count. */
function inputs(/** @type {number} */ vocab) {
  const next = numbers(vocab)
  const length = BATCH * TIME
  const values = Float32Array.from({ length: length * vocab }, () => 8 * (next() + next() + next() - 1.5))
  const labels = Int32Array.from({ length }, (_, i) => (i === 4 ? -100 : Math.floor(vocab * next())))
  return { values, labels }
}

/** The bits of a number of float32. */
function bitsOf(/** @type {number} */ x) {
  return new Uint32Array(Float32Array.of(x).buffer)[0]
}

/** Its upper half: bfloat16. */
function brainOf(/** @type {number} */ x) {
  return bitsOf(x) >>> 16
}

/** float16, cut off, of a number that is within its range. */
function halfOf(/** @type {number} */ x) {
  const bits = bitsOf(x)
  const exponent = ((bits >>> 23) & 255) - 112
  return ((bits >>> 16) & 0x8000) | (exponent <= 0 ? 0 : (exponent << 10) | ((bits >>> 13) & 1023))
}
