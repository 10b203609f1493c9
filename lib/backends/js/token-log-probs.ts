/**
 * Stage 1, token log-probs: the log-prob of the label that each active row predicts. Inactive rows are not read.
 *
 * - Everything is written with the label on one side and all other logits on the other:
 *   z = log Σ_{j≠label} exp(x_j / T) − x_label / T, so that log p = −softplus(z) and 1 − p = σ(z) are accurate to the
 *   last digits whether p is nearly 0 or nearly 1.
 * - The others' probabilities are then (1 − p) · e_j / Σe with e_j = exp((x_j − max) / T), max over the others.
 */
import type { ForwardStage, TokenLossStage, Tokens } from '../../job.js'
import { logitOf } from './head.js'
import { sigmoid, softplus } from './numbers.js'
import { readRow } from './rows.js'

/** Layout of a row's four states: the others' maximum, (1 − p) / Σe, 1 − p, and log p. */
export const STATE_SIZE = 4

/** The values that stage 2 adds up, `[R]`, unrounded; only active rows are filled. */
export interface RowResults {
  logProbs: Float64Array
  /** log Σp², when the stage asks for `logWeights`. */
  logSumSquaredProbs?: Float64Array
  /** log Σ exp(x / T) and the mean of w · x / T, w the weights of classes or 1, when a token loss follows. */
  logSumExp?: Float64Array
  meanLogits?: Float64Array
}

/** The values computed from the logits of one row. */
interface RowSummary {
  /** Largest logit other than the label's; 0 where none is above −∞. */
  othersMaximum: number
  /** Σe over the other logits; 0 where none is above −∞. */
  othersSum: number
  logProb: number
  /** 1 − p(label) */
  complement: number
  entropy: number
  argmax: number
  logSumExp: number
  sumSquaredProbs: number
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

/** Yields after every active row, so that a caller may do other work in between. `loss`: the token loss that follows. */
export function* tokenLogProbs(
  stage: ForwardStage,
  tokens: Tokens,
  loss?: TokenLossStage,
): Generator<void, RowResults> {
  const { logits, head } = stage
  const { targets, temperature, capScale } = tokens
  const rowCount = logits.batch * logits.time
  const values = new Float64Array(logits.vocab)
  const results: RowResults = { logProbs: new Float64Array(rowCount) }
  if (stage.logWeights !== undefined) results.logSumSquaredProbs = new Float64Array(rowCount)
  if (loss) {
    results.logSumExp = new Float64Array(rowCount)
    results.meanLogits = new Float64Array(rowCount)
  }

  const state = new Float64Array(head ? head.hidden.vocab : 0)
  const logit = head && logitOf(head)

  for (let row = 0; row < rowCount; row++) {
    if (targets[row] < 0) continue
    if (head && logit) {
      readRow(head.hidden, row, state)
      for (let v = 0; v < values.length; v++) values[v] = logit(state, v)
    } else {
      readRow(logits, row, values)
    }
    if (capScale !== undefined) for (let v = 0; v < values.length; v++) values[v] = Math.tanh(values[v] * capScale)
    const summary = summarise(values, targets[row], temperature)
    results.logProbs[row] = summary.logProb
    if (results.logSumSquaredProbs !== undefined) {
      results.logSumSquaredProbs[row] = Math.log(summary.sumSquaredProbs)
    }
    if (results.logSumExp !== undefined) results.logSumExp[row] = summary.logSumExp
    if (results.meanLogits !== undefined) results.meanLogits[row] = meanOf(values, loss?.classWeights) / temperature
    if (stage.states !== undefined) {
      const state = row * STATE_SIZE
      stage.states[state] = summary.othersMaximum
      stage.states[state + 1] = summary.othersSum === 0 ? 0 : summary.complement / summary.othersSum
      stage.states[state + 2] = summary.complement
      stage.states[state + 3] = summary.logProb
    }
    if (stage.entropies !== undefined) stage.entropies[row] = summary.entropy
    if (stage.tokenLogProbs !== undefined) stage.tokenLogProbs[row] = summary.logProb
    if (stage.tokenEntropies !== undefined) stage.tokenEntropies[row] = summary.entropy
    if (stage.tokenArgmax !== undefined) stage.tokenArgmax[row] = summary.argmax
    if (stage.logSumExp !== undefined) stage.logSumExp[row] = summary.logSumExp
    if (stage.sumSquaredProbs !== undefined) stage.sumSquaredProbs[row] = summary.sumSquaredProbs
    if (stage.tokenMeanLogits !== undefined) {
      stage.tokenMeanLogits[row] = Number.isNaN(summary.logProb) ? Number.NaN : meanOf(values) / temperature
    }
    yield
  }
  return results
}

function summarise(x: Float64Array, label: number, temperature: number): RowSummary {
  const labelLogit = x[label]
  if (!(labelLogit < Number.POSITIVE_INFINITY)) return NOT_A_DISTRIBUTION
  let maximum = Number.NEGATIVE_INFINITY
  let top = -1
  for (let i = 0; i < x.length; i++) {
    if (i === label) continue
    // Also false for NaN.
    if (!(x[i] < Number.POSITIVE_INFINITY)) return NOT_A_DISTRIBUTION
    if (x[i] > maximum) {
      maximum = x[i]
      top = i
    }
  }
  if (top === -1) {
    return labelLogit === Number.NEGATIVE_INFINITY ? NOT_A_DISTRIBUTION : certain(labelLogit, label, temperature)
  }

  // Sums without the largest logit, whose e is 1: near certainty these sums are tiny, and 1 + tiny would lose them.
  let rest = 0
  let restTimesExponent = 0
  let restSquared = 0
  for (let i = 0; i < x.length; i++) {
    if (i === label || i === top) continue
    const exponent = (x[i] - maximum) / temperature
    const e = Math.exp(exponent)
    // A logit of −∞ adds 0, not 0 · −∞.
    if (e === 0) continue
    rest += e
    restTimesExponent += e * exponent
    restSquared += e * e
  }
  const othersSum = 1 + rest
  const logOthersSum = Math.log1p(rest)
  const z = (maximum - labelLogit) / temperature + logOthersSum
  const p = sigmoid(-z)
  const complement = sigmoid(z)
  // 0 − x, so that a log-prob of zero is 0 rather than −0.
  const logProb = 0 - softplus(z)

  // Entropy by the chain rule: first label or not, then which of the others.
  const othersEntropy = logOthersSum - restTimesExponent / othersSum
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

/** The mean of values, each times its weight; one of weight 0 takes no part, whatever it is. */
function meanOf(values: Float64Array, weights?: Float32Array): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) {
    if (weights === undefined) sum += values[i]
    else if (weights[i] !== 0) sum += weights[i] * values[i]
  }
  return sum / values.length
}

/** −p log p, which is 0 at p = 0. */
function timesLog(p: number, logP: number): number {
  return p === 0 ? 0 : -p * logP
}
