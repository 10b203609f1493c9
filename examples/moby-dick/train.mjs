// The training steps: next-token prediction, DPO and KTO; and the scoring of sequences and of pairs.
import * as tf from '@tensorflow/tfjs'
import {
  fusedLinearUnpairedPreferenceLoss,
  linearCrossEntropy,
  linearSequenceLogProbs,
} from 'fused-preference-loss/tfjs'
import { linearLoss } from './losses.mjs'
import { customGrad, hiddenStates } from './model.mjs'

/**
 * @typedef {{ prompt: Int32Array, chosen: Int32Array, rejected: Int32Array }} Pair
 * @typedef {{ prompt: Int32Array, completion: Int32Array }} Sequence
 * @typedef {import('./losses.mjs').Scores} Scores
 * @typedef {import('./model.mjs').Model} Model
 * @typedef {{ inputs: Int32Array, from: number, lossOf: (hidden: tf.Tensor, weight: tf.Tensor) => tf.Scalar }} Part some of a
 *   batch: its inputs, and the loss from the hidden states from the position `from` on and the output layer's weight
 */

/**
 * Next-token prediction on windows of the book.
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {Int32Array} windows `[batch, time + 1]`
 */
export function warmUpStep(model, optimizer, windows) {
  const { inputs, labels } = shiftWindows(windows, model.config.time)
  const lossOf = (/** @type {tf.Tensor} */ x, /** @type {tf.Tensor} */ weight) =>
    linearCrossEntropy(x, weight, labels, { shift: false })
  return step(model, optimizer, [{ inputs, from: 0, lossOf }])
}

/**
 * Direct preference optimisation of a batch of pairs, given their log-probs under the reference.
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {Pair[]} pairs
 * @param {Scores} reference
 * @param {number} beta
 */
export function dpoStep(model, optimizer, pairs, reference, beta, lossOf = linearLoss) {
  const { inputs, labels, from } = pack(sequencesOf(pairs))
  let [accuracy, margin] = [Number.NaN, Number.NaN]
  const onResult = (/** @type {import('./losses.mjs').Result} */ result) => {
    ;({ accuracy, margin } = result)
  }
  const ofLabels = (/** @type {tf.Tensor} */ x, /** @type {tf.Tensor} */ weight) =>
    lossOf(x, weight, labels, reference, beta, onResult)
  const times = step(model, optimizer, [{ inputs, from, lossOf: ofLabels }])
  return { ...times, accuracy, margin }
}

/**
 * Kahneman-Tversky optimisation of a batch of completions, each known to be desirable or not.
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {(Sequence & { label: boolean })[]} records
 * @param {Model} reference
 * @param {number} beta
 */
export function ktoStep(model, optimizer, records, reference, beta) {
  const { inputs, labels, from } = pack(records)
  // The KL divergence is estimated from completions of other prompts.
  const before = (/** @type {number} */ i) => records[(i + records.length - 1) % records.length]
  const mismatched = records.map(({ prompt }, i) => ({ prompt, completion: before(i).completion }))
  let margin = Number.NaN
  const options = {
    lossType: /** @type {const} */ ('kto'),
    desirable: records.map(({ label }) => label),
    reference: { logProbs: scoreSequences(reference, records) },
    klLogProbs: scoreSequences(model, mismatched),
    referenceKlLogProbs: scoreSequences(reference, mismatched),
    beta,
    shift: false,
    onResult: (/** @type {{ margin?: number }} */ result) => {
      margin = result.margin ?? Number.NaN
    },
  }
  const lossOf = (/** @type {tf.Tensor} */ x, /** @type {tf.Tensor} */ weight) =>
    fusedLinearUnpairedPreferenceLoss(x, weight, labels, options)
  const times = step(model, optimizer, [{ inputs, from, lossOf }])
  return { ...times, margin }
}

/**
 * The mean next-token loss on windows of the book.
 * @param {Model} model
 * @param {Int32Array} windows `[batch, time + 1]`
 */
export function nextTokenLoss(model, windows) {
  const { inputs, labels } = shiftWindows(windows, model.config.time)
  return tf.tidy(
    () => linearCrossEntropy(hiddenStates(model, inputs), model.weights.tokens, labels, { shift: false }).dataSync()[0],
  )
}

/**
 * Sums of the log-probs of both completions of each pair.
 * @param {Model} model
 * @param {Pair[]} pairs
 * @returns {Scores}
 */
export function scorePairs(model, pairs) {
  const sums = scoreSequences(model, sequencesOf(pairs))
  return { chosen: sums.slice(0, pairs.length), rejected: sums.slice(pairs.length) }
}

/**
 * Sums of the log-probs of each completion.
 * @param {Model} model
 * @param {Sequence[]} sequences
 */
