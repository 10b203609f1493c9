// The steps of a run on WebAssembly.
import * as tf from '@tensorflow/tfjs'
import { dpoStep, evaluate, scorePairs, warmUpStep } from '../moby-dick/train.mjs'
import { ownMemory } from './engines.mjs'
import { WAYS } from './losses.mjs'

/** @type {import('./training.js').Training} */
export const wasmTraining = {
  warmUpStep,
  dpoStep,
  scorePairs,
  evaluate,
  timedStep: (way, model, optimizer, pairs, reference, beta) =>
    dpoStep(model, optimizer, pairs, reference, beta, WAYS[way]),
  async lossAndGradients(way, hidden, weight, labels, reference, beta) {
    const step = tf.valueAndGrads((hidden, weight) => WAYS[way](hidden, weight, labels, reference, beta))
    const before = tf.memory().numBytes
    /** @type {tf.Tensor[]} */
    let grads = []
    const { peakBytes, result } = await tf.profile(() => {
      const found = step([hidden, weight])
      grads = found.grads
      return found.value
    })
    const value = /** @type {tf.Tensor} */ (result)
    const [loss] = value.dataSync()
    const gradients = grads.map((gradient) => gradient.dataSync())
    tf.dispose([value, grads])
    return { loss, gradients, bytes: peakBytes - before + (way === 'package' ? ownMemory() : 0) }
  },
}
