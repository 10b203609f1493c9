// The training steps: next-token warm-up and DPO; and the scoring of pairs.
import * as tf from '@tensorflow/tfjs'
import { linearSequenceLogProbs } from 'fused-preference-loss/tfjs'
import { linearLoss } from './losses.mjs'
import { customGrad, hiddenStates } from './model.mjs'

/**
 * @typedef {{ prompt: Int32Array, chosen: Int32Array, rejected: Int32Array }} Pair
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
  const { time } = model.config
  const inputs = windows.filter((_, i) => i % (time + 1) !== time)
  const labels = windows.filter((_, i) => i % (time + 1) !== 0)
  const options = { shift: false, averageLogProb: true }
  return step(model, optimizer, inputs, 0, (x, weight) =>
    tf.neg(tf.mean(linearSequenceLogProbs(x, weight, labels, options))),
  )
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
  const { inputs, labels, from } = packPairs(pairs)
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
 * Sums of the log-probs of both completions of each pair.
 * @param {Model} model
 * @param {Pair[]} pairs
 * @returns {Scores}
 */
export function scorePairs(model, pairs, batchSize = 6) {
  /** @type {number[]} */
  const chosen = []
  /** @type {number[]} */
  const rejected = []
  for (let i = 0; i < pairs.length; i += batchSize) {
    const batch = pairs.slice(i, i + batchSize)
    const { inputs, labels, from } = packPairs(batch)
    const sums = tf.tidy(() => {
      const hidden = hiddenStates(model, inputs, from)
      return linearSequenceLogProbs(hidden, model.weights.tokens, labels, { shift: false }).dataSync()
    })
    chosen.push(...sums.subarray(0, batch.length))
    rejected.push(...sums.subarray(batch.length))
  }
  return { chosen, rejected }
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
  const { chosen, rejected } = scorePairs(model, pairs)
  const differences = pairs.map((_, i) => chosen[i] - rejected[i])
  const margins = differences.map((difference, i) => beta * (difference - reference.chosen[i] + reference.rejected[i]))
  const share = (/** @type {number[]} */ values) => values.filter((value) => value > 0).length / pairs.length
  return {
    logProbAccuracy: share(differences),
    accuracy: share(margins),
    margin: margins.reduce((sum, margin) => sum + margin, 0) / pairs.length,
  }
}

/**
 * Inputs and labels of pairs, the chosen sequences first. The labels cover only the completions and start at the
 * position `from` of the inputs.
 * @param {Pair[]} pairs
 */
function packPairs(pairs) {
  const sequences = [
    ...pairs.map(({ prompt, chosen }) => ({ prompt, completion: chosen })),
    ...pairs.map(({ prompt, rejected }) => ({ prompt, completion: rejected })),
  ]
  return {
    inputs: Int32Array.from(sequences.flatMap(({ prompt, completion }) => [...prompt, ...completion.subarray(0, -1)])),
    labels: Int32Array.from(sequences.flatMap(({ completion }) => [...completion])),
    from: pairs[0].prompt.length - 1,
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
 */
function step(model, optimizer, inputs, from, lossOf) {
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
  const { value, grads } = tf.tidy(() =>
    tf.variableGrads(() => lossOf(watched(hiddenStates(model, inputs, from)), model.weights.tokens)),
  )
  optimizer.applyGradients(grads)
  const loss = value.dataSync()[0]
  tf.dispose([value, grads])
  return { loss, lossMs, stepMs: performance.now() - started }
}
