/**
 * Results of the functions. Letters in shapes: B sequences, T positions, P pairs.
 */
import type { Asks, AsksOfHead, HeadGradientData, LogitsGradientData, WithHeadGradients } from './asked.js'
import type { HeadGradientOptions, HeadGradientRequest, InstructionSet, LogitsGradientOptions } from './options.js'
import type { HeadGradients, LogitsGradient, TokenOutputs } from './result-parts.js'
import type { DType, TensorData, TypedLogits } from './tensors.js'

/** The method that `using` calls, where the caller's type libraries declare it. */
export type Using = SymbolConstructor extends { readonly dispose: infer Dispose extends symbol }
  ? { [key in Dispose]: () => void }
  : object

/** A result that keeps the arrays of its call for `backward`. */
export interface KeepsArrays extends Using {
  /**
   * Releases the logits (hidden, weight and bias) and the four numbers kept per row. Without it they stay in memory as
   * long as the result, even if only its numbers are used. Afterwards `backward` throws `ERR_DISPOSED`; the numbers
   * stay. A second call does nothing.
   */
  dispose(): void
}

/**
 * What `backward` takes: the derivatives of the caller's loss with respect to the results of these names. What several of
 * them give is added up. Arrays of per-token results are laid out as these are, see {@link SequenceLogProbs}; the values of
 * inactive tokens are ignored.
 */
export interface ResultGradients {
  /** `[B]` */
  logProbs?: ArrayLike<number> | undefined
  /** Not multiplied by `tokenWeights`, which are of the sums alone. */
  tokenLogProbs?: ArrayLike<number> | undefined
  logSumExp?: ArrayLike<number> | undefined
  /** Needs 'tokenEntropies' among the `outputs` of the call. */
  tokenEntropies?: ArrayLike<number> | undefined
  tokenMeanLogits?: ArrayLike<number> | undefined
}

/** Options of `backward` of {@link SequenceLogProbs}. */
export interface BackwardOptions extends LogitsGradientOptions {
  /** A new array (true), an array or device memory to write into, or 'in-place' to overwrite the logits. Defaults to true. */
  gradient?: true | TensorData | 'in-place' | undefined
  /** Factor of all derivatives that are given, such as a loss scale. Defaults to 1. */
  gradientScale?: number | undefined
}

/** Options of `backward` of {@link LinearSequenceLogProbs}. */
export interface LinearBackwardOptions extends HeadGradientOptions {
  /** The gradients to compute; true for new arrays for all there are. Defaults to true. */
  gradient?: true | HeadGradientRequest | undefined
  /** Factor of all derivatives that are given, such as a loss scale. Defaults to 1. */
  gradientScale?: number | undefined
}

/**
 * The numbers among the results of `sequenceLogProbs`. The per-token arrays are `[B, T']`, T' = T - 1 with `shift` and T
 * without, indexed by the position of the logits; packed, they are `[tokens]`, with no value at each sequence's last
 * position under `shift`.
 */
export interface SequenceSums extends TokenOutputs {
  /** `[B]` sum (mean with `averageLogProb`) of the active tokens' log-probs. */
  logProbs: Float64Array
  /** `[B]` number of active tokens. */
  tokenCounts: Int32Array
}

/** Result of `sequenceLogProbs`. */
export interface SequenceLogProbs<Data extends TensorData = TensorData> extends SequenceSums, KeepsArrays {
  /**
   * Gradient with respect to the logits: of Σ_b gradient[b] · logProbs[b], or of a loss by its derivatives with respect to
   * any of the results. The logits must still hold their values, and stay in memory until the result is gone or disposed of;
   * once they have been overwritten there is no further call (`ERR_DISPOSED`). Runs off the calling thread: the logits and
   * the array for the gradient are lent until the promise has settled.
   * @param gradient `[B]`, or arrays by the names of results.
   * @param options where the gradient goes.
   */
  backward<
    const Gradient extends BackwardOptions['gradient'] = true,
    const Element extends DType | undefined = undefined,
  >(
    gradient: ArrayLike<number> | ResultGradients,
    options?: BackwardOptions & Asks<Gradient, Element, never>,
  ): Promise<LogitsGradient<LogitsGradientData<Data, Gradient, Element>>>
  /** `backward` on the calling thread. */
  backwardSync<
    const Gradient extends BackwardOptions['gradient'] = true,
    const Element extends DType | undefined = undefined,
  >(
    gradient: ArrayLike<number> | ResultGradients,
    options?: BackwardOptions & Asks<Gradient, Element, never>,
  ): LogitsGradient<LogitsGradientData<Data, Gradient, Element>>
}

