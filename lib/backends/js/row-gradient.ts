/**
 * Stage 4 for one row: the derivative of the loss with respect to each of its logits. With s = x / T and the derivatives a,
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
  // With respect to the logits themselves.
  const slope = (derivative: number | undefined) => (derivative ?? 0) / tokens.temperature
  const a = slope(rowCoefficient(tokens, stage, s, row) + (own?.logProb?.[row] ?? 0))
  const z = slope(own?.logSumExp?.[row])
  const e = slope(own?.entropy?.[row])
  const m = slope(own?.meanLogit?.[row]) / stage.logits.vocab
  if (a === 0 && z === 0 && e === 0) return m === 0 ? undefined : () => m

  const [maximum, perExp, complement, logProb] = (states as Float64Array).subarray(row * STATE_SIZE)
  const p = Math.exp(logProb)
  const entropy = e === 0 ? 0 : (entropies as Float64Array)[row]
  const ofEntropy = (p: number, logP: number) => (e === 0 || p === 0 ? 0 : e * p * (logP + entropy))
  // + 0, for a zero gradient of 0 rather than −0.
  const atLabel = a * complement + z * p - ofEntropy(p, logProb) + m + 0
  const factor = (z - a) * perExp
  const logPerExp = Math.log(perExp)
  return (logit, isLabel) => {
    if (isLabel) return atLabel
    const exponent = (logit - maximum) / tokens.temperature
    const exp = Math.exp(exponent)
    return factor * exp - ofEntropy(perExp * exp, logPerExp + exponent) + m + 0
  }
}
