/**
 * Options of the functions. Letters in shapes: B sequences, T positions, P pairs, S sequences of a packed batch.
 */
import type { DeviceMemory, HeadWeight, Hidden, HostArray, Indices, Logits, TokenValues } from './tensors.js'

/** Names of the per-token results that can be asked for; see {@link TokenOptions.outputs}. */
export type TokenOutput = 'tokenLogProbs' | 'tokenEntropies' | 'tokenArgmax' | 'logSumExp' | 'sumSquaredProbs'

/** Which tokens count, and how they are summed. */
export interface TokenOptions {
  /** Logits at position t predict the label at t + 1 (no copy is made). Defaults to true. */
  shift?: boolean
  /** Positions with this label are inactive. Defaults to -100. */
  ignoreIndex?: number
  /**
   * `[B, T]`, aligned with the labels: 0 or false where inactive. Logits are never read there. With labels in device
   * memory it is there too, one byte per label.
   */
  mask?: TokenValues | DeviceMemory
  /**
   * `[B, T]`, aligned with the labels: factor of each token's log-prob in its sequence's sum. A token of factor 0 takes
   * no part in it, whatever its logits are, but still counts in the length (`mask` takes it out of that too). Defaults
   * to 1.
   */
  tokenWeights?: ArrayLike<number>
  /** Divide each sum by the number of active tokens. Defaults to false. */
  averageLogProb?: boolean
  /** The logits are divided by this, in [1e-3, 1e3]. Defaults to 1. */
  temperature?: number
  /** `[S + 1]` rising row offsets of packed sequences ("cu_seqlens"): first 0, last the number of tokens. */
  sequenceOffsets?: Indices
  /**
   * What a sequence without active tokens gives: log-prob 0, NaN, or an error. Defaults to 'zero', with one warning of the
   * process if no token of a call is active.
   */
  emptySequence?: 'zero' | 'nan' | 'error'
  /** Per-token results to return beside the sums, from the same sweep over the logits. Defaults to none. */
  outputs?: readonly TokenOutput[]
  /**
   * LD-DPO (Liu et al. 2024): weight of the tokens past the length of the pair's shorter response, in [0, 1], under
   * policy and reference; lengths stay the numbers of active tokens, and 'sft' takes all tokens alike. Defaults to 1.
   * Every sequence may then be in at most one pair.
   */
  ldAlpha?: number
  /**
   * `[2 P]` (chosen sequence, rejected sequence) per pair. Defaults to first half chosen, second half rejected.
   * One chosen sequence may stand against many rejected ones.
   */
  pairs?: Indices
}

/** The losses; formulas and sources are in docs/losses.md. */
export type LossType =
  | 'sigmoid'
  | 'robust'
  | 'hinge'
  | 'ipo'
  | 'ipo_norm'
  | 'ipo_reward'
  | 'exo_pair'
  | 'nca_pair'
  | 'bco_pair'
  | 'sppo_hard'
  | 'apo_zero'
  | 'apo_down'
  | 'aot'
  | 'aot_unpaired'
  | 'discopop'
  | 'sigmoid_norm'
  | 'simpo'
  | 'cpo'
  | 'orpo'
  | 'sft'

/**
 * What sums over pairs, and for 'sft' over tokens, are divided by: the numbers of this call ('mean'), nothing ('sum'), or
 * given numbers > 0, such as those of all batches whose gradients are added up. A single number is of tokens where 'sft'
 * is the only loss and of pairs elsewhere; a list that has both kinds takes an object.
 */
export type Normalizer = 'mean' | 'sum' | number | { pairs?: number; tokens?: number }

/** One loss of a weighted sum. */
export interface WeightedLoss {
  lossType: LossType
  /** Factor of this loss in the sum. A loss of factor 0 takes no part. Defaults to 1. */
  weight?: number
}

/** f-divergences that may replace the reverse KL (Wang et al. 2023). */
export type FDivergence = 'reverse_kl' | 'forward_kl' | 'js' | 'alpha'

