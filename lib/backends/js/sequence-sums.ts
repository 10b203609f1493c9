/**
 * Stage 2, sequence sums: the token log-probs of each sequence added up in float64, in row order.
 */
import type { ForwardStage, Tokens } from '../backend.js'
import type { RowResults } from './token-log-probs.js'

export function sequenceSums(stage: ForwardStage, tokens: Tokens, rows: RowResults): void {
  const { targets, weights, offsets, counts } = tokens
  const sequenceCount = offsets.length - 1
  for (let s = 0; s < sequenceCount; s++) {
    let sum = 0
    let logWeightSum = 0
    for (let row = offsets[s]; row < offsets[s + 1]; row++) {
      if (targets[row] < 0) continue
      sum += weights === undefined ? rows.logProbs[row] : weights[row] * rows.logProbs[row]
      if (rows.logSumSquaredProbs !== undefined) logWeightSum += rows.logProbs[row] - rows.logSumSquaredProbs[row]
    }
    const count = counts[s]
    stage.logProbs[s] = count === 0 ? tokens.emptyLogProb : tokens.average ? sum / count : sum
    if (stage.logWeights !== undefined) stage.logWeights[s] = count === 0 ? 0 : logWeightSum / count
  }
}
