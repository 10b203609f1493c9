// The two stages of the demo's training, on one process or on several. A batch is taken in two parts, whose gradients are
// added up: by one process, or by two, each of which takes one. So the number of processes does not change the bits.
import * as tf from '@tensorflow/tfjs'
import { globalCountsSync } from 'fused-preference-loss/distributed'
import { fusedLinearPreferenceLoss, linearCrossEntropy } from 'fused-preference-loss/tfjs'
import { ALONE } from './alone.mjs'
import { randomNumbers, samplePairs, sampleWindows } from './data.mjs'
import { freeze } from './model.mjs'
import { createProgress } from './progress.mjs'
import { partsOf, shareOf, summed } from './ranks.mjs'
import { mean, percent } from './run.mjs'
import { COMPLETION, CONFIG, DPO, PROMPT, SEED, schedule, WARM_UP } from './settings.mjs'
import { evaluate, pack, scorePairs, sequencesOf, shiftWindows, step } from './train.mjs'

/**
 * @typedef {import('./model.mjs').Model} Model
 * @typedef {import('./train.mjs').Pair} Pair
 * @typedef {ReturnType<typeof preferenceTraining>} History
 * @typedef {ReturnType<typeof preferenceStep>} Step
 */

/**
 * Who trains, and how it is told.
 * @typedef {{
 *   communicator: import('fused-preference-loss/distributed').Communicator,
 *   parts: number,
 *   progress: typeof createProgress,
 * }} Training
 */

/** The parts of a batch, unless there are more ranks. */
export const PARTS = 2

/** @type {Training} */
const ONE_PROCESS = { communicator: ALONE, parts: PARTS, progress: createProgress }

/** The pairs that are held out, and how often they are looked at, in steps. */
const HELD_OUT = { pairs: 200, every: 50 }

export function drawHeldOut(/** @type {Int32Array[]} */ book) {
  return samplePairs(book, HELD_OUT.pairs, PROMPT, COMPLETION, randomNumbers(SEED + 1))
}

/** The batches of next-token training. */
export function drawWindows(/** @type {Int32Array[]} */ book, /** @type {() => number} */ random) {
  return Array.from({ length: WARM_UP.steps }, () => sampleWindows(book, WARM_UP.batch, CONFIG.time + 1, random))
}

/** The batches of DPO. */
export function drawPairs(/** @type {Int32Array[]} */ book, /** @type {() => number} */ random) {
  return Array.from({ length: DPO.steps }, () => samplePairs(book, DPO.pairs, PROMPT, COMPLETION, random))
}

/**
 * Next-token training, which makes a language model of random weights; returns the loss of each step.
 * @param {Model} model
 * @param {Int32Array[]} batches windows of each step, `[batch, time + 1]`
 * @param {Partial<Training>} given
 */
export function nextTokenTraining(model, batches, given = {}) {
  const training = { ...ONE_PROCESS, ...given }
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  const progress = training.progress('warm-up', batches.length)
  const losses = batches.map((windows, i) => {
    Object.assign(optimizer, { learningRate: schedule(WARM_UP, i + 1) })
    const { loss, lossMs, stepMs } = nextTokenStep(model, optimizer, windows, training)
    progress.update(i + 1, { loss: loss.toFixed(3), 'in the loss': percent(lossMs / stepMs) })
    return loss
  })
  progress.stop()
  optimizer.dispose()
  return losses
}

/**
 * One step on this rank's parts; the loss is that of all windows.
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {Int32Array} all
 * @param {Training} training
 */
function nextTokenStep(model, optimizer, all, { communicator, parts }) {
  const own = partsOf(communicator, windowsOf(all), parts).map((windows) =>
    shiftWindows(Int32Array.from(windows.flatMap((window) => [...window])), CONFIG.time),
  )
  const labels = Int32Array.from(own.flatMap(({ labels }) => [...labels]))
  const shape = [labels.length / CONFIG.time, CONFIG.time]
  const normalizer = globalCountsSync(communicator, { labels, shape }, { shift: false })
  const loss = new Float64Array(1)
  const onResult = (/** @type {{ loss: number }} */ result) => {
    loss[0] += result.loss
  }
  const ownParts = own.map(({ inputs, labels }) => ({
    inputs,
    from: 0,
    lossOf: (/** @type {tf.Tensor} */ x, /** @type {tf.Tensor} */ weight) =>
      linearCrossEntropy(x, weight, labels, { shift: false, normalizer, onResult }),
  }))
  const times = step(model, optimizer, ownParts, (gradients) => summed(communicator, gradients))
  communicator.allReduceSumSync?.(loss)
  return { ...times, loss: loss[0] }
}

