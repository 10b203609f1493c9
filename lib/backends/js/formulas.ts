/**
 * The parts of the formulas of the losses: their inputs and outputs, and the functions that extend a formula of one
 * pair to a batch.
 */
import type { LossConfig, LossStage, PairConstants } from '../../job.js'
import { power, SCORES, type Score, wholeScore } from './divergences.js'
import { sigmoid, softplus } from './numbers.js'

/** The inputs that a loss requires of its caller. */
export interface LossNeeds {
  /** Reference log-probs (unless `referenceFree`). */
  reference: boolean
  /**
   * Sequence lengths: 'always'; 'sums' (when the log-probs are sums, or the score of a divergence must be divided);
   * 'means' (when they are means and the score of a divergence needs the sum); or 'never'.
   */
  lengths: 'always' | 'sums' | 'means' | 'never'
  /** The loss depends only on the difference of the two log-ratios, so that an f-divergence may replace them. */
  divergence: boolean
  /** Range of labelSmoothing: 'any' ignores it but it must lie in [0, 1]; 'half' is [0, 1/2); 'open' is (0, 1). */
  labelSmoothing: 'any' | 'half' | 'open'
  /** labelSmoothing when the caller gives none. */
  defaultLabelSmoothing: number
}

/** What a loss of log-ratios has, unless it says otherwise. */
export const NEEDS: LossNeeds = {
  reference: true,
  lengths: 'never',
  divergence: false,
  labelSmoothing: 'any',
  defaultLabelSmoothing: 0,
}

/** The fields of a stage that a formula reads, for P pairs. */
export type PairBatch = Pick<
  LossStage,
  'chosen' | 'rejected' | 'referenceChosen' | 'referenceRejected' | 'chosenTokenCounts' | 'rejectedTokenCounts'
>

/** The constants of one loss, and those of single pairs. */
export interface Constants extends Omit<LossConfig, 'terms'> {
  labelSmoothing: number
  pairConstants?: PairConstants
}

/** The constants of one pair. */
export function constantsOf(constants: Constants, pair: number): Constants {
  const { pairConstants } = constants
  if (pairConstants === undefined) return constants
  const own = { ...constants }
  for (const [name, values] of Object.entries(pairConstants) as [keyof PairConstants, Float64Array][]) {
    own[name] = values[pair]
  }
  return own
}

/** One pair's loss, and its derivatives with respect to two policy log-probs. */
export interface PairLoss {
  /** The pair of the loss; `chosen` is the derivative with respect to the chosen log-prob of this pair. */
  pair: number
  /**
   * `rejected` is the derivative with respect to the rejected log-prob of this pair: the same pair, except for
   * 'aot_unpaired'.
   */
  rejectedPair: number
  value: number
  chosen: number
  rejected: number
}

export interface Loss extends LossNeeds {
  formula: (batch: PairBatch, constants: Constants) => PairLoss[]
}

/** A loss as a function of one number, and its derivative. */
export interface Curve {
  value: number
  derivative: number
}

/** A loss as a function of a chosen and a rejected quantity, and its derivatives. */
export interface Surface {
  value: number
  chosen: number
  rejected: number
}

/** The variable of a formula: log π − log ρ, or log π alone, of whole sequences or per token; 'odds' is for ORPO. */
export type Quantity = 'logRatio' | 'meanLogRatio' | 'logProb' | 'meanLogProb' | 'odds'

/** (d − 1 / (2β))² */
export function identity(d: number, { beta }: Constants): Curve {
  const error = d - 1 / (2 * beta)
  return { value: error * error, derivative: 2 * error }
}

/** −(1 − ε) log σ(z) − ε log σ(−z), z = βd − γ, and its derivative with respect to d. */
export function smoothed(d: number, beta: number, gamma: number, epsilon: number): Curve {
  const z = beta * d - gamma
  // A term with the factor 0 is absent, not 0 · ∞.
  if (epsilon === 0) return { value: softplus(-z), derivative: -beta * sigmoid(-z) }
  if (epsilon === 1) return { value: softplus(z), derivative: beta * sigmoid(z) }
  return {
    value: (1 - epsilon) * softplus(-z) + epsilon * softplus(z),
    derivative: beta * (epsilon * sigmoid(z) - (1 - epsilon) * sigmoid(-z)),
  }
}

