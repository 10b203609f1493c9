/**
 * Options and results of the unpaired functions, whose sequences stand alone: each is desirable or is not. Letters in
 * shapes: B sequences, T positions.
 */
import type { HeadGradientOptions, HeadGradientRequest, HeadOptions, RunOptions, TokenOptions } from './options.js'
import type { HeadGradients, TokenOutputs } from './results.js'
import type { DeviceMemory, HeadWeight, Hidden, HostArray, Indices, Logits } from './tensors.js'

/** The losses of single sequences; formulas and sources are in docs/losses.md. */
export type UnpairedLossType = 'kto' | 'apo_zero_unpaired' | 'bco'

/**
 * What the sum over sequences is divided by: their number in this call ('mean'), nothing ('sum'), or a given number > 0,
 * such as that of all batches whose gradients are added up.
 */
export type UnpairedNormalizer = 'mean' | 'sum' | number | { sequences: number }

/** Whether each sequence is desirable: booleans, or 1 and 0. */
export type Flags = ArrayLike<boolean> | ArrayLike<number>

/**
 * Which loss of single sequences, its constants, and which sequences are desirable. A constant that the loss does not take
 * is refused (`ERR_INVALID_ARG_VALUE`), unless it is the default.
 */
export interface UnpairedLossOptions {
  /** `[B]` true or 1 for a sequence that is desirable, false or 0 for one that is not. All may be alike. */
  desirable: Flags
  /** Defaults to 'kto'. */
  lossType?: UnpairedLossType
  /** Strength of the pull towards the reference, > 0. Defaults to 0.1. */
  beta?: number
  /** Factor of the desirable sequences' losses, >= 0. At 0 these take no part, whatever they are. Defaults to 1. */
  desirableWeight?: number
  /** The same of the undesirable ones. Defaults to 1. */
  undesirableWeight?: number
  /**
   * Policy log-probs of completions that belong to other prompts, of 'kto': κ is the mean of what they are above
   * `referenceKlLogProbs`, 0 where that is negative, and has no gradient. As many as there are, usually `[B]`.
   */
  klLogProbs?: ArrayLike<number>
  /** Their log-probs under the reference, as many. Not needed with `referenceFree`. */
  referenceKlLogProbs?: ArrayLike<number>
  /** The mean itself in place of the two, as of all processes; 0 counts where it is negative. */
  kl?: number
  /** δ of 'bco': the running mean of the rewards (`runningRewardMean`). Defaults to 0. */
  rewardShift?: number
  /** Use a reference log-prob of 0, whatever reference is given. Defaults to false. */
  referenceFree?: boolean
  /** What the loss and its gradient are divided by; means of rewards and log-probs stay means. Defaults to 'mean'. */
  normalizer?: UnpairedNormalizer
}

/** Options of `unpairedPreferenceLoss`. */
export interface UnpairedPreferenceOptions extends UnpairedLossOptions, RunOptions {}

/** Log-probs of B sequences. */
export interface UnpairedSequences {
  /** `[B]` log-probs under the policy. */
  logProbs: ArrayLike<number>
  /** `[B]` log-probs under the reference. Needed unless `referenceFree`. */
  referenceLogProbs?: ArrayLike<number>
}

/** The token options without those that are about pairs. */
export interface UnpairedTokenOptions extends Omit<TokenOptions, 'ldAlpha' | 'pairs'> {}

/**
 * Sequence log-probs under the reference, `[B]`, as `sequenceLogProbs` gives them, whose result may be passed whole; its
 * `tokenCounts` must then be those of the call.
 */
export interface SequenceReference {
  logProbs: ArrayLike<number>
  tokenCounts?: Indices
}

/** Reference model: its log-probs, or its logits (same labels and token options as the policy). */
export type UnpairedReference = SequenceReference | { logits: Logits }

/** Options of `fusedUnpairedPreferenceLoss`. */
export interface FusedUnpairedOptions extends UnpairedTokenOptions, UnpairedLossOptions, RunOptions {
  /** Needed unless `referenceFree`. */
  reference?: UnpairedReference
  /**
   * Gradient of the loss with respect to the logits: none, in a new array, into an array or device memory, or
   * overwriting the logits. Defaults to false.
   */
  gradient?: boolean | HostArray | DeviceMemory | 'in-place'
  /**
   * Write zeros to the gradient's rows that predict nothing. false leaves these as they are: in an array that is zero
   * there already, or where nobody reads them. Defaults to true.
   */
  zeroInactive?: boolean
}

/** Reference model: its log-probs, or its output layer with what goes into it (same labels and token options). */
export type LinearUnpairedReference =
  | SequenceReference
  | { hidden: Hidden; weight: HeadWeight; bias?: HostArray | DeviceMemory }

/** Options of `fusedLinearUnpairedPreferenceLoss`. */
export interface FusedLinearUnpairedOptions
  extends UnpairedTokenOptions,
    UnpairedLossOptions,
    RunOptions,
    HeadOptions,
    HeadGradientOptions {
  /** Needed unless `referenceFree`. */
  reference?: LinearUnpairedReference
  /** The gradients to compute; true for new arrays for all there are. Defaults to false. */
  gradient?: boolean | HeadGradientRequest
}

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
  gradient: Float64Array
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
export interface FusedUnpairedPreferenceLoss extends UnpairedPreferenceLoss, TokenOutputs {
  /** `[B]` policy log-probs. */
  logProbs: Float64Array
  /** `[B]` number of active tokens of each sequence. */
  tokenCounts: Int32Array
  /** How the call read its sequences: what the per-token arrays and `tokenCounts` need to be understood. */
  layout: UnpairedLayout
  /** d loss / d logits, exactly 0 at inactive positions (unless `zeroInactive` is false). Present when `gradient` asked for it. */
  gradLogits?: Logits
}

/** Result of `fusedLinearUnpairedPreferenceLoss`. The per-token arrays are laid out as in {@link SequenceLogProbs}. */
export interface FusedLinearUnpairedPreferenceLoss
  extends Omit<FusedUnpairedPreferenceLoss, 'gradLogits'>,
    HeadGradients {}

/** A running mean, in numbers that JSON keeps. */
export interface RunningMean {
  mean: number
  /** How many numbers it is the mean of. */
  count: number
}
