/**
 * `fusedLinearUnpairedPreferenceLoss`: the output layer and all four stages in one call, for sequences that stand alone.
 */
import { headOf } from '../call/head.js'
import { FUSED_HEAD_OPTIONS } from '../call/head-gradients.js'
import { planOfHead } from '../call/loss-call.js'
import { unpairedResult } from '../call/results.js'
import type { Planned } from '../call/run.js'
import { SHARD_OPTIONS } from '../call/shard.js'
import { start, startSync } from '../call/start.js'
import { isPacked } from '../call/tokens.js'
import { UNPAIRED_OPTIONS, unpairedCall } from '../call/unpaired-call.js'
import { optionsObject } from '../check/options.js'
import type { FusedLinearUnpairedOptions } from '../options/index.js'
import type {
  AskedOfHead,
  AsksOfHead,
  DeviceData,
  DType,
  FusedLinearUnpairedPreferenceLoss,
  HeadGradientData,
  HeadWeight,
  Hidden,
  Labels,
  OutputNames,
  ShardOptions,
  TensorData,
} from '../types/index.js'
import { REFERENCE_HEAD } from './fused-linear-preference-loss.js'

const OPTIONS: ReadonlySet<string> = new Set([...UNPAIRED_OPTIONS, ...FUSED_HEAD_OPTIONS, ...SHARD_OPTIONS])

/**
 * The preference loss of a batch of sequences that stand alone, each of them desirable or not, straight from what goes
 * into the model's output layer, and its exact gradients with respect to that, the layer's weight and its bias: KTO
 * (Ethayarajh et al. 2024) and the losses after it. The logits exist a tile at a time, and those that fit
 * `logitsBudget` are kept from the loss to the gradients; rows that predict nothing are not multiplied. Runs off the
 * calling thread: arrays are lent until the promise has settled, and must be neither changed nor transferred
 * meanwhile.
 *
 * The formulas and their papers are in docs/losses.md. KTO's κ comes from another forward, over completions that belong to
 * other prompts: see `klLogProbs`.
 *
 * @param hidden `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`.
 * @param weight `[vocab, width]`, or stored as `[width, vocab]` and said so by its strides.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at. In device memory they are int32 or int64, by its size.
 * @param options which sequences are desirable, the bias, the reference, which tokens count, the loss and its constants,
 *   which gradients to compute and where they go, and where the call runs.
 * @returns the mean loss over the sequences; per sequence losses, rewards, log-probs in nats and their gradients, in
 *   float64; and the float32 gradients that were asked for. Logits are float32.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA` (no
 *   cuBLASLt, for one); the reason of `options.signal`.
 */
export function fusedLinearUnpairedPreferenceLoss<
  Data extends TensorData,
  const Request extends FusedLinearUnpairedOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  hidden: Hidden<Data>,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options: FusedLinearUnpairedOptions & ShardOptions & AsksOfHead<Request, Element, Outputs>,
): Promise<
  FusedLinearUnpairedPreferenceLoss<HeadGradientData<Data, Request, Element>> &
    AskedOfHead<Data, Request, Element, Outputs>
>
export async function fusedLinearUnpairedPreferenceLoss(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options: FusedLinearUnpairedOptions & ShardOptions,
): Promise<FusedLinearUnpairedPreferenceLoss> {
  return start(options, () => plan(hidden, weight, labels, options))
}

/** {@link fusedLinearUnpairedPreferenceLoss} on the calling thread. */
export function fusedLinearUnpairedPreferenceLossSync<
  Data extends TensorData,
  const Request extends FusedLinearUnpairedOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  hidden: Hidden<Data>,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options: FusedLinearUnpairedOptions & ShardOptions & AsksOfHead<Request, Element, Outputs>,
): FusedLinearUnpairedPreferenceLoss<HeadGradientData<Data, Request, Element>> &
  AskedOfHead<Data, Request, Element, Outputs>
export function fusedLinearUnpairedPreferenceLossSync(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options: FusedLinearUnpairedOptions & ShardOptions,
): FusedLinearUnpairedPreferenceLoss {
  return startSync(options, () => plan(hidden, weight, labels, options))
}

/** Checks a call. */
export function plan(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  given: FusedLinearUnpairedOptions & ShardOptions,
): Planned<FusedLinearUnpairedPreferenceLoss> {
  const options = optionsObject(given, 'options', OPTIONS)
  const source = headOf(hidden, weight, options.bias, isPacked(options), options.gpuDevice)
  const call = unpairedCall(source, labels, options, REFERENCE_HEAD)
  return planOfHead(source, call, options, () => unpairedResult(call))
}
