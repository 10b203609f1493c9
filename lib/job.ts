/**
 * The contract between the public functions and the backends: a job, made of the four stages it should run.
 *
 * Everything here is already checked and normalised; a backend never sees labels, masks, shifts or packing, only rows
 * of logits and the target each row predicts. All results go into arrays the caller of `run` has allocated.
 */
import type { DType, FDivergence, HostArray, InstructionSet, LossType } from './types/index.js'

/** Rows of logits: row (b, t) starts at element `b * batchStride + t * timeStride` of `data` and has `vocab` elements. */
export interface Rows {
  /** On the GPU: its address. */
  data: HostArray | bigint
  dtype: DType
  batch: number
  time: number
  vocab: number
  batchStride: number
  timeStride: number
}

/** What each of the R = batch * time rows predicts, and how rows form sequences. */
export interface Tokens {
  /** `[R]` the label predicted at each row, -1 where the row is inactive. */
  targets: Int32Array
  /** `[R]` factor of each row's log-prob; 1 when absent. */
  weights?: Float64Array
  /** `[R]` the factors that 'sft' takes instead, which knows nothing of ldAlpha; the same when absent. */
  plainWeights?: Float64Array
  /** `[S + 1]` sequence s is rows offsets[s] .. offsets[s + 1]. */
  offsets: Int32Array
  /** `[S]` number of active rows. */
  counts: Int32Array
  temperature: number
  /** Divide each sequence's sum by its count. */
  average: boolean
  /** Log-prob of a sequence without active rows: 0 or NaN. */
  emptyLogProb: number
  /** Labels on the GPU, which makes targets and counts of them: `targets` is then empty and `counts` an out. */
  labels?: DeviceLabels
}

/** `[R]` labels that are on the GPU. */
export interface DeviceLabels {
  /** Address of int32 or, when wide, int64. */
  data: bigint
  wide: boolean
  /** Address of `[R]` uint8, 0 where inactive. */
  mask?: bigint
  ignoreIndex: number
  shift: boolean
  /** `[1]` out: how many were out of range. */
  invalid: Int32Array
}

/** Elements (row, column) of a matrix, at `row * rowStride + column * columnStride`; one of the two is 1. */
export interface Matrix {
  /** On the GPU: its address. */
  data: HostArray | bigint
  dtype: DType
  rowStride: number
  columnStride: number
}

/** The output layer, whose logits hidden · weightᵀ + bias are never stored. */
export interface Head {
  /** Rows of D elements: their `vocab` is the width D. */
  hidden: Rows
  /** `[V, D]` */
  weight: Matrix
  /** `[V]` */
  bias?: { data: HostArray | bigint; dtype: DType }
}

/** Stages 1 and 2: token log-probs and sequence sums. */
export interface ForwardStage {
  /** With a head, sizes alone: their data is an empty array. */
  logits: Rows
  head?: Head
  /** `[S]` out. */
  logProbs: Float64Array
  /** `[4 R]` out, when a gradient may follow in another job: what it needs to know of each row; private to a backend. */
  states?: Float64Array
  /** `[R]` out, unrounded, when the entropies' gradient may follow in another job. */
  entropies?: Float64Array
  /** `[S]` the same as logProbs with the tokens' plain weights; private to a backend. */
  plainLogProbs?: Float64Array
  /** `[S]` out: mean over active rows of (log p(label) - log Σp²), for WPO. */
  logWeights?: Float64Array
  /** `[R]` outs. Inactive rows are left as they are: the caller has filled them. */
  tokenLogProbs?: Float32Array
  tokenEntropies?: Float32Array
  tokenArgmax?: Int32Array
  logSumExp?: Float32Array
  sumSquaredProbs?: Float32Array
  tokenMeanLogits?: Float32Array
}

/** One loss of the sum. */
export interface LossTerm {
  lossType: LossType
  weight: number
  labelSmoothing: number
}

/** The most terms that a sum has. */
export const MOST_TERMS = 32

/** The constants of the losses. */
export interface LossConfig {
  terms: readonly LossTerm[]
  beta: number
  gamma: number
  rewardShift: number
  discopopTau: number
  fDivergence: FDivergence
  alpha: number
  /** The log-probs are means over active tokens. */
  average: boolean
  /** What sums over pairs are divided by; the number of pairs when absent. */
  pairDivisor?: number
  /** What the sum over tokens of 'sft' is divided by; the number of chosen tokens when absent. */
  tokenDivisor?: number
}

