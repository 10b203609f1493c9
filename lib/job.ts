/**
 * The contract between the public functions and the backends: a {@link Job}, made of the stages it should run, and a
 * {@link Backend} that runs it. Stage 3 is in job-losses.ts. Whoever writes a backend reads no more of lib than these two.
 *
 * The fields of a job have been checked. A backend sees no masks, shifts or packing, only rows of logits and the target
 * that each row predicts; it refuses no job and has no defaults. Absent fields mean what their docstrings say.
 *
 * **Where arrays live.** Tensors (`Rows`, `Matrix`, biases, gradients of a head) are a typed array of the host's, or
 * memory of the backend's device: a bigint is an address of CUDA's, a {@link GpuSlice} part of a buffer of WebGPU's. All
 * tensors of a job are of one kind, except that a reference's may be in host memory where the policy's are on a device.
 * Labels, and log-probs given to the cuda backend, may be on a device too; all else is in arrays of the host's, which a
 * backend copies to its device itself. A new kind of memory is one more member of {@link Place}; how results are made there
 * is one more `Memory` of lib/call/memory.ts; and a backend that does not know it never sees it, since
 * lib/backends/registry.ts picks by where the tensors are.
 *
 * **Who owns results.** The caller of `run` has allocated every array that is marked as an out, and it stays the caller's.
 * A backend writes to outs alone, and keeps no reference to any array once the job has ended. Fields marked as private to a
 * backend are made by it, and carry its notes from one stage to another.
 *
 * **What is asynchronous.** `runSync` returns when all outs are written. `run` returns a promise at once; inputs and outs
 * belong to the backend until that has settled, the typed arrays of the host's included. A backend that has no synchronous
 * form throws `ERR_BACKEND_UNAVAILABLE` from `runSync`. Jobs may run at the same time, and share inputs but no outs.
 *
 * Letters in shapes: R = batch · time rows, V vocabulary, D width, S sequences, P pairs.
 */
import type { GivenOnDevice, LossStage, TokenLossStage, UnpairedLossStage } from './job-losses.js'
import type { JobInParts, SegmentStates, Shard, StateExchange } from './job-shards.js'
import type { DType, GpuBuffer, GpuDevice, GradientPrecision, HostArray, InstructionSet } from './types/index.js'

export * from './job-losses.js'
export * from './job-shards.js'

/** Memory of a tensor on a device: an address on a GPU of CUDA's, or a part of a buffer of WebGPU's. */
export type DevicePlace = bigint | GpuSlice

/** Memory of a tensor: an array of the host's, or memory of a device. */
export type Place = HostArray | DevicePlace

/** Part of a `GPUBuffer`. */
export interface GpuSlice {
  buffer: GpuBuffer
  byteOffset: number
  byteLength: number
}

/** Rows of logits: row (b, t) starts at element `b * batchStride + t * timeStride` of `data` and has `vocab` elements. */
export interface Rows {
  data: Place
  dtype: DType
  batch: number
  time: number
  vocab: number
  batchStride: number
  timeStride: number
}

/** What each of the R rows predicts, and how rows form sequences. */
export interface Tokens {
  /** `[R]` the label predicted at each row, -1 where the row is inactive. */
  targets: Int32Array
  /** Where the logits are a share of the vocabulary, which labels then are of. */
  shard?: Shard
  /** `[R]` factor of each row's log-prob; 1 when absent. */
  weights?: Float64Array
  /** `[R]` the factors for 'sft', which ignores ldAlpha; `weights` when absent. */
  plainWeights?: Float64Array
  /** `[S + 1]` sequence s is rows offsets[s] .. offsets[s + 1]. */
  offsets: Int32Array
  /** `[S]` number of active rows. */
  counts: Int32Array
  /** What counts are the numbers x / temperature of the logits x… */
  temperature: number
  /** …or, where it is given, tanh(x · capScale) / temperature. */
  capScale?: number
  /** Divide each sequence's sum by its count. */
  average: boolean
  /** Log-prob of a sequence without active rows: 0 or NaN. */
  emptyLogProb: number
  /** Labels on the GPU, which makes targets and counts of them: `targets` is then empty and `counts` an out. */
  labels?: DeviceLabels
}

/** `[R]` labels that are on the GPU. */
export interface DeviceLabels {
  /** int32 or, when wide, int64. */
  data: DevicePlace
  wide: boolean
  /** `[R]` uint8, 0 where inactive; of WebGPU's memory int32 where it has four bytes a label. */
  mask?: DevicePlace
  ignoreIndex: number
  shift: boolean
  /** `[S]` the sequence that each is paired with, or -1: active rows past that one's number weigh `ldAlpha` times. */
  partners?: Int32Array
  ldAlpha?: number
  /** `[1]` out: how many were out of range. */
  invalid: Int32Array
  /** Out of the webgpu backend: the place of the first of them. */
  firstInvalid?: number
}

/** Elements (row, column) of a matrix, at `row * rowStride + column * columnStride`; one of the two is 1. */
export interface Matrix {
  data: Place
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
  bias?: { data: Place; dtype: DType }
}

