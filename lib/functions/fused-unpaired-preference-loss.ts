/**
 * `fusedUnpairedPreferenceLoss`: all four stages in one call, for sequences that stand alone.
 */
import { LOGITS_GRADIENT_OPTIONS } from '../call/destination.js'
import { planOfLogits } from '../call/loss-call.js'
import { unpairedResult } from '../call/results.js'
import type { Planned } from '../call/run.js'
import { SHARD_OPTIONS } from '../call/shard.js'
import { start, startSync } from '../call/start.js'
import { tensorOf } from '../call/tensor.js'
import { isPacked } from '../call/tokens.js'
import { UNPAIRED_OPTIONS, unpairedCall } from '../call/unpaired-call.js'
import { flag, optionsObject } from '../check/options.js'
import type { FusedUnpairedOptions } from '../options/index.js'
import type {
  Asked,
  Asks,
  DeviceData,
  DType,
  FusedUnpairedPreferenceLoss,
  Labels,
  Logits,
  LogitsGradientData,
  OutputNames,
  ShardOptions,
  TensorData,
} from '../types/index.js'
import { REFERENCE_LOGITS } from './fused-preference-loss.js'

const OPTIONS: ReadonlySet<string> = new Set([...UNPAIRED_OPTIONS, ...LOGITS_GRADIENT_OPTIONS, ...SHARD_OPTIONS])

/**
 * The preference loss of a batch of sequences that stand alone, each of them desirable or not, straight from the logits,
 * and its exact gradient with respect to them: KTO (Ethayarajh et al. 2024) and the losses after it. The logits are read
 * once for the loss and once more for the gradient, which is written once; nothing of their size is allocated unless
 * `gradient` is true. Runs off the calling thread: arrays are lent until the promise has settled, and must be neither
 * changed nor transferred meanwhile.
 *
 * The formulas and their papers are in docs/losses.md. KTO's κ comes from another forward, over completions that belong to
 * other prompts: see `klLogProbs`.
 *
 * @param logits `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`. Overwritten only when
 *   `gradient` says so.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at. In device memory they are int32 or int64, by its size.
 * @param options which sequences are desirable, the reference, which tokens count, the loss and its constants, where the
 *   gradient goes, and where the call runs.
 * @returns the mean loss over the sequences; per sequence losses, rewards, log-probs in nats and their gradients, in
 *   float64; and `gradLogits` when asked for.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA`; the reason of
 *   `options.signal`.
 */
export function fusedUnpairedPreferenceLoss<
  Data extends TensorData,
  const Gradient extends FusedUnpairedOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  logits: Logits<Data>,
  labels: Labels | DeviceData,
  options: FusedUnpairedOptions & ShardOptions & Asks<Gradient, Element, Outputs>,
): Promise<
  FusedUnpairedPreferenceLoss<LogitsGradientData<Data, Gradient, Element>> & Asked<Data, Gradient, Element, Outputs>
>
export async function fusedUnpairedPreferenceLoss(
  logits: Logits,
  labels: Labels | DeviceData,
  options: FusedUnpairedOptions & ShardOptions,
): Promise<FusedUnpairedPreferenceLoss> {
  return start(options, () => plan(logits, labels, options))
}

/** {@link fusedUnpairedPreferenceLoss} on the calling thread. */
export function fusedUnpairedPreferenceLossSync<
  Data extends TensorData,
  const Gradient extends FusedUnpairedOptions['gradient'] = undefined,
  const Element extends DType | undefined = undefined,
  const Outputs extends OutputNames | undefined = undefined,
>(
  logits: Logits<Data>,
  labels: Labels | DeviceData,
  options: FusedUnpairedOptions & ShardOptions & Asks<Gradient, Element, Outputs>,
): FusedUnpairedPreferenceLoss<LogitsGradientData<Data, Gradient, Element>> & Asked<Data, Gradient, Element, Outputs>
export function fusedUnpairedPreferenceLossSync(
  logits: Logits,
  labels: Labels | DeviceData,
  options: FusedUnpairedOptions & ShardOptions,
): FusedUnpairedPreferenceLoss {
  return startSync(options, () => plan(logits, labels, options))
}

/** Checks a call. */
export function plan(
  logits: Logits,
  labels: Labels | DeviceData,
  given: FusedUnpairedOptions & ShardOptions,
): Planned<FusedUnpairedPreferenceLoss> {
  const options = optionsObject(given, 'options', OPTIONS)
  const zeroInactive = flag(options.zeroInactive, 'options.zeroInactive', true)
  const tensor = tensorOf(logits, 'logits', isPacked(options), options.gpuDevice)
  const call = unpairedCall(tensor, labels, options, REFERENCE_LOGITS)
  return planOfLogits(tensor, call, options, zeroInactive, () => unpairedResult(call))
}
