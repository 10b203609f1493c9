/**
 * Stage 3 of single tokens: cross-entropy. With s = x / T, or tanh(k x) / T where logits are capped, L = log Σ exp(s), p the
 * label's probability and the mean over the V logits, the loss of a row is
 *
 *   φ · [(1 − ε) · (−log p) + ε · mean_j(−log p_j)] + λ · L²,  −log p_j = L − s_j
 *
 * (Szegedy et al. 2016 for ε; the z-loss λ of Chowdhery et al. 2022) and φ is 1, or p as a constant (DFT, Wu et al. 2025).
 * Where classes have weights w, it is, as PyTorch's cross_entropy has it,
 *
 *   φ · [(1 − ε) · w_label · (−log p) + ε · mean_j(w_j · −log p_j)] + w_label · λ · L²
 */
import type { TokenCoefficients, TokenLossStage, Tokens } from '../../job.js'
import { weighed } from './sequence-sums.js'
import type { RowResults } from './token-log-probs.js'

/** Fills the losses, and the derivatives where `gradient` asks for them. */
export function tokenLoss(
  {
    labelSmoothing,
    zLoss,
    dft,
    classWeights,
    meanClassWeight = 1,
    divisor,
    gradientScale = 1,
    losses,
    summary,
  }: TokenLossStage,
  { targets, weights }: Tokens,
  { logProbs, logSumExp, meanLogits }: RowResults,
  gradient: TokenCoefficients | undefined,
): void {
  let sum = 0
  for (let row = 0; row < targets.length; row++) {
    if (targets[row] < 0) continue
    const logProb = logProbs[row]
    const total = logSumExp![row]
    const factor = dft ? Math.exp(logProb) : 1
    const labelWeight = classWeights === undefined ? 1 : classWeights[targets[row]]
    const toLabel = (1 - labelSmoothing) * labelWeight
    const ofLabel = toLabel === 0 ? 0 : toLabel * -logProb
    const ofAll = labelSmoothing === 0 ? 0 : labelSmoothing * (meanClassWeight * total - meanLogits![row])
    // A label without probability has no part in its own loss: p · log p is 0 at p = 0.
    const crossEntropy = factor === 0 ? 0 : factor * (ofLabel + ofAll)
    const ofTotal = zLoss === 0 ? 0 : labelWeight * zLoss * total ** 2
    losses[row] = weighed(weights, row, crossEntropy + ofTotal)
    sum += losses[row]
    if (gradient === undefined) continue
    const slope = (derivative: number) => gradientScale * weighed(weights, row, derivative / divisor)
    // Of a row without a distribution NaN, as all of its loss is.
    gradient.logProb![row] = slope(Number.isNaN(logProb) ? logProb : -factor * toLabel)
    gradient.logSumExp![row] = slope(factor * labelSmoothing * meanClassWeight + labelWeight * 2 * zLoss * total)
    gradient.meanLogit![row] = slope(-factor * labelSmoothing)
  }
  summary[0] = sum / divisor
}
