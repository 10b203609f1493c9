/**
 * `linearSequenceLogProbs`: stages 1 and 2 from the output layer's input and weight, and stage 4 on request.
 */

import { checkStillThere } from '../backends/device-memory.js'
import { coefficientsOf } from '../call/coefficients.js'
import { type HeadSource, headOf } from '../call/head.js'
import { checkPrecision, HEAD_GRADIENT_OPTIONS, headDestinations } from '../call/head-gradients.js'
import { HEAD_OPTIONS, headRunner } from '../call/head-runner.js'
import { keep } from '../call/kept.js'
import { sequenceResult } from '../call/results.js'
import { laterRunner, type Planned, RUN_OPTIONS, type Runner, run, runSync } from '../call/run.js'
import { type SequenceCall, sequenceCall, withoutStates } from '../call/sequence-call.js'
import { SHARD_OPTIONS } from '../call/shard.js'
import { sharedBackward } from '../call/shared-call.js'
import { ranksOf, start, startSync } from '../call/start.js'
import { runSteps, runStepsSync } from '../call/steps.js'
import { isPacked } from '../call/tokens.js'
import { checkUnchanged, type NamedArray } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { invalidType } from '../errors.js'
import type { LinearSequenceOptions } from '../options/index.js'
import { TOKEN_OPTIONS } from '../options/token-options.js'
import type {
  Asks,
  Communicator,
  DeviceData,
  HeadGradients,
  HeadWeight,
  Hidden,
  Labels,
  LinearBackwardOptions,
  LinearSequenceLogProbs,
  OutputNames,
  SequenceSums,
  ShardOptions,
  TensorData,
  WithOutputs,
} from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...TOKEN_OPTIONS, ...RUN_OPTIONS, ...SHARD_OPTIONS, ...HEAD_OPTIONS])
const BACKWARD_OPTIONS: ReadonlySet<string> = new Set([...HEAD_GRADIENT_OPTIONS, 'gradient', 'gradientScale'])

/**
 * Log-probs of whole sequences under a model, from the input of its output layer: logits = hidden · weightᵀ + bias,
 * log softmax, picked at each label and summed. The logits exist a tile at a time and are never stored; rows that
 * predict nothing are not multiplied. Runs off the calling thread: arrays are lent until the promise has settled, and must
 * be neither changed nor transferred meanwhile. The result keeps hidden and weight in memory for its `backward`, until it is
 * disposed of.
 *
 * @param hidden `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`. Read, never written.
 * @param weight `[vocab, width]`, or stored as `[width, vocab]` and said so by its strides. Read, never written.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at. In device memory they are int32 or int64, by its size.
 * @param options the bias, which tokens count, how they are summed, and where the call runs.
 * @returns `[batch]` sums in nats, in float64, `[batch]` counts of active tokens, the per-token results asked for in
 *   `outputs`, and `backward`. Logits are float32.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA` (no
 *   cuBLASLt, for one); the reason of `options.signal`.
 */
export function linearSequenceLogProbs<
  Data extends TensorData,
  const Outputs extends OutputNames | undefined = undefined,
>(
  hidden: Hidden<Data>,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: LinearSequenceOptions & ShardOptions & Pick<Asks<never, never, Outputs>, 'outputs'>,
): Promise<LinearSequenceLogProbs<Data> & WithOutputs<Outputs>>
export async function linearSequenceLogProbs(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: LinearSequenceOptions & ShardOptions,
): Promise<LinearSequenceLogProbs> {
  return start(options, () => plan(hidden, weight, labels, options))
}

/** {@link linearSequenceLogProbs} on the calling thread. */
export function linearSequenceLogProbsSync<
  Data extends TensorData,
  const Outputs extends OutputNames | undefined = undefined,