/** Stages 1 and 2: token log-probs and sequence sums. */
export interface ForwardStage {
  /** With a head, sizes alone: their data is an empty array. */
  logits: Rows
  head?: Head
  /** Where the vocabulary is shared. */
  segments?: SegmentStates
  /** `[S]` out. */
  logProbs: Float64Array
  /** `[4 R]` out, when a gradient may follow in another job: what it needs to know of each row; private to a backend. */
  states?: Float64Array
  /** Stage 1 was another job's, which has left `states`, and `sumSquaredProbs` for logWeights; private to a backend. */
  swept?: boolean
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
 * inactive rows; rounded once, to the type of `out`.
 */
export interface GradientStage {
  logits: Rows
  /**
   * Same batch, time and vocab; any dtype. The same array as the logits for an in-place call, whose dtype then has elements
   * of the logits' size.
   */
  out: Rows
  /**
   * `[R]` out: the coefficients of active rows, which are then left out of the rows: d logProb / d logits is written, and
   * zeros where a row is known to take no part, by the weight of its token or a coefficient of its own. Beside coefficients
   * of log-probs alone. Inactive rows are left as they are.
   */
  rowScale?: Float64Array
  /** `[4 R]` from stage 1, where that was another job. */
  states?: Float64Array
  /** `[R]` likewise. */
  entropies?: Float64Array
  tokenCoefficients?: TokenCoefficients
  /** `[S]` d loss / d logProb of each sequence; filled (scattered from stage 3 through `pairs`, or copied) when the job has one. */
  coefficients: Float64Array
  /** `[S]` those of `plainLogProbs`; private to a backend. */
  plainCoefficients?: Float64Array
  /** Leave inactive rows of `out` as they are. */
  skipInactive?: boolean
}

/**
 * Stage 4 of a head: d loss / d logits, multiplied on into the gradients that are asked for. Sums are float32 at least, and
 * rounded once.
 */
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
  /** Of the outs. */
  dtype: DType
  /**
   * What the gradient with respect to each logit but the label's is rounded to, before it is multiplied by weights and
   * hidden states: 'bfloat16' only where these are. The label's is not rounded, and its products are added apart. Defaults
   * to 'float32'.
   */
  precision?: GradientPrecision
  /** `[R, D]` out. Inactive rows become zeros, unless they are skipped. */
  hidden?: Place
  /** `[V, D]` out, without gaps, in the order of the weight: its columns are neighbours where the weight's are. */
  weight?: Place
  /** `[V]` out. */
  bias?: Place
  /** Add to what the outs hold. */
  accumulate: boolean
  /** Of a shard: `hidden` becomes its share of the sums, in float32, and is not added to anything. */
  sharesHidden?: boolean
  skipInactive: boolean
  /** Bytes of logits that a backend may keep from stage 1 to this one, where both are in the job. No bit depends on it. */
  logitsBudget?: number
}

/**
 * The stages to run, in this order: 1 and 2 on the policy and on the reference, 3, and 4. A job is one of
 * - `tokens`, `policy`: log-probs of sequences;
 * - `tokens`, `policy`, perhaps `reference` and `tokenLoss`, with `bounds` of segments: their states, and nothing else;
 * - `tokens`, `gradient` or `headGradient`: a gradient whose `states` an earlier job has filled;
 * - `loss`: stage 3 alone;
 * - `tokens`, `policy`, `loss`, perhaps `reference`, and perhaps `gradient` or `headGradient`: all four;
 * - `tokens`, `policy`, `tokenLoss`, and perhaps `gradient` or `headGradient`: all four, of single tokens.
 */
export interface Job {
  /** Present unless the job is stage 3 alone. */
  tokens?: Tokens
  policy?: ForwardStage
  /** Present when the reference's log-probs must be computed from its logits. */
  reference?: ForwardStage
  loss?: LossStage
  unpairedLoss?: UnpairedLossStage
  /** Beside either. */
  given?: GivenOnDevice
  /** Beside no other loss. A gradient's `tokenCoefficients` are then the backend's to fill, and its `coefficients` are zeros. */
  tokenLoss?: TokenLossStage
  gradient?: GradientStage
  /** Instead of `gradient` where logits come from a head. */
  headGradient?: HeadGradientStage
  /** Beside stages with a shard. */
  exchange?: StateExchange
}

/** The products of an output layer other than a backend's own. */
export type Products = 'blas' | 'amx' | 'tf32'

/** Where and how a job runs. A backend ignores the settings of other backends. */
export interface RunSettings {
  /** 0 for as many as the process may use. */
  threads: number
  /** For the cpu backend; the best available one when absent. */
  instructionSet?: InstructionSet
  /**
   * Of the cpu and cuda backends: the number that `openProducts` gave, above 0 of a library of BLAS; an output layer's own
   * products when absent.
   */
  products?: number
  /** `run` checks it until stage 4 begins: a job aborted before then must not write a gradient. */
  signal?: AbortSignal
  /** Of the cpu backend: `run` calls it with the row before which all of a head's `hidden` is finished, as it goes on. */
  onHiddenRows?: (row: number) => void
  /** Of the cuda backend. */
  device?: number
  /** Of the cuda backend: the address of a stream; the default stream when absent. */
  stream?: bigint
  /** Of the webgpu backend, which needs it. */
  gpuDevice?: GpuDevice
  /** Of the cuda backend: the address of the communicator over which shards are exchanged on the stream. */
  communicator?: bigint
  /** The objects that own the device memory and the stream at these addresses; they are kept while the job may run. */
  needs?: readonly unknown[]
}

/** Runs jobs. No job leaves anything to the next, and the number of threads changes no bit of a result. */
export interface Backend {
  readonly name: 'cpu' | 'wasm' | 'js' | 'cuda' | 'webgpu'
  /**
   * Of the cpu backend, for 'blas' and 'amx', and of cuda, for 'tf32': finds what is to multiply for an output layer, and
   * gives its number. For 'blas' it opens the library that the user names, or one that is found.
   */
  openProducts?(products: Products): number
  /** Of the cuda backend: a job with an `exchange`, which all ranks must be ready for before one of them begins it. */
  inParts?(job: Job, settings: RunSettings): JobInParts
  /** On the calling thread. */
  runSync(job: Job, settings: RunSettings): void
  /** Off the calling thread. Rejects with the signal's reason when aborted before stage 4 began. */
  run(job: Job, settings: RunSettings): Promise<void>
}
