/**
 * `crossEntropy`: stages 1 to 4 of single tokens in one call, logits in and loss and gradient out.
 */

import { LOGITS_GRADIENT_OPTIONS } from '../call/destination.js'
import { planOfLogits } from '../call/loss-call.js'
import { tokenLossResult } from '../call/results.js'
import type { Planned } from '../call/run.js'
import { SHARD_OPTIONS } from '../call/shard.js'
import { start, startSync } from '../call/start.js'
import { tensorOf } from '../call/tensor.js'
import { SINGLE_TOKEN_OPTIONS, tokenLossCall } from '../call/token-loss-call.js'
import { isPacked } from '../call/tokens.js'
import { flag, optionsObject } from '../check/options.js'
import type { CrossEntropyOptions } from '../options/index.js'
import type {
  Asked,
  Asks,
  CrossEntropy,
  DeviceData,
  DType,
  Labels,
  Logits,
  LogitsGradientData,
  OutputNames,
  ShardOptions,
  TensorData,
} from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...SINGLE_TOKEN_OPTIONS, ...LOGITS_GRADIENT_OPTIONS, ...SHARD_OPTIONS])

/**
 * The cross-entropy of a batch of tokens straight from the logits, and its exact gradient with respect to them: the loss of
 * pre-training and of supervised fine-tuning, under the name that all frameworks give it. Each row is read and its gradient
 * written while the row lies in the cache, so that logits that are overwritten go through memory once. Runs off the calling
 * thread: arrays are lent until the promise has settled, and must be neither changed nor transferred meanwhile.
 *
 * @param logits `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`. Overwritten only when
 *   `gradient` says so.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at.
 * @param options which tokens count, the loss of a token, what the sum is divided by, where the gradient goes, and where the
 *   call runs.
 * @returns the mean loss over the active tokens and the loss of each, in nats, in float64; `[batch]` counts of active
 *   tokens, the per-token results asked for in `outputs`, and `gradLogits` when asked for.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`; the reason of `options.signal`.
 */
export function crossEntropy<
  Data extends TensorData,
  const Gradient extends CrossEntropyOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  logits: Logits<Data>,
  labels: Labels | DeviceData,
  options?: CrossEntropyOptions & ShardOptions & Asks<Gradient, Element, Outputs>,
): Promise<CrossEntropy<LogitsGradientData<Data, Gradient, Element>> & Asked<Data, Gradient, Element, Outputs>>
export async function crossEntropy(
  logits: Logits,
  labels: Labels | DeviceData,
  options?: CrossEntropyOptions & ShardOptions,
): Promise<CrossEntropy> {
  return start(options, () => plan(logits, labels, options))
}

/** {@link crossEntropy} on the calling thread. */
export function crossEntropySync<
  Data extends TensorData,
  const Gradient extends CrossEntropyOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  logits: Logits<Data>,
  labels: Labels | DeviceData,
  options?: CrossEntropyOptions & ShardOptions & Asks<Gradient, Element, Outputs>,
): CrossEntropy<LogitsGradientData<Data, Gradient, Element>> & Asked<Data, Gradient, Element, Outputs>
export function crossEntropySync(
  logits: Logits,
  labels: Labels | DeviceData,
  options?: CrossEntropyOptions & ShardOptions,
): CrossEntropy {
  return startSync(options, () => plan(logits, labels, options))
}

/** Checks a call. */
export function plan(
  logits: Logits,
  labels: Labels | DeviceData,
  given: (CrossEntropyOptions & ShardOptions) | undefined,
): Planned<CrossEntropy> {
  const options = optionsObject(given, 'options', OPTIONS)
  const zeroInactive = flag(options.zeroInactive, 'options.zeroInactive', true)
  const tensor = tensorOf(logits, 'logits', isPacked(options), options.gpuDevice)
  const call = tokenLossCall(tensor, labels, options)
  return planOfLogits(tensor, call, options, zeroInactive, () => tokenLossResult(call))
}
