/**
 * The loss of the stages of tokens: Σ coefficient · log-prob, as a policy gradient has it, and with `entropies` less
 * {@link ENTROPY_FACTOR} times the mean entropy. This file has what ours does for it; peers write it in their own terms.
 */
import { linearSequenceLogProbsSync, sequenceLogProbsSync } from 'fused-preference-loss'
import { ENTROPY_FACTOR } from './cases.mjs'
import { activeRows, makeCoefficients } from './inputs.mjs'

/** @param {import('./cases.mjs').Workload} workload */
function outputsOf({ entropies, byProducts }) {
  /** @type {import('fused-preference-loss').TokenOutput[]} */
  const outputs = ['tokenLogProbs']
  if (entropies) outputs.push('tokenEntropies')
  if (byProducts) outputs.push('sumSquaredProbs', 'tokenMeanLogits', 'tokenArgmax')
  return outputs
}

/**
 * The derivatives of the loss, and its value for a result of ours.
 * @param {import('./cases.mjs').Workload} workload
 */
function lossOf(workload) {
  const tokenLogProbs = makeCoefficients(workload)
  const slope = -ENTROPY_FACTOR / activeRows(workload)
  const tokenEntropies = workload.entropies && new Float32Array(tokenLogProbs.length).fill(slope)
  const derivatives = tokenEntropies ? { tokenLogProbs, tokenEntropies } : { tokenLogProbs }
  /** @param {import('fused-preference-loss').TokenOutputs} result */
  const loss = (result) => {
    let sum = 0
    for (const [i, x] of /** @type {Float32Array} */ (result.tokenLogProbs).entries()) sum += tokenLogProbs[i] * x
    for (const entropy of result.tokenEntropies ?? []) sum += slope * entropy
    return sum
  }
  return { derivatives, loss }
}

/**
 * A step of the stage of tokens: forward, the caller's loss, backward.
 * @param {import('./cases.mjs').Workload} workload
 * @param {object} run options of the call
 * @returns {(logits: any, labels: Int32Array, gradient: any) => any} gives the loss and `gradLogits`
 */
export function tokenStep(workload, run) {
  const { derivatives, loss } = lossOf(workload)
  const { shift, softcap } = workload
  const options = { ...run, shift, outputs: outputsOf(workload), ...(softcap && { logitSoftcap: softcap }) }
  return (logits, labels, gradient) => {
    const result = sequenceLogProbsSync(logits, labels, options)
    return { loss: loss(result), ...result.backwardSync(derivatives, { gradient }) }
  }
}

/**
 * The same from hidden states and weight.
 * @param {import('./cases.mjs').Workload} workload
 * @param {object} run options of the call
 * @returns {(hidden: any, weight: any, labels: Int32Array, gradient: any) => any} gives the loss and both gradients
 */
export function linearTokenStep(workload, run) {
  const { derivatives, loss } = lossOf(workload)
  const options = { ...run, shift: workload.shift, outputs: outputsOf(workload) }
  return (hidden, weight, labels, gradient) => {
    const result = linearSequenceLogProbsSync(hidden, weight, labels, options)
    return { loss: loss(result), ...result.backwardSync(derivatives, { gradient }) }
  }
}
