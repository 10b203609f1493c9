/**
 * Reward-aware preference optimization: Sun et al. 2025. The distance from the margin βd of the implicit rewards to that of
 * the true ones, a = targetMargin: squared, or as the Kullback-Leibler divergence of what they say of the preference, in
 * either direction.
 */
import { type Loss, NEEDS, ofDifference, times } from './formulas.js'
import { logSigmoid, sigmoid } from './numbers.js'

const rpo_sq: Loss = {
  ...NEEDS,
  formula: ofDifference('logRatio', (d, { beta, targetMargin: a }) => {
    const error = beta * d - a
    return { value: error * error, derivative: 2 * beta * error }
  }),
}

/** From (σ(a), σ(−a)) to (σ(βd), σ(−βd)). */
const rpo_bwd_kl: Loss = {
  ...NEEDS,
  formula: ofDifference('logRatio', (d, { beta, targetMargin: a }) => {
    const z = beta * d
    return { value: divergence(a, z), derivative: beta * slope(z, a) }
  }),
}

/** From (σ(βd), σ(−βd)) to (σ(a), σ(−a)). */
const rpo_fwd_kl: Loss = {
  ...NEEDS,
  formula: ofDifference('logRatio', (d, { beta, targetMargin: a }) => {
    const z = beta * d
    // The terms from the logarithms cancel; log σ(x) − log σ(−x) is x. At an infinite z it is flat.
    return { value: divergence(z, a), derivative: beta * times(sigmoid(z) * sigmoid(-z), z - a) }
  }),
}

export const REWARD_AWARE_LOSSES = { rpo_sq, rpo_bwd_kl, rpo_fwd_kl }

/** KL(σ(x) ‖ σ(y)) of two coins; a side of probability 0 takes no part. */
function divergence(x: number, y: number): number {
  const side = (sign: 1 | -1) => {
    const p = sigmoid(sign * x)
    return p === 0 ? 0 : p * (logSigmoid(sign * x) - logSigmoid(sign * y))
  }
  return side(1) + side(-1)
}

/** σ(x) − σ(y): where both are near 1, as the difference of what is missing. */
function slope(x: number, y: number): number {
  // sinh((x − y) / 2) / (2 cosh(x / 2) cosh(y / 2)), which loses no digits where x and y are near.
  if (Math.abs(x - y) < 1) return (Math.sinh((x - y) / 2) / 2 / Math.cosh(x / 2)) * (1 / Math.cosh(y / 2))
  return x > 0 && y > 0 ? sigmoid(-y) - sigmoid(-x) : sigmoid(x) - sigmoid(y)
}
