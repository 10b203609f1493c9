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
import { othersOf, type RowSummary, summaryOf } from './row-summary.js'
import { readRow } from './rows.js'
import { Segments } from './segments.js'

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

  const segments = stage.segments && new Segments(stage.segments, stage, tokens, loss)
  const sweeps = stage.segments?.bounds !== undefined
  const vocab = tokens.shard?.vocab ?? logits.vocab

  for (let row = 0; row < rowCount; row++) {
    if (targets[row] < 0) continue
    let summary: RowSummary
    let mean: (weights?: Float32Array) => number
    if (segments && !sweeps) {
      const sums = segments.sums(row)
      summary = summaryOf(sums, stage.segments!.labelLogits[row], targets[row], temperature)
      mean = (weights) => (weights ? sums.weightedSum : sums.sumOfLogits) / vocab
    } else {
      if (head && logit) {
        readRow(head.hidden, row, state)
        for (let v = 0; v < values.length; v++) values[v] = logit(state, v)
      } else {
        readRow(logits, row, values)
      }
      if (capScale !== undefined) for (let v = 0; v < values.length; v++) values[v] = Math.tanh(values[v] * capScale)
      if (segments) {
        segments.sweep(row, values)
        yield
        continue
      }
      const label = targets[row]
      summary = summaryOf(othersOf(values, label, temperature), values[label], label, temperature)
      mean = (weights) => meanOf(values, weights)
    }
    results.logProbs[row] = summary.logProb
    if (results.logSumSquaredProbs !== undefined) {
      results.logSumSquaredProbs[row] = Math.log(summary.sumSquaredProbs)
    }
    if (results.logSumExp !== undefined) results.logSumExp[row] = summary.logSumExp
    if (results.meanLogits !== undefined) results.meanLogits[row] = mean(loss?.classWeights) / temperature
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
      stage.tokenMeanLogits[row] = Number.isNaN(summary.logProb) ? Number.NaN : mean() / temperature
    }
    yield
  }
  return results
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
