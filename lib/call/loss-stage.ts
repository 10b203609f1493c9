/**
 * Stage 3 as both loss functions use it: its arrays, and the result made of them.
 */
import type { LossConfig, LossStage } from '../job.js'
import type { PreferenceLoss } from '../types/index.js'

/** The stage for P pairs. Inputs that are not given are zeros. */
export function lossStage(
  config: LossConfig,
  size: number,
  chosen: Float64Array = new Float64Array(size),
  rejected: Float64Array = new Float64Array(size),
  referenceChosen: Float64Array = new Float64Array(size),
  referenceRejected: Float64Array = new Float64Array(size),
): LossStage {
  return {
    terms: config.terms,
    beta: config.beta,
    gamma: config.gamma,
    rewardShift: config.rewardShift,
    discopopTau: config.discopopTau,
    fDivergence: config.fDivergence,
    alpha: config.alpha,
    average: config.average,
    pairDivisor: config.pairDivisor,
    tokenDivisor: config.tokenDivisor,
    chosen,
    rejected,
    referenceChosen,
    referenceRejected,
    losses: new Float64Array(size),
    chosenRewards: new Float64Array(size),
    rejectedRewards: new Float64Array(size),
    gradChosen: new Float64Array(size),
    gradRejected: new Float64Array(size),
    summary: new Float64Array(3),
  }
}

/** What the stage found, as the caller gets it. */
export function lossResult(stage: LossStage): PreferenceLoss {
  return {
    loss: stage.summary[0],
    losses: stage.losses,
    chosenRewards: stage.chosenRewards,
    rejectedRewards: stage.rejectedRewards,
    accuracy: stage.summary[1],
    margin: stage.summary[2],
    gradient: { chosen: stage.gradChosen, rejected: stage.gradRejected },
  }
}
