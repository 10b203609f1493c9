/**
 * Stage 4 for one row: the derivative of the loss with respect to each of its logits x. With s = x / T, or tanh(k x) / T
 * where logits are capped, and the derivatives a, z, e and m with respect to log p(label), log Σ exp(s), the entropy H and
 * the mean of w · s over the V logits, that is
 *
 *   d loss / d s_j = a · δ_j,label + (z − a) · p_j − e · p_j · (log p_j + H) + m · w_j / V
 *
 * The label's own p is exp(log p), and a · (1 − p) is taken at once; those of the others come from the row's state
 * (token-log-probs.ts). Nothing is summed again and nothing cancels.
 */
import type { GradientStage, TokenCoefficients, Tokens } from '../../job.js'
import { rowCoefficient } from './sequence-sums.js'
import { STATE_SIZE } from './token-log-probs.js'

type Stage = Pick<
  GradientStage,
  'logits' | 'states' | 'entropies' | 'coefficients' | 'plainCoefficients' | 'rowScale'
> & { tokenCoefficients?: OwnCoefficients }

/** The coefficients of single rows; with `classWeights` w, `[V]`, where the mean logit is that of w · s, else w is 1. */
export interface OwnCoefficients extends TokenCoefficients {
  classWeights?: Float32Array
}

/** The derivative at a logit, given its value and its column. */
export type RowGradient = (logit: number, word: number) => number

/** For an active row of sequence s; undefined where all derivatives are 0, whatever the row holds. */
export function rowGradient(stage: Stage, tokens: Tokens, s: number, row: number): RowGradient | undefined {
  const { states, entropies, tokenCoefficients: own } = stage
  const { targets, temperature, capScale, shard = { start: 0, vocab: stage.logits.vocab } } = tokens
  const label = targets[row] - shard.start
  // With respect to x or tanh(k x).
  const slope = (derivative: number | undefined) => (derivative ?? 0) / temperature
  const a = slope(stage.rowScale ? unitSlope(stage, tokens, s, row) : logProbSlope(stage, tokens, s, row))
  const z = slope(own?.logSumExp?.[row])
  const e = slope(own?.entropy?.[row])
  const mean = slope(own?.meanLogit?.[row]) / shard.vocab
  const ofMean = (word: number) =>
    own?.classWeights === undefined ? mean : mean * own.classWeights[shard.start + word]
  if (a === 0 && z === 0 && e === 0) {
    return mean === 0 ? undefined : (logit, word) => ofMean(word) * slopeAt(logit, capScale)
  }

  const [maximum, perExp, complement, logProb] = (states as Float64Array).subarray(row * STATE_SIZE)
  const p = Math.exp(logProb)
  const entropy = e === 0 ? 0 : (entropies as Float64Array)[row]
  const ofEntropy = (p: number, logP: number) => (e === 0 || p === 0 ? 0 : e * p * (logP + entropy))
  // + 0, for a zero gradient of 0 rather than −0.
  const atLabel = a * complement + z * p - ofEntropy(p, logProb) + ofMean(label) + 0
  const factor = (z - a) * perExp
  const logPerExp = Math.log(perExp)
  const gradient: RowGradient = (x, word) => {
    if (word === label) return atLabel
    const exponent = (x - maximum) / temperature
    const exp = Math.exp(exponent)
    return factor * exp - ofEntropy(perExp * exp, logPerExp + exponent) + ofMean(word) + 0
  }
  if (capScale === undefined) return gradient
  return (logit, word) => gradient(Math.tanh(capScale * logit), word) * slopeAt(logit, capScale)
}

/** d loss / d log-prob of an active row of sequence s: what its sequence gives it, and its own. */
export function logProbSlope(stage: Stage, tokens: Tokens, s: number, row: number): number {
  return rowCoefficient(tokens, stage, s, row) + (stage.tokenCoefficients?.logProb?.[row] ?? 0)
}

/** 1 in its place where the caller multiplies; 0 for a row that is known to take no part. */
function unitSlope(stage: Stage, tokens: Tokens, s: number, row: number): number {
  if (stage.tokenCoefficients?.logProb) return logProbSlope(stage, tokens, s, row) === 0 ? 0 : 1
  const { weights, plainWeights } = tokens
  const weight = weights === undefined ? 1 : weights[row]
  const isPlain = stage.plainCoefficients !== undefined && plainWeights![row] !== 0
  return weight !== 0 || isPlain ? 1 : 0
}

/** d tanh(k x) / d x = k · 4 e^(−2|k x|) / (1 + e^(−2|k x|))², in which nothing cancels; 1 where nothing is capped. */
function slopeAt(logit: number, capScale: number | undefined): number {
  if (capScale === undefined) return 1
  const e = Math.exp(-2 * Math.abs(capScale * logit))
  return (4 * capScale * e) / ((1 + e) * (1 + e))
}