/** Result of `preferenceLoss`. */
export interface PreferenceLoss {
  /** Mean of `losses`; with a `normalizer`, their sum divided by it. */
  loss: number
  /** `[P]` */
  losses: Float64Array
  /**
   * `[P]` β times what the loss (of a list, the first) compares of the chosen sequences: log π - log ρ; divided by the length
   * for 'sigmoid_norm' and 'ipo_norm'; log π for 'cpo', and log π / length for 'simpo' and 'orpo'.
   */
  chosenRewards: Float64Array
  /** `[P]` the same for the rejected sequences. */
  rejectedRewards: Float64Array
  /** Share of pairs whose chosen reward is strictly larger than the rejected one. */
  accuracy: number
  /** Mean of chosen reward - rejected reward. */
  margin: number
  /**
   * `[P]` each: d loss / d log-prob of the chosen and the rejected sequences. Under `ldAlpha`, 'sft' uses other
   * log-probs, and its part of d loss / d logits is not included here.
   */
  gradLogProbs: { chosen: Float64Array; rejected: Float64Array }
}

/** Which sequences a call has compared, and how its labels were aligned. */
export interface SequenceLayout {
  /** `[2 P]` (chosen sequence, rejected sequence) per pair. */
  pairs: Int32Array
  /** Whether logits at position t predicted the label at t + 1. */
  shift: boolean
  /** `[S + 1]` of packed sequences. */
  sequenceOffsets?: Int32Array
}

/** Result of `fusedPreferenceLoss`. The per-token arrays are laid out as in {@link SequenceLogProbs}. */
export interface FusedPreferenceLoss<Data extends TensorData = TensorData> extends PreferenceLoss, TokenOutputs {
  /** `[P]` policy log-probs of the chosen sequences. */
  chosenLogProbs: Float64Array
  /** `[P]` policy log-probs of the rejected sequences. */
  rejectedLogProbs: Float64Array
  /** `[B]` number of active tokens of each sequence. */
  tokenCounts: Int32Array
  /** How the call read its sequences, which is needed to interpret the per-token arrays and `tokenCounts`. */
  layout: SequenceLayout
  /** d loss / d logits, exactly 0 at inactive positions (unless `zeroInactive` is false). Present when `gradient` asked for it. */
  gradLogits?: TypedLogits<Data>
  /**
   * With `deferredScale`: d loss / d log p(label) of each token, by which the caller multiplies its row of `gradLogits`. 0
   * where inactive.
   */
  rowScale?: Float64Array
}

