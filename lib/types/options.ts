/**
 * Options of the functions. Letters in shapes: B sequences, T positions, P pairs, S sequences of a packed batch.
 */
import type { Communicator, NcclRanks } from './communicator.js'
import type { DType, HeadWeight, Hidden, Indices, Logits, LogProbValues, TensorData } from './tensors.js'
import type { GpuDevice } from './webgpu.js'

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
  | 'dpop'
  | 'rpo_sq'
  | 'rpo_bwd_kl'
  | 'rpo_fwd_kl'
  | 'simpo'
  | 'cpo'
  | 'orpo'
  | 'sft'

/**
 * The divisors of sums over pairs and, for 'sft', over tokens: the counts of this call ('mean'), 1 ('sum'), or given
 * numbers > 0, such as the counts of all batches whose gradients are added up. A single number divides by tokens where
 * 'sft' is the only loss and by pairs elsewhere; a list with both kinds of losses takes an object.
 */
export type Normalizer = 'mean' | 'sum' | number | { pairs?: number | undefined; tokens?: number | undefined }

/**
 * What the sum over tokens of the cross-entropy is divided by: the active tokens of this call ('mean'), nothing ('sum'), or a
 * number > 0, such as the tokens of all batches whose gradients are added up.
 */
export type TokenNormalizer = 'mean' | 'sum' | number | { tokens: number }

/** One loss of a weighted sum. */
export interface WeightedLoss {
  lossType: LossType
  /** Factor of this loss in the sum. A loss of factor 0 takes no part. Defaults to 1. */
  weight?: number | undefined
}

/**
 * What 'sft' is a mean of: of the tokens of the batch, or over pairs, of the mean or of the sum of each chosen sequence's
 * token losses.
 */
export type SftNormalization = 'tokens' | 'sequences' | 'sum'

/** A number for all, or one for each. */
export type PerEach = number | ArrayLike<number>

/** f-divergences that may replace the reverse KL (Wang et al. 2023). */
export type FDivergence = 'reverse_kl' | 'forward_kl' | 'js' | 'alpha'

/**
 * Where and how a call runs. The promise forms run off the calling thread, on the caller's own logits, hidden states,
 * weights, biases and arrays for gradients. These arrays are lent until the promise has settled: they must be neither
 * changed nor transferred (`postMessage`, `structuredClone`) meanwhile. All other arrays are copied before the call
 * returns.
 */
export interface RunOptions {
  /**
   * Defaults to 'auto': 'cuda' for device memory of CUDA's and 'webgpu' for GPUBuffers; for host memory 'cpu', where no
   * binary loads 'wasm', and where there is no WebAssembly 'js'.
   */
  backend?: 'auto' | 'cuda' | 'webgpu' | 'cpu' | 'wasm' | 'js' | undefined
  /**
   * Threads of the cpu and wasm backends. Defaults to as many as affinity and a container's quota leave. The result does
   * not depend on it.
   */
  threads?: number | undefined
  /** Force an instruction set of the cpu backend, for tests. Defaults to the best this CPU has. */
  instructionSet?: InstructionSet | undefined
  /** CUDA stream to enqueue on: ours, or its address. Defaults to the default stream. */
  stream?: number | bigint | { readonly handle: number } | undefined
  /** GPU of the cuda backend, for arrays in host memory. Defaults to 0. */
  device?: number | undefined
  /**
   * The caller's `GPUDevice`, which the webgpu backend works on and GPUBuffers belong to. It has no synchronous forms.
   */
  gpuDevice?: GpuDevice | undefined
  /**
   * Cancels the call, which then rejects with the signal's reason. Honoured until the gradient starts to be written,
   * so that an aborted call has written to no caller's array.
   */
  signal?: AbortSignal | undefined
}

/**
 * A vocabulary that several processes share. Each rank passes logits of some of the columns, or these rows of the output
 * layer's weight and bias; everything else is the same on all ranks: labels are ids of the whole vocabulary, `classWeights`
 * are `[vocab]`. Every rank gets the same results, and the gradients of its columns. All ranks must make the call, in the
 * same order; one that throws makes the others throw `ERR_RANK_FAILED`. See docs/distributed.md.
 */
