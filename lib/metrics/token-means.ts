/**
 * Means over the active tokens of chosen (desirable) or of rejected sequences, from the per-token results of a call.
 */
import { lengthOf } from '../check/arrays.js'
import { invalidValue, shapeMismatch } from '../errors.js'
import type { FusedPreferenceLoss, FusedUnpairedPreferenceLoss, Labels } from '../types/index.js'

/** A result of either kind, as far as its tokens go. */
export type TokenResult = Pick<
  FusedPreferenceLoss | FusedUnpairedPreferenceLoss,
  'tokenArgmax' | 'tokenMeanLogits' | 'tokenCounts' | 'layout'
>

/** The sequences that are chosen in any pair (desirable), or rejected in any; each of them once. */
export function sequencesOf({ layout, tokenCounts }: TokenResult, side: 'chosen' | 'rejected'): number[] {
  const own = side === 'chosen'
  if ('pairs' in layout) return [...new Set(layout.pairs.filter((_, i) => (i % 2 === 0) === own))]
  return [...tokenCounts.keys()].filter((s) => (layout.desirable[s] === 1) === own)
}

/** Mean over their active tokens of the mean logit; 0 where there are none, as in TRL. */
export function meanLogit(result: TokenResult, sequences: readonly number[]): number {
  const means = result.tokenMeanLogits as Float32Array
  let sum = 0
  let count = 0
  for (const s of sequences) {
    const [first, end] = rowsOf(result, s, means.length)
    for (let row = first; row < end; row++) sum += means[row] // 0 where inactive
    count += result.tokenCounts[s]
  }
  return count === 0 ? 0 : sum / count
}

/** Share of their active tokens whose label had the largest logit; 0 where there are none, as in TRL. */
export function tokenAccuracy(result: TokenResult, sequences: readonly number[], labels: Labels): number {
  const argmax = result.tokenArgmax as Int32Array
  const { sequenceOffsets } = result.layout
  const shift = result.layout.shift ? 1 : 0
  const wanted = argmax.length + (sequenceOffsets === undefined ? shift * result.tokenCounts.length : 0)
  const length = lengthOf(labels, 'batch.labels', 'an array of token ids in host memory')
  if (length !== wanted) {
    throw shapeMismatch('batch.labels', `must have ${wanted} elements, as in the call; got ${length}`)
  }
  let right = 0
  let count = 0
  for (const s of sequences) {
    const [first, end] = rowsOf(result, s, argmax.length)
    // Without offsets each sequence has one label more than rows, if labels are shifted.
    const firstLabel = first + shift + (sequenceOffsets === undefined ? shift * s : 0)
    for (let row = first; row < end; row++) {
      if (argmax[row] < 0) continue // inactive, whatever its label
      const label = Number(labels[firstLabel + row - first])
      if (label < 0) {
        throw invalidValue('batch.labels', `are not the call's: it predicted a token where they have ${label}`)
      }
      if (argmax[row] === label) right++
    }
    count += result.tokenCounts[s]
  }
  return count === 0 ? 0 : right / count
}

/** The rows of a sequence in per-token results of that length: the first, and the one after the last that predicts. */
function rowsOf({ layout, tokenCounts }: TokenResult, s: number, length: number): [number, number] {
  const { sequenceOffsets, shift } = layout
  if (sequenceOffsets !== undefined) return [sequenceOffsets[s], sequenceOffsets[s + 1] - (shift ? 1 : 0)]
  const rows = length / tokenCounts.length
  return [s * rows, (s + 1) * rows]
}
