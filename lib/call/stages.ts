/**
 * The stages of a job, with the arrays they fill.
 */
import type { ForwardStage, LossConfig, LossStage, UnpairedLossStage } from '../job.js'
import type { TokenOutput } from '../options/index.js'
import type { LogitsSource } from './tensor.js'
import type { UnpairedLossPlan } from './unpaired-losses.js'

/** Stages 1 and 2 for these logits, with the per-token results in `outputs`. */
export function forwardStage(
  { rows, head }: LogitsSource,
  sequences: number,
  outputs: readonly TokenOutput[] = [],
): ForwardStage {
  const stage: ForwardStage = { logits: rows, logProbs: new Float64Array(sequences) }
  if (head) stage.head = head
  const count = outputs.length === 0 ? 0 : rows.batch * rows.time
  for (const name of outputs) {
    if (name === 'tokenArgmax') stage.tokenArgmax = new Int32Array(count).fill(-1)
    else stage[name] = new Float32Array(count)
  }
  return stage
}

/** Stage 3 for P pairs. Inputs that are not given are zeros. */
export function lossStage(
  constants: LossConfig,
  size: number,
  chosen: Float64Array = new Float64Array(size),
  rejected: Float64Array = new Float64Array(size),
  referenceChosen: Float64Array = new Float64Array(size),
  referenceRejected: Float64Array = new Float64Array(size),
): LossStage {
  return {
    constants,
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

/** Stage 3 for single sequences, of which these are desirable, `[B]`. */
export function unpairedLossStage({ constants, divisor }: UnpairedLossPlan, desirable: Int32Array): UnpairedLossStage {
  const size = desirable.length
  return {
    ...constants,
    divisor: divisor ?? size,
    desirable,
    losses: new Float64Array(size),
    rewards: new Float64Array(size),
    gradient: new Float64Array(size),
    summary: new Float64Array(5),
  }
}
