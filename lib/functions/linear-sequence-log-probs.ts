/**
 * `linearSequenceLogProbs`: stages 1 and 2 from the output layer's input and weight, and stage 4 on request.
 */

import { checkStillThere } from '../backends/cuda/memory.js'
import { addTokenOutputs, copyTokenOutputs, forwardStage, keepStates } from '../call/forward-stage.js'
import { type HeadSource, headOf } from '../call/head.js'
import { HEAD_GRADIENT_OPTIONS, headDestinations } from '../call/head-gradients.js'
import { keep } from '../call/kept.js'
import { RUN_OPTIONS, type Runner, run, runnerOf } from '../call/run.js'
import { checkDeviceLabels, isPacked, TOKEN_OPTIONS, type TokenPlan, tokenArrays, tokensOf } from '../call/tokens.js'
import { checkUnchanged, type NamedArray, numbers, type Watched } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { invalidType } from '../errors.js'
import type { ForwardStage, Job } from '../job.js'
import type {
  DeviceMemory,
  HeadGradientOptions,
  HeadGradients,
  HeadWeight,
  Hidden,
  Labels,
  LinearSequenceLogProbs,
  LinearSequenceOptions,
} from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...TOKEN_OPTIONS, ...RUN_OPTIONS, 'bias'])
const BACKWARD_OPTIONS: ReadonlySet<string> = new Set(HEAD_GRADIENT_OPTIONS)

/**
 * Log-probs of whole sequences under a model, from what goes into its output layer: logits = hidden · weightᵀ + bias,
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
export async function linearSequenceLogProbs(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceMemory,
  options?: LinearSequenceOptions,
): Promise<LinearSequenceLogProbs> {
  const planned = plan(hidden, weight, labels, options)
  await run(planned.runner, planned.job, planned.watched)
  return result(planned)
}

/** {@link linearSequenceLogProbs} on the calling thread. */
export function linearSequenceLogProbsSync(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceMemory,
  options?: LinearSequenceOptions,
): LinearSequenceLogProbs {
  const planned = plan(hidden, weight, labels, options)
  planned.runner.backend.runSync(planned.job, planned.runner.settings)
  return result(planned)
}

interface Plan {
  source: HeadSource
  tokenPlan: TokenPlan
  policy: ForwardStage
  job: Job
  runner: Runner
  watched: Watched[]
  callers: NamedArray[]
}

function plan(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceMemory,
  given: LinearSequenceOptions | undefined,
): Plan {
  const options = optionsObject(given, 'options', OPTIONS)
  const watched: Watched[] = []
  const source = headOf(hidden, weight, options.bias, isPacked(options), watched)
  const tokenPlan = tokensOf(labels, source.rows, options, false, source.range)
  const { tokens } = tokenPlan
  const policy = forwardStage(source, tokens.counts.length)
  keepStates(policy)
  addTokenOutputs(policy, options.outputs)
  const callers = tokenArrays(labels, options)
  const runner = runnerOf(options, source.range, [...source.arrays, ...callers])
  checkUnchanged(watched)
  return { source, tokenPlan, policy, job: { tokens, policy }, runner, watched, callers }
}

function result(planned: Plan): LinearSequenceLogProbs {
  const { policy, tokenPlan } = planned
  checkDeviceLabels(tokenPlan, policy.logits.vocab)
  const sums = {
    logProbs: policy.logProbs,
    // A copy: what the caller does with it must not reach `backward`.
    tokenCounts: tokenPlan.tokens.counts.slice(),
    backward: (gradient, request, options) => backward(kept(), gradient, request, options),
  } as LinearSequenceLogProbs
  const kept = keep(sums, planned)
  copyTokenOutputs(policy, tokenPlan, sums)
  return sums
}

function backward(
  { source, policy, tokenPlan, runner, watched, callers }: Plan,
  gradient: unknown,
  request: unknown = true,
  given: HeadGradientOptions | undefined,
): HeadGradients {
  const options = optionsObject(given, 'options', BACKWARD_OPTIONS)
  const coefficients = numbers(gradient, 'gradient', tokenPlan.tokens.counts.length, ', one per sequence')
  if (request === false) throw invalidType('request', 'true or an object { hidden?, weight?, bias? }', request)
  checkStillThere([...source.arrays, ...callers])
  const destinations = headDestinations(request, 'request', source, options, [['gradient', gradient], ...callers])
  checkUnchanged(watched)
  if (destinations === undefined) return {}
  const { head, rows: logits } = source
  const headGradient = { head, logits, states: policy.states!, coefficients, ...destinations.stage }
  const settings = { ...runner.settings, signal: undefined }
  runner.backend.runSync({ tokens: tokenPlan.tokens, headGradient }, settings)
  return destinations.gradients
}
