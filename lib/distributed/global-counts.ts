/**
 * `globalCounts`: what the losses of all ranks are divided by.
 */
import { checkedSignal } from '../call/run.js'
import { runSteps, runStepsSync, type Steps } from '../call/steps.js'
import { tokensOf } from '../call/tokens.js'
import { lengthOf, numbers } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { Rows } from '../job.js'
import type { TokenOptions } from '../options/index.js'
import type { Communicator, Flags, Indices, Labels, RunOptions } from '../types/index.js'
import { agreed } from './agreed.js'

/** What is counted of a batch: those of `preferenceBatches` and `unpairedBatches` are of this shape. */
export interface CountedBatch {
  /** `[B, T]` token ids, or `[tokens]` when packed: the labels of the call, in host memory. */
  labels: Labels
  /** `[B, T]`, or `[tokens]` when packed. */
  shape: readonly number[]
  /** `[2 P]` (chosen sequence, rejected sequence) per pair. */
  pairs?: Indices | undefined
  /** `[B]` of an unpaired call. */
  desirable?: Flags | undefined
  /** `[B + 1]` of packed sequences. */
  sequenceOffsets?: Indices | undefined
}

/** The options of the loss that decide which tokens count; give what the loss gets. */
export interface CountOptions extends Pick<TokenOptions, 'shift' | 'ignoreIndex' | 'mask'>, Pick<RunOptions, 'signal'> {
  /** `[V]` as in `crossEntropy`, whose mean is divided by the sum of the factors. Defaults to 1. */
  classWeights?: ArrayLike<number> | undefined
}

const OPTIONS: ReadonlySet<string> = new Set(['shift', 'ignoreIndex', 'mask', 'classWeights', 'signal'])
const LARGEST = 2 ** 31 - 1

/** What a batch is a batch of. */
const KINDS = ['nothing', 'pairs', 'single sequences', 'tokens'] as const
const [NONE, PAIRS, SEQUENCES, TOKENS] = KINDS.keys()

type Counts = { pairs: number; tokens: number } | { sequences: number } | { tokens: number }

/**
 * The counts over the batches of all ranks: the `normalizer` with which the losses and the gradients of the ranks *add up*
 * to those of the one large batch, however uneven the batches are (`sumGradients`). One exchange of a few bytes.
 *
 * @param communicator the ranks, all of which call this.
 * @param batch of this rank, with what the loss will get; undefined on a rank that has none left, which takes part all the
 *   same. Batches with `pairs` are for losses of pairs, those with `desirable` for losses of single sequences, and others
 *   for the cross-entropy.
 * @returns `{ pairs, tokens }`, tokens being those of the chosen sequences, as 'sft' counts them; `{ sequences }`; or
 *   `{ tokens }`. A count of 0 becomes 1: what it would divide is 0.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_RANK_FAILED` where another rank has failed; the
 *   communicator's errors; the reason of `options.signal`.
 */
export function globalCounts(
  communicator: Communicator,
  batch: (CountedBatch & { pairs: Indices }) | undefined,
  options?: CountOptions,
): Promise<{ pairs: number; tokens: number }>
export function globalCounts(
  communicator: Communicator,
  batch: (CountedBatch & { desirable: Flags }) | undefined,
  options?: CountOptions,
): Promise<{ sequences: number }>
export function globalCounts(
  communicator: Communicator,
  batch: CountedBatch | undefined,
  options?: CountOptions,
): Promise<{ tokens: number }>
export function globalCounts(
  communicator: Communicator,
  batch: CountedBatch | undefined,
  options?: CountOptions,
): Promise<Counts> {
  return runSteps(steps(communicator, batch, options))
}

/** {@link globalCounts} on the calling thread. */
export function globalCountsSync(
  communicator: Communicator,
  batch: (CountedBatch & { pairs: Indices }) | undefined,
  options?: CountOptions,
): { pairs: number; tokens: number }
export function globalCountsSync(
  communicator: Communicator,
  batch: (CountedBatch & { desirable: Flags }) | undefined,
  options?: CountOptions,
): { sequences: number }
export function globalCountsSync(
  communicator: Communicator,
  batch: CountedBatch | undefined,
  options?: CountOptions,
): { tokens: number }
export function globalCountsSync(
  communicator: Communicator,
  batch: CountedBatch | undefined,
  options?: CountOptions,
): Counts {
  return runStepsSync(steps(communicator, batch, options))
}

