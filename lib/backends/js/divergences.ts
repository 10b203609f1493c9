/**
 * The scores s(x) of a log-ratio x = log π − log ρ that represent the f-divergences of Wang et al. 2023,
 * "Beyond Reverse KL".
 */
import type { FDivergence } from '../../types/index.js'
import { logSigmoid, sigmoid } from './numbers.js'

/** e^700 is near the largest float64. Beyond it a score stays constant, and its derivative is 0. */
const LARGEST_EXPONENT = 700

/** Within this distance of α = 1, the alpha divergence is the reverse KL: (α − 1) x would lose the digits of x. */
const ALPHA_TOLERANCE = 1e-12

export interface Score {
  value: number
  derivative: number
}

/** The score up to a constant, which cancels in a difference of two scores. */
export const SCORES: Record<FDivergence, (x: number, alpha: number) => Score> = {
  reverse_kl: (x) => ({ value: x, derivative: 1 }),
  forward_kl: (x) => ({
    value: -Math.exp(Math.min(-x, LARGEST_EXPONENT)),
    derivative: -x > LARGEST_EXPONENT ? 0 : Math.exp(-x),
  }),
  js: (x) => ({ value: logSigmoid(x), derivative: sigmoid(-x) }),
  // e^(slope x) / slope minus the constant 1 / slope, which keeps the digits when slope is small.
  alpha: (x, alpha) => power(x, alpha - 1),
}

/** (e^(slope x) − 1) / slope, which is x for a slope of 0. */
export function power(x: number, slope: number): Score {
  if (Math.abs(slope) <= ALPHA_TOLERANCE) return { value: x, derivative: 1 }
  const exponent = slope * x
  return {
    value: Math.expm1(Math.min(exponent, LARGEST_EXPONENT)) / slope,
    derivative: exponent > LARGEST_EXPONENT ? 0 : Math.exp(exponent),
  }
}

/**
 * The score itself, as in the papers: where the two scores are divided by different lengths, the constant does not
 * cancel.
 */
export function wholeScore(divergence: FDivergence, x: number, alpha: number): Score {
  const { value, derivative } = SCORES[divergence](x, alpha)
  const slope = alpha - 1
  if (divergence !== 'alpha' || Math.abs(slope) <= ALPHA_TOLERANCE) return { value, derivative }
  return { value: Math.exp(Math.min(slope * x, LARGEST_EXPONENT)) / slope, derivative }
}
