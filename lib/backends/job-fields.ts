/**
 * The fields of a job, in the order in which the addon takes them. `visitFields` here and its counterpart in
 * native/addon/job_fields.h define that order. Each side turns its fields into a text, and the loader compares the two.
 */

import type {
  DeviceLabels,
  ForwardStage,
  Head,
  Job,
  LossStage,
  LossTerm,
  PairConstants,
  Rows,
  RunSettings,
  SegmentStates,
  TokenLossStage,
  Tokens,
  UnpairedLossStage,
} from '../job.js'
import type { DType, FDivergence, LossType, SftNormalization, UnpairedLossType } from '../types/index.js'
import { type FieldVisitor, Part } from './field-visitor.js'

const SETTINGS = new Part()
const TOKENS = new Part()
const LABELS = new Part()
const EXCHANGE = new Part()
const LOGITS = new Part()
const POLICY = new Part()
const POLICY_HEAD = new Part()
const POLICY_SEGMENTS = new Part()
const REFERENCE = new Part()
const REFERENCE_SEGMENTS = new Part()
const REFERENCE_HEAD = new Part()
const LOSS = new Part()
const PAIR_CONSTANTS = new Part()
const UNPAIRED_LOSS = new Part()
const TOKEN_LOSS = new Part()
const COEFFICIENTS = new Part()
const TOKEN_COEFFICIENTS = new Part()
const GRADIENT = new Part()
const HEAD_GRADIENT = new Part()
const TERMS = new Part()

export const DTYPES: Record<DType, number> = { float32: 0, float16: 1, bfloat16: 2 }
export const DIVERGENCES: Record<FDivergence, number> = { reverse_kl: 0, forward_kl: 1, js: 2, alpha: 3 }
export const SFT_NORMALIZATIONS: Record<SftNormalization, number> = { tokens: 0, sequences: 1, sum: 2 }

/** The addon's numbers for losses and settings. */
export interface Codes {
  lossOf(lossType: LossType): number
  unpairedLossOf(lossType: UnpairedLossType): number
  instructionSetOf(settings: RunSettings): number
  threadsOf(settings: RunSettings): number
}

