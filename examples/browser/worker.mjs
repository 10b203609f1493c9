// The run, in a worker of its own, so that the page stays free. It begins with a message that holds the book and says on what
// it runs; the page ends it by ending the worker.
import * as tf from '@tensorflow/tfjs'
import { randomNumbers, samplePairs, sampleWindows } from '../moby-dick/data.mjs'
import { createModel, freeze } from '../moby-dick/model.mjs'
import { COMPLETION, DPO, PROMPT, SEED, schedule, WARM_UP } from '../moby-dick/settings.mjs'
import { marginsOf } from '../moby-dick/train.mjs'
import { compare } from './comparison.mjs'
import { loadEngines } from './engines.mjs'
import { gpuTraining } from './gpu-training.mjs'
import { WAYS } from './losses.mjs'
import { wasmTraining } from './wasm-training.mjs'

/**
 * @typedef {import('./events.js').Event} Event
 * @typedef {import('../moby-dick/model.mjs').Model} Model
 * @typedef {import('../moby-dick/train.mjs').Pair} Pair
 * @typedef {import('./sizes.mjs').Size} Size
 * @typedef {import('./training.js').Training} Training
 */

const LOOK_EVERY = 25

self.onmessage = async ({ data }) => {
  const tell = (/** @type {Event} */ event) => self.postMessage(event)
  try {
    for await (const event of run(data)) {
      tell(event)
      await turn()
    }
    tell({ type: 'finished' })
  } catch (error) {
    tell({ type: 'failed', problem: error instanceof Error ? error.message : String(error) })
  }
}

/**
 * @param {import('./events.js').Order} order
 * @returns {AsyncGenerator<Event>}
 */
async function* run({ book, engine, size }) {
  const { config, steps } = size
  yield { type: 'stage', stage: 'load', steps: 0 }
  yield { type: 'loaded', ...(await loadEngines(engine)) }
  const training = engine === 'webgpu' ? gpuTraining : wasmTraining
  const train = book.train.map((tokens) => Int32Array.from(tokens))
  const heldOut = book.heldOut.slice(0, size.heldOut).map(({ prompt, chosen, rejected }) => ({
    prompt: Int32Array.from(prompt),
    chosen: Int32Array.from(chosen),
    rejected: Int32Array.from(rejected),
  }))
  const random = randomNumbers(SEED)
  const model = createModel(config, SEED)

  yield { type: 'stage', stage: 'read', steps: steps.read }
  yield* read(training, model, train, random, size)

  yield { type: 'stage', stage: 'compare', steps: (steps.compare - 1) * Object.keys(WAYS).length }
  const reference = freeze(model)
  const pairs = samplePairs(train, size.pairs, PROMPT, COMPLETION, random)
  yield* compare(training, model, pairs, await training.scorePairs(reference, pairs), steps.compare)

  yield { type: 'stage', stage: 'tune', steps: steps.tune }
  yield* tune(training, model, reference, train, heldOut, book.shown.length, random, size)
}

/**
 * Next-token training, which makes a language model of random weights.
 * @param {Training} training
 * @param {Model} model
 * @param {Int32Array[]} train
 * @param {() => number} random
 * @param {Size} size
 */
async function* read(training, model, train, random, { config, windows: count, steps: { read: steps } }) {
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  for (let step = 1; step <= steps; step++) {
    Object.assign(optimizer, { learningRate: schedule({ ...WARM_UP, steps }, step) })
    const windows = sampleWindows(train, count, config.time + 1, random)
    const { loss } = await training.warmUpStep(model, optimizer, windows)
    yield/** @type {const} */ ({ type: 'read', step, loss })
  }
  optimizer.dispose()
}

/**
 * DPO against the frozen reference. Each pair is seen once.
 * @param {Training} training
 * @param {Model} model
 * @param {Model} reference
 * @param {Int32Array[]} train
 * @param {Pair[]} heldOut
 * @param {number} shown pairs held out that are shown
 * @param {() => number} random
 * @param {Size} size
 */
async function* tune(training, model, reference, train, heldOut, shown, random, size) {
  const {
    steps: { tune: steps },
  } = size
  const { dpoStep, evaluate, scorePairs } = training
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  const heldOutReference = await scorePairs(reference, heldOut)
  const look = async (/** @type {number} */ step) => {
    const { margin, accuracy } = await evaluate(model, heldOut, heldOutReference, DPO.beta)
    const margins = marginsOf(await scorePairs(model, heldOut.slice(0, shown)), heldOutReference, DPO.beta)
    const preferred = margins.map((margin) => 1 / (1 + Math.exp(-margin)))
    return /** @type {const} */ ({ type: 'heldOut', step, margin, accuracy, preferred })
  }
  yield await look(0)
  for (let step = 1; step <= steps; step++) {
    Object.assign(optimizer, { learningRate: schedule({ ...DPO, steps }, step) })
    const pairs = samplePairs(train, size.pairs, PROMPT, COMPLETION, random)
    const scores = await scorePairs(reference, pairs)
    const { loss, margin, accuracy } = await dpoStep(model, optimizer, pairs, scores, DPO.beta)
    yield/** @type {const} */ ({ type: 'tuned', step, loss, margin, accuracy })
    if (step % LOOK_EVERY === 0) yield await look(step)
  }
}

/** Lets workers of this worker start, which they do between its tasks. */
function turn() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = () => {
      port1.close()
      resolve(undefined)
    }
    port2.postMessage(undefined)
  })
}
