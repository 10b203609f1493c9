// How large a run is.
import { CONFIG, DPO, WARM_UP } from '../moby-dick/settings.mjs'

/**
 * @typedef {object} Size
 * @property {import('../moby-dick/model.mjs').ModelConfig} config
 * @property {number} windows of the book in a step
 * @property {number} pairs in a step
 * @property {number} heldOut pairs on which it is evaluated, at most
 * @property {{ read: number, compare: number, tune: number }} steps of each stage
 */

/** @type {Size} */
export const WHOLE = {
  config: CONFIG,
  windows: WARM_UP.batch,
  pairs: DPO.pairs,
  heldOut: Number.POSITIVE_INFINITY,
  steps: { read: WARM_UP.steps, compare: 6, tune: DPO.steps },
}

/**
 * All stages, in which it learns nothing: for software in the place of a GPU, on which a step takes seconds.
 * @type {Size}
 */
export const SHORT = {
  config: { ...CONFIG, width: 8, blocks: 1 },
  windows: 2,
  pairs: 2,
  heldOut: 3,
  steps: { read: 3, compare: 2, tune: 3 },
}
