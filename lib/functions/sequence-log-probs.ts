/**
 * `sequenceLogProbs`: stages 1 and 2, and stage 4 on request through `backward`.
 */

import { checkStillThere } from '../backends/device-memory.js'
import { coefficientsOf } from '../call/coefficients.js'
import { destinationOf, LOGITS_GRADIENT_OPTIONS } from '../call/destination.js'
import { keep } from '../call/kept.js'
import { inLayout } from '../call/layout.js'
import { notDeferrable } from '../call/loss-call.js'
import { sequenceResult } from '../call/results.js'
import { laterRunner, type Planned, RUN_OPTIONS, type Runner, run, runnerOf, runSync } from '../call/run.js'
import { type SequenceCall, sequenceCall, withoutStates } from '../call/sequence-call.js'
import { SHARD_OPTIONS } from '../call/shard.js'
import { start, startSync } from '../call/start.js'
import { type Tensor, tensorOf } from '../call/tensor.js'
import { isPacked } from '../call/tokens.js'
import { checkUnchanged, type NamedArray } from '../check/arrays.js'
import { flag, optionsObject } from '../check/options.js'
import { failure } from '../errors.js'
import type { SequenceOptions } from '../options/index.js'
import { TOKEN_OPTIONS } from '../options/token-options.js'
import type {
  Asks,
  BackwardOptions,
  DeviceData,
  Labels,
  Logits,
  LogitsGradient,
  OutputNames,
  SequenceLogProbs,
  SequenceSums,
  ShardOptions,
  TensorData,
  WithOutputs,
} from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...TOKEN_OPTIONS, ...RUN_OPTIONS, ...SHARD_OPTIONS])
const BACKWARD_OPTIONS: ReadonlySet<string> = new Set([...LOGITS_GRADIENT_OPTIONS, 'gradientScale'])

/**
 * Log-probs of whole sequences under a model, from its logits: log softmax, picked at each label and summed, in one
 * sweep over the logits and without storing anything of their size. Runs off the calling thread: arrays are lent until the
 * promise has settled, and must be neither changed nor transferred meanwhile.
 *
 * The gradient is not computed until `backward` of the result is called, or `backwardSync`. Until then the result keeps the
 * logits in memory; its `dispose` lets go of them.
 *
 * @param logits `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`. Read, never written.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at. In device memory they are int32 or int64, by its size.
 * @param options which tokens count, how they are summed, and where the call runs.
 * @returns `[batch]` sums in nats, in float64, and `[batch]` counts of active tokens.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA`; the reason of
 *   `options.signal`.
 */
export function sequenceLogProbs<Data extends TensorData, const Outputs extends OutputNames | undefined = undefined>(
  logits: Logits<Data>,
  labels: Labels | DeviceData,
  options?: SequenceOptions & ShardOptions & Pick<Asks<never, never, Outputs>, 'outputs'>,
): Promise<SequenceLogProbs<Data> & WithOutputs<Outputs>>
export async function sequenceLogProbs(
  logits: Logits,
  labels: Labels | DeviceData,
  options?: SequenceOptions & ShardOptions,
): Promise<SequenceLogProbs> {
  return start(options, () => plan(logits, labels, options))
}

/** {@link sequenceLogProbs} on the calling thread. */
export function sequenceLogProbsSync<
  Data extends TensorData,
  const Outputs extends OutputNames | undefined = undefined,
>(
  logits: Logits<Data>,
  labels: Labels | DeviceData,
  options?: SequenceOptions & ShardOptions & Pick<Asks<never, never, Outputs>, 'outputs'>,
): SequenceLogProbs<Data> & WithOutputs<Outputs>
export function sequenceLogProbsSync(
  logits: Logits,
  labels: Labels | DeviceData,
  options?: SequenceOptions & ShardOptions,
): SequenceLogProbs {
  return startSync(options, () => plan(logits, labels, options))
}

/** What `backward` needs. */
interface Kept {
  logits: Tensor
  call: SequenceCall
  runner: Runner
}

