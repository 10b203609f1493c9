/**
 * Checks whether a peer computes the same results as this package. Ours runs on the same inputs; all log-probs, the
 * loss and a sample of the gradient are compared. Speed is not measured here.
 */
import {
  crossEntropySync,
  fusedLinearPreferenceLossSync,
  fusedPreferenceLossSync,
  linearSequenceLogProbsSync,
  preferenceLossSync,
  sequenceLogProbsSync,
} from 'fused-preference-loss'
import { BETA } from './cases.mjs'
import { valueAt } from './inputs.mjs'
import { linearTokenStep, tokenStep } from './token-loss.mjs'

/**
 * The results of a peer.
 * @typedef {object} Result
 * @property {ArrayLike<number>} [logProbs] of all sequences
 * @property {number} [loss]
 * @property {ArrayLike<number>} [gradient] at the sampled positions; for stage 'loss', of the chosen and then the
 *   rejected log-probs
 */

/**
 * The largest difference allowed, relative to the largest value of its kind. A 16-bit log-prob has 8 bits (11 for
 * float16), and the gradient of a loss depends on the sum of many.
 */
const TOLERANCE = { float32: 1e-4, float16: 1e-2, bfloat16: 5e-2 }

/**
 * Runs ours on the inputs of another peer.
 * @param {import('./cases.mjs').Workload} workload
 * @param {import('./peers/index.mjs').Inputs} inputs
 * @param {boolean} exact the js backend, whose arithmetic is float64; but not for an output layer, where it takes minutes
 * @returns {Result}
 */
export function expected(workload, inputs, exact) {
  const { stage, shape, dtype, shift, width } = workload
  const { logits, labels, reference, positions, policy } = inputs
  if (stage === 'loss' && policy) {
    const { loss, gradLogProbs } = preferenceLossSync(
      { ...policy, referenceChosen: reference.chosen, referenceRejected: reference.rejected },
      { beta: BETA },
    )
    return { loss, gradient: [...gradLogProbs.chosen, ...gradLogProbs.rejected] }
  }
  if (width) {
    const [hidden, weight] = headTensors(workload, inputs, 0)
    if (stage === 'linear-forward') {
      return { logProbs: linearSequenceLogProbsSync(hidden, weight, labels, { shift }).logProbs }
    }
    if (stage === 'linear-tokens') {
      const gradient = { hidden: true, weight: true }
      return tokenResult(linearTokenStep(workload, {})(hidden, weight, labels, gradient), positions, dtype)
    }
    const options = { shift, beta: BETA, reference, gradient: true }
    return linearResult(fusedLinearPreferenceLossSync(hidden, weight, labels, options), positions)
  }
  const tensor = { data: logits[0], shape, dtype }
  const run = /** @type {const} */ ({ backend: exact ? 'js' : 'auto' })
  if (stage === 'forward') return { logProbs: sequenceLogProbsSync(tensor, labels, { ...run, shift }).logProbs }
  if (stage === 'tokens') return tokenResult(tokenStep(workload, run)(tensor, labels, true), positions, dtype)
  if (stage.startsWith('cross-entropy')) {
    return tokenResult(crossEntropySync(tensor, labels, { ...run, shift, gradient: true }), positions, dtype)
  }
  const out = fusedPreferenceLossSync(tensor, labels, { ...run, shift, beta: BETA, reference, gradient: true })
  return {
    logProbs: [...out.chosenLogProbs, ...out.rejectedLogProbs],
    loss: out.loss,
    gradient: positions.map((position) => valueAt(/** @type {any} */ (out.gradLogits).data, position, dtype)),
  }
}

/**
 * Hidden states and weight in the form that ours takes.
 * @param {Pick<import('./cases.mjs').Workload, 'shape' | 'width' | 'dtype'>} workload
 * @param {import('./peers/index.mjs').Inputs} inputs
 * @param {number} copy
 */
export function headTensors({ shape: [batch, time, vocab], width = 1, dtype }, { logits, weight }, copy) {
  const hidden = { data: logits[copy], shape: [batch, time, width], dtype }
  return [hidden, { data: /** @type {Float32Array} */ (weight), shape: [vocab, width], dtype }]
}

/**
 * The results of ours.
 * @param {any} out
 * @param {number[]} positions
 * @returns {Result}
 */
export function linearResult({ chosenLogProbs, rejectedLogProbs, loss, gradHidden, gradWeight }, positions) {
  const gradient = gradientAt(gradHidden.data, gradWeight.data, positions)
  return { logProbs: [...chosenLogProbs, ...rejectedLogProbs], loss, gradient }
}

/**
 * The results of ours where the loss is of tokens.
 * @param {any} out
 * @param {number[]} positions
 * @param {string} dtype
 * @returns {Result}
 */
export function tokenResult({ loss, gradLogits, gradHidden, gradWeight }, positions, dtype) {
  if (gradHidden) return { loss, gradient: gradientAt(gradHidden.data, gradWeight.data, positions) }
  return { loss, gradient: positions.map((position) => valueAt(gradLogits.data, position, dtype)) }
}

/**
 * The gradients of hidden states and, after these, weight, at positions.
 * @param {ArrayLike<number>} hidden
 * @param {ArrayLike<number>} weight
 * @param {number[]} positions
 */
export const gradientAt = (hidden, weight, positions) =>
  positions.map((at) => (at < hidden.length ? hidden[at] : weight[at - hidden.length]))

/**
 * @param {Result} wanted
 * @param {Result} found
 * @param {'float32' | 'float16' | 'bfloat16'} dtype
 * @returns {{ agrees: boolean, error: number, of: string }} the largest difference, relative to the largest value of its
 *   kind, and which kind it was
 */
export function compare(wanted, found, dtype) {
  let error = 0
  let of = ''
  for (const kind of /** @type {(keyof Result)[]} */ (Object.keys(wanted))) {
    const a = numbersOf(wanted[kind])
    const b = numbersOf(found[kind])
    const largest = a.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-30)
    const difference =
      a.length === b.length ? a.reduce((most, x, i) => greater(most, Math.abs(x - b[i]) / largest), 0) : Number.NaN
    if (of === '' || (!Number.isNaN(error) && !(difference <= error))) {
      error = difference
      of = kind
    }
  }
  return { agrees: error <= TOLERANCE[dtype], error, of }
}

/** A number, or several, as a list. */
const numbersOf = (/** @type {number | ArrayLike<number> | undefined} */ value) =>
  typeof value === 'number' ? [value] : Array.from(value ?? [])

/** The larger of the two; NaN if either is. */
const greater = (/** @type {number} */ a, /** @type {number} */ b) => (Number.isNaN(a) || a > b ? a : b)
