/**
 * The tokens of a job on the device.
 */
import type { Tokens } from '../../job.js'
import type { Arena, Region } from './arena.js'
import { setTwoFloat } from './two-floats.js'

export interface TokenRegions {
  /** `[R]` int32 */
  targets: Region
  /** `[S + 1]` `Sequence` of rows.wgsl */
  sequences: Region
  /** `[R]` `Weights` of token-state.wgsl; nothing where all are 1. */
  weights: Region
  hasWeights: boolean
}

/** Copies the tokens to the device. */
export function tokenRegions(tokens: Tokens, inputs: Arena): TokenRegions {
  const { targets, offsets, counts, weights } = tokens
  const sequences = new Int32Array(2 * offsets.length)
  for (let s = 0; s < offsets.length; s++) {
    sequences[2 * s] = offsets[s]
    sequences[2 * s + 1] = counts[s] ?? 0
  }
  return {
    targets: inputs.put(targets),
    sequences: inputs.put(sequences),
    weights: weights === undefined ? inputs.room(16) : inputs.put(weightPairs(tokens, weights)),
    hasWeights: weights !== undefined,
  }
}

function weightPairs({ plainWeights }: Tokens, weights: Float64Array): Float32Array {
  const pairs = new Float32Array(4 * weights.length)
  for (let row = 0; row < weights.length; row++) {
    setTwoFloat(pairs, 4 * row, weights[row])
    setTwoFloat(pairs, 4 * row + 2, (plainWeights ?? weights)[row])
  }
  return pairs
}