function plan(
  logits: Logits,
  labels: Labels | DeviceData,
  given: (SequenceOptions & ShardOptions) | undefined,
): Planned<SequenceLogProbs> {
  const kept = checked(logits, labels, given)
  return { ...plannedOf(kept), result: () => result(kept) }
}

/** Checks a call that no `backward` follows. */
export function planSums(
  logits: Logits,
  labels: Labels | DeviceData,
  given: (SequenceOptions & ShardOptions) | undefined,
): Planned<SequenceSums> {
  const kept = checked(logits, labels, given)
  return { ...plannedOf(kept), job: withoutStates(kept.call.job), result: () => sequenceResult(kept.call) }
}

function checked(
  logits: Logits,
  labels: Labels | DeviceData,
  given: (SequenceOptions & ShardOptions) | undefined,
): Kept {
  const options = optionsObject(given, 'options', OPTIONS)
  const tensor = tensorOf(logits, 'logits', isPacked(options), options.gpuDevice)
  const call = sequenceCall(tensor, labels, options)
  const { arrays, watched, range } = tensor
  const runner = runnerOf(options, range, () => [...arrays, ...call.tokenPlan.arrays()], watched)
  return { logits: tensor, call, runner }
}

function plannedOf({ logits: { watched }, call: { job }, runner }: Kept) {
  return { job, runner, watched }
}

function result(needed: Kept): SequenceLogProbs {
  let overwritten = false
  const sums = sequenceResult(needed.call)
  const planned = (gradient: unknown, options: BackwardOptions | undefined) => {
    const call = kept()
    if (overwritten) throw failure('ERR_DISPOSED', 'backward: an earlier call has overwritten the logits')
    const { overwrites, ...plan } = backwardPlan(call, gradient, options)
    overwritten = overwrites
    return plan
  }
  const backward = async (gradient: unknown, options?: BackwardOptions) => run(planned(gradient, options))
  const backwardSync = (gradient: unknown, options?: BackwardOptions) => runSync(planned(gradient, options))
  const kept = keep(sums, needed)
  return Object.assign(sums, { backward, backwardSync }) as SequenceLogProbs
}

/** A later call that has been checked, and whether it overwrites the logits. */
interface Backward extends Planned<LogitsGradient> {
  overwrites: boolean
}

function backwardPlan({ logits, call, runner }: Kept, gradient: unknown, given: BackwardOptions | undefined): Backward {
  const { tokenPlan, policy } = call
  const options = optionsObject(given, 'options', BACKWARD_OPTIONS)
  const coefficients = coefficientsOf(gradient, tokenPlan, policy, options.gradientScale)
  const others: NamedArray[] = [...coefficients.arrays, ...tokenPlan.arrays()]
  const zeroInactive = flag(options.zeroInactive, 'options.zeroInactive', true)
  checkStillThere([...logits.arrays, ...tokenPlan.arrays()])
  const defers = flag(options.deferredScale, 'options.deferredScale', false)
  if (defers && coefficients.ownForm) throw notDeferrable(coefficients.ownForm)
  const destination = options.gradient === undefined ? true : options.gradient
  const out = destinationOf(destination, 'options.gradient', zeroInactive, logits, others, options.gradientDType)
  checkUnchanged(logits.watched)
  const { skipInactive, overwrites } = out
  const { states } = policy
  const { batch, time } = logits.rows
  const rowScale = defers ? new Float64Array(batch * time) : undefined
  const stage = { logits: logits.rows, out: out.rows, states, skipInactive, rowScale, ...coefficients.stage }
  return {
    overwrites,
    job: { tokens: tokenPlan.tokens, gradient: stage },
    runner: laterRunner(runner, [['options.gradient', out.gradient.data]]),
    watched: [...logits.watched, ...out.watched],
    result: () => ({
      gradLogits: out.gradient,
      ...(rowScale && { rowScale: inLayout(rowScale, policy, tokenPlan) }),
    }),
  }
}