/** To add a field, add a line below and one in the same place in job_fields.h. */
export function visitFields(visit: FieldVisitor, job: Job, settings: RunSettings, codes: Codes): void {
  const { tokens, policy, reference, loss, unpairedLoss, tokenLoss, gradient, headGradient, exchange } = job
  const stage4 = gradient ?? headGradient
  visitSettings(visit, settings, codes)
  if (tokens) visitTokens(visit, tokens)
  if (tokens?.labels) visitLabels(visit, tokens.labels)
  if (exchange) {
    visit.part(EXCHANGE)
    visit.in('exchange.communicator', 'address', exchange.communicator)
    visit.in('exchange.columns', 'int32', exchange.columns)
    visit.number('exchange.merges', exchange.merges ? 1 : 0)
  }
  const forward = policy ?? stage4
  if (forward) {
    visit.part(LOGITS)
    visit.in('policy.logits.data', 'tensor', (policy ?? gradient)?.logits.data)
    visitRows(visit, 'policy.logits', forward.logits)
    visit.out('policy.states', 'float64', forward.states)
    visit.out('policy.entropies', 'float64', forward.entropies)
    visit.number('policy.swept', policy?.swept ? 1 : 0)
  }
  if (policy) visitPolicy(visit, policy)
  if (policy?.segments) {
    visitSegments(visit, POLICY_SEGMENTS, 'policy', policy.segments)
    visit.out('policy.segments.keptLogits', 'float32', policy.segments.keptLogits)
  }
  const head = (policy ?? headGradient)?.head
  if (head) visitHead(visit, POLICY_HEAD, 'policy.head', head)
  if (reference) {
    visit.part(REFERENCE)
    visit.in('reference.logits.data', 'tensor', reference.logits.data)
    visitRows(visit, 'reference.logits', reference.logits)
    visit.out('reference.states', 'float64', reference.states)
    visit.number('reference.swept', reference.swept ? 1 : 0)
    visit.out('reference.logProbs', 'float64', reference.logProbs)
  }
  if (reference?.segments) visitSegments(visit, REFERENCE_SEGMENTS, 'reference', reference.segments)
  if (reference?.head) visitHead(visit, REFERENCE_HEAD, 'reference.head', reference.head)
  if (loss) visitLoss(visit, loss, policy, reference)
  if (unpairedLoss) visitUnpairedLoss(visit, unpairedLoss, codes)
  if (tokenLoss) visitTokenLoss(visit, tokenLoss)
  if (stage4) {
    visit.part(COEFFICIENTS)
    visit.out('gradient.coefficients', 'float64', stage4.coefficients)
    visit.out('gradient.plainCoefficients', 'float64', stage4.plainCoefficients)
    visit.number('gradient.skipInactive', stage4.skipInactive ? 1 : 0)
  }
  const tokenCoefficients = stage4?.tokenCoefficients
  if (tokenCoefficients) {
    visit.part(TOKEN_COEFFICIENTS)
    visit.in('gradient.tokenCoefficients.logProb', 'float64', tokenCoefficients.logProb)
    visit.in('gradient.tokenCoefficients.logSumExp', 'float64', tokenCoefficients.logSumExp)
    visit.in('gradient.tokenCoefficients.entropy', 'float64', tokenCoefficients.entropy)
    visit.in('gradient.tokenCoefficients.meanLogit', 'float64', tokenCoefficients.meanLogit)
  }
  if (gradient) {
    visit.part(GRADIENT)
    visit.out('gradient.out.data', 'tensor', gradient.out.data)
    visitRows(visit, 'gradient.out', gradient.out)
    visit.out('gradient.rowScale', 'float64', gradient.rowScale)
  }
  if (headGradient) {
    visit.part(HEAD_GRADIENT)
    visit.out('headGradient.hidden', 'tensor', headGradient.hidden)
    visit.out('headGradient.weight', 'tensor', headGradient.weight)
    visit.out('headGradient.bias', 'tensor', headGradient.bias)
    visit.number('headGradient.dtype', DTYPES[headGradient.dtype])
    visit.number('headGradient.precision', DTYPES[headGradient.precision ?? 'float32'])
    visit.number('headGradient.accumulate', headGradient.accumulate ? 1 : 0)
    visit.number('headGradient.logitsBudget', headGradient.logitsBudget ?? 0)
    visit.number('headGradient.sharesHidden', headGradient.sharesHidden ? 1 : 0)
  }
  if (loss) visitTerms(visit, loss.constants.terms, codes)
}

function visitSettings(visit: FieldVisitor, settings: RunSettings, codes: Codes): void {
  visit.part(SETTINGS)
  visit.number('device', settings.device ?? -1)
  visit.in('stream', 'address', settings.stream)
  visit.number('threads', codes.threadsOf(settings))
  visit.number('instructionSet', codes.instructionSetOf(settings))
  visit.number('products', settings.products ?? 0)
  visit.number('cancellable', settings.signal ? 1 : 0)
}

function visitTokens(visit: FieldVisitor, tokens: Tokens): void {
  visit.part(TOKENS)
  visit.in('tokens.targets', 'int32', tokens.targets)
  visit.number('tokens.shard.vocab', tokens.shard?.vocab ?? 0)
  visit.number('tokens.shard.start', tokens.shard?.start ?? 0)
  visit.in('tokens.weights', 'float64', tokens.weights)
  visit.in('tokens.plainWeights', 'float64', tokens.plainWeights)
  visit.in('tokens.offsets', 'int32', tokens.offsets)
  visit.in('tokens.counts', 'int32', tokens.counts)
  visit.number('tokens.temperature', tokens.temperature)
  visit.number('tokens.capScale', tokens.capScale ?? 0)
  visit.number('tokens.average', tokens.average ? 1 : 0)
  visit.number('tokens.emptyLogProb', tokens.emptyLogProb)
}

