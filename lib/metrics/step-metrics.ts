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

/** The inputs of a step's metrics besides the result of the loss. */
export interface StepOptions {
  /** Number of the step. */
  step: number
  /** Milliseconds the step took, or the part of it that is of interest. */
  ms?: number | undefined
  /** Bytes of the logits; with `ms`, gives 'GB/s'. */
  bytes?: number | undefined
  /** The batch of the call: its labels give the token accuracy, its sequence lengths the number of tokens. */
  batch?: StepBatch | undefined
  /** Tokens of the steps before this one; with a batch that has sequence lengths, gives 'num_tokens'. */
  tokensBefore?: number | undefined
  /** The labels of the call, where there is no such batch. */
  labels?: Labels | undefined
  /** The pairs of the call. The result has them; these are compared with them. */
  pairs?: Indices | undefined
  /** The offsets of the call, of packed sequences. The result has them; these are compared with them. */
  sequenceOffsets?: Indices | undefined
  /** The `shift` of the call. The result has it; this is compared with it. */
  shift?: boolean | undefined
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
  /** Mean over the active tokens of all sequences, 0 if there are none; needs the output 'tokenEntropies'. */
  entropy?: number
  /**
   * Share of the chosen (desirable) sequences' active tokens that had the largest logit, 0 if there are none; needs the
   * output 'tokenArgmax', and the batch or its labels.
   */
  mean_token_accuracy?: number
  /** Tokens of all steps up to this one, prompts included and padding left out; needs `tokensBefore`. */
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

const OPTIONS: ReadonlySet<string> = new Set([
  'step',
  'ms',
  'bytes',
  'batch',
  'tokensBefore',
  'labels',
  'pairs',
  'sequenceOffsets',
  'shift',
])

type Result = Omit<FusedPreferenceLoss, 'gradLogits'>
type UnpairedResult = Omit<FusedUnpairedPreferenceLoss, 'gradLogits'>

const PER_PAIR = ['chosenRewards', 'rejectedRewards', 'chosenLogProbs', 'rejectedLogProbs'] as const

/**
 * The metrics of one step, from the result of `fusedPreferenceLoss` or `fusedUnpairedPreferenceLoss`.
 *
 * @param result of the call. Ask it for `outputs: ['tokenEntropies', 'tokenArgmax']` to have all metrics.
 * @param options the step's number and time, and the batch the call was given.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`.
 */
export function stepMetrics(result: Result, options: StepOptions): StepMetrics
/** The same of sequences that stand alone. */
export function stepMetrics(result: UnpairedResult, options: StepOptions): UnpairedStepMetrics
export function stepMetrics(result: Result | UnpairedResult, options: StepOptions): StepMetrics | UnpairedStepMetrics {
  checkResult(result)
  if (options === undefined) throw invalidType('options', 'an object', options)
  const given = optionsObject(options, 'options', OPTIONS)
  const batch = batchOf(given)
  checkLayout(result.layout, batch, given)
  const step = integer(given.step, 'options.step', 0, Number.MAX_SAFE_INTEGER)
  const metrics = { step, ...('meanRewards' in result ? ofSequences(result) : ofPairs(result)) }
  if (result.tokenEntropies) metrics.entropy = share(sum(result.tokenEntropies), sum(result.tokenCounts))
  if (result.tokenArgmax && batch.labels) metrics.mean_token_accuracy = tokenAccuracy(result, batch.labels)
  if (given.tokensBefore !== undefined) {
    const before = integer(given.tokensBefore, 'options.tokensBefore', 0, Number.MAX_SAFE_INTEGER)
    if (batch.sequenceLengths === undefined)
      throw invalidValue('options.tokensBefore', 'needs options.batch with its sequenceLengths')
    lengthOf(batch.sequenceLengths, 'options.batch.sequenceLengths', 'an array of numbers')
    metrics.num_tokens = before + sum(batch.sequenceLengths)
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

/** The batch, or the parts of it that were given separately. */
function batchOf({ batch, labels }: StepOptions): Partial<StepBatch> {
  if (batch === undefined) return { labels }
  if (typeof batch !== 'object' || batch === null) throw invalidType('options.batch', 'a batch with labels', batch)
  if (batch.labels === undefined) throw invalidType('options.batch.labels', 'the labels of the call', batch.labels)
  if (labels !== undefined) throw invalidValue('options.labels', 'are those of options.batch: leave them out')
  return batch
}

/** Refuses a layout that is not the call's: the accuracy would be that of other tokens. */
function checkLayout(layout: SequenceLayout | UnpairedLayout, batch: Partial<StepBatch>, options: StepOptions): void {
  const { pairs, desirable }: { pairs?: Int32Array; desirable?: Int32Array } = layout
  const same = (name: string, given: Indices | Flags | undefined, used: ArrayLike<number> | undefined) => {
    if (given === undefined) return
    const length = lengthOf(given, name, 'an array of numbers')
    let equal = length === used?.length
    for (let i = 0; equal && i < length; i++) equal = Number(given[i]) === used![i]
    if (!equal) throw shapeMismatch(name, 'must be what the call had')
  }
  same('options.batch.pairs', batch.pairs, pairs)
  same('options.batch.desirable', batch.desirable, desirable)
  same('options.batch.sequenceOffsets', batch.sequenceOffsets, layout.sequenceOffsets)
  same('options.pairs', options.pairs, pairs)
  same('options.sequenceOffsets', options.sequenceOffsets, layout.sequenceOffsets)
  if (options.shift !== undefined && options.shift !== layout.shift) {
    throw shapeMismatch('options.shift', `must be what the call had, ${layout.shift}`)
  }
}

/** Over the chosen sequences only, as in TRL: a likely rejected token is no merit. */
function tokenAccuracy({ tokenArgmax, tokenCounts, layout }: Result | UnpairedResult, labels: Labels): number {
  const argmax = tokenArgmax!
  const { sequenceOffsets } = layout
  const sequences = tokenCounts.length
  const shift = layout.shift ? 1 : 0
  // Rows of the results and labels of a sequence; without offsets all have as many.
  const rows = argmax.length / sequences
  const width = rows + shift
  const wanted = sequenceOffsets === undefined ? width * sequences : argmax.length
  const length = lengthOf(labels, 'options.labels', 'an array of token ids in host memory')
  if (length !== wanted) {
    throw shapeMismatch('options.labels', `must have ${wanted} elements, as in the call; got ${length}`)
  }

  let right = 0
  let count = 0
  const chosen =
    'pairs' in layout
      ? new Set(layout.pairs.filter((_, i) => i % 2 === 0))
      : [...tokenCounts.keys()].filter((s) => layout.desirable[s])
  for (const s of chosen) {
    const first = sequenceOffsets === undefined ? s * rows : sequenceOffsets[s]
    const end = sequenceOffsets === undefined ? first + rows : sequenceOffsets[s + 1] - shift
    const firstLabel = (sequenceOffsets === undefined ? s * width : first) + shift
    for (let row = first; row < end; row++) {
      if (argmax[row] < 0) continue // inactive, whatever its label
      const label = Number(labels[firstLabel + row - first])
      if (label < 0)
        throw invalidValue('options.labels', `are not the call's: it predicted a token where they have ${label}`)
      if (argmax[row] === label) right++
    }
    count += tokenCounts[s]
  }
  return share(right, count)
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
