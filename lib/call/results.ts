/**
 * What a job that has run has found, as callers get it.
 */
import type { ForwardStage, LossStage } from '../job.js'
import { TOKEN_OUTPUTS } from '../options/token-options.js'
import type { FusedPreferenceLoss, PreferenceLoss, SequenceLogProbs, TokenOutputs } from '../types/index.js'
import { checkDeviceLabels } from './device-labels.js'
import type { PairedCall } from './paired-call.js'
import { warnOfMeans } from './reference.js'
import type { SequenceCall } from './sequence-call.js'
import type { TokenPlan } from './tokens.js'

/** The numbers among the results of `sequenceLogProbs` and `linearSequenceLogProbs`. */
type SequenceSums = TokenOutputs & Pick<SequenceLogProbs, 'logProbs' | 'tokenCounts'>

/** Of stages 1 and 2. */
export function sequenceResult({ tokenPlan, policy }: SequenceCall): SequenceSums {
  checkDeviceLabels(tokenPlan)
  const sums: SequenceSums = {
    logProbs: policy.logProbs,
    // A copy: what the caller does with it must not reach `backward`.
    tokenCounts: tokenPlan.tokens.counts.slice(),
  }
  return addTokenOutputs(sums, policy, tokenPlan)
}

/** Of stages 1 to 3. */
export function pairedResult({ tokenPlan, policy, loss, compares }: PairedCall): FusedPreferenceLoss {
  checkDeviceLabels(tokenPlan)
  const { tokens, shift, packed } = tokenPlan
  const pairs = tokenPlan.pairs!
  if (compares) warnOfMeans(loss, 'options.reference', (side, pair) => tokens.counts[pairs[2 * pair + side]])
  const fused = lossResult(loss) as FusedPreferenceLoss
  fused.chosenLogProbs = loss.chosen
  fused.rejectedLogProbs = loss.rejected
  fused.tokenCounts = tokens.counts
  fused.layout = { pairs, shift }
  if (packed) fused.layout.sequenceOffsets = tokens.offsets
  return addTokenOutputs(fused, policy, tokenPlan)
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
    gradient: { chosen: stage.gradChosen, rejected: stage.gradRejected },
  }
}

/** Adds the per-token results that were asked for, `[B, T - 1]` where the last row of each sequence is none. */
function addTokenOutputs<Result extends TokenOutputs>(
  result: Result,
  stage: ForwardStage,
  { shift, packed }: TokenPlan,
): Result {
  const { batch, time } = stage.logits
  const whole = !shift || packed
  if (stage.tokenArgmax) result.tokenArgmax = whole ? stage.tokenArgmax : withoutLast(stage.tokenArgmax, batch, time)
  for (const name of TOKEN_OUTPUTS) {
    if (name === 'tokenArgmax') continue
    const values = stage[name]
    if (values) result[name] = whole ? values : withoutLast(values, batch, time)
  }
  return result
}

function withoutLast<T extends Float32Array | Int32Array>(values: T, batch: number, time: number): T {
  const kept = time - 1
  for (let b = 1; b < batch; b++) values.copyWithin(b * kept, b * time, b * time + kept)
  return values.slice(0, batch * kept) as T
}
