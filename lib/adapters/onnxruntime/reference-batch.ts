/**
 * The batches of reference data: their arrays, and the log-probs of their pairs.
 */
import { pairsOf } from '../../call/pairs.js'
import { viewKind } from '../../check/arrays.js'
import { invalidType, outOfRange } from '../../errors.js'
import { sequenceLogProbs } from '../../index.js'
import type { TokenOptions } from '../../options/token-options.js'
import type { Labels, RunOptions, TokenValues } from '../../types/index.js'
import { hostData, isTensor, type OrtTensor, toLogits } from './tensors.js'

/** A batch of pairs, as `preferenceBatches` makes it. Where a field is a tensor, its data are used. */
export interface ReferenceBatch {
  /** `[batch, time]` token ids, or `[tokens]` when packed. */
  labels: Labels | OrtTensor
  /** The tokens of the model's input. They are not read, but they are part of the batch's fingerprint. */
  inputIds?: ArrayLike<number | bigint> | OrtTensor | undefined
  /** As in `fusedPreferenceLoss`: positions that do not count. Use the same mask in training. Defaults to none. */
  mask?: TokenValues | BigInt64Array | OrtTensor | undefined
  /** As in `fusedPreferenceLoss`. Use the same weights in training. Defaults to 1. */
  tokenWeights?: ArrayLike<number> | OrtTensor | undefined
  /** As in `fusedPreferenceLoss`. Defaults to first half chosen, second half rejected. */
  pairs?: ArrayLike<number> | BigInt64Array | OrtTensor | undefined
  /** As in `fusedPreferenceLoss`, for packed sequences; the logits may then be `[1, tokens, vocab]`. */
  sequenceOffsets?: ArrayLike<number> | BigInt64Array | OrtTensor | undefined
}

/** Each read once. */
export type BatchArrays = Record<keyof ReferenceBatch, ArrayLike<number | bigint> | undefined>

/** Log-probs of a batch of P pairs. */
export interface BatchLogProbs {
  /** `[P]` */
  chosen: number[]
  /** `[P]` */
  rejected: number[]
}

/** The arrays of a batch. */
export function arraysOf(batch: ReferenceBatch, index: number): BatchArrays {
  if (typeof batch !== 'object' || batch === null) throw invalidType(`batches[${index}]`, 'an object { labels }', batch)
  const { labels, inputIds, mask, tokenWeights, pairs, sequenceOffsets } = batch
  const given = { labels, inputIds, mask, tokenWeights, pairs, sequenceOffsets }
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue
    const where = `batches[${index}].${name}`
    const array = isTensor(value) ? hostData(value, where) : value
    if (viewKind(array) === undefined) checkElements(array, where)
    Object.assign(given, { [name]: array })
  }
  if (labels === undefined) throw invalidType(`batches[${index}].labels`, 'an Int32Array or a BigInt64Array', labels)
  return given as BatchArrays
}

/** Refuses values that have no fingerprint, such as lists of lists. */
function checkElements(array: unknown, name: string): void {
  const length = (array as Partial<ArrayLike<unknown>> | null)?.length
  if (typeof array !== 'object' || typeof length !== 'number') throw invalidType(name, 'an array or a tensor', array)
  for (let i = 0; i < length; i++) {
    const element = (array as ArrayLike<unknown>)[i]
    if (!['number', 'bigint', 'boolean'].includes(typeof element)) {
      throw invalidType(`${name}[${i}]`, 'a number, because the array must be flat', element)
    }
  }
}

/** Log-probs of one batch, by pair. */
export async function logProbsOf(
  { labels, mask, tokenWeights, pairs: order, sequenceOffsets }: BatchArrays,
  tensor: OrtTensor,
  index: number,
  run: TokenOptions & RunOptions,
): Promise<BatchLogProbs> {
  const logits = toLogits(tensor)
  const { shape } = logits
  if (sequenceOffsets && shape.length === 3 && shape[0] === 1) logits.shape = shape.slice(1)
  const ofBatch = {
    mask: narrow(mask),
    tokenWeights: narrow(tokenWeights),
    pairs: narrow(order),
    sequenceOffsets: narrow(sequenceOffsets),
  }
  const { logProbs } = await sequenceLogProbs(logits, labels as Labels, { ...run, ...ofBatch })
  const bad = logProbs.findIndex((logProb) => !Number.isFinite(logProb))
  if (bad >= 0) throw outOfRange(`batch ${index}: the log-prob of sequence ${bad}`, 'finite', logProbs[bad])
  const pairs = pairsOf(ofBatch.pairs, logProbs.length)
  const side = (which: 0 | 1) => Array.from({ length: pairs.length / 2 }, (_, i) => logProbs[pairs[2 * i + which]!]!)
  return { chosen: side(0), rejected: side(1) }
}

/** 64-bit integers as numbers. */
function narrow(values: ArrayLike<number | bigint> | undefined): ArrayLike<number> | undefined {
  return viewKind(values) === 'BigInt64Array' ? Array.from(values!, Number) : (values as ArrayLike<number> | undefined)
}
