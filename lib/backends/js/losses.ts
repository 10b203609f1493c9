/**
 * The js twin of native/core/losses.h: every loss with what it needs, its formula and its derivative, in float64.
 *
 * c and r are the log-ratios log π − log ρ of the chosen and the rejected sequence, d the difference of two such
 * quantities, ε labelSmoothing, σ the sigmoid; −log σ(z) is written softplus(−z). Weights of pairs and of losses, the
 * mean over pairs and the rewards are in preference-loss.ts.
 */
import type { LossType } from '../../types.js'
import type { LossConfig } from '../backend.js'
import { SCORES } from './divergences.js'
import { log1mexp, logSigmoid, sigmoid, softplus } from './numbers.js'

/** What a loss asks of its caller. */
export interface LossNeeds {
  /** Reference log-probs (unless `referenceFree`). */
  reference: boolean
  /** Sequence lengths: 'always', 'sums' (only when the log-probs are sums), or 'never'. */
  lengths: 'always' | 'sums' | 'never'
  /** Depends on the difference of the two log-ratios alone, so that an f-divergence may replace them. */
  divergence: boolean
  /** Range of labelSmoothing: 'any' ignores it but it must lie in [0, 1]; 'half' is [0, 1/2); 'open' is (0, 1). */
  labelSmoothing: 'any' | 'half' | 'open'
  /** labelSmoothing when the caller gives none. */
  defaultLabelSmoothing: number
}

/** P pairs: `[P]` each. */
export interface PairBatch {
  /** Policy log-probs. */
  chosen: Float64Array
  rejected: Float64Array
  /** Reference log-probs. */
  referenceChosen: Float64Array
  referenceRejected: Float64Array
  /** Active tokens. */
  chosenLengths?: Float64Array
  rejectedLengths?: Float64Array
}

/** The constants one loss sees. */
export interface Constants extends Omit<LossConfig, 'terms'> {
  labelSmoothing: number
}

/** One pair's loss, and its derivatives with respect to two policy log-probs. */
export interface PairLoss {
  /** The pair the loss belongs to, and whose chosen log-prob `chosen` is the derivative of. */
  pair: number
  /** The pair whose rejected log-prob `rejected` is the derivative of: the same one, except for 'aot_unpaired'. */
  rejectedPair: number
  value: number
  chosen: number
  rejected: number
}

export interface Loss extends LossNeeds {
  formula: (batch: PairBatch, constants: Constants) => PairLoss[]
}

/** A loss of one number, and its derivative. */
interface Curve {
  value: number
  derivative: number
}

/** A loss of a chosen and a rejected quantity, and its derivatives. */
interface Surface {
  value: number
  chosen: number
  rejected: number
}

/** What a formula is written in: log π − log ρ, or log π alone, of whole sequences or per token. */
type Quantity = 'logRatio' | 'meanLogRatio' | 'logProb' | 'meanLogProb'

const NEEDS: LossNeeds = {
  reference: true,
  lengths: 'never',
  divergence: false,
  labelSmoothing: 'any',
  defaultLabelSmoothing: 0,
}

/** e^700 is near the largest float64: beyond it a loss stays where it is, and its derivative is 0. */
const LARGEST_EXPONENT = 700

