/**
 * `fusedPreferenceLoss`: all four stages in one call, logits in and loss and gradient out.
 */

import { LOGITS_GRADIENT_OPTIONS } from '../call/destination.js'
import { planOfLogits } from '../call/loss-call.js'
import { PAIRED_OPTIONS, pairedCall, type ReferenceModel } from '../call/paired-call.js'
import { modelNames } from '../call/reference.js'
import { pairedResult } from '../call/results.js'
import type { Planned } from '../call/run.js'
import { SHARD_OPTIONS } from '../call/shard.js'
import { start, startSync } from '../call/start.js'
import { tensorOf } from '../call/tensor.js'
import { isPacked } from '../call/tokens.js'
import { flag, optionsObject } from '../check/options.js'
import { invalidValue, shapeMismatch } from '../errors.js'
import type { FusedOptions } from '../options/index.js'
import type {
  Asked,
  Asks,
  DeviceData,
  DType,
  FusedPreferenceLoss,
  Labels,
  Logits,
  LogitsGradientData,
  OutputNames,
  ShardOptions,
  TensorData,
} from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...PAIRED_OPTIONS, ...LOGITS_GRADIENT_OPTIONS, ...SHARD_OPTIONS])

/**
 * The preference loss of a batch of sequences straight from the logits, and its exact gradient with respect to them.
 * The logits are read once for the loss and once more for the gradient, which is written once; nothing of their size is
 * allocated unless `gradient` is true. Runs off the calling thread: arrays are lent until the promise has settled, and must
 * be neither changed nor transferred meanwhile.
 *
 * The formulas and their papers are in docs/losses.md; the default is DPO (Rafailov et al. 2023). Lengths, for
 * the losses that divide by them, are the numbers of active tokens.
 *
 * @param logits `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`. Overwritten only when
 *   `gradient` says so.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at. In device memory they are int32 or int64, by its size.
 * @param options the reference, which sequences form pairs, which tokens count, the loss and its constants, where the
 *   gradient goes, and where the call runs.
 * @returns the mean loss over the P pairs; per pair losses, rewards, log-probs in nats and their gradients, in float64;
 *   and `gradLogits` when asked for.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA`; the reason of
 *   `options.signal`.
 */
export function fusedPreferenceLoss<
  Data extends TensorData,
  const Gradient extends FusedOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  logits: Logits<Data>,
  labels: Labels | DeviceData,
  options?: FusedOptions & ShardOptions & Asks<Gradient, Element, Outputs>,
): Promise<FusedPreferenceLoss<LogitsGradientData<Data, Gradient, Element>> & Asked<Data, Gradient, Element, Outputs>>
export async function fusedPreferenceLoss(
  logits: Logits,
  labels: Labels | DeviceData,
  options?: FusedOptions & ShardOptions,
): Promise<FusedPreferenceLoss> {
  return start(options, () => plan(logits, labels, options))
}

/** {@link fusedPreferenceLoss} on the calling thread. */
export function fusedPreferenceLossSync<
  Data extends TensorData,
  const Gradient extends FusedOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  logits: Logits<Data>,
  labels: Labels | DeviceData,
  options?: FusedOptions & ShardOptions & Asks<Gradient, Element, Outputs>,
): FusedPreferenceLoss<LogitsGradientData<Data, Gradient, Element>> & Asked<Data, Gradient, Element, Outputs>
export function fusedPreferenceLossSync(
  logits: Logits,
  labels: Labels | DeviceData,
  options?: FusedOptions & ShardOptions,
): FusedPreferenceLoss {
  return startSync(options, () => plan(logits, labels, options))
}

/** Checks a call. */
export function plan(
  logits: Logits,
  labels: Labels | DeviceData,
  given: (FusedOptions & ShardOptions) | undefined,
): Planned<FusedPreferenceLoss> {
  const options = optionsObject(given, 'options', OPTIONS)
  const zeroInactive = flag(options.zeroInactive, 'options.zeroInactive', true)
  const tensor = tensorOf(logits, 'logits', isPacked(options), options.gpuDevice)
  const call = pairedCall(tensor, labels, options, REFERENCE_LOGITS)
  return planOfLogits(tensor, call, options, zeroInactive, () => pairedResult(call))
}

/** A reference model by its logits. */
export const REFERENCE_LOGITS: ReferenceModel = {
  names: modelNames('logits'),
  sourceOf({ logits }, name, { rows: { batch, time, vocab }, range }, packed, gpuDevice) {
    const tensor = tensorOf(logits, `${name}.logits`, packed, gpuDevice)
    const { rows, shape } = tensor
    if (rows.batch !== batch || rows.time !== time || rows.vocab !== vocab) {
      const wanted = packed ? [time, vocab] : [batch, time, vocab]
      const problem = `must be that of logits, [${wanted.join(', ')}]; got [${shape.join(', ')}]`
      throw shapeMismatch(`${name}.logits.shape`, problem)
    }
    if (tensor.range && tensor.range.device !== range?.device) {
      throw invalidValue(`${name}.logits.data`, 'is device memory, so the logits must be on the same device')
    }
    return tensor
  },
}
