/**
 * Stage 3 of a job: the losses of pairs, of single sequences and of single tokens. A job has one of them at most.
 *
 * Letters in shapes: R = batch · time rows, S sequences, P pairs.
 */
import type { FDivergence, LossType, SftNormalization, UnpairedLossType } from './types/index.js'

/** One loss of the sum. */
export interface LossTerm {
  lossType: LossType
  weight: number
  labelSmoothing: number
}

/** The most terms that a sum has. */
export const MOST_TERMS = 32

/** The constants of the losses. */
export interface LossConfig {
  terms: readonly LossTerm[]
  beta: number
  offset: number
  gamma: number
  rewardShift: number
  targetMargin: number
  dpopLambda: number
  discopopTau: number
  fDivergence: FDivergence
  alpha: number
  rewardAlpha: number
  sftNormalization: SftNormalization
  /** The log-probs are means over active tokens. */
  average: boolean
  /** The divisor of sums over pairs; the number of pairs when absent. */
  pairDivisor?: number
  /** The divisor of the sum over tokens of 'sft'; the number of chosen tokens when absent. */
  tokenDivisor?: number
  /** Factor of the gradients, 1 when absent. */
  gradientScale?: number
}

/** `[P]` constants of single pairs, in place of those of all pairs; that of labelSmoothing in place of every term's. */
export interface PairConstants {
  beta?: Float64Array
  labelSmoothing?: Float64Array
  offset?: Float64Array
  targetMargin?: Float64Array
}

/** Stage 3: P pairs. In a job that has stages 1 and 2, the inputs marked (gathered) are filled from them through `pairs`. */
export interface LossStage {
  constants: LossConfig
  /** `[2 P]` (chosen, rejected) sequences; present exactly when the job has stages 1 and 2. */
  pairs?: Int32Array
  /** `[P]` policy log-probs (gathered). */
  chosen: Float64Array
  rejected: Float64Array
  /** `[P]` reference log-probs, zeros when there is no reference (gathered when the job has a reference forward stage). */
  referenceChosen: Float64Array
  referenceRejected: Float64Array
  /** `[P]` active tokens; present at least when a loss needs them. */
  chosenTokenCounts?: Float64Array
  rejectedTokenCounts?: Float64Array
  /** `[P]` factor of each pair's loss, 1 when absent; times exp(sum of the pair's logWeights) when the policy stage has those. */
  pairWeights?: Float64Array
  pairConstants?: PairConstants
  /** `[P]` outs. */
  losses: Float64Array
  chosenRewards: Float64Array
  rejectedRewards: Float64Array
  gradChosen: Float64Array
  gradRejected: Float64Array
  /** `[3]` out: loss, accuracy, margin. */
  summary: Float64Array
}

/** Log-probs at an address of CUDA's: float64 when wide, else float32. */
export interface GivenLogProbs {
  data: bigint
  wide: boolean
}

/** Their names: `[P]` each of pairs, `[S]` of sequences, of which those of the reference may be for pairs. */
export const GIVEN_NAMES = [
  ...(['chosen', 'rejected', 'referenceChosen', 'referenceRejected'] as const),
  ...(['logProbs', 'referenceLogProbs'] as const),
] as const

/**
 * Of the cuda backend: log-probs that stage 3 finds in device memory. The arrays of these names, and of those of pairs that a
 * reference of sequences is for, are then outs.
 */
export type GivenOnDevice = Partial<Record<(typeof GIVEN_NAMES)[number], GivenLogProbs>>

/** The constants of a loss of single sequences. */
export interface UnpairedLossConfig {
  lossType: UnpairedLossType
  beta: number
  desirableWeight: number
  undesirableWeight: number
  /** κ of 'kto'. */
  kl: number
  /** δ of 'bco'. */
  rewardShift: number
  /** What the sum over sequences is divided by. */
  divisor: number
  /** Factor of the gradient, 1 when absent. */
  gradientScale?: number
}

/** Stage 3 of S single sequences, in place of that of pairs. */
export interface UnpairedLossStage extends UnpairedLossConfig {
  /** `[S]` 1 or 0. */
  desirable: Int32Array
  /** `[S]` factors beside those of the two kinds, 1 when absent. */
  weights?: Float64Array
  /** `[S]` β of each sequence, in place of the constant. */
  betas?: Float64Array
  /** `[S]` of 'regression'. */
  targets?: Float64Array
  /** `[S]` policy log-probs; absent where the job has stages 1 and 2, whose they are. */
  logProbs?: Float64Array
  /** `[S]` reference log-probs, zeros when there is no reference; absent where the job has a reference forward stage. */
  referenceLogProbs?: Float64Array
  /** `[S]` outs. */
  losses: Float64Array
  rewards: Float64Array
  gradient: Float64Array
  /** `[5]` out: loss; mean reward of the desirable and of the undesirable, and their mean log-probs, NaN of none. */
  summary: Float64Array
}

/** Stage 3 of single tokens, in a job that has stages 1 and 2: their cross-entropy. */
export interface TokenLossStage {
  labelSmoothing: number
  zLoss: number
  /** Multiply the cross-entropy of each row by its label's probability, whose own derivative is left out. */
  dft: boolean
  /**
   * `[V]` factors w of all classes, with labelSmoothing: the row's term of its label is multiplied by the label's, each of
   * the others, −log p_j, by its own, and the z-loss by the label's. 1 when absent; other factors are among the tokens'
   * weights.
   */
  classWeights?: Float32Array
  /** Σ w / V, 1 when absent. */
  meanClassWeight?: number
  /** `[V]` factors of the tokens' weights, by label, where the labels are on the GPU; 1 when absent. */
  weightsOfLabels?: Float64Array
  /**
   * What the sum over rows is divided by. 0: the sum over the active rows of their labels' factors of either kind (1 where
   * that is 0), when the labels are on the GPU.
   */
  divisor: number
  /** Factor of the gradient, 1 when absent. */
  gradientScale?: number
  /** `[R]` out: the loss of each row times its weight, not divided. Inactive rows are left as they are. */
  losses: Float64Array
  /** `[1]` out: loss. */
  summary: Float64Array
}