/** a · b with 0 · ∞ = 0: by the chain rule, a part with derivative 0 contributes 0. */
export function times(a: number, b: number): number {
  return a === 0 && Math.abs(b) === Number.POSITIVE_INFINITY ? 0 : a * b
}

/** AlphaPO's reward (1 − p^−α) / α of a log-prob x = log p: Gupta et al. 2025. */
export function alphaReward(x: number, { rewardAlpha }: Constants): Score {
  return power(x, -rewardAlpha)
}

/**
 * A loss of each pair's difference of two quantities, or of their scores under an f-divergence. Per token, the score of
 * the whole sequence's log-ratio is divided by the length, as in TRL. `reward`: what AlphaPO makes of a quantity.
 */
export function ofDifference(
  quantity: Quantity,
  curve: (d: number, constants: Constants) => Curve,
  reward?: typeof alphaReward,
): Loss['formula'] {
  return (batch, constants) => {
    const { fDivergence, alpha, average } = constants
    const score = (x: number, length: number | undefined) => {
      if (reward !== undefined && constants.rewardAlpha !== 0) return reward(x, constants)
      if (quantity !== 'meanLogRatio' || fDivergence === 'reverse_kl') return SCORES[fDivergence](x, alpha)
      const tokens = length || 1
      const { value, derivative } = wholeScore(fDivergence, average ? x * tokens : x, alpha)
      return { value: value / tokens, derivative: average ? derivative : derivative / tokens }
    }
    // Scores do their own division by the lengths.
    const scored = quantity === 'meanLogRatio' && fDivergence !== 'reverse_kl' ? 'logRatio' : quantity
    return ofPair(scored, (chosen, rejected, own, pair) => {
      const chosenScore = score(chosen, batch.chosenTokenCounts?.[pair])
      const rejectedScore = score(rejected, batch.rejectedTokenCounts?.[pair])
      const { value, derivative } = curve(chosenScore.value - rejectedScore.value, own)
      return {
        value,
        chosen: times(chosenScore.derivative, derivative),
        rejected: times(rejectedScore.derivative, -derivative),
      }
    })(batch, constants)
  }
}

/** A loss of each pair's two quantities. */
export function ofPair(
  quantity: Quantity,
  surface: (chosen: number, rejected: number, constants: Constants, pair: number) => Surface,
): Loss['formula'] {
  const withReference = quantity === 'logRatio' || quantity === 'meanLogRatio'
  const perToken = quantity === 'meanLogRatio' || quantity === 'meanLogProb' || quantity === 'odds'
  return (batch, constants) =>
    Array.from(batch.chosen.keys(), (pair) => {
      const quantityOf = (logProbs: Float64Array, reference: Float64Array, lengths: Float64Array | undefined) => {
        // A sequence without tokens has even odds, with derivative 0.
        const empty = quantity === 'odds' && lengths?.[pair] === 0 && logProbs[pair] === 0
        if (empty) return { value: -Math.LN2, divisor: Number.POSITIVE_INFINITY }
        const divisor = perToken ? lengthDivisor(lengths, pair, constants.average) : 1
        return { value: (logProbs[pair] - (withReference ? reference[pair] : 0)) / divisor, divisor }
      }
      const chosen = quantityOf(batch.chosen, batch.referenceChosen, batch.chosenTokenCounts)
      const rejected = quantityOf(batch.rejected, batch.referenceRejected, batch.rejectedTokenCounts)
      const loss = surface(chosen.value, rejected.value, constantsOf(constants, pair), pair)
      return {
        pair,
        rejectedPair: pair,
        value: loss.value,
        chosen: loss.chosen / chosen.divisor,
        rejected: loss.rejected / rejected.divisor,
      }
    })
}

/**
 * The divisor that turns a log-prob into a mean: the length, or 1 if it is a mean already or the sequence has no token.
 */
export function lengthDivisor(lengths: Float64Array | undefined, pair: number, average: boolean): number {
  return average || lengths === undefined ? 1 : lengths[pair] || 1
}
