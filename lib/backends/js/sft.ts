/**
 * 'sft', the one loss that is not made of pairs.
 */
import { type Loss, lengthDivisor, NEEDS, times } from './formulas.js'

/**
 * Negative log-likelihood of the chosen sequences: −Σ log π / Σ length over the batch (or the given normalizer in place of
 * Σ length), 0 where there is no token; or a mean over pairs of −log π or of −log π / length.
 */
export const sft: Loss = {
  ...NEEDS,
  reference: false,
  lengths: 'always',
  formula: (batch, { average, sftNormalization, pairDivisor = batch.chosen.length, tokenDivisor }) => {
    const lengths = batch.chosenTokenCounts
    const lengthOf = (pair: number) => (lengths as Float64Array)[pair]
    const factorOf = (pair: number) => {
      if (sftNormalization === 'sequences') return 1 / lengthDivisor(lengths, pair, average)
      // Turns means back into sums.
      const toSum = average ? lengthOf(pair) : 1
      if (sftNormalization === 'sum') return toSum
      const tokenCount = tokenDivisor ?? (lengths as Float64Array).reduce((sum, length) => sum + length, 0)
      // The factor cancels the later division by the pairs' divisor and leaves the tokens' divisor.
      return tokenCount === 0 ? 0 : (toSum * pairDivisor) / tokenCount
    }
    return Array.from(batch.chosen, (logProb, pair) => {
      const factor = factorOf(pair)
      return { pair, rejectedPair: pair, value: 0 - times(factor, logProb), chosen: -factor, rejected: 0 }
    })
  },
}