export interface ShardOptions {
  /** The first of the columns that are here, and the size of the vocabulary. Defaults to all columns. */
  shard?: { start: number; vocab: number } | undefined
  /**
   * The processes that share the vocabulary; needed with `shard`. One of `fused-preference-loss/nccl` keeps what is exchanged
   * on the GPUs.
   */
  communicator?: Communicator | NcclRanks | undefined
  /**
   * What a rank sends of each row: a state of each segment, which gives the bits of the call that has all columns where
   * columns are divided between segments; or one state ('merged'), which is shorter. Defaults to 'exact'.
   */
  segments?: 'exact' | 'merged' | undefined
}

/**
 * Instruction sets of the cpu backend. 'baseline' is plain SSE2, which every x64 CPU has; 'avx512bf16' is 'avx512' with
 * another product for the logits of bfloat16 output layers.
 */
export type InstructionSet = 'baseline' | 'avx2' | 'avx512' | 'avx512bf16' | 'neon'

/** Sequence log-probs of P pairs. */
export interface PairLogProbs<Values extends LogProbValues = ArrayLike<number>> {
  /** `[P]` log-probs of the chosen sequences under the policy. */
  chosen: Values
  /** `[P]` log-probs of the rejected sequences under the policy. */
  rejected: Values
  /** `[P]` log-probs of the chosen sequences under the reference. */
  referenceChosen?: Values | undefined
  /** `[P]` log-probs of the rejected sequences under the reference. */
  referenceRejected?: Values | undefined
  /**
   * `[P]` active tokens of the chosen sequences, for the losses that divide by them: 'sft' (but for its sums);
   * 'sigmoid_norm', 'ipo_norm', 'simpo' and 'orpo' on sums; and 'sigmoid_norm', 'ipo_norm' and 'ipo' on means under an
   * f-divergence, whose scores need the sums.
   */
  chosenTokenCounts?: Indices | undefined
  /** `[P]` active tokens of the rejected sequences. */
  rejectedTokenCounts?: Indices | undefined
}

/**
 * Sequence log-probs under the reference: `[P]` per pair, or `[B]` per sequence, as `sequenceLogProbs` returns them.
 * Its whole result may be passed; its `tokenCounts` must then equal those of the call. Keep log-probs in float64: a
 * float32 tensor rounds them, and a policy that still equals its reference has a margin of 0 only where both are the
 * same to the last bit.
 */
export type ReferenceLogProbs<Values extends LogProbValues = ArrayLike<number>> =
  | { chosen: Values; rejected: Values }
  | { logProbs: Values; tokenCounts?: Indices | undefined }

/** Reference model: its log-probs, or its logits (same labels and token options as the policy). */
export type Reference = ReferenceLogProbs<LogProbValues> | { logits: Logits }

/** The output layer's bias and run options, which all its functions share. */
export interface HeadOptions {
  /**
   * `[vocab]`; a `Uint16Array` holds bits of the weight's dtype. In device memory the bias always has the weight's
   * dtype. Defaults to none.
   */
  bias?: TensorData | undefined
  /**
   * Whose matrix products the output layer takes: its own; those of a library of BLAS on this machine, whose bits they are
   * then (docs/blas.md); for hidden states and weights of bfloat16 those of AMX, which have bits of their own
   * (docs/amx.md); or, where the factors are float32, those of TF32, which take 10 of the 23 bits of their fractions
   * (docs/cuda.md). 'blas' and 'amx' are of the cpu backend, 'tf32' is of cuda: `ERR_INVALID_ARG_VALUE` on another one.
   * Defaults to 'own'.
   */
  products?: 'own' | 'blas' | 'amx' | 'tf32' | undefined
}

/**
 * Which gradients of the output layer to compute, each in a new array (true) or in a given one of the `gradientDType`. The
 * weight's gradient has the layout of the weight, without gaps.
 */
export interface HeadGradientRequest {
  /** `[batch, time, width]`, contiguous. Defaults to false. */
  hidden?: boolean | TensorData | undefined
  /** `[vocab, width]`. Defaults to false: a frozen head. */
  weight?: boolean | TensorData | undefined
  /** `[vocab]`. Defaults to false. */
  bias?: boolean | TensorData | undefined
}

