/**
 * `globalStepMetrics`: the metrics of a step over the batches of all ranks.
 */
import { hashOfText } from '../call/agreement.js'
import { gather, runSteps, runStepsSync, type Steps } from '../call/steps.js'
import { invalidValue } from '../errors.js'
import {
  type StepBatch,
  type StepMetrics,
  type StepOptions,
  stepMetrics,
  type UnpairedStepMetrics,
} from '../metrics/index.js'
import { MEANS, weightsOf } from '../metrics/weights.js'
import type { Communicator, FusedPreferenceLoss, FusedUnpairedPreferenceLoss } from '../types/index.js'
import { agreed } from './agreed.js'

type Result = Omit<FusedPreferenceLoss, 'gradLogits'>
type UnpairedResult = Omit<FusedUnpairedPreferenceLoss, 'gradLogits'>
type Metrics = Partial<StepMetrics & UnpairedStepMetrics> & { step: number }

/** What of a step depends on what the caller has asked for and given, and so must be there on every rank or on none. */
const GIVEN = ['pairs', 'tokenEntropies', 'tokenArgmax', 'tokenMeanLogits', 'sequenceLengths', 'ms', 'bytes'] as const
/** Behind the means and their weights. */
const [TOKENS, MS, BYTES] = [2 * MEANS.length, 2 * MEANS.length + 1, 2 * MEANS.length + 2]

/**
 * `stepMetrics` over the batches of all ranks: each mean has the weight of the pairs, sequences or tokens that it is of, so
 * that the metrics are those of the one large batch. `ms` is that of the slowest rank, 'GB/s' the bytes of all ranks in that
 * time. Every rank gets the same; have one of them write it: `if (communicator.rank === 0) appendMetrics(…)`.
 *
 * @param communicator the ranks, all of which call this.
 * @param result of this rank's call, whose `normalizer` is that of `globalCounts` or 'mean'; undefined on a rank that had no
 *   batch. `loss` is the mean of the `losses` of all ranks.
 * @param batch of the call; undefined where there was none.
 * @param options as in `stepMetrics`; `step` and `tokensBefore`, the 'num_tokens' of all ranks, are the same on every rank.
 * @throws as `stepMetrics`; Error `ERR_RANK_FAILED` where another rank has failed; the communicator's errors.
 */
export function globalStepMetrics(
  communicator: Communicator,
  result: Result | undefined,
  batch: StepBatch | undefined,
  options: StepOptions,
): Promise<StepMetrics>
/** The same of sequences that stand alone. */
export function globalStepMetrics(
  communicator: Communicator,
  result: UnpairedResult | undefined,
  batch: StepBatch | undefined,
  options: StepOptions,
): Promise<UnpairedStepMetrics>
export function globalStepMetrics(
  communicator: Communicator,
  result: Result | UnpairedResult | undefined,
  batch: StepBatch | undefined,
  options: StepOptions,
): Promise<StepMetrics | UnpairedStepMetrics> {
  return runSteps(steps(communicator, result, batch, options)) as Promise<StepMetrics | UnpairedStepMetrics>
}

/** {@link globalStepMetrics} on the calling thread. */
export function globalStepMetricsSync(
  communicator: Communicator,
  result: Result | undefined,
  batch: StepBatch | undefined,
  options: StepOptions,
): StepMetrics
/** The same of sequences that stand alone. */
export function globalStepMetricsSync(
  communicator: Communicator,
  result: UnpairedResult | undefined,
  batch: StepBatch | undefined,
  options: StepOptions,
): UnpairedStepMetrics
export function globalStepMetricsSync(
  communicator: Communicator,
  result: Result | UnpairedResult | undefined,
  batch: StepBatch | undefined,
  options: StepOptions,
): StepMetrics | UnpairedStepMetrics {
  return runStepsSync(steps(communicator, result, batch, options)) as StepMetrics | UnpairedStepMetrics
}

