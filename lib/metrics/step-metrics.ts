/**
 * The metrics of a training step under the names TRL gives them.
 */
import { lengthOf } from '../check/arrays.js'
import { finite, integer, optionsObject } from '../check/options.js'
import { invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type {
  Flags,
  FusedPreferenceLoss,
  FusedUnpairedPreferenceLoss,
  Indices,
  Labels,
  SequenceLayout,
  UnpairedLayout,
} from '../types/index.js'
import { meanLogit, sequencesOf, tokenAccuracy } from './token-means.js'

/** The batch of a call, as `preferenceBatches` or `unpairedBatches` gives it. */
export interface StepBatch {
  labels: Labels
  /** `[2 P]` (`[B]`) tokens of each sequence, prompts included. */
  sequenceLengths?: ArrayLike<number> | undefined
  pairs?: Indices | undefined
  /** `[B]` of an unpaired call. */
  desirable?: Flags | undefined
  sequenceOffsets?: Indices | undefined
}

/** What only the training loop knows of a step. */
export interface StepOptions {
  /** Number of the step. */
  step: number
  /** Milliseconds the step took, or the part of it that is of interest. */
  ms?: number | undefined
  /** Bytes of the logits; with `ms`, gives 'GB/s'. */
  bytes?: number | undefined
  /** Tokens of the steps before this one, the 'num_tokens' of the last. Defaults to 0. */
  tokensBefore?: number | undefined
}

/** Means over the batch, in nats where they are log-probs or entropies. */
export interface StepMetrics {
  step: number
  loss: number
  'rewards/chosen': number
  'rewards/rejected': number
  /** Share of pairs whose chosen reward is the larger. */
  'rewards/accuracies': number
  'rewards/margins': number
  'logps/chosen': number
  'logps/rejected': number
  /** Mean logit at the active tokens of the chosen sequences, 0 if there are none; needs the output 'tokenMeanLogits'. */
  'logits/chosen'?: number
  /** The same of the rejected sequences. */
  'logits/rejected'?: number
  /** Mean over the active tokens of all sequences, 0 if there are none; needs the output 'tokenEntropies'. */
  entropy?: number
  /**
   * Share of the chosen (desirable) sequences' active tokens that had the largest logit, 0 if there are none; needs the
   * output 'tokenArgmax'.
   */
  mean_token_accuracy?: number
  /** Tokens of all steps up to this one, prompts included and padding left out; needs the batch's `sequenceLengths`. */
  num_tokens?: number
  ms?: number
  /** Bytes of the logits over the time, in 10⁹ bytes a second. */
  'GB/s'?: number
}

/** The metrics that are of pairs, or of chosen and rejected sequences. */
type OfTwo = Extract<keyof StepMetrics, `rewards/${string}` | `logps/${string}`>

/** The same of sequences that stand alone: means over the desirable ones, called chosen, and over the others. */
export interface UnpairedStepMetrics extends Omit<StepMetrics, OfTwo> {
  /** κ of 'kto', 0 for other losses. */
  kl: number
  /** Absent where the batch has no desirable sequence, as 'logps/chosen' is. */
  'rewards/chosen'?: number
  /** Absent where all are desirable, as 'logps/rejected' is. */
  'rewards/rejected'?: number
  /** Absent unless there are both. */
  'rewards/margins'?: number
  'logps/chosen'?: number
  'logps/rejected'?: number
}

const OPTIONS: ReadonlySet<string> = new Set(['step', 'ms', 'bytes', 'tokensBefore'])

type Result = Omit<FusedPreferenceLoss, 'gradLogits'>
type UnpairedResult = Omit<FusedUnpairedPreferenceLoss, 'gradLogits'>

const PER_PAIR = ['chosenRewards', 'rejectedRewards', 'chosenLogProbs', 'rejectedLogProbs'] as const

/**
 * The metrics of one step, from the result of `fusedPreferenceLoss` or `fusedUnpairedPreferenceLoss` and the batch of the
 * call.
 *
 * @param result of the call. Ask it for `outputs: ['tokenEntropies', 'tokenArgmax', 'tokenMeanLogits']` to have all metrics.
 * @param batch of the call: its labels give the token accuracy, its sequence lengths the number of tokens. A batch whose
 *   `pairs`, `desirable` or `sequenceOffsets` are not those of the result is refused.
 * @param options the step's number, and its time.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`.
 */
export function stepMetrics(result: Result, batch: StepBatch, options: StepOptions): StepMetrics
/** The same of sequences that stand alone. */
export function stepMetrics(result: UnpairedResult, batch: StepBatch, options: StepOptions): UnpairedStepMetrics
export function stepMetrics(
  result: Result | UnpairedResult,
  batch: StepBatch,
  options: StepOptions,
): StepMetrics | UnpairedStepMetrics {
  checkResult(result)
  checkBatch(batch, result.layout)
  if (options === undefined) throw invalidType('options', 'an object', options)
  const given = optionsObject(options, 'options', OPTIONS)
  const step = integer(given.step, 'options.step', 0, Number.MAX_SAFE_INTEGER)
  const metrics = { step, ...('meanRewards' in result ? ofSequences(result) : ofPairs(result)) }
  const chosen = sequencesOf(result, 'chosen')
  const rejected = sequencesOf(result, 'rejected')
  if (result.tokenMeanLogits && chosen.length > 0) metrics['logits/chosen'] = meanLogit(result, chosen)
  if (result.tokenMeanLogits && rejected.length > 0) metrics['logits/rejected'] = meanLogit(result, rejected)
  if (result.tokenEntropies) metrics.entropy = share(sum(result.tokenEntropies), sum(result.tokenCounts))
  if (result.tokenArgmax) metrics.mean_token_accuracy = tokenAccuracy(result, chosen, batch.labels)
  const { tokensBefore = 0 } = given
  const before = integer(tokensBefore, 'options.tokensBefore', 0, Number.MAX_SAFE_INTEGER)
  if (batch.sequenceLengths !== undefined) {
    lengthOf(batch.sequenceLengths, 'batch.sequenceLengths', 'an array of numbers')
    metrics.num_tokens = before + sum(batch.sequenceLengths)
  } else if (given.tokensBefore !== undefined) {
    throw invalidValue('options.tokensBefore', 'needs batch.sequenceLengths')
  }
  const bytes = notNegative(given.bytes, 'options.bytes')
  const ms = notNegative(given.ms, 'options.ms')
  if (ms !== undefined) metrics.ms = ms
  // A clock of whole milliseconds may measure 0.
  if (ms && bytes !== undefined) metrics['GB/s'] = bytes / ms / 1e6
  return metrics
}

function ofPairs(result: Result): Omit<StepMetrics, 'step'> {
  return {
    loss: result.loss,
    'rewards/chosen': mean(result.chosenRewards),
    'rewards/rejected': mean(result.rejectedRewards),
    'rewards/accuracies': result.accuracy,
    'rewards/margins': result.margin,
    'logps/chosen': mean(result.chosenLogProbs),
    'logps/rejected': mean(result.rejectedLogProbs),
  }
}

function ofSequences({
  loss,
  kl,
  meanRewards,
  meanLogProbs,
  margin,
}: UnpairedResult): Omit<UnpairedStepMetrics, 'step'> {
  const metrics: Omit<UnpairedStepMetrics, 'step'> = { loss, kl }
  if (meanRewards.desirable !== undefined) metrics['rewards/chosen'] = meanRewards.desirable
  if (meanRewards.undesirable !== undefined) metrics['rewards/rejected'] = meanRewards.undesirable
  if (margin !== undefined) metrics['rewards/margins'] = margin
  if (meanLogProbs.desirable !== undefined) metrics['logps/chosen'] = meanLogProbs.desirable
  if (meanLogProbs.undesirable !== undefined) metrics['logps/rejected'] = meanLogProbs.undesirable
  return metrics
}

function notNegative(value: unknown, name: string): number | undefined {
  if (value === undefined) return undefined
  const number = finite(value, name, 0)
  if (number < 0) throw outOfRange(name, 'a number >= 0', number)
  return number
}

function checkResult(result: unknown): asserts result is Result | UnpairedResult {
  const wanted = 'the result of fusedPreferenceLoss'
  if (typeof result !== 'object' || result === null) throw invalidType('result', wanted, result)
  if (typeof (result as { then?: unknown }).then === 'function')
    throw invalidType('result', `${wanted}, awaited`, result)
  const fields = result as Record<string, unknown>
  const isPaired = !('meanRewards' in fields)
  for (const name of isPaired ? ['loss', 'accuracy', 'margin'] : ['loss', 'kl']) {
    if (typeof fields[name] !== 'number') throw invalidType(`result.${name}`, `a number, as in ${wanted}`, fields[name])
  }
  for (const name of isPaired ? [...PER_PAIR, 'tokenCounts'] : ['tokenCounts']) {
    lengthOf(fields[name], `result.${name}`, `an array of numbers, as in ${wanted}`)
  }
  for (const name of isPaired ? ['layout'] : ['layout', 'meanRewards', 'meanLogProbs']) {
    if (typeof fields[name] !== 'object' || fields[name] === null) {
      throw invalidType(`result.${name}`, `an object, as in ${wanted}`, fields[name])
    }
  }
}

/** Refuses a batch that is not the call's: the accuracy would be that of other tokens. */
function checkBatch(batch: unknown, layout: SequenceLayout | UnpairedLayout): asserts batch is StepBatch {
  if (typeof batch !== 'object' || batch === null)
    throw invalidType('batch', 'the batch of the call, { labels }', batch)
  const { labels, pairs, desirable, sequenceOffsets } = batch as Partial<StepBatch>
  if (labels === undefined) throw invalidType('batch.labels', 'the labels of the call', labels)
  const used: { pairs?: Int32Array; desirable?: Int32Array } = layout
  checkSame('batch.pairs', pairs, used.pairs)
  checkSame('batch.desirable', desirable, used.desirable)
  checkSame('batch.sequenceOffsets', sequenceOffsets, layout.sequenceOffsets)
}

function checkSame(name: string, given: Indices | Flags | undefined, used: ArrayLike<number> | undefined): void {
  if (given === undefined) return
  const length = lengthOf(given, name, 'an array of numbers')
  let equal = length === used?.length
  for (let i = 0; equal && i < length; i++) equal = Number(given[i]) === used![i]
  if (!equal) throw shapeMismatch(name, 'must be what the call had')
}

/** The value of TRL where there are no numbers to average. */
function share(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}

function sum(values: ArrayLike<number>): number {
  let total = 0
  for (let i = 0; i < values.length; i++) total += values[i]
  return total
}

function mean(values: ArrayLike<number>): number {
  return sum(values) / values.length
}
