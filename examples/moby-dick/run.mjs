// What the programs in a terminal share: the printing of tables, and the writing of pictures.
import { mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import * as tf from '@tensorflow/tfjs'
import { getBackends } from 'fused-preference-loss'
import { countParameters } from './model.mjs'
import { CONFIG } from './settings.mjs'

export function describe(/** @type {import('./model.mjs').Model} */ model) {
  const { cpu } = getBackends()
  console.log(`model: ${CONFIG.blocks} blocks, width ${CONFIG.width}, vocabulary ${CONFIG.vocab}, \
${(countParameters(model) / 1e6).toFixed(2)} M parameters, TensorFlow.js ${tf.version_core} on '${tf.getBackend()}'`)
  console.log(
    `loss: ${cpu.available ? `native, ${cpu.instructionSet}, ${cpu.threads} threads` : `js (${cpu.reason})`}\n`,
  )
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

/**
 * Writes a picture to examples/out/ and, where it is given a name there, to docs/assets/.
 * @param {string} svg
 * @param {string} name
 * @param {string} [nameInDocs]
 */
export function savePicture(svg, name, nameInDocs) {
  for (const path of [`../out/${name}`, ...(nameInDocs ? [`../../docs/assets/${nameInDocs}`] : [])]) {
    const url = new URL(path, import.meta.url)
    mkdirSync(new URL('.', url), { recursive: true })
    writeFileSync(url, svg)
    console.log(`\ncurves: ${fileURLToPath(url)}`)
  }
}

/**
 * The running mean of 20 steps of a key, as points of a curve.
 * @template {string} Key
 * @param {Record<Key, number>[]} steps
 * @param {Key} key
 * @returns {[number, number][]}
 */
export function runningMean(steps, key) {
  return steps.map((_, i) => [i + 1, mean(steps.slice(0, i + 1), key, 20)])
}

/** The table of what is known of held-out pairs, a column for each look; `title` is the head of the first column. */
export function heldOutTable(
  /** @type {string} */ title,
  /** @type {Record<string, import('./training.mjs').History['evaluations'][number]>} */ looks,
) {
  const row = (/** @type {string} */ name, /** @type {(look: (typeof looks)[string]) => string} */ value) => [
    name,
    ...Object.values(looks).map(value),
  ]
  return [
    [title, ...Object.keys(looks)],
    row('chosen has the larger reward', ({ accuracy }) => percent(accuracy)),
    row('chosen has the larger log-prob', ({ logProbAccuracy }) => percent(logProbAccuracy)),
    row('mean margin of rewards', ({ margin }) => margin.toFixed(3)),
  ]
}