export const LOSSES: Record<LossType, Loss> = {
  /** DPO: Rafailov et al. 2023. With ε > 0, conservative DPO: Mitchell 2023. */
  sigmoid: {
    ...NEEDS,
    divergence: true,
    formula: ofDifference('logRatio', (d, { beta, labelSmoothing }) => smoothed(d, beta, 0, labelSmoothing)),
  },

  /** Robust DPO: Ray Chowdhury et al. 2024. Unbiased under labels flipped with probability ε. */
  robust: {
    ...NEEDS,
    divergence: true,
    labelSmoothing: 'half',
    formula: ofDifference('logRatio', (d, { beta, labelSmoothing: epsilon }) => {
      if (epsilon === 0) return smoothed(d, beta, 0, 0)
      const z = beta * d
      return {
        value: ((1 - epsilon) * softplus(-z) - epsilon * softplus(z)) / (1 - 2 * epsilon),
        derivative: (beta * (-(1 - epsilon) * sigmoid(-z) - epsilon * sigmoid(z))) / (1 - 2 * epsilon),
      }
    }),
  },

  /** SLiC's hinge on log-ratios: Zhao et al. 2023, Liu et al. 2023 (RSO). At the kink βd = 1 the derivative is 0. */
  hinge: {
    ...NEEDS,
    divergence: true,
    formula: ofDifference('logRatio', (d, { beta }) => {
      const shortfall = 1 - beta * d
      if (shortfall > 0) return { value: shortfall, derivative: -beta }
      // What is left but numbers up to 0 is NaN, which is no satisfied margin.
      return shortfall <= 0 ? { value: 0, derivative: 0 } : { value: Number.NaN, derivative: Number.NaN }
    }),
  },

  /** Identity preference optimisation: Azar et al. 2023, eq. 17, where β is their τ. */
  ipo: {
    ...NEEDS,
    divergence: true,
    formula: ofDifference('logRatio', (d, { beta }) => {
      const error = d - 1 / (2 * beta)
      return { value: error * error, derivative: 2 * error }
    }),
  },

  /** The identity loss of Azar et al. 2023 written on rewards, β times the log-ratios. */
  ipo_reward: {
    ...NEEDS,
    formula: ofDifference('logRatio', (d, { beta }) => {
      const error = beta * d - 1 / beta
      return { value: error * error, derivative: 2 * beta * error }
    }),
  },

  /** Efficient exact optimisation: Ji et al. 2024. The reverse KL from (σ(βd), σ(−βd)) to (1 − ε, ε). */
  exo_pair: {
    ...NEEDS,
    divergence: true,
    labelSmoothing: 'open',
    defaultLabelSmoothing: 1e-3,
    formula: ofDifference('logRatio', (d, { beta, labelSmoothing: epsilon }) => {
      const z = beta * d
      const p = sigmoid(z)
      const q = sigmoid(-z)
      // An infinite z is a limit: there p log p is 0, not 0 · ∞.
      if (p === 0) return { value: -Math.log(epsilon), derivative: 0 }
      if (q === 0) return { value: -Math.log1p(-epsilon), derivative: 0 }
      return {
        value: p * (logSigmoid(z) - Math.log1p(-epsilon)) + q * (logSigmoid(-z) - Math.log(epsilon)),
        // The terms from the logarithms, p q − q p, cancel; log σ(z) − log σ(−z) is z.
        derivative: beta * p * q * (z - Math.log1p(-epsilon) + Math.log(epsilon)),
      }
    }),
  },

  /** Noise-contrastive alignment of pairs: Chen et al. 2024. */
  nca_pair: {
    ...NEEDS,
    formula: ofPair('logRatio', (c, r, { beta }) => ({
      value: softplus(-beta * c) + 0.5 * softplus(beta * c) + 0.5 * softplus(beta * r),
      chosen: beta * (0.5 * sigmoid(beta * c) - sigmoid(-beta * c)),
      rejected: 0.5 * beta * sigmoid(beta * r),
    })),
  },

  /** Binary classifier optimisation: Jung et al. 2024. */
  bco_pair: {
    ...NEEDS,
    formula: ofPair('logRatio', (c, r, { beta, rewardShift }) => ({
      value: softplus(rewardShift - beta * c) + softplus(beta * r - rewardShift),
      chosen: -beta * sigmoid(rewardShift - beta * c),
      rejected: beta * sigmoid(beta * r - rewardShift),
    })),
  },

  /** Self-play preference optimisation with hard labels: Wu et al. 2024. */
  sppo_hard: {
    ...NEEDS,
    formula: ofPair('logRatio', (c, r, { beta }) => {
      const chosenError = c - 1 / (2 * beta)
      const rejectedError = r + 1 / (2 * beta)
      return {
        value: chosenError * chosenError + rejectedError * rejectedError,
        chosen: 2 * chosenError,
        rejected: 2 * rejectedError,
      }
    }),
  },

  /** Anchored preference optimisation, "zero": D'Oosterlinck et al. 2024. */
  apo_zero: {
    ...NEEDS,
    formula: ofPair('logRatio', (c, r, { beta }) => ({
      value: sigmoid(-beta * c) + sigmoid(beta * r),
      chosen: -beta * sigmoidSlope(beta * c),
      rejected: beta * sigmoidSlope(beta * r),
    })),
  },

  /** Anchored preference optimisation, "down": D'Oosterlinck et al. 2024. */
  apo_down: {
    ...NEEDS,
    formula: ofPair('logRatio', (c, r, { beta }) => ({
      value: sigmoid(beta * c) + sigmoid(-beta * (c - r)),
      chosen: beta * (sigmoidSlope(beta * c) - sigmoidSlope(beta * (c - r))),
      rejected: beta * sigmoidSlope(beta * (c - r)),
    })),
  },

  /**
   * Alignment via optimal transport, paired: Melnyk et al. 2024. The sorted policy log-ratios of chosen to rejected
   * against the sorted reference ones; a loss belongs to the pair whose policy log-ratio has that rank.
   */
  aot: {
    ...NEEDS,
    formula: (batch, { beta, labelSmoothing }) => {
      const policy = batch.chosen.map((value, i) => value - batch.rejected[i])
      const reference = batch.referenceChosen.map((value, i) => value - batch.referenceRejected[i])
      const policyOrder = sortedOrder(policy)
      const referenceOrder = sortedOrder(reference)
      return policyOrder.map((pair, rank) => {
        const d = policy[pair] - reference[referenceOrder[rank]]
        const { value, derivative } = smoothed(d, beta, 0, labelSmoothing)
        return { pair, rejectedPair: pair, value, chosen: derivative, rejected: -derivative }
      })
    },
  },

  /**
   * The same, unpaired: Melnyk et al. 2024. The sorted chosen log-ratios against the sorted rejected ones; a loss
   * belongs to the pair of its chosen log-ratio.
   */
  aot_unpaired: {
    ...NEEDS,
    formula: (batch, { beta, labelSmoothing }) => {
      const chosen = batch.chosen.map((value, i) => value - batch.referenceChosen[i])
      const rejected = batch.rejected.map((value, i) => value - batch.referenceRejected[i])
      const rejectedOrder = sortedOrder(rejected)
      return sortedOrder(chosen).map((pair, rank) => {
        const rejectedPair = rejectedOrder[rank]
        const { value, derivative } = smoothed(chosen[pair] - rejected[rejectedPair], beta, 0, labelSmoothing)
        return { pair, rejectedPair, value, chosen: derivative, rejected: -derivative }
      })
    },
  },

  /** DiscoPOP, the log-ratio modulated loss: Lu et al. 2024. With z = βd and m = σ(z / τ), −log σ(z) (1 − m) + e^−z m. */
  discopop: {
    ...NEEDS,
    divergence: true,
    formula: ofDifference('logRatio', (d, { beta, discopopTau: tau }) => {
      const z = beta * d
      const m = sigmoid(z / tau)
      const complement = sigmoid(-z / tau)
      // e^−z m as one exponential: m may be 0 where e^−z is infinite.
      const exponent = -z + logSigmoid(z / tau)
      const exponential = Math.exp(Math.min(exponent, LARGEST_EXPONENT))
      const exponentialSlope = exponent > LARGEST_EXPONENT ? 0 : exponential * (complement / tau - 1)
      return {
        value: softplus(-z) * complement + exponential,
        derivative: beta * (-sigmoid(-z) * complement - (softplus(-z) * m * complement) / tau + exponentialSlope),
      }
    }),
  },

  /** DPO with log-ratios divided by the lengths: Lambert et al. 2024 (Tülu 3). */
  sigmoid_norm: {
    ...NEEDS,
    lengths: 'sums',
    divergence: true,
    formula: ofDifference('meanLogRatio', (d, { beta }) => smoothed(d, beta, 0, 0)),
  },

  /** SimPO: Meng et al. 2024. */
  simpo: {
    ...NEEDS,
    reference: false,
    lengths: 'sums',
    formula: ofDifference('meanLogProb', (d, { beta, gamma, labelSmoothing }) =>
      smoothed(d, beta, gamma, labelSmoothing),
    ),
  },

  /** Contrastive preference optimisation, without its likelihood term ('sft' in a weighted list): Xu et al. 2024. */
  cpo: {
    ...NEEDS,
    reference: false,
    formula: ofDifference('logProb', (d, { beta, labelSmoothing }) => smoothed(d, beta, 0, labelSmoothing)),
  },

  /** The odds-ratio term of ORPO, without its likelihood term ('sft' in a weighted list): Hong et al. 2024. */
  orpo: {
    ...NEEDS,
    reference: false,
    lengths: 'sums',
    formula: ofPair('meanLogProb', (chosen, rejected, { beta }) => {
      const logOddsRatio = chosen - rejected - (log1mexp(chosen) - log1mexp(rejected))
      // d log odds / dx = 1 + e^x / (1 − e^x) = −1 / expm1(x); a chosen mean of 0 takes its limit
      return {
        value: beta * softplus(-logOddsRatio),
        chosen: chosen === 0 ? -beta / Math.expm1(-rejected) : (beta * sigmoid(-logOddsRatio)) / Math.expm1(chosen),
        rejected: (-beta * sigmoid(-logOddsRatio)) / Math.expm1(rejected),
      }
    }),
  },

  /** Negative log-likelihood of the chosen sequences, −Σ log π / Σ length over the batch; 0 where that has no token. */
  sft: {
    ...NEEDS,
    reference: false,
    lengths: 'always',
    formula: (batch, { average }) => {
      const lengths = batch.chosenLengths as Float64Array
      const pairCount = batch.chosen.length
      const tokenCount = lengths.reduce((sum, length) => sum + length, 0)
      return Array.from(batch.chosen, (logProb, pair) => {
        // Means are made sums again; times P, so that the mean over pairs is the mean over tokens.
        const factor = tokenCount === 0 ? 0 : ((average ? lengths[pair] : 1) * pairCount) / tokenCount
        return { pair, rejectedPair: pair, value: 0 - factor * logProb, chosen: -factor, rejected: 0 }
      })
    },
  },
}

