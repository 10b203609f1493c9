/**
 * What the kernels of stage 3 are given: numbers of a job as bytes of buffers, and the results of buffers back in the
 * arrays of the job. The layouts are those of the structures in kernels/.
 */
import type { Job, LossStage } from '../../job.js'
import { LOSS_TYPES } from './loss-modules.js'
import { setTwoFloat, twoFloats } from './two-floats.js'

/** Writes the fields of a structure in their order. */
class Fields {
  readonly bytes: ArrayBuffer
  readonly #floats: Float32Array
  readonly #integers: Uint32Array
  #at = 0

  constructor(byteLength: number) {
    this.bytes = new ArrayBuffer(byteLength)
    this.#floats = new Float32Array(this.bytes)
    this.#integers = new Uint32Array(this.bytes)
  }

  twoFloats(...values: number[]): this {
    for (const value of values) {
      setTwoFloat(this.#floats, this.#at, value)
      this.#at += 2
    }
    return this
  }

  integers(...values: number[]): this {
    for (const value of values) this.#integers[this.#at++] = value
    return this
  }

  /** Goes on at the next multiple of so many bytes. */
  align(bytes: number): this {
    this.#at = (Math.ceil((4 * this.#at) / bytes) * bytes) / 4
    return this
  }
}

/** What the buffers of preference-loss.wgsl begin with, by their bindings; P pairs. */
export interface PairInputs {
  /** 0, a uniform. */
  stage: ArrayBuffer
  /** 1, where the log-probs are not stage 2's: `[2 P]`. */
  logProbs?: Float32Array
  /** 4, where they are not stage 2's either: `[2 P]`. */
  referenceLogProbs?: Float32Array
  /** 6 */
  pairs: ArrayBuffer
  /** 7: its size in bytes. */
  ranksBytes: number
  /** 8: its size in bytes. */
  resultsBytes: number
  /** 10, where there are sequences. */
  uses?: Uint32Array<ArrayBuffer>
}

const STAGE_BYTES = 1152
const PAIR_BYTES = 72
const PAIR_RESULT_BYTES = 48

export function pairInputs({ loss, policy, reference, tokens }: Job): PairInputs {
  const stage = loss as LossStage
  const { chosen, rejected, referenceChosen, referenceRejected, pairs } = stage
  const { terms } = stage.constants
  const inputs: PairInputs = {
    stage: stageBytes(stage, policy?.logProbs.length ?? 0, tokens?.labels !== undefined),
    pairs: pairBytes(stage, policy !== undefined, reference !== undefined),
    ranksBytes: terms.some(({ lossType }) => lossType.startsWith('aot')) ? 32 * chosen.length : 4,
    resultsBytes: PAIR_RESULT_BYTES * chosen.length,
  }
  if (policy === undefined) inputs.logProbs = twoFloats([...chosen, ...rejected])
  else inputs.uses = usesOf(pairs as Int32Array, policy.logProbs.length)
  if (reference === undefined) inputs.referenceLogProbs = twoFloats([...referenceChosen, ...referenceRejected])
  return inputs
}

function stageBytes({ constants, chosen, chosenTokenCounts, pairConstants }: LossStage, sequences: number, finds: boolean) {
  const { beta, offset, targetMargin, gamma, rewardShift, dpopLambda, discopopTau, alpha, rewardAlpha } = constants
  const { terms, pairDivisor = chosen.length, gradientScale = 1 } = constants
  // 0 where the device finds the counts.
  const { tokenDivisor = finds ? 0 : sumOf(chosenTokenCounts ?? []) } = constants
  const fields = new Fields(STAGE_BYTES)
    .twoFloats(beta, 0, offset, targetMargin, gamma, rewardShift, dpopLambda, discopopTau, alpha, rewardAlpha)
    .twoFloats(pairDivisor, tokenDivisor, gradientScale / pairDivisor)
    .integers(0, chosen.length, sequences, terms.length, pairConstants?.labelSmoothing === undefined ? 0 : 1)
  for (const { weight, labelSmoothing, lossType } of terms) {
    fields.align(16).twoFloats(weight, labelSmoothing).integers(LOSS_TYPES.indexOf(lossType))
  }
  return fields.bytes
}

function pairBytes(stage: LossStage, hasPolicy: boolean, hasReference: boolean): ArrayBuffer {
  const { constants, pairs, pairWeights, pairConstants: own = {}, chosenTokenCounts, rejectedTokenCounts } = stage
  const size = stage.chosen.length
  const fields = new Fields(PAIR_BYTES * size)
  for (let i = 0; i < size; i++) {
    const given = [i, size + i]
    const ofSequences = pairs === undefined ? given : [pairs[2 * i], pairs[2 * i + 1]]
    fields
      .integers(...(hasPolicy ? ofSequences : given), ...(hasReference ? ofSequences : given))
      .twoFloats(pairWeights?.[i] ?? 1, chosenTokenCounts?.[i] ?? 0, rejectedTokenCounts?.[i] ?? 0)
      .twoFloats(own.beta?.[i] ?? constants.beta, own.labelSmoothing?.[i] ?? 0)
      .twoFloats(own.offset?.[i] ?? constants.offset, own.targetMargin?.[i] ?? constants.targetMargin)
  }
  return fields.bytes
}

/**
 * `[S + 1 + 2 P]` the pairs of each sequence: those of sequence s are at the elements that begin at element s and end before
 * element s + 1 of this, each as twice its index, and one more where the sequence is the rejected one.
 */
function usesOf(pairs: Int32Array, sequences: number): Uint32Array<ArrayBuffer> {
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

/** Fills the outs of the stage from `results` and `summary`. */
export function readPairResults(results: Float32Array, summary: Float32Array, stage: LossStage): void {
  const { losses, chosenRewards, rejectedRewards, gradChosen, gradRejected } = stage
  const outs = [losses, chosenRewards, rejectedRewards, gradChosen, gradRejected]
  const fields = PAIR_RESULT_BYTES / 8
  for (let i = 0; i < losses.length; i++) {
    outs.forEach((out, field) => {
      out[i] = twoFloatAt(results, fields * i + field)
    })
  }
  for (let i = 0; i < 3; i++) stage.summary[i] = twoFloatAt(summary, i)
}

const twoFloatAt = (pairs: Float32Array, index: number) => pairs[2 * index] + pairs[2 * index + 1]

const sumOf = (values: ArrayLike<number>) => Array.prototype.reduce.call(values, (a, b) => (a as number) + b, 0) as number
