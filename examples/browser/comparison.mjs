// The same step of DPO in each of the ways: whether they agree, and what they cost.
import * as tf from '@tensorflow/tfjs'
import { hiddenStates, trainable } from '../moby-dick/model.mjs'
import { DPO } from '../moby-dick/settings.mjs'
import { dpoStep, pack, sequencesOf } from '../moby-dick/train.mjs'
import { ownMemory } from './engines.mjs'
import { WAYS } from './losses.mjs'

/**
 * @typedef {import('./events.js').Way} Way
 * @typedef {import('../moby-dick/model.mjs').Model} Model
 * @typedef {import('../moby-dick/train.mjs').Pair} Pair
 * @typedef {import('../moby-dick/losses.mjs').Scores} Scores
 * @typedef {ArrayLike<number>[]} Gradients
 */

/** Rounds of one step each way. The first one, which compiles code and gets memory, is not timed. */
export const ROUNDS = 6

/**
 * Yields costs after each step, of steps that start from the same weights.
 * @param {Model} model
 * @param {Pair[]} pairs
 * @param {Scores} reference
 * @returns {AsyncGenerator<import('./events.js').Event>}
 */
export async function* compare(model, pairs, reference) {
  const results = []
  for (const way of /** @type {Way[]} */ (Object.keys(WAYS))) results.push(await resultOf(way, model, pairs, reference))
  yield { type: 'agreement', ...agreementOf(results) }

  const runs = results.map(({ way, bytes }) => {
    const copy = trainable(model)
    const optimizer = tf.train.adam(DPO.learningRate, 0.9, 0.98)
    const step = () => dpoStep(copy, optimizer, pairs, reference, DPO.beta, WAYS[way])
    const dispose = () => {
      tf.dispose(Object.values(copy.weights))
      optimizer.dispose()
    }
    return { way, bytes, step, dispose, times: /** @type {ReturnType<typeof dpoStep>[]} */ ([]) }
  })
  for (let round = 0; round < ROUNDS; round++) {
    for (const { way, bytes, step, times } of runs) {
      const found = step()
      if (round === 0) continue
      times.push(found)
      const [lossMs, stepMs] = [median(times.map((step) => step.lossMs)), median(times.map((step) => step.stepMs))]
      yield { type: 'cost', way, bytes, lossMs, stepMs }
    }
  }
  for (const { dispose } of runs) dispose()
}

/**
 * The loss, its gradients with respect to the last layer's input and weight, and the most bytes that they take.
 * @param {Way} way
 * @param {Model} model
 * @param {Pair[]} pairs
 * @param {Scores} reference
 */
async function resultOf(way, model, pairs, reference) {
  const { inputs, labels, from } = pack(sequencesOf(pairs))
  const hidden = hiddenStates(model, inputs, from)
  const step = tf.valueAndGrads((hidden, weight) => WAYS[way](hidden, weight, labels, reference, DPO.beta))
  const before = tf.memory().numBytes
  /** @type {tf.Tensor[]} */
  let grads = []
  const { peakBytes, result: value } = await tf.profile(() => {
    const found = step([hidden, model.weights.tokens])
    grads = found.grads
    return found.value
  })
  const result = {
    way,
    loss: /** @type {tf.Tensor} */ (value).dataSync()[0],
    gradients: grads.map((gradient) => gradient.dataSync()),
  }
  tf.dispose([hidden, value, ...grads])
  return { ...result, bytes: peakBytes - before + (way === 'package' ? ownMemory() : 0) }
}

/**
 * How far the others are from the first, the package.
 * @param {Awaited<ReturnType<typeof resultOf>>[]} results
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
