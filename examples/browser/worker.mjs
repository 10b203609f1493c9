// The run, in a worker of its own, so that the page stays free. It begins with a message that holds the book; the page
// ends it by ending the worker.
import * as tf from '@tensorflow/tfjs'
import { randomNumbers, samplePairs, sampleWindows } from '../moby-dick/data.mjs'
import { createModel, freeze } from '../moby-dick/model.mjs'
import { COMPLETION, CONFIG, DPO, PROMPT, SEED, schedule, WARM_UP } from '../moby-dick/settings.mjs'
import { dpoStep, evaluate, marginsOf, scorePairs, warmUpStep } from '../moby-dick/train.mjs'
import { compare, ROUNDS } from './comparison.mjs'
import { loadEngines } from './engines.mjs'
import { WAYS } from './losses.mjs'

/**
 * @typedef {import('./events.js').Event} Event
 * @typedef {import('../moby-dick/model.mjs').Model} Model
 * @typedef {import('../moby-dick/train.mjs').Pair} Pair
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
 * @param {import('./book-data.mjs').BookData} book
 * @returns {AsyncGenerator<Event>}
 */
async function* run(book) {
  yield { type: 'stage', stage: 'load', steps: 0 }
  yield { type: 'loaded', threads: await loadEngines() }
  const train = book.train.map((tokens) => Int32Array.from(tokens))
  const heldOut = book.heldOut.map(({ prompt, chosen, rejected }) => ({
    prompt: Int32Array.from(prompt),
    chosen: Int32Array.from(chosen),
    rejected: Int32Array.from(rejected),
  }))
  const random = randomNumbers(SEED)
  const model = createModel(CONFIG, SEED)

  yield { type: 'stage', stage: 'read', steps: WARM_UP.steps }
  yield* read(model, train, random)

  yield { type: 'stage', stage: 'compare', steps: (ROUNDS - 1) * Object.keys(WAYS).length }
  const reference = freeze(model)
  const pairs = samplePairs(train, DPO.pairs, PROMPT, COMPLETION, random)
  yield* compare(model, pairs, scorePairs(reference, pairs))

  yield { type: 'stage', stage: 'tune', steps: DPO.steps }
  yield* tune(model, reference, train, heldOut, book.shown.length, random)
}

/** Next-token training, which makes a language model of random weights. */
function* read(/** @type {Model} */ model, /** @type {Int32Array[]} */ train, /** @type {() => number} */ random) {
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  for (let step = 1; step <= WARM_UP.steps; step++) {
    Object.assign(optimizer, { learningRate: schedule(WARM_UP, step) })
    const windows = sampleWindows(train, WARM_UP.batch, CONFIG.time + 1, random)
    const { loss } = warmUpStep(model, optimizer, windows)
    yield/** @type {const} */ ({ type: 'read', step, loss })
  }
  optimizer.dispose()
}

/**
 * DPO against the frozen reference. Each pair is seen once.
 * @param {Model} model
 * @param {Model} reference
 * @param {Int32Array[]} train
 * @param {Pair[]} heldOut
 * @param {number} shown pairs held out that are shown
 * @param {() => number} random
 */
function* tune(model, reference, train, heldOut, shown, random) {
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  const heldOutReference = scorePairs(reference, heldOut)
  const look = (/** @type {number} */ step) => {
    const { margin, accuracy } = evaluate(model, heldOut, heldOutReference, DPO.beta)
    const margins = marginsOf(scorePairs(model, heldOut.slice(0, shown)), heldOutReference, DPO.beta)
    const preferred = margins.map((margin) => 1 / (1 + Math.exp(-margin)))
    return /** @type {const} */ ({ type: 'heldOut', step, margin, accuracy, preferred })
  }
  yield look(0)
  for (let step = 1; step <= DPO.steps; step++) {
    Object.assign(optimizer, { learningRate: schedule(DPO, step) })
    const pairs = samplePairs(train, DPO.pairs, PROMPT, COMPLETION, random)
    const { loss, margin, accuracy } = dpoStep(model, optimizer, pairs, scorePairs(reference, pairs), DPO.beta)
    yield/** @type {const} */ ({ type: 'tuned', step, loss, margin, accuracy })
    if (step % LOOK_EVERY === 0) yield look(step)
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
