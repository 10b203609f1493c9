/**
 * The fields of a job, in the order in which the addon takes them. `visitFields` here and its counterpart in
 * native/addon/job_fields.h define that order. Each side turns its fields into a text, and the loader compares the two.
 */

import type { DeviceLabels, ForwardStage, Head, Job, Rows, RunSettings, SegmentStates, Tokens } from '../job.js'
import type { DType } from '../types/index.js'
import { type Codes, type FieldVisitor, Part } from './field-visitor.js'
import { visitGiven, visitLoss, visitTerms, visitTokenLoss, visitUnpairedLoss } from './loss-fields.js'

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
const COEFFICIENTS = new Part()
const TOKEN_COEFFICIENTS = new Part()
const GRADIENT = new Part()
const HEAD_GRADIENT = new Part()

export const DTYPES: Record<DType, number> = { float32: 0, float16: 1, bfloat16: 2 }

/** To add a field, add a line below and one in the same place in job_fields.h. */
export function visitFields(visit: FieldVisitor, job: Job, settings: RunSettings, codes: Codes): void {
  const { tokens, policy, reference, loss, unpairedLoss, tokenLoss, given, gradient, headGradient, exchange } = job
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
  if (given) visitGiven(visit, given)
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
