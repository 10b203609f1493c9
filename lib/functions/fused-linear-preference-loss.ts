/**
 * `fusedLinearPreferenceLoss`: the output layer and all four stages in one call, hidden states in and loss and gradients
 * out.
 */

import { checkSameLogits, headOf } from '../call/head.js'
import { FUSED_HEAD_OPTIONS } from '../call/head-gradients.js'
import { planOfHead } from '../call/loss-call.js'
import { PAIRED_OPTIONS, pairedCall, type ReferenceModel } from '../call/paired-call.js'
import { modelNames } from '../call/reference.js'
import { pairedResult } from '../call/results.js'
import type { Planned } from '../call/run.js'
import { SHARD_OPTIONS } from '../call/shard.js'
import { start, startSync } from '../call/start.js'
import { isPacked } from '../call/tokens.js'
import { optionsObject } from '../check/options.js'
import { invalidValue } from '../errors.js'
import type { FusedLinearOptions } from '../options/index.js'
import type {
  AskedOfHead,
  AsksOfHead,
  DeviceData,
  DType,
  FusedLinearPreferenceLoss,
  HeadGradientData,
  HeadWeight,
  Hidden,
  Labels,
  OutputNames,
  ShardOptions,
  TensorData,
} from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...PAIRED_OPTIONS, ...FUSED_HEAD_OPTIONS, ...SHARD_OPTIONS])

/**
 * The preference loss of a batch of sequences straight from the input of the model's output layer, and its exact
 * gradients with respect to that input, the layer's weight and its bias. The logits exist a tile at a time, and those
 * that fit `logitsBudget` are kept from the loss to the gradients; rows that predict nothing are not multiplied. Runs
 * off the calling thread: arrays are lent until the promise has settled, and must be neither changed nor transferred
 * meanwhile.
 *
 * The formulas and their papers are in docs/losses.md; the default is DPO (Rafailov et al. 2023). Lengths, for
 * the losses that divide by them, are the numbers of active tokens.
 *
 * @param hidden `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`.
 * @param weight `[vocab, width]`, or stored as `[width, vocab]` and said so by its strides.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at. In device memory they are int32 or int64, by its size.
 * @param options the bias, the reference, which sequences form pairs, which tokens count, the loss and its constants,
 *   which gradients to compute and where they go, and where the call runs.
 * @returns the mean loss over the P pairs; per pair losses, rewards, log-probs in nats and their gradients, in float64;
 *   and the float32 gradients that were asked for. Logits are float32.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA` (no
 *   cuBLASLt, for one); the reason of `options.signal`.
 */
export function fusedLinearPreferenceLoss<
  Data extends TensorData,
  const Request extends FusedLinearOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  hidden: Hidden<Data>,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: FusedLinearOptions & ShardOptions & AsksOfHead<Request, Element, Outputs>,
): Promise<
  FusedLinearPreferenceLoss<HeadGradientData<Data, Request, Element>> & AskedOfHead<Data, Request, Element, Outputs>
>
export async function fusedLinearPreferenceLoss(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: FusedLinearOptions & ShardOptions,
): Promise<FusedLinearPreferenceLoss> {
  return start(options, () => plan(hidden, weight, labels, options))
}

/** {@link fusedLinearPreferenceLoss} on the calling thread. */
export function fusedLinearPreferenceLossSync<
  Data extends TensorData,
  const Request extends FusedLinearOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  hidden: Hidden<Data>,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: FusedLinearOptions & ShardOptions & AsksOfHead<Request, Element, Outputs>,
): FusedLinearPreferenceLoss<HeadGradientData<Data, Request, Element>> & AskedOfHead<Data, Request, Element, Outputs>
export function fusedLinearPreferenceLossSync(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  options?: FusedLinearOptions & ShardOptions,
): FusedLinearPreferenceLoss {
  return startSync(options, () => plan(hidden, weight, labels, options))
}

/** Checks a call. */
export function plan(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceData,
  given: (FusedLinearOptions & ShardOptions) | undefined,
): Planned<FusedLinearPreferenceLoss> {
  const options = optionsObject(given, 'options', OPTIONS)
  const source = headOf(hidden, weight, options.bias, isPacked(options), options.gpuDevice)
  const call = pairedCall(source, labels, options, REFERENCE_HEAD)
  return planOfHead(source, call, options, () => pairedResult(call))
}

/** A reference model by its output layer. */
export const REFERENCE_HEAD: ReferenceModel = {
  names: modelNames('hidden', 'weight', 'bias'),
  sourceOf({ hidden, weight, bias }, name, policy, packed, gpuDevice) {
    const source = headOf(hidden, weight, bias, packed, gpuDevice, `${name}.`, `${name}.bias`)
    checkSameLogits(source.rows, policy.rows, name)
    if (source.range?.device !== policy.range?.device) {
      throw invalidValue(`${name}.hidden.data`, 'must be where hidden.data is')
    }
    return source
  },
}