>(
  hidden: Hidden<Data>,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: LinearSequenceOptions & ShardOptions & Pick<Asks<never, never, Outputs>, 'outputs'>,
): LinearSequenceLogProbs<Data> & WithOutputs<Outputs>
export function linearSequenceLogProbsSync(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: LinearSequenceOptions & ShardOptions,
): LinearSequenceLogProbs {
  return startSync(options, () => plan(hidden, weight, labels, options))
}

/** What `backward` needs. */
interface Kept {
  source: HeadSource
  call: SequenceCall
  runner: Runner
  communicator: Communicator | undefined
}

function plan(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  given: (LinearSequenceOptions & ShardOptions) | undefined,
): Planned<LinearSequenceLogProbs> {
  const kept = checked(hidden, weight, labels, given)
  return { ...plannedOf(kept), result: () => result(kept) }
}

/** Checks a call that no `backward` follows. */
export function planSums(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  given: (LinearSequenceOptions & ShardOptions) | undefined,
): Planned<SequenceSums> {
  const kept = checked(hidden, weight, labels, given)
  return { ...plannedOf(kept), job: withoutStates(kept.call.job), result: () => sequenceResult(kept.call) }
}

function checked(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  given: (LinearSequenceOptions & ShardOptions) | undefined,
): Kept {
  const options = optionsObject(given, 'options', OPTIONS)
  const source = headOf(hidden, weight, options.bias, isPacked(options), options.gpuDevice)
  const call = sequenceCall(source, labels, options)
  const { arrays, watched } = source
  const runner = headRunner(options, source, () => [...arrays, ...call.tokenPlan.arrays()], watched)
  return { source, call, runner, communicator: ranksOf(options) }
}

function plannedOf({ source: { watched }, call: { job }, runner }: Kept) {
  return { job, runner, watched }
}

function result(needed: Kept): LinearSequenceLogProbs {
  const sums = sequenceResult(needed.call)
  const { communicator } = needed
  const backward = async (gradient: unknown, options?: LinearBackwardOptions) => {
    const plan = () => backwardPlan(kept(), gradient, options)
    if (communicator) return (await runSteps(sharedBackward(communicator, plan))) ?? {}
    const planned = plan()
    return planned === undefined ? {} : run(planned)
  }
  const backwardSync = (gradient: unknown, options?: LinearBackwardOptions) => {
    const plan = () => backwardPlan(kept(), gradient, options)
    if (communicator) return runStepsSync(sharedBackward(communicator, plan)) ?? {}
    const planned = plan()
    return planned === undefined ? {} : runSync(planned)
  }
  const kept = keep(sums, needed)
  return Object.assign(sums, { backward, backwardSync }) as LinearSequenceLogProbs
}

/** Checks such a call; undefined when no gradient is wanted. */
function backwardPlan(
  { source, call, runner }: Kept,
  gradient: unknown,
  given: LinearBackwardOptions | undefined,
): Planned<HeadGradients> | undefined {
  const { tokenPlan, policy } = call
  const options = optionsObject(given, 'options', BACKWARD_OPTIONS)
  const coefficients = coefficientsOf(gradient, tokenPlan, policy, options.gradientScale)
  const request: unknown = options.gradient === undefined ? true : options.gradient
  if (request === false) throw invalidType('options.gradient', 'true or an object { hidden?, weight?, bias? }', request)
  checkStillThere([...source.arrays, ...tokenPlan.arrays()])
  const others: NamedArray[] = [...coefficients.arrays, ...tokenPlan.arrays()]
  const destinations = headDestinations(request, 'options.gradient', source, options, others)
  checkUnchanged(source.watched)
  checkPrecision(options, runner)
  if (destinations === undefined) return undefined
  const { head, rows: logits } = source
  const { states } = policy
  const headGradient = { head, logits, states, ...coefficients.stage, ...destinations.stage }
  return {
    job: { tokens: tokenPlan.tokens, headGradient },
    runner: laterRunner(runner, destinations.arrays),
    watched: [...source.watched, ...destinations.watched],
    result: () => destinations.gradients,
  }
}
