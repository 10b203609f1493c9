/**
 * The js twin of native/core/losses.h: every loss with the inputs it needs, its formula and its derivative, in float64.
 *
 * c and r are the log-ratios log π − log ρ of the chosen and the rejected sequence, d the difference of two such
 * quantities, ε labelSmoothing, σ the sigmoid; −log σ(z) is written softplus(−z). Weights of pairs and of losses, the
 * mean over pairs and the rewards are in preference-loss.ts.
 */

import type { LossType } from '../../types/index.js'
import { alphaReward, constantsOf, identity, type Loss, NEEDS, ofDifference, ofPair, smoothed } from './formulas.js'
import { log1mexp, logSigmoid, sigmoid, sigmoidSlope, softplus, sortedOrder } from './numbers.js'
import { REWARD_AWARE_LOSSES } from './reward-aware-losses.js'
import { sft } from './sft.js'

/** e^700 is near the largest float64: beyond it a loss stays constant, and its derivative is 0. */
const LARGEST_EXPONENT = 700

/**
 * A mean log-prob nearer to 0 than this counts as certain: for a β of hundreds, β / (1 − e^x) could be infinite beyond
 * it.
 */
const MOST_CERTAIN = -(2 ** -1016)

export const LOSSES: Record<LossType, Loss> = {
  /** DPO: Rafailov et al. 2023. With ε > 0, conservative DPO: Mitchell 2023. */
  sigmoid: {
    ...NEEDS,
    divergence: true,
    formula: ofDifference('logRatio', (d, { beta, offset, labelSmoothing }) =>
      smoothed(d, beta, offset, labelSmoothing),
    ),
  },

  /** Robust DPO: Ray Chowdhury et al. 2024. Unbiased under labels flipped with probability ε. */
  robust: {
    ...NEEDS,
    divergence: true,
    labelSmoothing: 'half',
    // The paper's ((1 − ε) softplus(−z) − ε softplus(z)) / (1 − 2ε) with softplus(z) = softplus(−z) + z: written so,
    // nothing is lost to the difference when ε is nearly ½.
    formula: ofDifference('logRatio', (d, { beta, offset, labelSmoothing: epsilon }) => {
      if (epsilon === 0) return smoothed(d, beta, offset, 0)
      const z = beta * d - offset
      const odds = epsilon / (1 - 2 * epsilon)
      return { value: softplus(-z) - odds * z, derivative: -beta * (sigmoid(-z) + odds) }
    }),
  },

  /** SLiC's hinge on log-ratios: Zhao et al. 2023, Liu et al. 2023 (RSO). At the kink βd = 1 the derivative is 0. */
  hinge: {
    ...NEEDS,
    divergence: true,
    formula: ofDifference(
      'logRatio',
      (d, { beta, offset }) => {
        const shortfall = 1 - (beta * d - offset)
        if (shortfall > 0) return { value: shortfall, derivative: -beta }
        // Otherwise the value is 0, negative or NaN; NaN must not count as a satisfied margin.
        return shortfall <= 0 ? { value: 0, derivative: 0 } : { value: Number.NaN, derivative: Number.NaN }
      },
      alphaReward,
    ),
  },

  /** Identity preference optimisation: Azar et al. 2023, eq. 17, where β is their τ; of means, TRL's normalised one. */
  ipo: {
    ...NEEDS,
    lengths: 'means',
    divergence: true,
    formula: (batch, constants) =>
      ofDifference(constants.average ? 'meanLogRatio' : 'logRatio', identity, alphaReward)(batch, constants),
  },

  /** The same with scores divided by the lengths, which is what TRL calls 'ipo'. */
  ipo_norm: {
    ...NEEDS,
    lengths: 'sums',
    divergence: true,
    formula: ofDifference('meanLogRatio', identity, alphaReward),
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
    formula: ofDifference('logRatio', (d, { beta, offset, labelSmoothing: epsilon }) => {
      const z = beta * d - offset
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
    formula: (batch, constants) => {
      const policy = batch.chosen.map((value, i) => value - batch.rejected[i])
      const reference = batch.referenceChosen.map((value, i) => value - batch.referenceRejected[i])
      const policyOrder = sortedOrder(policy)
      const referenceOrder = sortedOrder(reference)
      return policyOrder.map((pair, rank) => {
        const d = policy[pair] - reference[referenceOrder[rank]]
        const { beta, offset, labelSmoothing } = constantsOf(constants, pair)
        const { value, derivative } = smoothed(d, beta, offset, labelSmoothing)
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
    formula: (batch, constants) => {
      const chosen = batch.chosen.map((value, i) => value - batch.referenceChosen[i])
      const rejected = batch.rejected.map((value, i) => value - batch.referenceRejected[i])
      const rejectedOrder = sortedOrder(rejected)
      return sortedOrder(chosen).map((pair, rank) => {
        const rejectedPair = rejectedOrder[rank]
        const { beta, offset, labelSmoothing } = constantsOf(constants, pair)
        const { value, derivative } = smoothed(chosen[pair] - rejected[rejectedPair], beta, offset, labelSmoothing)
        return { pair, rejectedPair, value, chosen: derivative, rejected: -derivative }
      })
    },
  },

  /** DiscoPOP, the log-ratio modulated loss: Lu et al. 2024. With z = βd and m = σ(z / τ), −log σ(z) (1 − m) + e^−z m. */
  discopop: {
    ...NEEDS,
    divergence: true,
    formula: ofDifference('logRatio', (d, { beta, offset, discopopTau: tau }) => {
      const z = beta * d - offset
      // The exponential's part is bounded: it is 0 or 1 in the limit, or capped.
      if (z === Number.NEGATIVE_INFINITY) return { value: Number.POSITIVE_INFINITY, derivative: -beta }
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

  /** DPO with log-ratios, or their scores, divided by the lengths: Lambert et al. 2024 (Tülu 3). */
  sigmoid_norm: {
    ...NEEDS,
    lengths: 'sums',
    divergence: true,
    formula: ofDifference('meanLogRatio', (d, { beta, offset }) => smoothed(d, beta, offset, 0)),
  },

  /**
   * DPO-positive: Pal et al. 2024. With a chosen sequence that is less likely than under the reference, its log-ratio counts
   * 1 + λ times. At c = 0 the derivative is that of likelier ones.
   */
  dpop: {
    ...NEEDS,
    formula: ofPair('logRatio', (c, r, { beta, offset, dpopLambda: lambda }) => {
      const times = c < 0 ? 1 + lambda : 1
      const { value, derivative } = smoothed(times * c - r, beta, offset, 0)
      return { value, chosen: times * derivative, rejected: -derivative }
    }),
  },

  ...REWARD_AWARE_LOSSES,

  /** SimPO: Meng et al. 2024. */
  simpo: {
    ...NEEDS,
    reference: false,
    lengths: 'sums',
    formula: ofDifference(
      'meanLogProb',
      (d, { beta, gamma, offset, labelSmoothing }) => smoothed(d, beta, gamma + offset, labelSmoothing),
      alphaReward,
    ),
  },

  /** Contrastive preference optimisation, without its likelihood term ('sft' in a weighted list): Xu et al. 2024. */
  cpo: {
    ...NEEDS,
    reference: false,
    formula: ofDifference(
      'logProb',
      (d, { beta, offset, labelSmoothing }) => smoothed(d, beta, offset, labelSmoothing),
      alphaReward,
    ),
  },

  /**
   * The odds-ratio term of ORPO, without its likelihood term ('sft' in a weighted list): Hong et al. 2024. The odds of
   * a sequence without tokens are even; those of one that is certain are capped, and where the derivative has no limit
   * there, it is 0.
   */
  orpo: {
    ...NEEDS,
    reference: false,
    lengths: 'sums',
    formula: ofPair('odds', (chosen, rejected, { beta }) => {
      // NaN and values above 0 are no log-probs.
      if (!(chosen <= 0 && rejected <= 0)) return { value: Number.NaN, chosen: Number.NaN, rejected: Number.NaN }
      const w = Math.min(chosen, MOST_CERTAIN)
      const l = Math.min(rejected, MOST_CERTAIN)
      const logOddsRatio = w - l - (log1mexp(w) - log1mexp(l))
      // σ(−log odds ratio) = odds_l / (odds_l + odds_w), and d log odds / dx = 1 / (1 − e^x).
      const [notW, notL] = [-Math.expm1(w), -Math.expm1(l)]
      const share = 1 / (notW + notL * Math.exp(w - l))
      return {
        value: beta * softplus(-logOddsRatio),
        chosen: w === MOST_CERTAIN && l === MOST_CERTAIN ? 0 : -beta * share,
        rejected: l === MOST_CERTAIN ? 0 : (beta * (notW * share)) / notL,
      }
    }),
  },

  sft,
}
