/**
 * What a job takes of a device: steps, room for their arrays, and results on their way back.
 */
import type { GradientStage, HeadGradientStage, Job, Rows, Tokens } from '../../job.js'
import type { GpuDevice, GpuLimits } from '../../types/index.js'
import { Arenas, type Region } from './arena.js'
import { ReadBack } from './read-back.js'
import type { Shader } from './shader.js'
import type { Step } from './steps.js'
import { HostCopies } from './tensors.js'

/** The tokens of a job on the device. */
export interface TokenRegions {
  /** `[R]` int32 */
  targets: Region
  /** `[S + 1]` `Sequence` of rows.wgsl */
  sequences: Region
  /** `[R]` `Weights` of token-state.wgsl; nothing where all are 1. */
  weights: Region
  hasWeights: boolean
  /** `[R]` the targets: where labels are on the device, once the results are there. */
  found: Int32Array
}

export class Plan {
  readonly steps: Step[] = []
  readonly arenas: Arenas
  readonly copies: HostCopies
  readonly results = new ReadBack()
  /** What stays on the device for whoever wants it there: two-float numbers. */
  readonly kept: { logProbs?: Region; summary?: Region } = {}
  /** Those of the job, if it has any. */
  readonly logits: Rows | undefined
  /** Of a job with tokens: set before any step that takes them. */
  tokenRegions!: TokenRegions

  constructor(
    readonly job: Job,
    readonly device: GpuDevice,
  ) {
    const { minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment } = device.limits
    this.arenas = new Arenas(Math.max(minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment))
    this.copies = new HostCopies(device)
    this.logits = (job.policy ?? this.lastStage)?.logits
  }

  get limits(): GpuLimits {
    return this.device.limits
  }

  /** Stage 4, of logits or of an output layer, if the job has it. */
  get lastStage(): GradientStage | HeadGradientStage | undefined {
    return this.job.gradient ?? this.job.headGradient
  }

  /** Of a job that has any. */
  get tokens(): Tokens {
    return this.job.tokens as Tokens
  }

  /** Adds a step; `bindings` follow the uniform. */
  step(shader: Shader, uniform: ArrayBufferView | ArrayBuffer, bindings: readonly Region[], groups: number): void {
    this.steps.push({ shader, bindings: [this.arenas.inputs.put(uniform), ...bindings], groups })
  }

  destroy(): void {
    this.arenas.destroy()
    this.copies.destroy()
  }
}
