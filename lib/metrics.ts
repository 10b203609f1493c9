/**
 * The metrics of a training step under the names TRL gives them, and a JSON Lines file to keep them in, which
 * `npx fused-preference-loss plot` draws.
 */
import { closeSync, constants, fstatSync, openSync, readSync, writeFileSync } from 'node:fs'
import { invalidType, invalidValue, shapeMismatch } from './errors.js'
import { finite, flag, integer, optionsObject, positive } from './options.js'
import type { FusedPreferenceLoss, Labels } from './types.js'

/** What a step's metrics are made of beside the result of the loss. */
export interface StepOptions {
  /** Number of the step. */
  step: number
  /** Milliseconds the step took, or the part of it that is of interest. */
  ms?: number
  /** Bytes of the logits; with `ms`, gives 'GB/s'. */
  bytes?: number
  /** The labels of the call; with the output 'tokenArgmax', they give the token accuracy. */
  labels?: Labels
  /** The pairs of the call. Defaults to first half chosen, second half rejected. */
  pairs?: ArrayLike<number>
  /** The offsets of the call, of packed sequences. */
  sequenceOffsets?: ArrayLike<number>
  /** That of the call. Defaults to true. */
  shift?: boolean
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
  /** Mean over the active tokens of all sequences; needs the output 'tokenEntropies'. */
  entropy?: number
  /** Share of the chosen sequences' active tokens that had the largest logit; needs 'tokenArgmax' and `labels`. */
  mean_token_accuracy?: number
  ms?: number
  /** Bytes of the logits over the time, in 10⁹ bytes a second. */
  'GB/s'?: number
}

const OPTIONS: ReadonlySet<string> = new Set(['step', 'ms', 'bytes', 'labels', 'pairs', 'sequenceOffsets', 'shift'])

/**
 * The metrics of one step, from the result of `fusedPreferenceLoss`.
 *
 * @param result of the call. Ask it for `outputs: ['tokenEntropies', 'tokenArgmax']` to have all metrics.
 * @param options the step's number and time, and the labels and layout the call was given.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`.
 */
export function stepMetrics(result: Omit<FusedPreferenceLoss, 'gradLogits'>, options: StepOptions): StepMetrics {
  if (options === undefined) throw invalidType('options', 'an object', options)
  const given = optionsObject(options, 'options', OPTIONS)
  const metrics: StepMetrics = {
    step: integer(given.step, 'options.step', 0, Number.MAX_SAFE_INTEGER),
    loss: result.loss,
    'rewards/chosen': mean(result.chosenRewards),
    'rewards/rejected': mean(result.rejectedRewards),
    'rewards/accuracies': result.accuracy,
    'rewards/margins': result.margin,
    'logps/chosen': mean(result.chosenLogProbs),
    'logps/rejected': mean(result.rejectedLogProbs),
  }
  if (result.tokenEntropies) metrics.entropy = sum(result.tokenEntropies) / sum(result.tokenCounts)
  if (result.tokenArgmax && given.labels) metrics.mean_token_accuracy = tokenAccuracy(result, given)
  if (given.ms !== undefined) {
    metrics.ms = positive(given.ms, 'options.ms', 0)
    if (given.bytes !== undefined) metrics['GB/s'] = finite(given.bytes, 'options.bytes', 0) / metrics.ms / 1e6
  }
  return metrics
}

/** Over the chosen sequences, as in TRL: that a rejected token is likely is no merit. */
function tokenAccuracy(
  { tokenArgmax, tokenCounts }: Omit<FusedPreferenceLoss, 'gradLogits'>,
  { labels, pairs, sequenceOffsets, shift: given }: StepOptions,
): number {
  const argmax = tokenArgmax!
  const sequences = tokenCounts.length
  const shift = flag(given, 'options.shift', true) ? 1 : 0
  // Rows of the results and labels of a sequence; without offsets all have as many.
  const rows = argmax.length / sequences
  const width = rows + shift
  const wanted = sequenceOffsets === undefined ? width * sequences : argmax.length
  if (labels!.length !== wanted) {
    throw shapeMismatch('options.labels', `must have ${wanted} elements, as in the call; got ${labels!.length}`)
  }
  const chosen =
    pairs === undefined
      ? Array.from({ length: sequences / 2 }, (_, s) => s)
      : new Set(Array.from(pairs).filter((_, i) => i % 2 === 0))

  let right = 0
  let count = 0
  for (const s of chosen) {
    const first = sequenceOffsets === undefined ? s * rows : sequenceOffsets[s]
    const end = sequenceOffsets === undefined ? first + rows : sequenceOffsets[s + 1] - shift
    const firstLabel = (sequenceOffsets === undefined ? s * width : first) + shift
    for (let row = first; row < end; row++) {
      if (argmax[row] === Number(labels![firstLabel + row - first])) right++
    }
    count += tokenCounts[s]
  }
  return right / count
}

function sum(values: ArrayLike<number>): number {
  let total = 0
  for (let i = 0; i < values.length; i++) total += values[i]
  return total
}

function mean(values: ArrayLike<number>): number {
  return sum(values) / values.length
}

/**
 * Appends a line to a JSON Lines file, which is made if need be. The line is written at once, so that a reader never
 * sees parts of two; after a run that was cut off inside a line it starts one of its own. Numbers JSON has no word for
 * are written as 'NaN', 'Infinity' and '-Infinity'.
 *
 * @param file a path or `file:` URL.
 * @param metrics those of `stepMetrics`, and whatever else is worth keeping: numbers, text, booleans.
 */
export function appendMetrics(file: string | URL, metrics: Readonly<Record<string, unknown>> | StepMetrics): void {
  if (typeof metrics !== 'object' || metrics === null || Array.isArray(metrics)) {
    throw invalidType('metrics', 'an object', metrics)
  }
  for (const [name, value] of Object.entries(metrics)) {
    if (!['number', 'string', 'boolean', 'undefined'].includes(typeof value) && value !== null) {
      throw invalidValue(`metrics[${JSON.stringify(name)}]`, 'cannot be kept: it is no number, text or boolean')
    }
  }
  const line = JSON.stringify(metrics, (_, value) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value,
  )
  const { O_APPEND, O_CREAT, O_RDWR } = constants
  const descriptor = openSync(file, O_APPEND | O_CREAT | O_RDWR)
  try {
    writeFileSync(descriptor, `${endsInsideLine(descriptor) ? '\n' : ''}${line}\n`)
  } finally {
    closeSync(descriptor)
  }
}

function endsInsideLine(descriptor: number): boolean {
  const { size } = fstatSync(descriptor)
  if (size === 0) return false
  const last = Buffer.alloc(1)
  readSync(descriptor, last, 0, 1, size - 1)
  return last[0] !== 10
}
