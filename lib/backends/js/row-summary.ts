/**
 * The results of one row, from what its logits add up to: see token-log-probs.ts.
 */
import { sigmoid, softplus } from './numbers.js'

/** The values computed from the logits of one row. */
export interface RowSummary {
  /** Largest logit other than the label's, or one near it; 0 where none is above −∞. */
  othersMaximum: number
  /** Σe over the other logits, relative to that one; 0 where none is above −∞. */
  othersSum: number
  logProb: number
  /** 1 − p(label) */
  complement: number
  entropy: number
  argmax: number
  logSumExp: number
  sumSquaredProbs: number
}

/**
 * What the logits other than the label's add up to, with e = exp((x − maximum) / T). The sums leave out an e of 1, that of
 * the largest logit: near certainty they are tiny, and 1 + tiny would lose them.
 */
export interface Others {
  /** The largest, or a number near it. */
  maximum: number
  /** Σe − 1; NaN where a logit is NaN or +∞. */
  rest: number
  /** Σe·log e */
  timesExponent: number
  /** Σe² − 1 */
  restSquared: number
  /** Where the largest is; -1 where none is above −∞. */
  top: number
}

/** The result of a row that has no distribution: all −∞, or holding a NaN or +∞. */
const NOT_A_DISTRIBUTION: RowSummary = {
  othersMaximum: Number.NaN,
  othersSum: Number.NaN,
  logProb: Number.NaN,
  complement: Number.NaN,
  entropy: Number.NaN,
  argmax: -1,
  logSumExp: Number.NaN,
  sumSquaredProbs: Number.NaN,
}

/** The sums over the logits x, without the one at `label` where that is among them. */
export function othersOf(x: Float64Array, label: number, temperature: number): Others {
  const others: Others = { maximum: Number.NEGATIVE_INFINITY, rest: 0, timesExponent: 0, restSquared: 0, top: -1 }
  for (let i = 0; i < x.length; i++) {
    if (i === label) continue
    // Also false for NaN.
    if (!(x[i] < Number.POSITIVE_INFINITY)) return { ...others, maximum: 0, rest: Number.NaN, top: i }
    if (x[i] > others.maximum) {
      others.maximum = x[i]
      others.top = i
    }
  }
  const { maximum, top } = others
  if (top === -1) return { ...others, maximum: 0 }
  for (let i = 0; i < x.length; i++) {
    if (i === label || i === top) continue
    const exponent = (x[i] - maximum) / temperature
    const e = Math.exp(exponent)
    // A logit of −∞ adds 0, not 0 · −∞.
    if (e === 0) continue
    others.rest += e
    others.timesExponent += e * exponent
    others.restSquared += e * e
  }
  return others
}

/** The results of the row. */
export function summaryOf(
  { maximum, rest, timesExponent, restSquared, top }: Others,
  labelLogit: number,
  label: number,
  temperature: number,
): RowSummary {
  if (!(labelLogit < Number.POSITIVE_INFINITY) || Number.isNaN(rest)) return NOT_A_DISTRIBUTION
  if (top === -1) {
    return labelLogit === Number.NEGATIVE_INFINITY ? NOT_A_DISTRIBUTION : certain(labelLogit, label, temperature)
  }
  const othersSum = 1 + rest
  const logOthersSum = Math.log1p(rest)
  const z = (maximum - labelLogit) / temperature + logOthersSum
  const p = sigmoid(-z)
  const complement = sigmoid(z)
  // 0 − x, so that a log-prob of zero is 0 rather than −0.
  const logProb = 0 - softplus(z)

  // Entropy by the chain rule: first label or not, then which of the others.
  const othersEntropy = logOthersSum - timesExponent / othersSum
  const entropy = timesLog(p, logProb) + timesLog(complement, -softplus(-z)) + complement * othersEntropy
  return {
    othersMaximum: maximum,
    othersSum,
    logProb,
    complement,
    entropy,
    argmax: labelLogit > maximum || (labelLogit === maximum && label < top) ? label : top,
    logSumExp: z <= 0 ? labelLogit / temperature + softplus(z) : maximum / temperature + logOthersSum + softplus(-z),
    sumSquaredProbs: p * p + complement * complement * ((1 + restSquared) / (othersSum * othersSum)),
  }
}

/** A row in which the label is the only possible token, as it is with a vocabulary of 1. */
function certain(labelLogit: number, label: number, temperature: number): RowSummary {
  return {
    othersMaximum: 0,
    othersSum: 0,
    logProb: 0,
    complement: 0,
    entropy: 0,
    argmax: label,
    logSumExp: labelLogit / temperature,
    sumSquaredProbs: 1,
  }
}

/** −p log p, which is 0 at p = 0. */
function timesLog(p: number, logP: number): number {
  return p === 0 ? 0 : -p * logP
}
