/**
 * The results of a finished job in the form that callers get, and the errors and warnings that only these results show.
 */
import { warnOnce } from '../check/warn-once.js'
import { labelsOutOfRange } from '../errors.js'
import type { ForwardStage, LossStage, UnpairedLossStage } from '../job.js'
import type {
  CrossEntropy,
  FusedPreferenceLoss,
  FusedUnpairedPreferenceLoss,
  MeansByKind,
  PreferenceLoss,
  SequenceSums,
  TokenOutputs,
  UnpairedPreferenceLoss,
} from '../types/index.js'
import { inLayout } from './layout.js'
import type { PairedCall } from './paired-call.js'
import type { SequenceCall } from './sequence-call.js'
import type { TokenLossCall } from './token-loss-call.js'
import { refuseEmpty, type TokenPlan } from './tokens.js'
import type { UnpairedCall } from './unpaired-call.js'

/** Of stages 1 and 2. */
export function sequenceResult({ tokenPlan, policy }: SequenceCall): SequenceSums {
  checkLabels(tokenPlan)
  const sums: SequenceSums = {
    logProbs: policy.logProbs,
    // A copy, so that the caller's changes do not reach `backward`.
    tokenCounts: tokenPlan.tokens.counts.slice(),
  }
  return addTokenOutputs(sums, policy, tokenPlan)
}

/** Of stages 1 to 3. */
export function pairedResult({ tokenPlan, policy, loss, compares }: PairedCall): FusedPreferenceLoss {
  checkLabels(tokenPlan)
  const { tokens, shift, packed } = tokenPlan
  const pairs = tokenPlan.pairs!
  const lengthOf = (side: 0 | 1, pair: number) => tokens.counts[pairs[2 * pair + side]]
  if (compares) warnOfMeans(loss, tokens.average, 'options.reference', lengthOf)
  const fused = lossResult(loss) as FusedPreferenceLoss
  fused.chosenLogProbs = loss.chosen
  fused.rejectedLogProbs = loss.rejected
  fused.tokenCounts = tokens.counts
  fused.layout = { pairs, shift }
  if (packed) fused.layout.sequenceOffsets = tokens.offsets
  return addTokenOutputs(fused, policy, tokenPlan)
}

/** Of stage 3 of single tokens. */
export function tokenLossResult({ tokenPlan, policy, loss }: TokenLossCall): CrossEntropy {
  const { tokens, shift } = tokenPlan
  refuseLabels(tokenPlan)
  warnOfNoTokens(tokens.counts, shift, 'The loss and its gradient are 0')
  const result: CrossEntropy = {
    loss: loss.summary[0],
    losses: inLayout(loss.losses, policy, tokenPlan),
    tokenCounts: tokens.counts,
  }
  return addTokenOutputs(result, policy, tokenPlan)
}

/** Of stage 3. */
export function lossResult(stage: LossStage): PreferenceLoss {
  return {
    loss: stage.summary[0],
    losses: stage.losses,
    chosenRewards: stage.chosenRewards,
    rejectedRewards: stage.rejectedRewards,
    accuracy: stage.summary[1],
    margin: stage.summary[2],
    gradLogProbs: { chosen: stage.gradChosen, rejected: stage.gradRejected },
  }
}

/** Of stages 1 to 3 of single sequences. */
export function unpairedResult({ tokenPlan, policy, loss }: UnpairedCall): FusedUnpairedPreferenceLoss {
  checkLabels(tokenPlan)
  const { tokens, shift, packed } = tokenPlan
  const { logProbs } = policy
  if (loss.referenceLogProbs) {
    const chosen = { chosen: logProbs, referenceChosen: loss.referenceLogProbs }
    const rejected = { rejected: logProbs, referenceRejected: loss.referenceLogProbs }
    warnOfMeans(
      { ...chosen, ...rejected },
      tokens.average,
      'options.reference',
      (_, sequence) => tokens.counts[sequence],
    )
  }
  const fused = unpairedLossResult(loss) as FusedUnpairedPreferenceLoss
  fused.logProbs = logProbs
  fused.tokenCounts = tokens.counts
  fused.layout = { desirable: loss.desirable, shift }
  if (packed) fused.layout.sequenceOffsets = tokens.offsets
  return addTokenOutputs(fused, policy, tokenPlan)
}

/** Of stage 3 of single sequences. */
export function unpairedLossResult(stage: UnpairedLossStage): UnpairedPreferenceLoss {
  const { desirable, losses, rewards, gradient, kl } = stage
  const [loss, desirableReward, undesirableReward, desirableLogProb, undesirableLogProb] = stage.summary
  const hasDesirable = desirable.includes(1)
  const hasUndesirable = desirable.includes(0)
  const means = (ofDesirable: number, ofUndesirable: number): MeansByKind => ({
    ...(hasDesirable && { desirable: ofDesirable }),
    ...(hasUndesirable && { undesirable: ofUndesirable }),
  })
  const result: UnpairedPreferenceLoss = {
    loss,
    losses,
    rewards,
    gradLogProbs: gradient,
    kl,
    meanRewards: means(desirableReward, undesirableReward),
    meanLogProbs: means(desirableLogProb, undesirableLogProb),
  }
  if (hasDesirable && hasUndesirable) result.margin = desirableReward - undesirableReward
  return result
}

