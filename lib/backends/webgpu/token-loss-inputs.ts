/**
 * What the shaders of the losses of single tokens are given, as pair-inputs.ts has it for pairs; R rows, V classes.
 */
import type { Job, TokenLossStage } from '../../job.js'
import { twoFloats } from './two-floats.js'
import { Words } from './words.js'

/** The buffers, by their names in the shaders, as they are before stage 3, or the size of one in bytes. */
export interface TokenLossInputs {
  /** The uniform of token-loss.wgsl. */
  params: ArrayBuffer
  /** That of token-divisor.wgsl and token-sums.wgsl. */
  sumParams: ArrayBuffer
  /** `[V]` two-float numbers, or nothing. */
  classWeights: Float32Array
  /** `[1]` two-float number; 0 where token-divisor.wgsl has to find it. */
  divisor: Float32Array
  summary: number
}

/** `rows`: R. */
export function tokenLossInputs({ tokenLoss, tokens }: Job, rows: number): TokenLossInputs {
  const stage = tokenLoss as TokenLossStage
  const { labelSmoothing, zLoss, meanClassWeight = 1, gradientScale = 1 } = stage
  return {
    params: new Words(64)
      .twoFloats(1 / (tokens?.temperature ?? 1), labelSmoothing, 1 - labelSmoothing, zLoss)
      .twoFloats(meanClassWeight, gradientScale)
      .integers(0, rows).bytes,
    sumParams: new Words(16).integers(0, rows).bytes,
    classWeights: twoFloats(stage.classWeights ?? stage.weightsOfLabels ?? []),
    divisor: twoFloats([stage.divisor]),
    summary: 8,
  }
}