function* steps(
  communicator: Communicator,
  result: Result | UnpairedResult | undefined,
  batch: StepBatch | undefined,
  options: StepOptions,
): Steps<Metrics> {
  let send = new Float64Array(0)
  const ranks = yield* agreed(communicator, () => {
    send = partsOf(result, batch, options)
    const { step, tokensBefore = 0 } = options
    return {
      call: 'globalStepMetrics',
      equal: { 'options.step': step, 'options.tokensBefore': hashOfText(String(tokensBefore)) },
      numbers: [givenOf(result, batch, options)],
    }
  })
  const given = [...new Set(ranks.map(([bits]) => bits).filter((bits) => bits >= 0))]
  if (given.length === 0) throw invalidValue('result', 'is missing on every rank')
  if (given.length > 1) {
    const names = GIVEN.filter((_, i) => given.some((bits) => ((bits ^ given[0]) >> i) & 1))
    throw invalidValue('result', `has ${names.join(', ')} on one rank and not on another`)
  }
  const bytes = yield* gather(communicator, new Uint8Array(send.buffer))
  const all = new Float64Array(bytes.buffer)
  const parts = ranks.map((_, r) => all.subarray(r * send.length, (r + 1) * send.length))
  return together(parts, has(given[0], 'pairs'), options)
}

function has(bits: number, name: (typeof GIVEN)[number]): boolean {
  return ((bits >> GIVEN.indexOf(name)) & 1) === 1
}

/** Which of {@link GIVEN} are there, as bits; -1 without a result. */
function givenOf(result: object | undefined, batch: StepBatch | undefined, options: StepOptions): number {
  if (result === undefined) return -1
  const found: Record<string, unknown> = { ...result, ...options, sequenceLengths: batch?.sequenceLengths }
  found.pairs = 'meanRewards' in result ? undefined : true
  return GIVEN.reduce((bits, name, i) => bits + (found[name] === undefined ? 0 : 1 << i), 0)
}

/** Of each mean its weight and its sum, or NaN where there is none; then tokens, milliseconds and bytes. */
function partsOf(
  result: Result | UnpairedResult | undefined,
  batch: StepBatch | undefined,
  options: StepOptions,
): Float64Array<ArrayBuffer> {
  const parts = new Float64Array(2 * MEANS.length + 3).fill(Number.NaN)
  if (result === undefined) {
    if (batch !== undefined) throw invalidValue('result', 'is missing, and batch is not')
    if (options?.ms !== undefined) parts[MS] = options.ms
    return parts
  }
  const metrics: Metrics = stepMetrics(result as Result, batch as StepBatch, options)
  // Whatever this rank has divided them by.
  metrics.loss = result.losses.reduce((sum, loss) => sum + loss, 0) / result.losses.length
  const weights = weightsOf(result)
  for (const [i, name] of MEANS.entries()) {
    const mean = metrics[name]
    if (mean === undefined) continue
    parts[2 * i] = weights[name]
    parts[2 * i + 1] = mean * weights[name]
  }
  const { num_tokens, ms } = metrics
  if (num_tokens !== undefined) parts[TOKENS] = num_tokens - (options.tokensBefore ?? 0)
  if (ms !== undefined) parts[MS] = ms
  if (options.bytes !== undefined) parts[BYTES] = options.bytes
  return parts
}

/** The metrics of all ranks, in the order of those of one. */
function together(parts: readonly Float64Array[], paired: boolean, { step, tokensBefore = 0 }: StepOptions): Metrics {
  const metrics: Metrics = { step }
  const known = (column: number) => parts.map((part) => part[column]).filter((value) => !Number.isNaN(value))
  const total = (column: number) => known(column).reduce((sum, value) => sum + value, 0)
  for (const [i, name] of MEANS.entries()) {
    if (known(2 * i).length === 0) continue
    const weight = total(2 * i)
    metrics[name] = weight === 0 ? 0 : total(2 * i + 1) / weight
  }
  const { 'rewards/chosen': chosen, 'rewards/rejected': rejected } = metrics
  if (!paired && chosen !== undefined && rejected !== undefined) metrics['rewards/margins'] = chosen - rejected
  if (known(TOKENS).length > 0) metrics.num_tokens = tokensBefore + total(TOKENS)
  if (known(MS).length > 0) metrics.ms = Math.max(...known(MS))
  if (metrics.ms && known(BYTES).length > 0) metrics['GB/s'] = total(BYTES) / metrics.ms / 1e6
  return metrics
}
