/**
 * Stage 3 of single sequences: the loss of each, its reward, and its gradient with respect to the sequence's log-prob.
 * The formulas are in unpaired-losses.ts.
 */
import type { Job, UnpairedLossStage } from '../../job.js'
import { UNPAIRED_LOSSES } from './unpaired-losses.js'

export function unpairedPreferenceLoss(job: Job): void {
  const stage = job.unpairedLoss as UnpairedLossStage
  const { desirable, divisor, gradientScale = 1, losses, rewards, gradient } = stage
  const logProbs = job.policy?.logProbs ?? (stage.logProbs as Float64Array)
  const referenceLogProbs = job.reference?.logProbs ?? (stage.referenceLogProbs as Float64Array)
  const formulas = UNPAIRED_LOSSES[stage.lossType]
  for (let s = 0; s < losses.length; s++) {
    const logRatio = logProbs[s] - referenceLogProbs[s]
    const beta = stage.betas?.[s] ?? stage.beta
    rewards[s] = beta * logRatio
    const weight = (desirable[s] ? stage.desirableWeight : stage.undesirableWeight) * (stage.weights?.[s] ?? 1)
    // Takes no part, whatever its loss is.
    if (weight === 0) {
      losses[s] = gradient[s] = 0
      continue
    }
    const own = { ...stage, beta, target: stage.targets?.[s] ?? Number.NaN }
    const { value, derivative } = formulas[desirable[s] ? 'desirable' : 'undesirable'](logRatio, own)
    losses[s] = weight * value
    gradient[s] = ((weight * derivative) / divisor) * gradientScale
  }
  summarise(stage, logProbs)
  const coefficients = (job.gradient ?? job.headGradient)?.coefficients
  coefficients?.set(gradient)
}

function summarise({ desirable, losses, rewards, divisor, summary }: UnpairedLossStage, logProbs: Float64Array): void {
  const meanWhere = (flag: number, values: Float64Array) => {
    const those = values.filter((_, s) => desirable[s] === flag)
    return sumOf(those) / those.length
  }
  summary[0] = sumOf(losses) / divisor
  summary[1] = meanWhere(1, rewards)
  summary[2] = meanWhere(0, rewards)
  summary[3] = meanWhere(1, logProbs)
  summary[4] = meanWhere(0, logProbs)
}

function sumOf(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0)
}