function visitLabels(visit: FieldVisitor, labels: DeviceLabels): void {
  visit.part(LABELS)
  visit.in('labels.data', 'address', labels.data)
  visit.in('labels.mask', 'address', labels.mask)
  visit.number('labels.wide', labels.wide ? 1 : 0)
  visit.number('labels.ignoreIndex', labels.ignoreIndex)
  visit.number('labels.shift', labels.shift ? 1 : 0)
  visit.in('labels.partners', 'int32', labels.partners)
  visit.number('labels.ldAlpha', labels.ldAlpha ?? 1)
  visit.out('invalidLabels', 'int32', labels.invalid)
}

function visitRows(visit: FieldVisitor, owner: string, rows: Rows): void {
  visit.number('dtype', DTYPES[rows.dtype], owner)
  visit.number('batch', rows.batch, owner)
  visit.number('time', rows.time, owner)
  visit.number('vocab', rows.vocab, owner)
  visit.number('batchStride', rows.batchStride, owner)
  visit.number('timeStride', rows.timeStride, owner)
}

function visitHead(visit: FieldVisitor, part: Part, owner: string, { hidden, weight, bias }: Head): void {
  visit.part(part)
  visit.in(`${owner}.hidden.data`, 'tensor', hidden.data)
  visitRows(visit, `${owner}.hidden`, hidden)
  visit.in(`${owner}.weight.data`, 'tensor', weight.data)
  visit.in(`${owner}.bias.data`, 'tensor', bias?.data)
  visit.number('weight.dtype', DTYPES[weight.dtype], owner)
  visit.number('weight.rowStride', weight.rowStride, owner)
  visit.number('weight.columnStride', weight.columnStride, owner)
  visit.number('bias.dtype', bias ? DTYPES[bias.dtype] : 0, owner)
}

function visitPolicy(visit: FieldVisitor, policy: ForwardStage): void {
  visit.part(POLICY)
  visit.out('policy.logProbs', 'float64', policy.logProbs)
  visit.out('policy.logWeights', 'float64', policy.logWeights)
  visit.out('policy.tokenLogProbs', 'float32', policy.tokenLogProbs)
  visit.out('policy.tokenEntropies', 'float32', policy.tokenEntropies)
  visit.out('policy.tokenArgmax', 'int32', policy.tokenArgmax)
  visit.out('policy.logSumExp', 'float32', policy.logSumExp)
  visit.out('policy.sumSquaredProbs', 'float32', policy.sumSquaredProbs)
  visit.out('policy.tokenMeanLogits', 'float32', policy.tokenMeanLogits)
}

function visitSegments(visit: FieldVisitor, part: Part, owner: string, segments: SegmentStates): void {
  visit.part(part)
  visit.in(`${owner}.segments.bounds`, 'int32', segments.bounds)
  visit.number(`${owner}.segments.count`, segments.count)
  visit.out(`${owner}.segments.states`, 'int32', segments.states)
  visit.out(`${owner}.segments.labelLogits`, 'float32', segments.labelLogits)
}

/** Log-probs that no stage before has found are the caller's: the loss does not change them. */
function visitLoss(visit: FieldVisitor, loss: LossStage, policy?: ForwardStage, reference?: ForwardStage): void {
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

function visitUnpairedLoss(visit: FieldVisitor, loss: UnpairedLossStage, codes: Codes): void {
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

function visitTokenLoss(visit: FieldVisitor, loss: TokenLossStage): void {
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
function visitTerms(visit: FieldVisitor, terms: readonly LossTerm[], codes: Codes): void {
  visit.part(TERMS)
  visit.number('loss.terms.count', terms.length)
  for (const term of terms) {
    visit.number('type', codes.lossOf(term.lossType), 'loss.terms')
    visit.number('weight', term.weight, 'loss.terms')
    visit.number('labelSmoothing', term.labelSmoothing, 'loss.terms')
  }
}
