/**
 * Factors of tokens in their sequence's sum.
 */
import { lengthOf } from '../check/arrays.js'
import { invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { Tokens } from '../job.js'

/** `[R]` weights moved from the labels to the rows that predict them. */
export function weightsOf(value: unknown, offsets: Int32Array, shift: number): Float64Array {
  const name = 'options.tokenWeights'
  const length = offsets[offsets.length - 1]
  const given = lengthOf(value, name, 'an array of numbers')
  if (given !== length) {
    throw shapeMismatch(name, `must have ${length} elements, one per label; got ${given}`)
  }
  const weights = new Float64Array(length).fill(1)
  for (let s = 0; s + 1 < offsets.length; s++) {
    const first = offsets[s]
    const end = offsets[s + 1]
    for (let i = first; i < end; i++) {
      const weight = (value as ArrayLike<unknown>)[i]
      if (typeof weight !== 'number') throw invalidType(`${name}[${i}]`, 'a finite number', weight)
      if (!Number.isFinite(weight)) throw outOfRange(`${name}[${i}]`, 'a finite number', weight)
      if (i - shift >= first) weights[i - shift] = weight
    }
  }
  return weights
}

/** LD-DPO (Liu et al. 2024): weights the active tokens of a pair past the shorter response's number of them. */
export function desensitiseLength(tokens: Tokens, pairs: Int32Array, ldAlpha: number): void {
  const { targets, offsets, counts, labels } = tokens
  const partners = partnersOf(pairs, counts.length)
  const plain = tokens.weights ?? new Float64Array(offsets[counts.length]).fill(1)
  tokens.plainWeights = plain
  if (labels) {
    labels.partners = partners
    labels.ldAlpha = ldAlpha
    return
  }
  const weights = plain.slice()
  for (const [sequence, partner] of partners.entries()) {
    if (partner < 0) continue
    let remaining = Math.min(counts[sequence], counts[partner])
    for (let row = offsets[sequence]; row < offsets[sequence + 1]; row++) {
      if (targets[row] >= 0 && --remaining < 0) weights[row] *= ldAlpha
    }
  }
  tokens.weights = weights
}

/** `[S]` the sequence that each stands against, -1 for none. */
function partnersOf(pairs: Int32Array, sequences: number): Int32Array {
  const partners = new Int32Array(sequences).fill(-1)
  for (const [i, sequence] of pairs.entries()) {
    if (partners[sequence] >= 0) {
      throw invalidValue(
        `options.pairs[${i}]`,
        `repeats sequence ${sequence}; with ldAlpha each may be in one pair only`,
      )
    }
    partners[sequence] = pairs[i ^ 1]
  }
  return partners
}