/** Stage 3: P pairs. In a job that has stages 1 and 2, the inputs marked (gathered) are filled from them through `pairs`. */
export interface LossStage extends LossConfig {
  /** `[2 P]` (chosen, rejected) sequences; present exactly when the job has stages 1 and 2. */
  pairs?: Int32Array
  /** `[P]` policy log-probs (gathered). */
  chosen: Float64Array
  rejected: Float64Array
  /** `[P]` reference log-probs, zeros when there is no reference (gathered when the job has a reference forward stage). */
  referenceChosen: Float64Array
  referenceRejected: Float64Array
  /** `[P]` active tokens; present at least when a loss needs them. */
  chosenLengths?: Float64Array
  rejectedLengths?: Float64Array
  /** `[P]` factor of each pair's loss, 1 when absent (gathered as exp(sum of the pair's logWeights) when the policy stage has those). */
  pairWeights?: Float64Array
  /** `[P]` outs. */
  losses: Float64Array
  chosenRewards: Float64Array
  rejectedRewards: Float64Array
  gradChosen: Float64Array
  gradRejected: Float64Array
  /** `[3]` out: loss, accuracy, margin. */
  summary: Float64Array
}

/** Stage 3 of single tokens, in a job that has stages 1 and 2: their cross-entropy. */
export interface TokenLossStage {
  labelSmoothing: number
  zLoss: number
  /** Multiply the cross-entropy of each row by its label's probability, whose own derivative is left out. */
  dft: boolean
  /** What the sum over rows is divided by. */
  divisor: number
  /** `[R]` out: the loss of each row times its weight, not divided. Inactive rows are left as they are. */
  losses: Float64Array
  /** `[1]` out: loss. */
  summary: Float64Array
}

/**
 * d loss / d results of single rows, `[R]` each, 0 when absent; what inactive rows have is not looked at. They are added to
 * what the coefficients of the sequences give.
 */
export interface TokenCoefficients {
  logProb?: Float64Array
  logSumExp?: Float64Array
  /** Needs `entropies` of stage 1. */
  entropy?: Float64Array
  meanLogit?: Float64Array
}

/**
 * Stage 4: out row = coefficient of its sequence · d logProb / d logits and what the coefficients of the row add, zeros at
 * inactive rows.
 */
export interface GradientStage {
  logits: Rows
  /** Same batch, time and vocab; the same array as the logits for an in-place call. */
  out: Rows
  /** `[4 R]` from stage 1, where that was another job. */
  states?: Float64Array
  /** `[R]` likewise. */
  entropies?: Float64Array
  tokenCoefficients?: TokenCoefficients
  /** `[S]` d loss / d logProb of each sequence; filled (scattered from stage 3 through `pairs`) when the job has one. */
  coefficients: Float64Array
  /** `[S]` those of `plainLogProbs`; private to a backend. */
  plainCoefficients?: Float64Array
  /** Leave inactive rows of `out` as they are. */
  skipInactive?: boolean
}

/** Stage 4 of a head: d loss / d logits, multiplied on into the gradients that are asked for, float32. */
export interface HeadGradientStage {
  head: Head
  /** The sizes. */
  logits: Rows
  /** `[4 R]` from stage 1, where that was another job. */
  states?: Float64Array
  /** `[R]` likewise. */
  entropies?: Float64Array
  tokenCoefficients?: TokenCoefficients
  /** `[S]` as in {@link GradientStage}. */
  coefficients: Float64Array
  plainCoefficients?: Float64Array
  /** `[R, D]` out. Inactive rows become zeros, unless they are skipped. */
  hidden?: Float32Array | bigint
  /** `[V, D]` out, without gaps, in the order of the weight: its columns are neighbours where the weight's are. */
  weight?: Float32Array | bigint
  /** `[V]` out. */
  bias?: Float32Array | bigint
  /** Add to what the outs hold. */
  accumulate: boolean
  skipInactive: boolean
}

export interface Job {
  /** Present unless the job is stage 3 alone. */
  tokens?: Tokens
  policy?: ForwardStage
  reference?: ForwardStage
  loss?: LossStage
  /** Not beside `loss`. A gradient's `tokenCoefficients` are then the backend's to fill, and its `coefficients` are zeros. */
  tokenLoss?: TokenLossStage
  gradient?: GradientStage
  headGradient?: HeadGradientStage
}

export interface RunSettings {
  /** 0 for as many as the process may use. */
  threads: number
  instructionSet?: InstructionSet
  signal?: AbortSignal
  /** Of the cuda backend. */
  device?: number
  stream?: bigint
  /** The objects whose device memory and stream the addresses are of: as long as a job may run they are kept. */
  needs?: readonly unknown[]
}

export interface Backend {
  readonly name: 'cpu' | 'js' | 'cuda'
  runSync(job: Job, settings: RunSettings): void
  /** The same off the calling thread. Rejects with the signal's reason when aborted before stage 4 began. */
  run(job: Job, settings: RunSettings): Promise<void>
}