function windowsOf(/** @type {Int32Array} */ flat, length = CONFIG.time + 1) {
  return Array.from({ length: flat.length / length }, (_, i) => flat.subarray(i * length, (i + 1) * length))
}

/**
 * DPO against the model as it is now. Each pair is seen once. Pairs that are held out are looked at before, during and
 * after it.
 * @param {Model} model
 * @param {Pair[][]} batches pairs of each step
 * @param {Pair[]} heldOut
 * @param {Partial<Training> & { isLate?: () => boolean }} given `isLate` ends it early
 */
export function preferenceTraining(model, batches, heldOut, given = {}) {
  const { isLate = () => false, ...training } = { ...ONE_PROCESS, ...given }
  const reference = freeze(model)
  const own = shareOf(training.communicator, heldOut)
  const ownReference = scorePairs(reference, own)
  const look = (/** @type {number} */ step) => {
    const found = evaluate(model, own, ownReference, DPO.beta)
    return { step, ...ofAllRanks(training, found, own.length) }
  }
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  const progress = training.progress('dpo', batches.length)
  const evaluations = [look(0)]
  /** @type {Step[]} */
  const steps = []
  for (const pairs of batches) {
    if (isLate()) break
    const number = steps.length + 1
    Object.assign(optimizer, { learningRate: schedule(DPO, number) })
    const result = preferenceStep(model, optimizer, pairs, reference, training)
    steps.push(result)
    if (number % HELD_OUT.every === 0 || number === batches.length) evaluations.push(look(number))
    progress.update(number, {
      loss: mean(steps, 'loss', 20).toFixed(3),
      accuracy: mean(steps, 'accuracy', 20).toFixed(2),
      margin: mean(steps, 'margin', 20).toFixed(2),
      'held out': evaluations[evaluations.length - 1].accuracy.toFixed(2),
      'in the loss': percent(result.lossMs / result.stepMs),
    })
  }
  progress.stop()
  optimizer.dispose()
  return { steps, evaluations }
}

/**
 * One step on this rank's parts; loss, accuracy and margin are those of all pairs.
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {Pair[]} all
 * @param {Model} reference
 * @param {Training} training
 */
function preferenceStep(model, optimizer, all, reference, { communicator, parts }) {
  const own = partsOf(communicator, all, parts)
  const normalizer = globalCountsSync(communicator, batchOf(own.flat()), { shift: false })
  const sums = new Float64Array(3)
  const ownParts = own.map((pairs) => {
    const { inputs, labels, from } = pack(sequencesOf(pairs))
    const onResult = (/** @type {import('./losses.mjs').Result} */ { loss, accuracy, margin }) => {
      sums[0] += loss
      sums[1] += pairs.length * accuracy
      sums[2] += pairs.length * margin
    }
    const options = { reference: scorePairs(reference, pairs), beta: DPO.beta, shift: false, normalizer, onResult }
    const lossOf = (/** @type {tf.Tensor} */ x, /** @type {tf.Tensor} */ weight) =>
      fusedLinearPreferenceLoss(x, weight, labels, options)
    return { inputs, from, lossOf }
  })
  const times = step(model, optimizer, ownParts, (gradients) => summed(communicator, gradients))
  communicator.allReduceSumSync?.(sums)
  const [loss, accuracy, margin] = sums
  return { ...times, loss, accuracy: accuracy / all.length, margin: margin / all.length }
}

/** What `globalCounts` wants to know of pairs. */
function batchOf(/** @type {Pair[]} */ pairs) {
  const { labels } = pack(sequencesOf(pairs))
  return { labels, shape: [2 * pairs.length, COMPLETION], pairs: pairs.flatMap((_, i) => [i, pairs.length + i]) }
}

/**
 * Means over the pairs of all ranks.
 * @param {Training} training
 * @param {ReturnType<typeof evaluate>} own means over this rank's
 * @param {number} pairs
 */
function ofAllRanks({ communicator }, { logProbAccuracy, accuracy, margin }, pairs) {
  const sums = Float64Array.of(pairs, pairs * logProbAccuracy, pairs * accuracy, pairs * margin)
  communicator.allReduceSumSync?.(sums)
  const [all, ...means] = sums
  return { logProbAccuracy: means[0] / all, accuracy: means[1] / all, margin: means[2] / all }
}
