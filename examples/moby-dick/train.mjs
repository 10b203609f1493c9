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
 */

/**
 * Next-token prediction on windows of the book.
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {Int32Array} windows `[batch, time + 1]`
 */
export function warmUpStep(model, optimizer, windows) {
  const { inputs, labels } = shiftWindows(windows, model.config.time)
  return step(model, optimizer, inputs, 0, (x, weight) => linearCrossEntropy(x, weight, labels, { shift: false }))
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
  const times = step(model, optimizer, inputs, from, (x, weight) =>
    lossOf(x, weight, labels, reference, beta, onResult),
  )
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
  const times = step(model, optimizer, inputs, from, (x, weight) =>
    fusedLinearUnpairedPreferenceLoss(x, weight, labels, options),
  )
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
 * @param {Int32Array} inputs
 * @param {number} from
 * @param {(hidden: tf.Tensor, weight: tf.Tensor) => tf.Scalar} lossOf
 * @param {(gradients: tf.NamedTensorMap) => tf.NamedTensorMap} total makes of the gradients those that are applied
 */
export function step(model, optimizer, inputs, from, lossOf, total = (gradients) => gradients) {
  const started = performance.now()
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
  const { value, grads } = tf.tidy(() => {
    const own = tf.variableGrads(() => lossOf(watched(hiddenStates(model, inputs, from)), model.weights.tokens))
    return { value: own.value, grads: total(own.grads) }
  })
  optimizer.applyGradients(grads)
  const loss = value.dataSync()[0]
  tf.dispose([value, grads])
  return { loss, lossMs, stepMs: performance.now() - started }
}
