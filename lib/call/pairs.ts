/**
 * The pairs of sequences that are compared.
 */
import { indices } from '../check/arrays.js'
import { invalidValue, shapeMismatch } from '../errors.js'

/** `[2 P]` (chosen, rejected): a checked copy of the caller's, else first half chosen and second half rejected. */
export function pairsOf(value: unknown, sequences: number): Int32Array {
  return value === undefined ? halves(sequences) : given(value, sequences)
}

function halves(sequences: number): Int32Array {
  if (sequences % 2 !== 0) {
    const wanted = 'its first half would be chosen and its second half rejected; pass options.pairs'
    throw shapeMismatch('the batch', `has an odd number of sequences, ${sequences}, where ${wanted}`)
  }
  const pairs = new Int32Array(sequences)
  const half = sequences / 2
  for (let i = 0; i < half; i++) {
    pairs[2 * i] = i
    pairs[2 * i + 1] = half + i
  }
  return pairs
}

function given(value: unknown, sequences: number): Int32Array {
  const pairs = indices(value, 'options.pairs', 'an array of (chosen, rejected) sequence numbers', sequences - 1)
  if (pairs.length === 0 || pairs.length % 2 !== 0) {
    throw shapeMismatch('options.pairs', `must hold two sequence numbers per pair; got ${pairs.length} numbers`)
  }
  for (let i = 0; i < pairs.length; i += 2) {
    if (pairs[i] === pairs[i + 1]) {
      throw invalidValue(`options.pairs[${i + 1}]`, `must not be the sequence it stands against; got ${pairs[i]} twice`)
    }
  }
  return pairs
}
