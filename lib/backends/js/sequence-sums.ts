/**
 * Stage 2, sequence sums: adds up the token log-probs of each sequence in float64, in row order. Also the way back: the
 * gradient of each row's log-prob from its sequence's gradient.
 */
import type { ForwardStage, GradientStage, Tokens } from '../../job.js'
import type { RowResults } from './token-log-probs.js'

export function sequenceSums(stage: ForwardStage, tokens: Tokens, rows: RowResults): void {
  const { targets, weights, plainWeights, offsets, counts } = tokens
  const sequenceCount = offsets.length - 1
  for (let s = 0; s < sequenceCount; s++) {
    let sum = 0
    let plainSum = 0
    let logWeightSum = 0
    for (let row = offsets[s]; row < offsets[s + 1]; row++) {
      if (targets[row] < 0) continue
      sum += weighed(weights, row, rows.logProbs[row])
      if (stage.plainLogProbs !== undefined) plainSum += weighed(plainWeights, row, rows.logProbs[row])
      if (rows.logSumSquaredProbs !== undefined) logWeightSum += rows.logProbs[row] - rows.logSumSquaredProbs[row]
    }
    const count = counts[s]
    const ofSequence = (total: number) => (count === 0 ? tokens.emptyLogProb : tokens.average ? total / count : total)
    stage.logProbs[s] = ofSequence(sum)
    if (stage.plainLogProbs !== undefined) stage.plainLogProbs[s] = ofSequence(plainSum)
    if (stage.logWeights !== undefined) stage.logWeights[s] = count === 0 ? 0 : logWeightSum / count
  }
}

/** d loss / d log-prob of a row of sequence s. */
export function rowCoefficient(
  { weights, plainWeights, average, counts }: Tokens,
  { coefficients, plainCoefficients }: Pick<GradientStage, 'coefficients' | 'plainCoefficients'>,
  s: number,
  row: number,
): number {
  const divisor = average ? counts[s] : 1
  const coefficient = weighed(weights, row, coefficients[s] / divisor)
  if (plainCoefficients === undefined) return coefficient
  return coefficient + weighed(plainWeights, row, plainCoefficients[s] / divisor)
}

/** A weight of 0 takes a row out, even if it holds ∞ or NaN: 0 · ∞ and 0 · NaN are 0 here. */
export function weighed(weights: Float64Array | undefined, row: number, value: number): number {
  if (weights === undefined) return value
  return weights[row] === 0 ? 0 : weights[row] * value
}
