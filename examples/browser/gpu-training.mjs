// The steps of a run on WebGPU. Weights, hidden states, logits and gradients stay in buffers of the GPU; losses and log-probs
// come back.
import * as tf from '@tensorflow/tfjs'
import { linearSequenceLogProbs } from 'fused-preference-loss'
import { fusedLinearPreferenceLossVariableGrads, linearCrossEntropyVariableGrads } from 'fused-preference-loss/tfjs'
import { hiddenStates } from '../moby-dick/model.mjs'
import { evaluationOf, pack, sequencesOf, shiftWindows } from '../moby-dick/train.mjs'
import { ownMemory } from './engines.mjs'
import { WAYS } from './losses.mjs'

/**
 * @typedef {import('../moby-dick/losses.mjs').Scores} Scores
 * @typedef {import('../moby-dick/model.mjs').Model} Model
 * @typedef {import('../moby-dick/train.mjs').Pair} Pair
 * @typedef {import('./events.js').Way} Way
 */

/** Sequences that are scored at once. */
const BATCH = 12

/** @type {import('./training.js').Training} */
export const gpuTraining = {
  async warmUpStep(model, optimizer, windows) {
    const { inputs, labels } = shiftWindows(windows, model.config.time)
    const { loss, grads } = await linearCrossEntropyVariableGrads(() => layerOf(model, inputs), labels, {
      shift: false,
    })
    optimizer.applyGradients(grads)
    tf.dispose(grads)
    return { loss }
  },
  dpoStep,
  scorePairs,
  async evaluate(model, pairs, reference, beta) {
    return evaluationOf(await scorePairs(model, pairs), reference, beta)
  },
  async timedStep(way, model, optimizer, pairs, reference, beta) {
    const started = performance.now()
    await dpoStep(model, optimizer, pairs, reference, beta, way)
    await done(model.weights.tokens)
    const stepMs = performance.now() - started
    // What the GPU has been told to do cannot be told apart in time: the last layer and the loss once more, by themselves.
    const { inputs, labels, from } = pack(sequencesOf(pairs))
    const hidden = tf.tidy(() => tf.variable(hiddenStates(model, inputs, from)))
    await done(hidden)
    const lossStarted = performance.now()
    const layer = { hidden, weight: /** @type {tf.Variable} */ (model.weights.tokens) }
    const { grads } = await gradientsOf(way, () => layer, labels, reference, beta, [layer.hidden, layer.weight])
    await done(grads[layer.weight.name])
    // Part of the step, whatever else the machine did meanwhile.
    const lossMs = Math.min(stepMs, performance.now() - lossStarted)
    tf.dispose([grads, hidden])
    return { lossMs, stepMs }
  },
  async lossAndGradients(way, ...[hidden, weight, labels, reference, beta]) {
    const layer = tf.tidy(() => ({ hidden: tf.variable(hidden), weight: tf.variable(weight) }))
    const before = tf.memory().numBytes
    ownMemory()
    /** @type {Awaited<ReturnType<typeof gradientsOf>> | undefined} */
    let found
    const { peakBytes } = await tf.profile(async () => {
      found = await gradientsOf(way, () => layer, labels, reference, beta, Object.values(layer))
      return []
    })
    const { loss, grads } = /** @type {NonNullable<typeof found>} */ (found)
    const gradients = await Promise.all(Object.values(layer).map(({ name }) => grads[name].data()))
    tf.dispose([grads, layer])
    return { loss, gradients, bytes: peakBytes - before + ownMemory() }
  },
}

/** What goes into the output layer, and the layer. */
function layerOf(/** @type {Model} */ model, /** @type {Int32Array} */ inputs, from = 0) {
  return { hidden: hiddenStates(model, inputs, from), weight: model.weights.tokens }
}

/**
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {Pair[]} pairs
 * @param {Scores} reference
 * @param {number} beta
 * @param {Way} way
 */
async function dpoStep(model, optimizer, pairs, reference, beta, way = 'package') {
  const { inputs, labels, from } = pack(sequencesOf(pairs))
  const found = await gradientsOf(way, () => layerOf(model, inputs, from), labels, reference, beta)
  optimizer.applyGradients(found.grads)
  tf.dispose(found.grads)
  return found
}

/**
 * The loss and its gradients, of which a promise can wait: a page must not wait for its GPU.
 * @param {Way} way
 * @param {() => { hidden: tf.Tensor, weight: tf.Tensor }} layer
 * @param {Int32Array} labels
 * @param {Scores} reference
 * @param {number} beta
 * @param {tf.Variable[]} [variables]
 */
async function gradientsOf(way, layer, labels, reference, beta, variables) {
  if (way === 'package') {
    const options = { reference, beta, shift: false }
    const { loss, metrics, grads } = await fusedLinearPreferenceLossVariableGrads(layer, labels, options, variables)
    return { loss, margin: metrics.margin, accuracy: metrics.accuracy, grads }
  }
  const { value, grads } = tf.variableGrads(() => {
    const { hidden, weight } = layer()
    return WAYS[way](hidden, weight, labels, reference, beta)
  }, variables)
  const [loss] = await value.data()
  value.dispose()
  return { loss, margin: Number.NaN, accuracy: Number.NaN, grads }
}

/** @type {import('./training.js').Training['scorePairs']} */
async function scorePairs(model, pairs) {
  const sequences = sequencesOf(pairs)
  const { device } = /** @type {tf.KernelBackend & { device: GPUDevice }} */ (tf.backend())
  const weight = onGpu(model.weights.tokens)
  /** @type {number[]} */
  const sums = []
  for (let i = 0; i < sequences.length; i += BATCH) {
    const { inputs, labels, from } = pack(sequences.slice(i, i + BATCH))
    const states = hiddenStates(model, inputs, from)
    const hidden = onGpu(states)
    const options = { shift: false, gpuDevice: device }
    const { logProbs } = await linearSequenceLogProbs(hidden.rows, weight.rows, labels, options)
    sums.push(...logProbs)
    tf.dispose([states, hidden.tensor])
  }
  weight.tensor.dispose()
  return { chosen: sums.slice(0, pairs.length), rejected: sums.slice(pairs.length) }
}

/** A copy of a tensor on the GPU, as this package takes it. */
function onGpu(/** @type {tf.Tensor} */ tensor) {
  const { tensorRef, buffer } = tensor.dataToGPU()
  return { tensor: tensorRef, rows: { data: /** @type {GPUBuffer} */ (buffer), shape: tensor.shape } }
}

/** Waits for the GPU, by reading one number of what it is to make. */
async function done(/** @type {tf.Tensor} */ tensor) {
  const one = tf.tidy(() => tf.slice(tf.reshape(tensor, [-1]), 0, 1))
  await one.data()
  one.dispose()
}
