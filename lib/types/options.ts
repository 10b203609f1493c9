/**
 * Options of the functions. Letters in shapes: B sequences, T positions, P pairs, S sequences of a packed batch.
 */
import type { DeviceMemory, HeadWeight, Hidden, HostArray, Indices, Logits } from './tensors.js'

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

/**
 * What the sum over tokens of the cross-entropy is divided by: the active tokens of this call ('mean'), nothing ('sum'), or a
 * number > 0, such as the tokens of all batches whose gradients are added up.
 */
export type TokenNormalizer = 'mean' | 'sum' | number | { tokens: number }

/** One loss of a weighted sum. */
export interface WeightedLoss {
  lossType: LossType
  /** Factor of this loss in the sum. A loss of factor 0 takes no part. Defaults to 1. */
  weight?: number
}

/** f-divergences that may replace the reverse KL (Wang et al. 2023). */
export type FDivergence = 'reverse_kl' | 'forward_kl' | 'js' | 'alpha'

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

/** The output layer's bias, and what all functions of it share. */
export interface HeadOptions {
  /** `[vocab]`; a `Uint16Array` holds bits of the weight's dtype, which in device memory it has too. Defaults to none. */
  bias?: HostArray | DeviceMemory
}

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