/** −(1 − ε) log σ(z) − ε log σ(−z), z = βd − γ, and its derivative with respect to d. */
function smoothed(d: number, beta: number, gamma: number, epsilon: number): Curve {
  const z = beta * d - gamma
  // Without smoothing the second term is absent, not 0 · ∞.
  if (epsilon === 0) return { value: softplus(-z), derivative: -beta * sigmoid(-z) }
  return {
    value: (1 - epsilon) * softplus(-z) + epsilon * softplus(z),
    derivative: beta * (epsilon * sigmoid(z) - (1 - epsilon) * sigmoid(-z)),
  }
}

/** dσ/dz */
function sigmoidSlope(z: number): number {
  return sigmoid(z) * sigmoid(-z)
}

/** Indices of the values in rising order, equal ones in their own order, NaN last. */
function sortedOrder(values: Float64Array): number[] {
  const rank = (a: number, b: number) => (a < b ? -1 : a > b ? 1 : Number(Number.isNaN(a)) - Number(Number.isNaN(b)))
  return Array.from(values.keys()).sort((i, j) => rank(values[i], values[j]))
}

/** A loss of each pair's difference of two quantities, or of their scores under an f-divergence. */
function ofDifference(quantity: Quantity, curve: (d: number, constants: Constants) => Curve): Loss['formula'] {
  return (batch, constants) => {
    const score = (x: number) => SCORES[constants.fDivergence](x, constants.alpha)
    return ofPair(quantity, (chosen, rejected) => {
      const chosenScore = score(chosen)
      const rejectedScore = score(rejected)
      const { value, derivative } = curve(chosenScore.value - rejectedScore.value, constants)
      return {
        value,
        chosen: derivative * chosenScore.derivative,
        rejected: -derivative * rejectedScore.derivative,
      }
    })(batch, constants)
  }
}

