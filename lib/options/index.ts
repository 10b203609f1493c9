/**
 * The options of each function.
 */
import type {
  HeadGradientOptions,
  HeadGradientRequest,
  HeadOptions,
  LinearReference,
  LogitsBudgetOptions,
  LogitsGradientOptions,
  Reference,
  RunOptions,
  TensorData,
} from '../types/index.js'
import type { LossOptions } from './loss-options.js'
import type { TokenLossOptions } from './token-loss-options.js'
import type { TokenOptions } from './token-options.js'

export type { LossOptions } from './loss-options.js'
export type { TokenLossOptions } from './token-loss-options.js'
export type { TokenOptions, TokenOutput } from './token-options.js'
export type * from './unpaired.js'

/** Options of `sequenceLogProbs`. */
export interface SequenceOptions extends TokenOptions, RunOptions {}

/** Options of `preferenceLoss`. */
export interface PreferenceOptions extends LossOptions, RunOptions {}

/** Options of `fusedPreferenceLoss`. */
export interface FusedOptions extends TokenOptions, LossOptions, RunOptions, LogitsGradientOptions {
  /** Needed unless the loss is reference-free; any loss may have one, and 'simpo', 'cpo' and 'orpo' do not look at it. */
  reference?: Reference | undefined
  /** WPO (Zhou et al. 2024): weigh each pair by how likely the policy is to produce it. Defaults to none. */
  weighting?: 'wpo' | undefined
  /**
   * Gradient of the loss with respect to the logits: none, in a new array, into an array or device memory, or
   * overwriting the logits. Defaults to false.
   */
  gradient?: boolean | TensorData | 'in-place' | undefined
}

/** Options of `linearSequenceLogProbs`. */
export interface LinearSequenceOptions extends TokenOptions, RunOptions, HeadOptions {}

/** Options of `fusedLinearPreferenceLoss`. */
export interface FusedLinearOptions
  extends TokenOptions,
    LossOptions,
    RunOptions,
    HeadOptions,
    HeadGradientOptions,
    LogitsBudgetOptions {
  /** As in {@link FusedOptions}. */
  reference?: LinearReference | undefined
  /** WPO (Zhou et al. 2024): weigh each pair by how likely the policy is to produce it. Defaults to none. */
  weighting?: 'wpo' | undefined
  /** The gradients to compute; true for new arrays for all there are. Defaults to false. */
  gradient?: boolean | HeadGradientRequest | undefined
}

/** The token options of a loss of single tokens, which knows of no sums over sequences. */
type SingleTokenOptions = Omit<TokenOptions, 'averageLogProb' | 'emptySequence' | 'ldAlpha' | 'pairs'>

/** Options of `crossEntropy`. */
export interface CrossEntropyOptions extends SingleTokenOptions, TokenLossOptions, RunOptions, LogitsGradientOptions {
  /** As in {@link FusedOptions}. Defaults to false. */
  gradient?: boolean | TensorData | 'in-place' | undefined
}

/** Options of `linearCrossEntropy`. */
export interface LinearCrossEntropyOptions
  extends SingleTokenOptions,
    TokenLossOptions,
    RunOptions,
    HeadOptions,
    HeadGradientOptions,
    LogitsBudgetOptions {
  /** The gradients to compute; true for new arrays for all there are. Defaults to false. */
  gradient?: boolean | HeadGradientRequest | undefined
}