/**
 * Which loss, and its constants. One that no loss of the call takes is refused (`ERR_INVALID_ARG_VALUE`), unless it is the
 * default.
 */
export interface LossOptions {
  /** A loss, 'sigmoid' being DPO, or a list whose weighted losses are summed (rewards are then those of the first). Defaults to 'sigmoid'. */
  lossType?: LossType | readonly WeightedLoss[]
  /** Strength of the pull towards the reference, > 0. Defaults to 0.1. */
  beta?: number
  /**
   * Probability ε that a preference is flipped; of 'sigmoid', 'robust', 'exo_pair', 'aot', 'aot_unpaired', 'simpo' and
   * 'cpo'. Defaults to 0 (to 1e-3 for 'exo_pair').
   */
  labelSmoothing?: number
  /** Target margin γ of 'simpo'. Defaults to 0.5. */
  gamma?: number
  /** δ of 'bco_pair': the running mean of the rewards. Defaults to 0. */
  rewardShift?: number
  /** Temperature τ of 'discopop'. Defaults to 0.05. */
  discopopTau?: number
  /** Use a reference log-prob of 0, whatever reference is given. Defaults to false. */
  referenceFree?: boolean
  /**
   * Divergence whose scores replace the log-ratios in losses of their difference. 'sigmoid_norm', 'ipo_norm', and 'ipo'
   * on means, divide the score of the whole sequence's log-ratio by its length. Defaults to 'reverse_kl'.
   */
  fDivergence?: FDivergence
  /** α of the 'alpha' divergence. Defaults to 0.5. */
  alpha?: number
  /** The log-probs are means over active tokens, not sums. Defaults to false. */
  averageLogProb?: boolean
  /**
   * What the loss and its gradient are divided by; `accuracy` and `margin` stay means over this call's pairs. Only 'mean'
   * for 'aot' and 'aot_unpaired'. Defaults to 'mean'.
   */
  normalizer?: Normalizer
}

/**
 * Where and how a call runs. The promise forms run off the calling thread, on the caller's own logits, hidden states,
 * weights, biases and arrays for gradients. These are lent until the promise has settled: they must be neither changed nor
 * transferred (`postMessage`, `structuredClone`) meanwhile. All other arrays are copied before the call returns.
 */
export interface RunOptions {
  /** Defaults to 'auto': 'cpu' for host memory ('js' where no binary loads), 'cuda' for device memory. */
  backend?: 'auto' | 'cuda' | 'cpu' | 'js'
  /** Threads of the cpu backend. Defaults to as many as the process may use. The result does not depend on it. */
  threads?: number
  /** Force an instruction set of the cpu backend, for tests. Defaults to the best this CPU has. */
  instructionSet?: InstructionSet
  /** CUDA stream to enqueue on: ours, or its address. Defaults to the default stream. */
  stream?: number | bigint | { readonly handle: number }
  /** GPU of the cuda backend, for arrays in host memory. Defaults to 0. */
  device?: number
  /**
   * Cancels the call, which then rejects with the signal's reason. Honoured until the gradient starts to be written,
   * so that an aborted call has written to no caller's array.
   */
  signal?: AbortSignal
}

/** Instruction sets of the cpu backend; 'baseline' is plain SSE2, which every x64 CPU has. */
export type InstructionSet = 'baseline' | 'avx2' | 'avx512' | 'neon'

/** Options of `sequenceLogProbs`. */
export interface SequenceOptions extends TokenOptions, RunOptions {}

/** Options of `preferenceLoss`. */
export interface PreferenceOptions extends LossOptions, RunOptions {}