/** A loss of each pair's two quantities. */
function ofPair(
  quantity: Quantity,
  surface: (chosen: number, rejected: number, constants: Constants) => Surface,
): Loss['formula'] {
  const withReference = quantity === 'logRatio' || quantity === 'meanLogRatio'
  const perToken = quantity === 'meanLogRatio' || quantity === 'meanLogProb'
  return (batch, constants) =>
    Array.from(batch.chosen.keys(), (pair) => {
      const chosenDivisor = perToken ? lengthDivisor(batch.chosenLengths, pair, constants.average) : 1
      const rejectedDivisor = perToken ? lengthDivisor(batch.rejectedLengths, pair, constants.average) : 1
      const chosen = batch.chosen[pair] - (withReference ? batch.referenceChosen[pair] : 0)
      const rejected = batch.rejected[pair] - (withReference ? batch.referenceRejected[pair] : 0)
      const loss = surface(chosen / chosenDivisor, rejected / rejectedDivisor, constants)
      return {
        pair,
        rejectedPair: pair,
        value: loss.value,
        chosen: loss.chosen / chosenDivisor,
        rejected: loss.rejected / rejectedDivisor,
      }
    })
}

/** What makes a mean of a log-prob: its length, unless it is a mean already or has no token to be the mean of. */
export function lengthDivisor(lengths: Float64Array | undefined, pair: number, average: boolean): number {
  return average || lengths === undefined ? 1 : lengths[pair] || 1
}
