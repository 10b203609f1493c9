// What the programs in a terminal share: the first stage of training, and the printing of tables.
import * as tf from '@tensorflow/tfjs'
import { getBackends } from 'fused-preference-loss'
import { sampleWindows } from './data.mjs'
import { countParameters } from './model.mjs'
import { createProgress } from './progress.mjs'
import { CONFIG, schedule, WARM_UP } from './settings.mjs'
import { warmUpStep } from './train.mjs'

export function describe(/** @type {import('./model.mjs').Model} */ model) {
  const { cpu } = getBackends()
  console.log(`model: ${CONFIG.blocks} blocks, width ${CONFIG.width}, vocabulary ${CONFIG.vocab}, \
${(countParameters(model) / 1e6).toFixed(2)} M parameters, TensorFlow.js ${tf.version_core} on '${tf.getBackend()}'`)
  console.log(
    `loss: ${cpu.available ? `native, ${cpu.instructionSet}, ${cpu.threads} threads` : `js (${cpu.reason})`}\n`,
  )
}

/**
 * Next-token training on random windows of the book, which makes a language model of random weights.
 * @param {import('./model.mjs').Model} model
 * @param {Int32Array[]} book
 * @param {() => number} random
 * @returns the loss of each step
 */
export function warmUp(model, book, random, name = 'warm-up') {
  const { steps, batch } = WARM_UP
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  const progress = createProgress(name, steps)
  const losses = []
  for (let step = 1; step <= steps; step++) {
    Object.assign(optimizer, { learningRate: schedule(WARM_UP, step) })
    const windows = sampleWindows(book, batch, CONFIG.time + 1, random)
    const { loss, lossMs, stepMs } = warmUpStep(model, optimizer, windows)
    losses.push(loss)
    progress.update(step, { loss: loss.toFixed(3), 'in the loss': percent(lossMs / stepMs) })
  }
  progress.stop()
  optimizer.dispose()
  return losses
}

/** Prints rows; the first cell of each is aligned left, the others are aligned right. */
export function print(/** @type {string[][]} */ rows, /** @type {number} */ width) {
  for (const [name, ...cells] of rows) console.log(name.padEnd(44), ...cells.map((cell) => cell.padStart(width)))
}

/**
 * The mean of the last values of a key.
 * @template {string} Key
 * @param {Record<Key, number>[]} steps
 * @param {Key} key
 */
export function mean(steps, key, last = steps.length) {
  const values = steps.slice(-last).map((step) => step[key])
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

export function percent(/** @type {number} */ share) {
  return `${(100 * share).toFixed(1)} %`
}