/** Of the gradient with respect to logits, on its way to the gradients of an output layer. */
export type GradientPrecision = 'float32' | 'bfloat16'

/** How gradients of the output layer are computed and written. */
export interface HeadGradientOptions {
  /**
   * Add to the content of the given arrays: for tied embeddings, and gradients of several batches. Labels in device
   * memory should then be known to be in range: a label out of range makes the gradients of weight and bias NaN.
   * Defaults to false.
   */
  accumulate?: boolean | undefined
  /** Write zeros to the rows of hidden's gradient that predict nothing. Defaults to true, to false with `accumulate`. */
  zeroInactive?: boolean | undefined
  /**
   * Element type of all gradients. Their sums are float32 and are rounded once, to nearest even; with `accumulate`, once
   * together with what the arrays hold. Defaults to 'float32'.
   */
  gradientDType?: DType | undefined
  /**
   * What the gradient with respect to each logit but the label's is rounded to, once, before it is multiplied by hidden
   * states and weights. 'bfloat16', for hidden and weight of bfloat16, leaves a relative error of up to 1e-3 in the
   * gradients, and multiplies with AVX512-BF16 where that is the faster way. The label's own is float32 and is added
   * apart, so that the error stays small where a token is well predicted. Of the cpu and js backends, with any products;
   * and of cuda, which always rounds so to the type of 16-bit hidden and weight, also with 'float32':
   * `ERR_INVALID_ARG_VALUE` on another backend, and where hidden or weight is not bfloat16, even if no gradient is asked
   * for. Defaults to 'float32'.
   */
  gradientPrecision?: GradientPrecision | undefined
}

/** The memory that a call from hidden states to gradients may take for logits. */
export interface LogitsBudgetOptions {
  /**
   * Bytes. The logits of the first tokens that fit are kept from the loss to the gradients, and need not be multiplied
   * again: 4 bytes a logit of each token that counts. 0 keeps none. The result does not depend on it. The cuda and webgpu
   * backends keep all of them or none; cuda also keeps what fits 768 MiB, unless this is 0. Defaults to 268435456 (256
   * MiB).
   */
  logitsBudget?: number | undefined
}

/** How the gradient with respect to logits is written. */
export interface LogitsGradientOptions {
  /**
   * Write zeros to the gradient's rows that predict nothing. false leaves these as they are: in an array that is zero
   * there already, or where nobody reads them. Defaults to true.
   */
  zeroInactive?: boolean | undefined
  /**
   * Element type of the gradient, rounded to nearest even. A given array must have it, and 'in-place' needs elements of the
   * logits' size. Defaults to that of the logits.
   */
  gradientDType?: DType | undefined
  /**
   * Leave the coefficient of each row to the caller: `gradLogits` becomes d log p(label) / d logits, which is onehot -
   * softmax where there is no temperature and the like, and `rowScale` of the result has what the caller has to multiply
   * each row by. Each row is then written while it lies in the cache, so that logits go through memory once. Not together
   * with what gives rows another form: `labelSmoothing` and `zLoss` of the cross-entropy, and derivatives of other results
   * than log-probs. Defaults to false.
   */
  deferredScale?: boolean | undefined
}

/** Reference model: its log-probs, or its output layer and hidden states (same labels and token options). */
export type LinearReference =
  | ReferenceLogProbs<LogProbValues>
  | { hidden: Hidden; weight: HeadWeight; bias?: TensorData | undefined }

/**
 * The file of a WebAssembly module: its bytes, a Response or Blob or the promise of one, a URL (in Node.js also a path),
 * or the compiled `WebAssembly.Module`.
 */
export type WasmSource = string | URL | ArrayBuffer | ArrayBufferView | object

/** Options of `loadWasm`: for programs that keep the files of `prebuilds/wasm/` elsewhere. */
export interface LoadWasmOptions {
  /** `fused-preference-loss.wasm`. Defaults to the package's, which bundlers find. */
  module?: WasmSource | undefined
  /** `fused-preference-loss.threads.wasm`, for threads that share memory. Defaults to the package's. */
  threadsModule?: WasmSource | undefined
}
