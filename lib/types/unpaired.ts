/**
 * What goes into the unpaired functions and comes out of them. Their sequences stand alone, and each is desirable or is
 * not. Letters in shapes: B sequences, T positions.
 */
import type { HeadGradients, TokenOutputs } from './result-parts.js'
import type { HeadWeight, Hidden, Indices, Logits, LogProbValues, TensorData, TypedLogits } from './tensors.js'

/** The losses of single sequences; formulas and sources are in docs/losses.md. */
export type UnpairedLossType = 'kto' | 'apo_zero_unpaired' | 'bco' | 'regression'

/**
 * What the sum over sequences is divided by: their number in this call ('mean'), nothing ('sum'), or a given number > 0,
 * such as that of all batches whose gradients are added up.
 */
export type UnpairedNormalizer = 'mean' | 'sum' | number | { sequences: number }

/** Whether each sequence is desirable: booleans, or 1 and 0. */
export type Flags = ArrayLike<boolean> | ArrayLike<number>

/** Log-probs of B sequences. */
export interface UnpairedSequences<Values extends LogProbValues = ArrayLike<number>> {
  /** `[B]` log-probs under the policy. */
  logProbs: Values
  /** `[B]` log-probs under the reference. Needed unless `referenceFree`. */
  referenceLogProbs?: Values | undefined
}

/**
 * Sequence log-probs under the reference, `[B]`, as `sequenceLogProbs` gives them, whose result may be passed whole; its
 * `tokenCounts` must then be those of the call.
 */
export interface SequenceReference<Values extends LogProbValues = ArrayLike<number>> {
  logProbs: Values
  tokenCounts?: Indices | undefined
}

/** Reference model: its log-probs, or its logits (same labels and token options as the policy). */
export type UnpairedReference = SequenceReference<LogProbValues> | { logits: Logits }

/** Reference model: its log-probs, or its output layer with what goes into it (same labels and token options). */
export type LinearUnpairedReference =
  | SequenceReference<LogProbValues>
  | { hidden: Hidden; weight: HeadWeight; bias?: TensorData | undefined }

/** Means over the desirable and over the undesirable sequences; absent where there is none. */
export interface MeansByKind {
  desirable?: number
  undesirable?: number
}

/** Result of `unpairedPreferenceLoss`. */
export interface UnpairedPreferenceLoss {
  /** Mean of `losses`; with a `normalizer`, their sum divided by it. */
  loss: number
  /** `[B]` each with its weight. */
  losses: Float64Array
  /** `[B]` β (log π - log ρ) of each sequence. */
  rewards: Float64Array
  /** `[B]` d loss / d log-prob of each sequence. */
  gradLogProbs: Float64Array
  /** κ as 'kto' has used it, in nats; 0 for the other losses. */
  kl: number
  /** Mean rewards. */
  meanRewards: MeansByKind
  /** Mean log-probs under the policy. */
  meanLogProbs: MeansByKind
  /** Mean reward of the desirable sequences less that of the undesirable ones; absent unless there are both. */
  margin?: number
}

/** Which sequences a call has taken for desirable, and where its labels stood. */
export interface UnpairedLayout {
  /** `[B]` 1 where desirable, else 0. */
  desirable: Int32Array
  /** Whether logits at position t predicted the label at t + 1. */
  shift: boolean
  /** `[B + 1]` of packed sequences. */
  sequenceOffsets?: Int32Array
}

/** Result of `fusedUnpairedPreferenceLoss`. The per-token arrays are laid out as in {@link SequenceLogProbs}. */
export interface FusedUnpairedPreferenceLoss<Data extends TensorData = TensorData>
  extends UnpairedPreferenceLoss,
    TokenOutputs {
  /** `[B]` policy log-probs. */
  logProbs: Float64Array
  /** `[B]` number of active tokens of each sequence. */
  tokenCounts: Int32Array
  /** How the call read its sequences: what the per-token arrays and `tokenCounts` need to be understood. */
  layout: UnpairedLayout
  /** d loss / d logits, exactly 0 at inactive positions (unless `zeroInactive` is false). Present when `gradient` asked for it. */
  gradLogits?: TypedLogits<Data>
  /** As in {@link FusedPreferenceLoss}. */
  rowScale?: Float64Array
}

/** Result of `fusedLinearUnpairedPreferenceLoss`. The per-token arrays are laid out as in {@link SequenceLogProbs}. */
export interface FusedLinearUnpairedPreferenceLoss<Data extends TensorData = TensorData>
  extends Omit<FusedUnpairedPreferenceLoss, 'gradLogits' | 'rowScale'>,
    HeadGradients<Data> {}

/** A running mean, in numbers that JSON keeps. */
export interface RunningMean {
  mean: number
  /** How many numbers it is the mean of. */
  count: number
}