/** Result of `linearSequenceLogProbs`: that of `sequenceLogProbs` with other gradients. */
export interface LinearSequenceLogProbs<Data extends TensorData = TensorData>
  extends Omit<SequenceLogProbs, 'backward' | 'backwardSync'> {
  /**
   * Gradients of Σ_b gradient[b] · logProbs[b], or of a loss by its derivatives with respect to any of the results. Hidden,
   * weight and bias must still hold their values, and labels and mask too where they are in device memory. They stay in
   * memory until the result is gone or disposed of. Runs off the calling thread: these arrays and those for the gradients
   * are lent until the promise has settled.
   * @param gradient `[B]`, or arrays by the names of results.
   * @param options which gradients to compute and where they go.
   * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE` (an array that overlaps another, or was detached
   *   since); RangeError `ERR_SHAPE_MISMATCH`.
   */
  backward<
    const Request extends LinearBackwardOptions['gradient'] = true,
    const Element extends DType | undefined = undefined,
  >(
    gradient: ArrayLike<number> | ResultGradients,
    options?: LinearBackwardOptions & AsksOfHead<Request, Element, never>,
  ): Promise<
    HeadGradients<HeadGradientData<Data, Request, Element>> &
      WithHeadGradients<Request, HeadGradientData<Data, Request, Element>>
  >
  /** `backward` on the calling thread. */
  backwardSync<
    const Request extends LinearBackwardOptions['gradient'] = true,
    const Element extends DType | undefined = undefined,
  >(
    gradient: ArrayLike<number> | ResultGradients,
    options?: LinearBackwardOptions & AsksOfHead<Request, Element, never>,
  ): HeadGradients<HeadGradientData<Data, Request, Element>> &
    WithHeadGradients<Request, HeadGradientData<Data, Request, Element>>
}

/** Result of `fusedLinearPreferenceLoss`. The per-token arrays are laid out as in {@link SequenceLogProbs}. */
export interface FusedLinearPreferenceLoss<Data extends TensorData = TensorData>
  extends Omit<FusedPreferenceLoss, 'gradLogits' | 'rowScale'>,
    HeadGradients<Data> {}

/** Result of `crossEntropy`. The per-token arrays are laid out as in {@link SequenceLogProbs}. */
export interface CrossEntropy<Data extends TensorData = TensorData> extends TokenOutputs {
  /** Mean of `losses` over the active tokens; with a `normalizer`, their sum divided by it. 0 where no token is active. */
  loss: number
  /** The loss of each token times its weights, in nats. 0 where inactive. */
  losses: Float64Array
  /** `[B]` number of active tokens of each sequence. */
  tokenCounts: Int32Array
  /** As in {@link FusedPreferenceLoss}. */
  gradLogits?: TypedLogits<Data>
  /** As in {@link FusedPreferenceLoss}. */
  rowScale?: Float64Array
}

/** Result of `linearCrossEntropy`. The per-token arrays are laid out as in {@link SequenceLogProbs}. */
export interface LinearCrossEntropy<Data extends TensorData = TensorData>
  extends Omit<CrossEntropy, 'gradLogits' | 'rowScale'>,
    HeadGradients<Data> {}

/** A GPU. */
export interface Device {
  name: string
  /** Major and minor, '9.0'. */
  computeCapability: string
  multiprocessors: number
  /** Bytes of memory. */
  memory: number
  /** Bytes of the second-level cache. */
  l2Cache: number
}

/** The backends of this machine; a missing backend has the reason. */
export interface Backends {
  cpu: {
    available: boolean
    /** The reason why it is missing. */
    reason?: string
    /** The instruction set in use. */
    instructionSet?: InstructionSet
    /** All instruction sets that this CPU can run, best first. */
    instructionSets?: readonly InstructionSet[]
    /** Default number of threads. */
    threads?: number
    /** File the addon was loaded from. */
    path?: string
  }
  cuda: {
    available: boolean
    /** The reason why it is missing. */
    reason?: string
    /** The GPUs, in the order of `device` indices. */
    devices?: readonly Device[]
    /** File the backend was loaded from. */
    path?: string
    /** cuBLASLt, which the functions of the output layer need on a GPU, or the reason why it is missing. */
    cublasLt?: { available: boolean; reason?: string }
  }
  wasm: {
    available: boolean
    /** The reason why it is missing. */
    reason?: string
    /** It has vectors; without them it is missing. */
    simd?: true
    /** Default number of threads. */
    threads?: number
    /** File or URL the module was loaded from; absent where the caller gave the module itself. */
    path?: string
  }
  webgpu: {
    available: boolean
    /** The reason why it is missing. */
    reason?: string
  }
  js: { available: true }
}
