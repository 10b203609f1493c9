/**
 * The functions as calls that are prepared once and enqueued many times, on tensors in device memory. Arrays in host memory
 * (labels, masks, weights, reference log-probs) are copied when a call is prepared; arrays in device memory are read on each
 * run.
 */
import { plan as planCrossEntropy } from '../functions/cross-entropy.js'
import { plan as planLinear } from '../functions/fused-linear-preference-loss.js'
import { plan as planLinearUnpaired } from '../functions/fused-linear-unpaired-preference-loss.js'
import { plan } from '../functions/fused-preference-loss.js'
import { plan as planUnpaired } from '../functions/fused-unpaired-preference-loss.js'
import { plan as planLinearCrossEntropy } from '../functions/linear-cross-entropy.js'
import { planSums as planLinearSums } from '../functions/linear-sequence-log-probs.js'
import { plan as planPairs } from '../functions/preference-loss.js'
import { planSums } from '../functions/sequence-log-probs.js'
import { plan as planSequences } from '../functions/unpaired-preference-loss.js'
import type {
  CrossEntropyOptions,
  FusedLinearOptions,
  FusedLinearUnpairedOptions,
  FusedOptions,
  FusedUnpairedOptions,
  LinearCrossEntropyOptions,
  LinearSequenceOptions,
  PreferenceOptions,
  SequenceOptions,
  UnpairedPreferenceOptions,
} from '../options/index.js'
import type {
  CrossEntropy,
  DeviceMemory,
  FusedLinearPreferenceLoss,
  FusedLinearUnpairedPreferenceLoss,
  FusedPreferenceLoss,
  FusedUnpairedPreferenceLoss,
  HeadWeight,
  Hidden,
  Labels,
  LinearCrossEntropy,
  Logits,
  PairLogProbs,
  PreferenceLoss,
  SequenceSums,
  ShardOptions,
  UnpairedPreferenceLoss,
  UnpairedSequences,
} from '../types/index.js'
import { type PreparedCall, prepared } from './prepared-call.js'

type AnyLabels = Labels | DeviceMemory

/**
 * Prepares {@link fusedPreferenceLoss} on tensors in device memory. Of a shared vocabulary, all ranks prepare the call, whose
 * communicator is one of `fused-preference-loss/nccl`, and enqueue it as often as each other.
 *
 * @param logits, labels, options as of `fusedPreferenceLoss`; logits and gradient in device memory, `signal` not used.
 * @throws as `fusedPreferenceLoss`; Error `ERR_CUDA`
 */
export function prepareFusedPreferenceLoss(
  logits: Logits,
  labels: AnyLabels,
  options: FusedOptions & ShardOptions = {},
): PreparedCall<FusedPreferenceLoss> {
  return prepared(options, () => plan(logits, labels, options))
}

/** Prepares {@link fusedUnpairedPreferenceLoss}, as {@link prepareFusedPreferenceLoss} does that of pairs. */
export function prepareFusedUnpairedPreferenceLoss(
  logits: Logits,
  labels: AnyLabels,
  options: FusedUnpairedOptions & ShardOptions,
): PreparedCall<FusedUnpairedPreferenceLoss> {
  return prepared(options, () => planUnpaired(logits, labels, options))
}

/** Prepares {@link crossEntropy}, as {@link prepareFusedPreferenceLoss} does the loss of pairs. */
export function prepareCrossEntropy(
  logits: Logits,
  labels: AnyLabels,
  options: CrossEntropyOptions & ShardOptions = {},
): PreparedCall<CrossEntropy> {
  return prepared(options, () => planCrossEntropy(logits, labels, options))
}

/**
 * Prepares {@link sequenceLogProbs}, as {@link prepareFusedPreferenceLoss} does the loss of pairs. Results have no
 * `backward`.
 */
export function prepareSequenceLogProbs(
  logits: Logits,
  labels: AnyLabels,
  options: SequenceOptions & ShardOptions = {},
): PreparedCall<SequenceSums> {
  return prepared(options, () => planSums(logits, labels, options))
}

/**
 * Prepares {@link fusedLinearPreferenceLoss} on tensors in device memory: hidden states, weight, bias and gradients. It keeps
 * the memory of its logits (`logitsBudget`) until it is disposed of. With labels in host memory, only the rows that predict
 * something are multiplied.
 *
 * @param hidden, weight, labels, options as of `fusedLinearPreferenceLoss`; `signal` not used.
 * @throws as `fusedLinearPreferenceLoss`; Error `ERR_CUDA`
 */
export function prepareFusedLinearPreferenceLoss(
  hidden: Hidden,
  weight: HeadWeight,
  labels: AnyLabels,
  options: FusedLinearOptions & ShardOptions = {},
): PreparedCall<FusedLinearPreferenceLoss> {
  return prepared(options, () => planLinear(hidden, weight, labels, options))
}

/** Prepares {@link fusedLinearUnpairedPreferenceLoss}, as {@link prepareFusedLinearPreferenceLoss} does that of pairs. */
export function prepareFusedLinearUnpairedPreferenceLoss(
  hidden: Hidden,
  weight: HeadWeight,
  labels: AnyLabels,
  options: FusedLinearUnpairedOptions & ShardOptions,
): PreparedCall<FusedLinearUnpairedPreferenceLoss> {
  return prepared(options, () => planLinearUnpaired(hidden, weight, labels, options))
}

/** Prepares {@link linearCrossEntropy}, as {@link prepareFusedLinearPreferenceLoss} does the loss of pairs. */
export function prepareLinearCrossEntropy(
  hidden: Hidden,
  weight: HeadWeight,
  labels: AnyLabels,
  options: LinearCrossEntropyOptions & ShardOptions = {},
): PreparedCall<LinearCrossEntropy> {
  return prepared(options, () => planLinearCrossEntropy(hidden, weight, labels, options))
}

/**
 * Prepares {@link linearSequenceLogProbs}, as {@link prepareFusedLinearPreferenceLoss} does the loss of pairs. Results have no
 * `backward`.
 */
export function prepareLinearSequenceLogProbs(
  hidden: Hidden,
  weight: HeadWeight,
  labels: AnyLabels,
  options: LinearSequenceOptions & ShardOptions = {},
): PreparedCall<SequenceSums> {
  return prepared(options, () => planLinearSums(hidden, weight, labels, options))
}

/**
 * Prepares {@link preferenceLoss} on log-probs in device memory, those that another prepared call leaves in its `buffers`, say.
 *
 * @param logProbs, options as of `preferenceLoss`; `signal` not used.
 * @throws as `preferenceLoss`; Error `ERR_CUDA`
 */
export function preparePreferenceLoss(
  logProbs: PairLogProbs<DeviceMemory>,
  options: PreferenceOptions = {},
): PreparedCall<PreferenceLoss> {
  return prepared({}, () => planPairs(logProbs, options))
}

/** Prepares {@link unpairedPreferenceLoss}, as {@link preparePreferenceLoss} does the loss of pairs. */
export function prepareUnpairedPreferenceLoss(
  sequences: UnpairedSequences<DeviceMemory>,
  options: UnpairedPreferenceOptions,
): PreparedCall<UnpairedPreferenceLoss> {
  return prepared({}, () => planSequences(sequences, options))
}
