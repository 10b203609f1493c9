/**
 * The options of each unpaired function.
 */
import type {
  HeadGradientOptions,
  HeadGradientRequest,
  HeadOptions,
  LinearUnpairedReference,
  LogitsBudgetOptions,
  LogitsGradientOptions,
  RunOptions,
  TensorData,
  UnpairedReference,
} from '../types/index.js'
import type { TokenOptions } from './token-options.js'
import type { UnpairedLossOptions } from './unpaired-options.js'

export type { UnpairedLossOptions } from './unpaired-options.js'

/** Options of `unpairedPreferenceLoss`. */
export interface UnpairedPreferenceOptions extends UnpairedLossOptions, RunOptions {}

/** The token options without those that are about pairs. */
export interface UnpairedTokenOptions extends Omit<TokenOptions, 'ldAlpha' | 'pairs'> {}

/** Options of `fusedUnpairedPreferenceLoss`. */
export interface FusedUnpairedOptions
  extends UnpairedTokenOptions,
    UnpairedLossOptions,
    RunOptions,
    LogitsGradientOptions {
  /** Needed unless `referenceFree`. */
  reference?: UnpairedReference | undefined
  /**
   * Gradient of the loss with respect to the logits: none, in a new array, into an array or device memory, or
   * overwriting the logits. Defaults to false.
   */
  gradient?: boolean | TensorData | 'in-place' | undefined
}

/** Options of `fusedLinearUnpairedPreferenceLoss`. */
export interface FusedLinearUnpairedOptions
  extends UnpairedTokenOptions,
    UnpairedLossOptions,
    RunOptions,
    HeadOptions,
    HeadGradientOptions,
    LogitsBudgetOptions {
  /** Needed unless `referenceFree`. */
  reference?: LinearUnpairedReference | undefined
  /** The gradients to compute; true for new arrays for all there are. Defaults to false. */
  gradient?: boolean | HeadGradientRequest | undefined
}