export function scoreSequences(model, sequences, batchSize = 12) {
  /** @type {number[]} */
  const sums = []
  for (let i = 0; i < sequences.length; i += batchSize) {
    const { inputs, labels, from } = pack(sequences.slice(i, i + batchSize))
    tf.tidy(() => {
      const hidden = hiddenStates(model, inputs, from)
      sums.push(...linearSequenceLogProbs(hidden, model.weights.tokens, labels, { shift: false }).dataSync())
    })
  }
  return sums
}

/**
 * The share of pairs whose chosen completion has the larger log-prob, the share with the larger reward, and the mean
 * margin of rewards.
 * @param {Model} model
 * @param {Pair[]} pairs
 * @param {Scores} reference
 * @param {number} beta
 */
export function evaluate(model, pairs, reference, beta) {
  return evaluationOf(scorePairs(model, pairs), reference, beta)
}

/**
 * The same of log-probs.
 * @param {Scores} policy
 * @param {Scores} reference
 * @param {number} beta
 */
export function evaluationOf({ chosen, rejected }, reference, beta) {
  const differences = chosen.map((logProb, i) => logProb - rejected[i])
  const margins = marginsOf({ chosen, rejected }, reference, beta)
  const share = (/** @type {number[]} */ values) => values.filter((value) => value > 0).length / values.length
  return {
    logProbAccuracy: share(differences),
    accuracy: share(margins),
    margin: margins.reduce((sum, margin) => sum + margin, 0) / margins.length,
  }
}

/**
 * The margin of rewards of each pair.
 * @param {Scores} policy
 * @param {Scores} reference
 * @param {number} beta
 */
export function marginsOf({ chosen, rejected }, reference, beta) {
  return chosen.map((logProb, i) => beta * (logProb - rejected[i] - reference.chosen[i] + reference.rejected[i]))
}

/** Windows without their last token, and the same without their first. */
export function shiftWindows(/** @type {Int32Array} */ windows, /** @type {number} */ time) {
  return {
    inputs: windows.filter((_, i) => i % (time + 1) !== time),
    labels: windows.filter((_, i) => i % (time + 1) !== 0),
  }
}

/** The sequences of pairs, the chosen ones first. */
export function sequencesOf(/** @type {Pair[]} */ pairs) {
  return [
    ...pairs.map(({ prompt, chosen }) => ({ prompt, completion: chosen })),
    ...pairs.map(({ prompt, rejected }) => ({ prompt, completion: rejected })),
  ]
}

/**
 * Inputs and labels. The labels cover only the completions and start at the position `from` of the inputs.
 * @param {Sequence[]} sequences
 */
export function pack(sequences) {
  return {
    inputs: Int32Array.from(sequences.flatMap(({ prompt, completion }) => [...prompt, ...completion.subarray(0, -1)])),
    labels: Int32Array.from(sequences.flatMap(({ completion }) => [...completion])),
    from: sequences[0].prompt.length - 1,
  }
}

/**
 * Forward, backward, update. `lossMs` is the time from the hidden states to their gradient: exactly the output layer
 * and the loss.
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {Part[]} parts whose gradients are added up, in their order
 * @param {(gradients: tf.NamedTensorMap) => tf.NamedTensorMap} total makes of the gradients those that are applied
 */
export function step(model, optimizer, parts, total = (gradients) => gradients) {
  const started = performance.now()
  let [loss, lossMs] = [0, 0]
  const gradients = tf.tidy(() => {
    /** @type {tf.NamedTensorMap | undefined} */
    let sum
    for (const part of parts) {
      const own = gradientsOf(model, part)
      loss += own.loss
      lossMs += own.lossMs
      sum = sum ? added(sum, own.gradients) : own.gradients
    }
    return total(/** @type {tf.NamedTensorMap} */ (sum))
  })
  optimizer.applyGradients(gradients)
  tf.dispose(gradients)
  return { loss, lossMs, stepMs: performance.now() - started }
}

function gradientsOf(/** @type {Model} */ model, /** @type {Part} */ { inputs, from, lossOf }) {
  let lossStarted = 0
  let lossMs = 0
  // Passes the hidden states on, and notes the time when their gradient arrives.
  const watched = customGrad((/** @type {tf.Tensor} */ x) => {
    lossStarted = performance.now()
    return {
      value: x.reshape(x.shape),
      gradFunc: (dy) => {
        lossMs = performance.now() - lossStarted
        return dy.reshape(x.shape)
      },
    }
  })
  const { value, grads } = tf.tidy(() =>
    tf.variableGrads(() => lossOf(watched(hiddenStates(model, inputs, from)), model.weights.tokens)),
  )
  return { loss: value.dataSync()[0], lossMs, gradients: grads }
}

/** Sums of two lists of tensors, which are given up. */
function added(/** @type {tf.NamedTensorMap} */ a, /** @type {tf.NamedTensorMap} */ b) {
  const sums = Object.entries(a).map(([name, tensor]) => [name, tf.add(tensor, b[name])])
  tf.dispose([a, b])
  return Object.fromEntries(sums)
}
