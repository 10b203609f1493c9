/**
 * `linearCrossEntropy`: the output layer and stages 1 to 4 of single tokens in one call, hidden states in and loss and
 * gradients out.
 */

import { headOf } from '../call/head.js'
import { FUSED_HEAD_OPTIONS } from '../call/head-gradients.js'
import { planOfHead } from '../call/loss-call.js'
import { tokenLossResult } from '../call/results.js'
import type { Planned } from '../call/run.js'
import { SHARD_OPTIONS } from '../call/shard.js'
import { start, startSync } from '../call/start.js'
import { SINGLE_TOKEN_OPTIONS, tokenLossCall } from '../call/token-loss-call.js'
import { isPacked } from '../call/tokens.js'
import { optionsObject } from '../check/options.js'
import type { LinearCrossEntropyOptions } from '../options/index.js'
import type {
  AskedOfHead,
  AsksOfHead,
  DeviceData,
  DType,
  HeadGradientData,
  HeadWeight,
  Hidden,
  Labels,
  LinearCrossEntropy,
  OutputNames,
  ShardOptions,
  TensorData,
} from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...SINGLE_TOKEN_OPTIONS, ...FUSED_HEAD_OPTIONS, ...SHARD_OPTIONS])

/**
 * The cross-entropy of a batch of tokens straight from what goes into the model's output layer, and its exact
 * gradients with respect to that, the layer's weight and its bias; named as the other functions of the output layer
 * are. The logits exist a tile at a time, and those that fit `logitsBudget` are kept from the loss to the gradients;
 * rows that predict nothing are not multiplied. Runs off the calling thread: arrays are lent until the promise has
 * settled, and must be neither changed nor transferred meanwhile.
 *
 * @param hidden `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`.
 * @param weight `[vocab, width]`, or stored as `[width, vocab]` and said so by its strides.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at.
 * @param options the bias, which tokens count, the loss of a token, what the sum is divided by, which gradients to compute
 *   and where they go, and where the call runs.
 * @returns the mean loss over the active tokens and the loss of each, in nats, in float64; `[batch]` counts of active
 *   tokens, the per-token results asked for in `outputs`, and the float32 gradients that were asked for. Logits are float32.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`; the reason of `options.signal`.
 */
export function linearCrossEntropy<
  Data extends TensorData,
  const Request extends LinearCrossEntropyOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  hidden: Hidden<Data>,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: LinearCrossEntropyOptions & ShardOptions & AsksOfHead<Request, Element, Outputs>,
): Promise<LinearCrossEntropy<HeadGradientData<Data, Request, Element>> & AskedOfHead<Data, Request, Element, Outputs>>
export async function linearCrossEntropy(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: LinearCrossEntropyOptions & ShardOptions,
): Promise<LinearCrossEntropy> {
  return start(options, () => plan(hidden, weight, labels, options))
}

/** {@link linearCrossEntropy} on the calling thread. */
export function linearCrossEntropySync<
  Data extends TensorData,
  const Request extends LinearCrossEntropyOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  hidden: Hidden<Data>,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: LinearCrossEntropyOptions & ShardOptions & AsksOfHead<Request, Element, Outputs>,
): LinearCrossEntropy<HeadGradientData<Data, Request, Element>> & AskedOfHead<Data, Request, Element, Outputs>
export function linearCrossEntropySync(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: LinearCrossEntropyOptions & ShardOptions,
): LinearCrossEntropy {
  return startSync(options, () => plan(hidden, weight, labels, options))
}

/** Checks a call. */
export function plan(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  given: (LinearCrossEntropyOptions & ShardOptions) | undefined,
): Planned<LinearCrossEntropy> {
  const options = optionsObject(given, 'options', OPTIONS)
  const source = headOf(hidden, weight, options.bias, isPacked(options), options.gpuDevice)
  const call = tokenLossCall(source, labels, options)
  return planOfHead(source, call, options, () => tokenLossResult(call))
}
