/**
 * `sequenceLogProbs`: stages 1 and 2, and stage 4 on request through `backward`.
 */

import { checkStillThere } from '../backends/cuda/memory.js'
import { addTokenOutputs, copyTokenOutputs, forwardStage, keepStates } from '../call/forward-stage.js'
import { keep } from '../call/kept.js'
import { RUN_OPTIONS, type Runner, run, runnerOf } from '../call/run.js'
import { destinationOf, logitsOf, skipsInactive, type Tensor, tensorOf, watchTensor } from '../call/tensor.js'
import { checkDeviceLabels, isPacked, TOKEN_OPTIONS, type TokenPlan, tokenArrays, tokensOf } from '../call/tokens.js'
import { checkUnchanged, type NamedArray, numbers, type Watched } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { failure } from '../errors.js'
import type { ForwardStage, Job } from '../job.js'
import type { DeviceMemory, Labels, Logits, SequenceLogProbs, SequenceOptions } from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...TOKEN_OPTIONS, ...RUN_OPTIONS])
const BACKWARD_OPTIONS: ReadonlySet<string> = new Set(['out', 'zeroInactive'])

/**
 * Log-probs of whole sequences under a model, from its logits: log softmax, picked at each label and summed, in one
 * sweep over the logits and without storing anything of their size. Runs off the calling thread: arrays are lent until the
 * promise has settled, and must be neither changed nor transferred meanwhile.
 *
 * The gradient is not computed until `backward` of the result is called. Until then the result keeps the logits in memory;
 * its `dispose` lets go of them.
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
export async function sequenceLogProbs(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options?: SequenceOptions,
): Promise<SequenceLogProbs> {
  const planned = plan(logits, labels, options)
  await run(planned.runner, planned.job, planned.watched)
  return result(planned)
}

/** {@link sequenceLogProbs} on the calling thread. */
export function sequenceLogProbsSync(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options?: SequenceOptions,
): SequenceLogProbs {
  const planned = plan(logits, labels, options)
  planned.runner.backend.runSync(planned.job, planned.runner.settings)
  return result(planned)
}

interface Plan {
  logits: Tensor
  tokenPlan: TokenPlan
  policy: ForwardStage
  job: Job
  runner: Runner
  watched: Watched[]
  callers: NamedArray[]
}

function plan(logits: Logits, labels: Labels | DeviceMemory, given: SequenceOptions | undefined): Plan {
  const options = optionsObject(given, 'options', OPTIONS)
  const tensor = tensorOf(logits, 'logits', isPacked(options))
  const watched = watchTensor('logits.data', tensor)
  const tokenPlan = tokensOf(labels, tensor.rows, options, false, tensor.range)
  const { tokens } = tokenPlan
  const policy = forwardStage(tensor, tokens.counts.length)
  keepStates(policy)
  addTokenOutputs(policy, options.outputs)
  const callers = tokenArrays(labels, options)
  const runner = runnerOf(options, tensor.range, [['logits.data', tensor.data], ...callers])
  checkUnchanged(watched)
  return {
    logits: tensor,
    tokenPlan,
    policy,
    job: { tokens, policy },
    runner,
    watched,
    callers,
  }
}

function result(planned: Plan): SequenceLogProbs {
  const { policy, tokenPlan } = planned
  checkDeviceLabels(tokenPlan, policy.logits.vocab)
  let overwritten = false
  const sums = {
    logProbs: policy.logProbs,
    // A copy: what the caller does with it must not reach `backward`.
    tokenCounts: tokenPlan.tokens.counts.slice(),
    backward(gradient, options) {
      const call = kept()
      if (overwritten) throw failure('ERR_DISPOSED', 'backward: an earlier call has overwritten the logits')
      const out = backward(call, gradient, options)
      overwritten = out.rows === call.logits.rows
      return logitsOf(out)
    },
  } as SequenceLogProbs
  const kept = keep(sums, planned)
  copyTokenOutputs(policy, tokenPlan, sums)
  return sums
}

function backward(
  planned: Plan,
  gradient: unknown,
  given: { out?: unknown; zeroInactive?: unknown } | undefined,
): Tensor {
  const { logits, policy, tokenPlan, runner, watched, callers } = planned
  const options = optionsObject(given, 'options', BACKWARD_OPTIONS)
  const coefficients = numbers(gradient, 'gradient', tokenPlan.tokens.counts.length, ', one per sequence')
  const others: NamedArray[] = [['gradient', gradient], ...callers]
  const destination = options.out === undefined ? true : options.out
  checkStillThere([['logits.data', logits.data], ...callers])
  const out = destinationOf(destination, 'options.out', logits, others)
  const skipInactive = skipsInactive(options.zeroInactive, destination, logits)
  checkUnchanged(watched)
  const stage = { logits: logits.rows, out: out.rows, states: policy.states!, coefficients, skipInactive }
  const settings = { ...runner.settings, signal: undefined }
  runner.backend.runSync({ tokens: tokenPlan.tokens, gradient: stage }, settings)
  return out
}