function* steps(
  communicator: Communicator,
  batch: CountedBatch | undefined,
  options: CountOptions | undefined,
): Steps<Counts> {
  const ranks = yield* agreed(communicator, () => ({ call: 'globalCounts', numbers: countsOf(batch, options) }))
  const kinds = new Set(ranks.map(([kind]) => kind).filter((kind) => kind !== NONE))
  if (kinds.size !== 1) {
    const found = [...kinds].map((kind) => KINDS[kind]).join(' on one rank, of ')
    throw invalidValue('batch', kinds.size === 0 ? 'is missing on every rank' : `is of ${found} on another`)
  }
  const total = (column: number) => ranks.reduce((sum, numbers) => sum + numbers[column], 0) || 1
  const [kind] = kinds
  if (kind === PAIRS) return { pairs: total(1), tokens: total(2) }
  return kind === SEQUENCES ? { sequences: total(1) } : { tokens: total(2) }
}

/** Kind, pairs or sequences, and tokens. */
function countsOf(batch: CountedBatch | undefined, given: CountOptions | undefined): [number, number, number] {
  const { shift, ignoreIndex, mask, classWeights, signal } = optionsObject(given, 'options', OPTIONS)
  if (signal !== undefined) checkedSignal(signal).throwIfAborted()
  if (batch === undefined) return [NONE, 0, 0]
  if (typeof batch !== 'object' || batch === null) throw invalidType('batch', 'an object { labels, shape }', batch)
  const { labels, pairs, desirable, sequenceOffsets } = batch
  if (pairs !== undefined && desirable !== undefined) {
    throw invalidValue('batch.desirable', 'is for losses of single sequences, and batch.pairs for those of pairs')
  }
  const rows = rowsOf(batch)
  const plan = tokensOf(labels, rows, { shift, ignoreIndex, mask, pairs, sequenceOffsets }, false)
  const { counts, targets, labels: onDevice } = plan.tokens
  if (onDevice) throw invalidType('batch.labels', 'in host memory', labels)
  if (classWeights !== undefined && (pairs !== undefined || desirable !== undefined)) {
    throw invalidValue('options.classWeights', 'are for the cross-entropy, and this batch is of another loss')
  }
  if (plan.pairs) {
    const chosen = plan.pairs.filter((_, i) => i % 2 === 0)
    return [PAIRS, chosen.length, chosen.reduce((sum, sequence) => sum + counts[sequence], 0)]
  }
  if (desirable !== undefined) {
    const length = lengthOf(desirable, 'batch.desirable', 'an array of true, false, 1 or 0')
    if (length !== counts.length) {
      throw shapeMismatch('batch.desirable', `must have length ${counts.length}, one per sequence; got ${length}`)
    }
    return [SEQUENCES, counts.length, 0]
  }
  if (classWeights === undefined) return [TOKENS, 0, counts.reduce((sum, count) => sum + count, 0)]
  const weights = numbers(classWeights, 'options.classWeights')
  let total = 0
  for (const target of targets) {
    if (target < 0) continue
    if (!(weights[target] >= 0 && weights[target] < Number.POSITIVE_INFINITY)) {
      throw outOfRange(`options.classWeights[${target}]`, 'a finite number >= 0', weights[target])
    }
    total += weights[target]
  }
  return [TOKENS, 0, total]
}

/** Sizes of logits of the batch, over a vocabulary that has every id. */
function rowsOf({ shape, sequenceOffsets }: CountedBatch): Rows {
  const wanted = sequenceOffsets === undefined ? '[batch, time]' : '[tokens], as the batch is packed'
  const sizes = numbers(shape, 'batch.shape')
  if (sizes.length !== (sequenceOffsets === undefined ? 2 : 1)) throw shapeMismatch('batch.shape', `must be ${wanted}`)
  const bad = sizes.findIndex((size) => !Number.isInteger(size) || size < 1 || size > LARGEST)
  if (bad >= 0) throw outOfRange(`batch.shape[${bad}]`, `an integer in [1, ${LARGEST}]`, sizes[bad])
  const [batch, time] = sequenceOffsets === undefined ? sizes : [1, sizes[0]]
  return { data: new Float32Array(0), dtype: 'float32', batch, time, vocab: LARGEST, batchStride: 0, timeStride: 0 }
}
