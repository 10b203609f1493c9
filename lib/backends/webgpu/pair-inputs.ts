/**
 * What the shaders of the losses of pairs are given: the numbers of a job as bytes of buffers, and results back in the
 * arrays of the job. The layouts are those of the structures in kernels/pair-stage.wgsl; P pairs, S sequences.
 */
import type { Job, LossStage } from '../../job.js'
import { LOSS_TYPES } from './loss-shaders.js'
import { fromTwoFloats, twoFloats } from './two-floats.js'
import { Words } from './words.js'

/** The buffers, by their names in the shaders, as they are before stage 3, or their sizes in bytes. */
export interface PairInputs {
  /** A uniform. */
  stage: ArrayBuffer
  pairs: ArrayBuffer
  /** Two-float numbers; what earlier stages have to write there, see `begins`, is 0. */
  logProbs: Float32Array
  ranks: number
  results: number
  summary: number
  /** Where there are sequences. */
  uses: Uint32Array
  coefficients: number
  /** The elements of logProbs where what earlier stages write begins: `[S]` each, where the job has them. */
  begins: { policy: number; plain: number; logWeights: number; reference: number }
}

const STAGE_BYTES = 1168
const PAIR_BYTES = 80
const RESULT_BYTES = 48

export function pairInputs(job: Job): PairInputs {
  const { policy, reference, tokens } = job
  const stage = job.loss as LossStage
  const { chosen, rejected, referenceChosen, referenceRejected, constants } = stage
  const size = chosen.length
  const sequences = policy?.logProbs.length ?? 0
  const isPlain = policy !== undefined && tokens?.plainWeights !== undefined
  const plain = policy === undefined ? 2 * size : sequences
  const logWeights = plain + (isPlain ? sequences : 0)
  const begins = {
    policy: 0,
    plain,
    logWeights,
    reference: logWeights + (policy?.logWeights === undefined ? 0 : sequences),
  }
  const logProbs = new Float64Array(begins.reference + (reference === undefined ? 2 * size : sequences))
  if (policy === undefined) logProbs.set([...chosen, ...rejected])
  if (reference === undefined) logProbs.set([...referenceChosen, ...referenceRejected], begins.reference)
  return {
    stage: stageBytes(stage, sequences, begins, tokens?.labels !== undefined),
    pairs: pairBytes(stage, policy !== undefined, reference !== undefined, begins.reference),
    logProbs: twoFloats(logProbs),
    ranks: constants.terms.some(({ lossType }) => lossType.startsWith('aot')) ? 32 * size : 0,
    results: RESULT_BYTES * size,
    summary: 32,
    uses: usesOf(stage.pairs ?? new Int32Array(), sequences),
    coefficients: 8 * sequences * (isPlain ? 2 : 1),
    begins,
  }
}

/** `finds`: the device finds the counts. */
function stageBytes(
  { constants, chosen, chosenTokenCounts, pairConstants }: LossStage,
  sequences: number,
  begins: PairInputs['begins'],
  finds: boolean,
): ArrayBuffer {
  const { beta, offset, targetMargin, gamma, rewardShift, dpopLambda, discopopTau, alpha, rewardAlpha } = constants
  const { terms, pairDivisor = chosen.length, gradientScale = 1 } = constants
  const { tokenDivisor = finds ? 0 : (chosenTokenCounts ?? new Float64Array()).reduce((a, b) => a + b, 0) } = constants
  const words = new Words(STAGE_BYTES)
    .twoFloats(beta, 0, 0, offset, targetMargin, gamma, rewardShift, dpopLambda, discopopTau, alpha, rewardAlpha)
    .twoFloats(pairDivisor, tokenDivisor, gradientScale / pairDivisor)
    .integers(0, chosen.length, sequences, terms.length, pairConstants?.labelSmoothing === undefined ? 0 : 1)
    .integers(begins.plain, begins.logWeights)
  for (const { weight, labelSmoothing, lossType } of terms) {
    words.align(16).twoFloats(weight, labelSmoothing, flipsOf(labelSmoothing)).integers(LOSS_TYPES.indexOf(lossType))
  }
  return words.bytes
}

function pairBytes(stage: LossStage, hasPolicy: boolean, hasReference: boolean, referenceBegin: number): ArrayBuffer {
  const { constants, pairs, pairWeights, pairConstants: own = {}, chosenTokenCounts, rejectedTokenCounts } = stage
  const size = stage.chosen.length
  const words = new Words(PAIR_BYTES * size)
  for (let i = 0; i < size; i++) {
    const given = [i, size + i]
    const ofSequences = pairs === undefined ? given : [pairs[2 * i], pairs[2 * i + 1]]
    const ofReference = hasReference ? ofSequences : given
    words
      .integers(...(hasPolicy ? ofSequences : given), ...ofReference.map((index) => referenceBegin + index))
      .twoFloats(pairWeights?.[i] ?? 1, chosenTokenCounts?.[i] ?? 0, rejectedTokenCounts?.[i] ?? 0)
      .twoFloats(own.beta?.[i] ?? constants.beta, own.labelSmoothing?.[i] ?? 0, flipsOf(own.labelSmoothing?.[i] ?? 0))
      .twoFloats(own.offset?.[i] ?? constants.offset, own.targetMargin?.[i] ?? constants.targetMargin)
  }
  return words.bytes
}

/** Of 'robust'. */
function flipsOf(labelSmoothing: number): number {
  return labelSmoothing / (1 - 2 * labelSmoothing)
}

/** `[S + 1 + 2 P]` the uses of each sequence, as kernels/pair-coefficients.wgsl explains them. */
function usesOf(pairs: Int32Array, sequences: number): Uint32Array {
  const uses = new Uint32Array(sequences + 1 + pairs.length)
  for (const sequence of pairs) uses[sequence + 1]++
  uses[0] = sequences + 1
  for (let s = 0; s < sequences; s++) uses[s + 1] += uses[s]
  const next = uses.slice(0, sequences)
  pairs.forEach((sequence, use) => {
    uses[next[sequence]++] = use
  })
  return uses
}

/** Fills the outs of the stage from the contents of `results` and `summary`. */
export function takePairResults(results: Float32Array, summary: Float32Array, stage: LossStage): void {
  const values = fromTwoFloats(results)
  const outs = [stage.losses, stage.chosenRewards, stage.rejectedRewards, stage.gradChosen, stage.gradRejected]
  const fields = RESULT_BYTES / 8
  for (const [field, out] of outs.entries()) {
    for (let i = 0; i < out.length; i++) out[i] = values[fields * i + field]
  }
  stage.summary.set(fromTwoFloats(summary).subarray(0, stage.summary.length))
}
