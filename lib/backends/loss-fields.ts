/**
 * The fields of a job's stage 3, in the addon's order: see job-fields.ts.
 */
import {
  type ForwardStage,
  GIVEN_NAMES,
  type GivenOnDevice,
  type LossStage,
  type LossTerm,
  type PairConstants,
  type TokenLossStage,
  type UnpairedLossStage,
} from '../job.js'
import type { FDivergence, SftNormalization } from '../types/index.js'
import { type Codes, type FieldVisitor, Part } from './field-visitor.js'

const LOSS = new Part()
const PAIR_CONSTANTS = new Part()
const UNPAIRED_LOSS = new Part()
const GIVEN = new Part()
const TOKEN_LOSS = new Part()
const TERMS = new Part()

export const DIVERGENCES: Record<FDivergence, number> = { reverse_kl: 0, forward_kl: 1, js: 2, alpha: 3 }
export const SFT_NORMALIZATIONS: Record<SftNormalization, number> = { tokens: 0, sequences: 1, sum: 2 }

/** Log-probs that no stage before has found are the caller's: the loss does not change them. */
export function visitLoss(visit: FieldVisitor, loss: LossStage, policy?: ForwardStage, reference?: ForwardStage): void {
  visit.part(LOSS)
  visit.in('loss.pairs', 'int32', loss.pairs)
  visit.in('loss.chosenTokenCounts', 'float64', loss.chosenTokenCounts)
  visit.in('loss.rejectedTokenCounts', 'float64', loss.rejectedTokenCounts)
  const [ofPolicy, ofReference] = [policy ? 'out' : 'in', reference ? 'out' : 'in'] as const
  visit[ofPolicy]('loss.chosen', 'float64', loss.chosen)
  visit[ofPolicy]('loss.rejected', 'float64', loss.rejected)
  visit[ofReference]('loss.referenceChosen', 'float64', loss.referenceChosen)
  visit[ofReference]('loss.referenceRejected', 'float64', loss.referenceRejected)
  visit.in('loss.pairWeights', 'float64', loss.pairWeights)
  visit.out('loss.losses', 'float64', loss.losses)
  visit.out('loss.chosenRewards', 'float64', loss.chosenRewards)
  visit.out('loss.rejectedRewards', 'float64', loss.rejectedRewards)
  visit.out('loss.gradChosen', 'float64', loss.gradChosen)
  visit.out('loss.gradRejected', 'float64', loss.gradRejected)
  visit.out('loss.summary', 'float64', loss.summary)
  const { constants } = loss
  visit.number('loss.constants.beta', constants.beta)
  visit.number('loss.constants.offset', constants.offset)
  visit.number('loss.constants.gamma', constants.gamma)
  visit.number('loss.constants.rewardShift', constants.rewardShift)
  visit.number('loss.constants.targetMargin', constants.targetMargin)
  visit.number('loss.constants.dpopLambda', constants.dpopLambda)
  visit.number('loss.constants.discopopTau', constants.discopopTau)
  visit.number('loss.constants.alpha', constants.alpha)
  visit.number('loss.constants.rewardAlpha', constants.rewardAlpha)
  visit.number('loss.constants.sftNormalization', SFT_NORMALIZATIONS[constants.sftNormalization])
  visit.number('loss.constants.divergence', DIVERGENCES[constants.fDivergence])
  visit.number('loss.constants.average', constants.average ? 1 : 0)
  visit.number('loss.constants.pairDivisor', constants.pairDivisor ?? 0)
  visit.number('loss.constants.tokenDivisor', constants.tokenDivisor ?? 0)
  visit.number('loss.constants.gradientScale', constants.gradientScale ?? 1)
  if (loss.pairConstants) visitPairConstants(visit, loss.pairConstants)
}

function visitPairConstants(visit: FieldVisitor, own: PairConstants): void {
  visit.part(PAIR_CONSTANTS)
  visit.in('loss.pairConstants.beta', 'float64', own.beta)
  visit.in('loss.pairConstants.labelSmoothing', 'float64', own.labelSmoothing)
  visit.in('loss.pairConstants.offset', 'float64', own.offset)
  visit.in('loss.pairConstants.targetMargin', 'float64', own.targetMargin)
}

export function visitUnpairedLoss(visit: FieldVisitor, loss: UnpairedLossStage, codes: Codes): void {
  visit.part(UNPAIRED_LOSS)
  visit.number('unpairedLoss.type', codes.unpairedLossOf(loss.lossType))
  visit.in('unpairedLoss.desirable', 'int32', loss.desirable)
  visit.in('unpairedLoss.weights', 'float64', loss.weights)
  visit.in('unpairedLoss.betas', 'float64', loss.betas)
  visit.in('unpairedLoss.targets', 'float64', loss.targets)
  visit.in('unpairedLoss.logProbs', 'float64', loss.logProbs)
  visit.in('unpairedLoss.referenceLogProbs', 'float64', loss.referenceLogProbs)
  visit.out('unpairedLoss.losses', 'float64', loss.losses)
  visit.out('unpairedLoss.rewards', 'float64', loss.rewards)
  visit.out('unpairedLoss.gradient', 'float64', loss.gradient)
  visit.out('unpairedLoss.summary', 'float64', loss.summary)
  visit.number('unpairedLoss.constants.beta', loss.beta)
  visit.number('unpairedLoss.constants.desirableWeight', loss.desirableWeight)
  visit.number('unpairedLoss.constants.undesirableWeight', loss.undesirableWeight)
  visit.number('unpairedLoss.constants.kl', loss.kl)
  visit.number('unpairedLoss.constants.rewardShift', loss.rewardShift)
  visit.number('unpairedLoss.constants.divisor', loss.divisor)
  visit.number('unpairedLoss.constants.gradientScale', loss.gradientScale ?? 1)
}

export function visitGiven(visit: FieldVisitor, given: GivenOnDevice): void {
  visit.part(GIVEN)
  for (const name of GIVEN_NAMES) {
    visit.in(`given.${name}.data`, 'address', given[name]?.data)
    visit.number(`given.${name}.wide`, given[name]?.wide ? 1 : 0)
  }
}

export function visitTokenLoss(visit: FieldVisitor, loss: TokenLossStage): void {
  visit.part(TOKEN_LOSS)
  visit.in('tokenLoss.weightsOfLabels', 'float64', loss.weightsOfLabels)
  visit.out('tokenLoss.losses', 'float64', loss.losses)
  visit.out('tokenLoss.summary', 'float64', loss.summary)
  visit.number('tokenLoss.constants.labelSmoothing', loss.labelSmoothing)
  visit.number('tokenLoss.constants.zLoss', loss.zLoss)
  visit.number('tokenLoss.constants.dft', loss.dft ? 1 : 0)
  visit.in('tokenLoss.classWeights', 'float32', loss.classWeights)
  visit.number('tokenLoss.constants.meanClassWeight', loss.meanClassWeight ?? 1)
  visit.number('tokenLoss.divisor', loss.divisor)
  visit.number('tokenLoss.gradientScale', loss.gradientScale ?? 1)
}

/** This part comes last, because the number of terms varies. */
export function visitTerms(visit: FieldVisitor, terms: readonly LossTerm[], codes: Codes): void {
  visit.part(TERMS)
  visit.number('loss.terms.count', terms.length)
  for (const term of terms) {
    visit.number('type', codes.lossOf(term.lossType), 'loss.terms')
    visit.number('weight', term.weight, 'loss.terms')
    visit.number('labelSmoothing', term.labelSmoothing, 'loss.terms')
  }
}