/** Sequence log-probs of P pairs. */
export interface PreferencePairs {
  /** `[P]` log-probs of the chosen sequences under the policy. */
  chosen: ArrayLike<number>
  /** `[P]` log-probs of the rejected sequences under the policy. */
  rejected: ArrayLike<number>
  /** `[P]` log-probs of the chosen sequences under the reference. */
  referenceChosen?: ArrayLike<number>
  /** `[P]` log-probs of the rejected sequences under the reference. */
  referenceRejected?: ArrayLike<number>
  /**
   * `[P]` active tokens of the chosen sequences, for the losses that divide by them: 'sft'; 'sigmoid_norm', 'ipo_norm',
   * 'simpo' and 'orpo' of sums; and 'sigmoid_norm', 'ipo_norm' and 'ipo' of means under an f-divergence, which has to be
   * taken of the sums.
   */
  chosenLengths?: Indices
  /** `[P]` active tokens of the rejected sequences. */
  rejectedLengths?: Indices
  /** `[P]` factor of each pair's loss; treated as a constant. A pair of factor 0 takes no part. Defaults to 1. */
  pairWeights?: ArrayLike<number>
}

/**
 * Sequence log-probs under the reference: `[P]` per pair, or `[B]` per sequence, as `sequenceLogProbs` gives them, whose
 * result may be passed whole; its `tokenCounts` must then be those of the call. Keep them in float64: a policy that is
 * still its reference has a margin of 0 only where both are the same to the last bit, and through a float32 tensor they
 * are rounded.
 */
export type ReferenceLogProbs =
  | { chosen: ArrayLike<number>; rejected: ArrayLike<number> }
  | { logProbs: ArrayLike<number>; tokenCounts?: Indices }

/** Reference model: its log-probs, or its logits (same labels and token options as the policy). */
export type Reference = ReferenceLogProbs | { logits: Logits }

/** Options of `fusedPreferenceLoss`. */
export interface FusedOptions extends TokenOptions, LossOptions, RunOptions {
  /** Needed unless the loss is reference-free; any loss may have one, and those but 'simpo' use it in the rewards. */
  reference?: Reference
  /** WPO (Zhou et al. 2024): weigh each pair by how likely the policy is to produce it. Defaults to none. */
  weighting?: 'wpo'
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

/** The output layer's bias, and what all functions of it share. */
export interface HeadOptions {
  /** `[vocab]`; a `Uint16Array` holds bits of the weight's dtype, which in device memory it has too. Defaults to none. */
  bias?: HostArray | DeviceMemory
}

/** Options of `linearSequenceLogProbs`. */
export interface LinearSequenceOptions extends TokenOptions, RunOptions, HeadOptions {}

/**
 * Which gradients of the output layer to compute, each in a new array (true) or in one to write into. All are float32,
 * in device memory too; the weight's is laid out as the weight is, without gaps.
 */
export interface HeadGradientRequest {
  /** `[batch, time, width]`, contiguous. Defaults to false. */
  hidden?: boolean | Float32Array | DeviceMemory
  /** `[vocab, width]`. Defaults to false: a frozen head. */
  weight?: boolean | Float32Array | DeviceMemory
  /** `[vocab]`. Defaults to false. */
  bias?: boolean | Float32Array | DeviceMemory
}

/** How gradients of the output layer are written. */
export interface HeadGradientOptions {
  /**
   * Add to what the given arrays hold: for tied embeddings, and gradients of several batches. Labels in device memory
   * should then be known to be in range: one that is not makes weight's and bias' gradients NaN. Defaults to false.
   */
  accumulate?: boolean
  /** Write zeros to the rows of hidden's gradient that predict nothing. Defaults to true, to false with `accumulate`. */
  zeroInactive?: boolean
}

/** Reference model: its log-probs, or its output layer with what goes into it (same labels and token options). */
export type LinearReference =
  | ReferenceLogProbs
  | { hidden: Hidden; weight: HeadWeight; bias?: HostArray | DeviceMemory }

/** Options of `fusedLinearPreferenceLoss`. */
export interface FusedLinearOptions extends TokenOptions, LossOptions, RunOptions, HeadOptions, HeadGradientOptions {
  /** As in {@link FusedOptions}. */
  reference?: LinearReference
  /** WPO (Zhou et al. 2024): weigh each pair by how likely the policy is to produce it. Defaults to none. */
  weighting?: 'wpo'
  /** The gradients to compute; true for new arrays for all there are. Defaults to false. */
  gradient?: boolean | HeadGradientRequest
}
