/**
 * Stage 4 for one row: the derivative of the loss with respect to each of its logits x. With s = x / T, or tanh(k x) / T
 * where logits are capped, and the derivatives a,
 * z, e and m with respect to log p(label), log Σ exp(s), the entropy H and the mean of s over the V logits, that is
 *
 *   d loss / d s_j = a · δ_j,label + (z − a) · p_j − e · p_j · (log p_j + H) + m / V
 *
 * The label's own p is exp(log p), and a · (1 − p) is taken at once; those of the others come from the row's state
 * (token-log-probs.ts). Nothing is summed again and nothing cancels.
 */
import type { GradientStage, Tokens } from '../../job.js'
import { rowCoefficient } from './sequence-sums.js'
import { STATE_SIZE } from './token-log-probs.js'

type Stage = Pick<
  GradientStage,
  'logits' | 'states' | 'entropies' | 'coefficients' | 'plainCoefficients' | 'tokenCoefficients'
>

/** The derivative at a logit whose value is `logit`; `isLabel`: it is the label's. */
export type RowGradient = (logit: number, isLabel: boolean) => number

/** For an active row of sequence s; undefined where all derivatives are 0, whatever the row holds. */
export function rowGradient(stage: Stage, tokens: Tokens, s: number, row: number): RowGradient | undefined {
  const { states, entropies, tokenCoefficients: own } = stage
  const { temperature, capScale } = tokens
  // With respect to x or tanh(k x).
  const slope = (derivative: number | undefined) => (derivative ?? 0) / temperature
  const a = slope(rowCoefficient(tokens, stage, s, row) + (own?.logProb?.[row] ?? 0))
  const z = slope(own?.logSumExp?.[row])
  const e = slope(own?.entropy?.[row])
  const m = slope(own?.meanLogit?.[row]) / stage.logits.vocab
  if (a === 0 && z === 0 && e === 0) return m === 0 ? undefined : (logit) => m * slopeAt(logit, capScale)

  const [maximum, perExp, complement, logProb] = (states as Float64Array).subarray(row * STATE_SIZE)
  const p = Math.exp(logProb)
  const entropy = e === 0 ? 0 : (entropies as Float64Array)[row]
  const ofEntropy = (p: number, logP: number) => (e === 0 || p === 0 ? 0 : e * p * (logP + entropy))
  // + 0, for a zero gradient of 0 rather than −0.
  const atLabel = a * complement + z * p - ofEntropy(p, logProb) + m + 0
  const factor = (z - a) * perExp
  const logPerExp = Math.log(perExp)
  const gradient: RowGradient = (x, isLabel) => {
    if (isLabel) return atLabel
    const exponent = (x - maximum) / temperature
    const exp = Math.exp(exponent)
    return factor * exp - ofEntropy(perExp * exp, logPerExp + exponent) + m + 0
  }
  if (capScale === undefined) return gradient
  return (logit, isLabel) => gradient(Math.tanh(capScale * logit), isLabel) * slopeAt(logit, capScale)
}

/** d tanh(k x) / d x = k · 4 e^(−2|k x|) / (1 + e^(−2|k x|))², in which nothing cancels; 1 where nothing is capped. */
function slopeAt(logit: number, capScale: number | undefined): number {
  if (capScale === undefined) return 1
  const e = Math.exp(-2 * Math.abs(capScale * logit))
  return (4 * capScale * e) / ((1 + e) * (1 + e))
}
