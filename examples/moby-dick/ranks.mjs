// What a rank does in a step of data parallel training, besides its share of the work.
import * as tf from '@tensorflow/tfjs'
import { sumGradientsSync } from 'fused-preference-loss/distributed'

/** @typedef {import('fused-preference-loss/distributed').Communicator} Communicator */

/**
 * This rank's part of a list, of as many as the others' or one more.
 * @template Item
 * @param {Pick<Communicator, 'rank' | 'size'>} communicator
 * @param {Item[]} all
 */
export function shareOf({ rank, size }, all) {
  const start = (/** @type {number} */ r) => Math.floor((r * all.length) / size)
  return all.slice(start(rank), start(rank + 1))
}

/**
 * This rank's parts of a batch that is cut into that many, or into one for each rank where there are more ranks.
 * @template Item
 * @param {Communicator} communicator
 * @param {Item[]} all
 * @param {number} parts
 */
export function partsOf(communicator, all, parts) {
  const size = Math.max(parts, communicator.size)
  const cut = Array.from({ length: size }, (_, rank) => shareOf({ rank, size }, all))
  return shareOf(communicator, cut)
}

/**
 * The gradients added up over all ranks, as new tensors.
 * @param {Communicator} communicator
 * @param {tf.NamedTensorMap} gradients
 */
export function summed(communicator, gradients) {
  if (communicator.size === 1) return gradients
  const entries = Object.entries(gradients)
  const arrays = entries.map(([, tensor]) => /** @type {Float32Array} */ (tensor.dataSync()))
  sumGradientsSync(communicator, arrays)
  return Object.fromEntries(entries.map(([name, { shape }], i) => [name, tf.tensor(arrays[i], shape)]))
}
