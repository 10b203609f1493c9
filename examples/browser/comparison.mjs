// The same step of DPO in each of the ways: whether they agree, and what they cost.
import * as tf from '@tensorflow/tfjs'
import { hiddenStates, trainable } from '../moby-dick/model.mjs'
import { DPO } from '../moby-dick/settings.mjs'
import { pack, sequencesOf } from '../moby-dick/train.mjs'
import { WAYS } from './losses.mjs'

/**
 * @typedef {import('./events.js').Way} Way
 * @typedef {import('../moby-dick/model.mjs').Model} Model
 * @typedef {import('../moby-dick/train.mjs').Pair} Pair
 * @typedef {import('../moby-dick/losses.mjs').Scores} Scores
 * @typedef {ArrayLike<number>[]} Gradients
 */

/**
 * Yields costs after each step, of steps that start from the same weights.
 * @param {import('./training.js').Training} training
 * @param {Model} model
 * @param {Pair[]} pairs
 * @param {Scores} reference
 * @param {number} rounds of one step each way; the first one, which compiles code and gets memory, is not timed
 * @returns {AsyncGenerator<import('./events.js').Event>}
 */
export async function* compare(training, model, pairs, reference, rounds) {
  const { inputs, labels, from } = pack(sequencesOf(pairs))
  const hidden = hiddenStates(model, inputs, from)
  const results = []
  for (const way of /** @type {Way[]} */ (Object.keys(WAYS))) {
    const found = await training.lossAndGradients(way, hidden, model.weights.tokens, labels, reference, DPO.beta)
    results.push({ way, ...found })
  }
  hidden.dispose()
  yield { type: 'agreement', ...agreementOf(results) }

  const runs = results.map(({ way, bytes }) => {
    const copy = trainable(model)
    const optimizer = tf.train.adam(DPO.learningRate, 0.9, 0.98)
    const step = async () => training.timedStep(way, copy, optimizer, pairs, reference, DPO.beta)
    const dispose = () => {
      tf.dispose(Object.values(copy.weights))
      optimizer.dispose()
    }
    return { way, bytes, step, dispose, times: /** @type {Awaited<ReturnType<typeof step>>[]} */ ([]) }
  })
  for (let round = 0; round < rounds; round++) {
    for (const { way, bytes, step, times } of runs) {
      const found = await step()
      if (round === 0) continue
      times.push(found)
      const [lossMs, stepMs] = [median(times.map((step) => step.lossMs)), median(times.map((step) => step.stepMs))]
      yield { type: 'cost', way, bytes, lossMs, stepMs }
    }
  }
  for (const { dispose } of runs) dispose()
}

/**
 * How far the others are from the first, the package.
 * @param {{ loss: number, gradients: Gradients }[]} results
 */
function agreementOf([ours, ...others]) {
  const zeros = ours.gradients.map(({ length }) => new Float32Array(length))
  const largest = largestDifference(ours.gradients, zeros)
  return {
    loss: Math.max(...others.map(({ loss }) => Math.abs(loss / ours.loss - 1))),
    gradient: Math.max(...others.map(({ gradients }) => largestDifference(gradients, ours.gradients))) / largest,
  }
}

/** The largest of all elements' differences. */
function largestDifference(/** @type {Gradients} */ arrays, /** @type {Gradients} */ others) {
  let largest = 0
  for (const [i, values] of arrays.entries()) {
    for (let k = 0; k < values.length; k++) largest = Math.max(largest, Math.abs(values[k] - others[i][k]))
  }
  return largest
}

function median(/** @type {number[]} */ values) {
  const sorted = values.toSorted((a, b) => a - b)
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2
}
