/**
 * The js twin of native/core/unpaired_losses.h: every loss of single sequences with what it needs, its formula and its
 * derivative, in float64. r is the log-ratio log π − log ρ of the sequence, σ the sigmoid; 1 − σ(z) is written σ(−z) and
 * −log σ(z) softplus(−z).
 */
import type { UnpairedLossConfig } from '../../job.js'
import type { UnpairedLossType } from '../../types/index.js'
import { sigmoid, softplus } from './numbers.js'

/** A loss of one log-ratio, and its derivative. */
interface Curve {
  value: number
  derivative: number
}

/** A loss: what it is for a sequence that is desirable, and for one that is not. */
interface UnpairedLoss {
  /** Takes κ. */
  kl: boolean
  /** Takes δ. */
  rewardShift: boolean
  /** Needs a target for each sequence. */
  targets: boolean
  desirable: (r: number, constants: SequenceConstants) => Curve
  undesirable: (r: number, constants: SequenceConstants) => Curve
}

/** The constants of one sequence. */
interface SequenceConstants extends UnpairedLossConfig {
  /** Of 'regression'. */
  target: number
}

/** (βr − target)² */
function squaredError(r: number, { beta, target }: SequenceConstants): Curve {
  const error = beta * r - target
  return { value: error * error, derivative: 2 * beta * error }
}

export const UNPAIRED_LOSSES: Record<UnpairedLossType, UnpairedLoss> = {
  /** Kahneman-Tversky optimisation: Ethayarajh et al. 2024. Gains and losses of reward count from κ. */
  kto: {
    kl: true,
    rewardShift: false,
    targets: false,
    desirable: (r, { beta, kl }) => ({
      value: sigmoid(-(beta * (r - kl))),
      derivative: -beta * sigmoidSlope(beta * (r - kl)),
    }),
    undesirable: (r, { beta, kl }) => ({
      value: sigmoid(-(beta * (kl - r))),
      derivative: beta * sigmoidSlope(beta * (kl - r)),
    }),
  },

  /** Anchored preference optimisation, "zero", of single sequences: D'Oosterlinck et al. 2024, as TRL has it. */
  apo_zero_unpaired: {
    kl: false,
    rewardShift: false,
    targets: false,
    desirable: (r, { beta }) => ({ value: sigmoid(-beta * r), derivative: -beta * sigmoidSlope(beta * r) }),
    undesirable: (r, { beta }) => ({ value: sigmoid(beta * r), derivative: beta * sigmoidSlope(beta * r) }),
  },

  /** Binary classifier optimisation: Jung et al. 2024. The cross-entropy of a classifier whose logit is βr − δ. */
  bco: {
    kl: false,
    rewardShift: true,
    targets: false,
    desirable: (r, { beta, rewardShift }) => ({
      value: softplus(rewardShift - beta * r),
      derivative: -beta * sigmoid(rewardShift - beta * r),
    }),
    undesirable: (r, { beta, rewardShift }) => ({
      value: softplus(beta * r - rewardShift),
      derivative: beta * sigmoid(beta * r - rewardShift),
    }),
  },

  /**
   * The reward regressed to a target: Wu et al. 2024 (SPPO) and Brantley et al. 2025 (A*-PO). Desirable or not, a sequence
   * has the same loss.
   */
  regression: {
    kl: false,
    rewardShift: false,
    targets: true,
    desirable: squaredError,
    undesirable: squaredError,
  },
}

/** dσ/dz */
function sigmoidSlope(z: number): number {
  return sigmoid(z) * sigmoid(-z)
}
