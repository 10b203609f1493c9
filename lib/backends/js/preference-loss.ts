/**
 * Stage 3, preference loss: the weighted sum of losses over all pairs, its rewards, and its gradient with respect to
 * the sequences' log-probs. The formulas are in losses.ts.
 */
import type { GradientStage, Job, LossStage } from '../../job.js'
import { LOSSES } from './losses.js'
import { rewardsOf } from './rewards.js'

export function preferenceLoss(job: Job): void {
  const stage = job.loss as LossStage
  gather(job, stage)
  const { constants, pairConstants, losses, gradChosen, gradRejected } = stage
  const { gradientScale = 1 } = constants
  const pairWeights = weightsOf(job, stage)
  const pairDivisor = constants.pairDivisor ?? stage.chosen.length
  const plainChosen = plainLogProbs(job, stage)
  const gradPlain = new Float64Array(stage.chosen.length)
  losses.fill(0)
  gradChosen.fill(0)
  gradRejected.fill(0)
  for (const { lossType, weight, labelSmoothing } of constants.terms) {
    const isPlain = lossType === 'sft' && plainChosen !== undefined
    const batch = isPlain ? { ...stage, chosen: plainChosen } : stage
    const gradient = isPlain ? gradPlain : gradChosen
    for (const loss of LOSSES[lossType].formula(batch, { ...constants, pairConstants, labelSmoothing })) {
      const factor = pairWeights === undefined ? weight : weight * pairWeights[loss.pair]
      // A pair of weight 0 takes no part, even if its loss is NaN.
      if (factor === 0) continue
      losses[loss.pair] += factor * loss.value
      gradient[loss.pair] += (factor * loss.chosen) / pairDivisor
      gradRejected[loss.rejectedPair] += (factor * loss.rejected) / pairDivisor
    }
  }
  for (const slopes of [gradChosen, gradRejected, gradPlain]) {
    for (let i = 0; i < slopes.length; i++) slopes[i] *= gradientScale
  }
  rewardsOf(stage)
  summarise(stage, pairDivisor)
  const gradient = job.gradient ?? job.headGradient
  if (gradient !== undefined) scatter(stage, gradPlain, gradient)
}

/** `[P]` the log-probs that 'sft' uses in place of the chosen ones, where its tokens have other weights. */
function plainLogProbs({ policy }: Job, { pairs }: LossStage): Float64Array | undefined {
  const sums = policy?.plainLogProbs
  if (pairs === undefined || sums === undefined) return undefined
  return Float64Array.from({ length: pairs.length / 2 }, (_, i) => sums[pairs[2 * i]])
}

/** Fills the pairs' inputs from the sequences, in a job that has computed the sequences. */
function gather({ policy, reference }: Job, stage: LossStage): void {
  const { pairs } = stage
  if (pairs === undefined || policy === undefined) return
  for (let i = 0; i < stage.chosen.length; i++) {
    const chosen = pairs[2 * i]
    const rejected = pairs[2 * i + 1]
    stage.chosen[i] = policy.logProbs[chosen]
    stage.rejected[i] = policy.logProbs[rejected]
    if (reference !== undefined) {
      stage.referenceChosen[i] = reference.logProbs[chosen]
      stage.referenceRejected[i] = reference.logProbs[rejected]
    }
  }
}

/** `[P]` the given factors of pairs times those that come from the policy. */
function weightsOf({ policy }: Job, { pairs, pairWeights }: LossStage): Float64Array | undefined {
  const logWeights = policy?.logWeights
  if (pairs === undefined || logWeights === undefined) return pairWeights
  return Float64Array.from({ length: pairs.length / 2 }, (_, i) => {
    const ofPolicy = Math.exp(logWeights[pairs[2 * i]] + logWeights[pairs[2 * i + 1]])
    return pairWeights === undefined ? ofPolicy : pairWeights[i] * ofPolicy
  })
}

function summarise({ losses, chosenRewards, rejectedRewards, summary }: LossStage, pairDivisor: number): void {
  const pairCount = losses.length
  let lossSum = 0
  let correct = 0
  let marginSum = 0
  for (let i = 0; i < pairCount; i++) {
    lossSum += losses[i]
    if (chosenRewards[i] > rejectedRewards[i]) correct++
    marginSum += chosenRewards[i] - rejectedRewards[i]
  }
  summary[0] = lossSum / pairDivisor
  summary[1] = correct / pairCount
  summary[2] = marginSum / pairCount
}

/** A sequence in several pairs gets the sum of its gradients; a sequence in no pair gets 0. */
function scatter(
  { pairs, gradChosen, gradRejected }: LossStage,
  gradPlain: Float64Array,
  { coefficients, plainCoefficients }: Pick<GradientStage, 'coefficients' | 'plainCoefficients'>,
): void {
  if (pairs === undefined) return
  coefficients.fill(0)
  plainCoefficients?.fill(0)
  for (let i = 0; i < gradChosen.length; i++) {
    coefficients[pairs[2 * i]] += gradChosen[i]
    coefficients[pairs[2 * i + 1]] += gradRejected[i]
    if (plainCoefficients !== undefined) plainCoefficients[pairs[2 * i]] += gradPlain[i]
  }
}
