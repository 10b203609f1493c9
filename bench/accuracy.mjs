/**
 * The errors of an output layer against float64 arithmetic: of log-probs and of both gradients, where labels are as
 * unlikely as any other word, and where the model is sure of them (p ≈ 1). There the gradient, δ - p, is what is left of
 * nearly equal numbers. A small vocabulary is enough: what rounds does not depend on its size.
 *
 * @typedef {object} Errors
 * @property {number} logProb largest absolute error
 * @property {number} hidden of its gradient: the norm of the error, relative to the gradient's
 * @property {number} weight the same; of the labels' rows and of as many others
 *
 * @typedef {{ unlikely: Errors, sure: Errors }} Accuracy
 */
import { BETA } from './cases.mjs'
import { encoded, makeLabels, makeLogits, makeWeight, valueAt } from './inputs.mjs'

const ROWS = 16
const VOCAB = 2048
/** The logit of a label that the model is sure of: the others make up for 1 - p ≈ VOCAB e^½ / e^LOGIT, 0.3 %. */
const LOGIT = 14

/**
 * Measures a peer's step on sequences of one token each.
 * @param {import('./peers/index.mjs').Peer} peer
 * @param {import('./cases.mjs').Workload} like its width and type
 * @param {object} settings
 * @returns {Promise<Accuracy>}
 */
export async function accuracyOf(peer, { dtype, width }, settings) {
  /** @type {import('./cases.mjs').Workload} */
  const workload = {
    ...{ stage: 'linear-step', dtype, width, shape: [ROWS, 1, VOCAB] },
    ...{ shift: false, masked: 0, leaveMasked: false },
  }
  const run = async (/** @type {boolean} */ sure) => {
    const { inputs, wanted } = problem(workload, sure)
    await peer.prepare(workload, inputs, settings)
    await peer.run(0)
    return errors(wanted, await peer.result())
  }
  return { unlikely: await run(false), sure: await run(true) }
}

/**
 * Inputs, and the results in float64.
 * @param {import('./cases.mjs').Workload} workload
 * @param {boolean} sure the model is sure of every label
 */
export function problem(workload, sure) {
  const { dtype, width = 1 } = workload
  const hidden = makeLogits(workload)
  const labels = Int32Array.from(makeLabels(workload), (label, row) => (sure ? 7 + row * 100 : label))
  const plain = /** @type {Float32Array} */ (makeWeight({ ...workload, dtype: 'float32' }))
  const h = Float64Array.from(hidden, (_, i) => valueAt(hidden, i, dtype))
  if (sure) {
    for (const [row, label] of labels.entries()) {
      const state = h.subarray(row * width, (row + 1) * width)
      const square = state.reduce((sum, x) => sum + x * x, 0)
      for (let k = 0; k < width; k++) plain[label * width + k] = (LOGIT * state[k]) / square
    }
  }
  const weight = encoded(plain, dtype)
  const w = Float64Array.from(weight, (_, i) => valueAt(weight, i, dtype))
  const { logProbs, others } = logProbsOf(h, w, labels, width)
  // Near those of the policy, so that no loss is saturated.
  const reference = { chosen: logProbs.slice(0, ROWS / 2), rejected: logProbs.slice(ROWS / 2) }
  const rows = [...labels, ...Array.from(labels, (label) => (label + 1) % VOCAB)]
  const size = ROWS * width
  const positions = [
    ...h.keys(),
    ...rows.flatMap((row) => Array.from({ length: width }, (_, k) => size + row * width + k)),
  ]
  const none = { targets: labels, pristine: undefined, distinct: 1, copies: 1 }
  const inputs = { ...none, logits: [hidden], weight, labels, reference, positions }
  // The loss's slope: -β / (2 pairs) for the chosen, as margins are those of the reference.
  const slopes = Float64Array.from(labels, (_, row) => ((row < ROWS / 2 ? -1 : 1) * BETA) / ROWS)
  return { inputs, wanted: { logProbs, ...gradients(h, w, labels, width, slopes, others, rows) } }
}

/** Log-probs, and the probabilities of the words of each row; at the label, minus those of all others. */
function logProbsOf(
  /** @type {Float64Array} */ h,
  /** @type {Float64Array} */ w,
  /** @type {Int32Array} */ labels,
  /** @type {number} */ width,
) {
  const others = new Float64Array(ROWS * VOCAB)
  const logProbs = Float64Array.from(labels, (label, row) => {
    const logits = others.subarray(row * VOCAB, (row + 1) * VOCAB)
    for (let v = 0; v < VOCAB; v++) {
      let sum = 0
      for (let k = 0; k < width; k++) sum += h[row * width + k] * w[v * width + k]
      logits[v] = sum
    }
    const most = logits.reduce((a, b) => Math.max(a, b))
    const own = logits[label]
    let rest = 0
    for (let v = 0; v < VOCAB; v++) {
      logits[v] = Math.exp(logits[v] - most)
      if (v !== label) rest += logits[v]
    }
    const total = rest + Math.exp(own - most)
    for (let v = 0; v < VOCAB; v++) logits[v] /= total
    logits[label] = -rest / total
    return own - most - Math.log(total)
  })
  return { logProbs, others }
}

/** Both gradients: with δ - p at hand, sums of products. */
function gradients(
  /** @type {Float64Array} */ h,
  /** @type {Float64Array} */ w,
  /** @type {Int32Array} */ labels,
  /** @type {number} */ width,
  /** @type {Float64Array} */ slopes,
  /** @type {Float64Array} */ others,
  /** @type {number[]} */ rows,
) {
  const hidden = new Float64Array(ROWS * width)
  for (let row = 0; row < ROWS; row++) {
    for (let v = 0; v < VOCAB; v++) {
      const slope = -slopes[row] * others[row * VOCAB + v]
      for (let k = 0; k < width; k++) hidden[row * width + k] += slope * w[v * width + k]
    }
  }
  const weight = new Float64Array(rows.length * width)
  for (const [i, v] of rows.entries()) {
    for (let row = 0; row < labels.length; row++) {
      const slope = -slopes[row] * others[row * VOCAB + v]
      for (let k = 0; k < width; k++) weight[i * width + k] += slope * h[row * width + k]
    }
  }
  return { hidden, weight }
}

/**
 * @param {{ logProbs: Float64Array, hidden: Float64Array, weight: Float64Array }} wanted
 * @param {import('./agreement.mjs').Result} found
 * @returns {Errors}
 */
export function errors({ logProbs, hidden, weight }, { logProbs: got = [], gradient = [] }) {
  const all = Array.from(gradient)
  return {
    logProb: logProbs.reduce((most, x, i) => Math.max(most, Math.abs(x - got[i])), 0),
    hidden: relative(hidden, all.slice(0, hidden.length)),
    weight: relative(weight, all.slice(hidden.length)),
  }
}

/** The norm of the difference, relative to that of what is wanted. */
function relative(/** @type {Float64Array} */ wanted, /** @type {number[]} */ got) {
  let [error, norm] = [0, 0]
  for (const [i, x] of wanted.entries()) {
    error += (x - got[i]) ** 2
    norm += x * x
  }
  return Math.sqrt(error / norm)
}
