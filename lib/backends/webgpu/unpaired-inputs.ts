/**
 * What the shaders of the losses of single sequences are given, as pair-inputs.ts has it for pairs. The layouts are those of
 * kernels/unpaired-stage.wgsl; S sequences.
 */
import type { Job, UnpairedLossStage } from '../../job.js'
import { fromTwoFloats, twoFloats } from './two-floats.js'
import { Words } from './words.js'

/** The buffers, by their names in the shaders, as they are before stage 3, or their sizes in bytes. */
export interface UnpairedInputs {
  /** A uniform. */
  stage: ArrayBuffer
  inputs: ArrayBuffer
  /** `[2 S]` two-float numbers; those that stage 2 has to write there, the policy's from element 0 and the reference's from S, are 0. */
  logProbs: Float32Array
  results: number
  coefficients: number
  summary: number
}

const STAGE_BYTES = 48
const INPUT_BYTES = 32
const RESULT_BYTES = 24

export function unpairedInputs(job: Job): UnpairedInputs {
  const stage = job.unpairedLoss as UnpairedLossStage
  const { losses, kl, rewardShift, divisor, gradientScale = 1 } = stage
  const size = losses.length
  const logProbs = new Float64Array(2 * size)
  if (job.policy === undefined) logProbs.set(stage.logProbs as Float64Array)
  if (job.reference === undefined) logProbs.set(stage.referenceLogProbs as Float64Array, size)
  return {
    stage: new Words(STAGE_BYTES).twoFloats(kl, rewardShift, divisor, gradientScale / divisor).integers(0, size).bytes,
    inputs: inputBytes(stage),
    logProbs: twoFloats(logProbs),
    results: RESULT_BYTES * size,
    coefficients: 8 * size,
    summary: 48,
  }
}

function inputBytes(stage: UnpairedLossStage): ArrayBuffer {
  const { desirable, desirableWeight, undesirableWeight, weights, beta, betas, targets, losses } = stage
  const words = new Words(INPUT_BYTES * losses.length)
  for (let s = 0; s < losses.length; s++) {
    const weight = (desirable[s] ? desirableWeight : undesirableWeight) * (weights?.[s] ?? 1)
    words
      .twoFloats(weight, betas?.[s] ?? beta, targets?.[s] ?? 0)
      .integers(desirable[s])
      .align(INPUT_BYTES)
  }
  return words.bytes
}

/** Fills the outs of the stage from the contents of `results` and `summary`. */
export function takeUnpairedResults(results: Float32Array, summary: Float32Array, stage: UnpairedLossStage): void {
  const values = fromTwoFloats(results)
  const fields = RESULT_BYTES / 8
  for (const [field, out] of [stage.losses, stage.rewards, stage.gradient].entries()) {
    for (let s = 0; s < out.length; s++) out[s] = values[fields * s + field]
  }
  stage.summary.set(fromTwoFloats(summary).subarray(0, stage.summary.length))
}