/** Adds the per-token results that were asked for. */
function addTokenOutputs<Result extends TokenOutputs>(result: Result, stage: ForwardStage, plan: TokenPlan): Result {
  // One by one, not by a loop over the names: that takes a tenth of a microsecond, which a small call would notice.
  if (stage.tokenLogProbs) result.tokenLogProbs = inLayout(stage.tokenLogProbs, stage, plan)
  if (stage.tokenEntropies) result.tokenEntropies = inLayout(stage.tokenEntropies, stage, plan)
  if (stage.tokenArgmax) result.tokenArgmax = inLayout(stage.tokenArgmax, stage, plan)
  if (stage.logSumExp) result.logSumExp = inLayout(stage.logSumExp, stage, plan)
  if (stage.sumSquaredProbs) result.sumSquaredProbs = inLayout(stage.sumSquaredProbs, stage, plan)
  if (stage.tokenMeanLogits) result.tokenMeanLogits = inLayout(stage.tokenMeanLogits, stage, plan)
  return result
}

/** Refuses labels in device memory, out of range or none where that is asked for, and warns when no label counts. */
function checkLabels(plan: TokenPlan): void {
  refuseLabels(plan)
  if (plan.refusesEmpty) refuseEmpty(plan.tokens.counts)
  if (!plan.warnsIfEmpty) return
  const consequence = 'Log-probs and gradients are 0; emptySequence says what else is wanted'
  warnOfNoTokens(plan.tokens.counts, plan.shift, consequence)
}

/** Refuses labels in device memory that turned out not to be in the vocabulary. */
function refuseLabels({ tokens: { labels, offsets }, vocab }: TokenPlan): void {
  if (labels === undefined || labels.invalid[0] === 0) return
  const { firstInvalid } = labels
  if (firstInvalid !== undefined) {
    const sequence = offsets.findLastIndex((offset) => offset <= firstInvalid)
    const place = `sequence ${sequence}, position ${firstInvalid - offsets[sequence]}`
    const wanted = `neither in [0, ${vocab}) nor ${labels.ignoreIndex}`
    const count = `${labels.invalid[0]} of the labels on the device`
    throw labelsOutOfRange(`${place} is ${wanted}; ${count} are out of range, and the gradient of their rows is 0`)
  }
  const count = `${labels.invalid[0]} of the labels in device memory`
  throw labelsOutOfRange(`${count} are neither in [0, ${vocab}) nor ${labels.ignoreIndex}, and their rows are NaN`)
}

/** Warns of a call without active tokens, unless its caller has set `emptySequence`. */
function warnOfNoTokens(counts: Int32Array, shift: boolean, consequence: string): void {
  for (let s = 0; s < counts.length; s++) if (counts[s] !== 0) return
  const how = `ignored or masked${shift ? ', or the first of its sequence, which no row predicts' : ''}`
  const problem = `no token of the call counts: every label is ${how}`
  warnOnce('FUSED_PREFERENCE_LOSS_NO_ACTIVE_TOKENS', `${problem}. ${consequence}`)
}

// Below this length a mean cannot be told from a sum.
const FEWEST_TOKENS = 8

/**
 * Warns where the policy's log-probs are sums and the reference's look like means over tokens, in every pair of a call
 * that has run, or the other way round (`average`: the policy's are means). `lengthOf`: the number of active tokens of a pair's chosen (0) or rejected (1)
 * sequence.
 */
export function warnOfMeans(
  {
    chosen,
    rejected,
    referenceChosen,
    referenceRejected,
  }: Pick<LossStage, 'chosen' | 'rejected' | 'referenceChosen' | 'referenceRejected'>,
  average: boolean,
  name: string,
  lengthOf: (side: 0 | 1, pair: number) => number,
): void {
  let seen = false
  for (let k = 0; k < 2 * chosen.length; k++) {
    const pair = k >> 1
    const side = (k & 1) as 0 | 1
    const length = lengthOf(side, pair)
    if (length < FEWEST_TOKENS) continue
    const ratio = side === 0 ? referenceChosen[pair] / chosen[pair] : referenceRejected[pair] / rejected[pair]
    const times = average ? ratio / length : ratio * length
    if (!(times >= 0.5 && times <= 2)) return
    seen = true
  }
  if (!seen) return
  const [other, own] = average ? ['sums', 'means over tokens'] : ['means over tokens', 'sums']
  const problem = `${name} looks like ${other}, where the policy's log-probs are ${own}`
  warnOnce('FUSED_PREFERENCE_LOSS_AVERAGED_REFERENCE', `${problem}: averageLogProb must be the same for both`)
}
