/**
 * What a job takes of a device: steps, room for their arrays, and results on their way back.
 */
import type { GradientStage, HeadGradientStage, Job, Tokens } from '../../job.js'
import type { GpuDevice, GpuLimits } from '../../types/index.js'
import { Arenas, type Region } from './arena.js'
import { Heads } from './head-logits.js'
import { ReadBack } from './read-back.js'
import type { Shader } from './shader.js'
import type { Step } from './steps.js'
import { HostCopies } from './tensors.js'
import { type TokenRegions, tokenRegions } from './token-regions.js'
import { rowCountOf } from './windows.js'

export class Plan {
  readonly steps: Step[] = []
  readonly arenas: Arenas
  readonly copies: HostCopies
  readonly results = new ReadBack()
  /** Of the logits, if the job has any. */
  readonly vocab: number
  /** The output layers of a job that has any. */
  readonly heads: Heads
  private readonly regions: TokenRegions | undefined

  constructor(
    readonly job: Job,
    readonly device: GpuDevice,
    /** Of a job on an output layer: which rows of the hidden states it is on. */
    headRows: Int32Array = new Int32Array(0),
  ) {
    const { minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment } = device.limits
    this.arenas = new Arenas(Math.max(minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment))
    this.copies = new HostCopies(device)
    const logits = (job.policy ?? this.lastStage)?.logits
    this.vocab = logits?.vocab ?? 0
    this.regions = job.tokens && logits && tokenRegions(this, job.tokens, rowCountOf(logits))
    this.heads = new Heads(this, headRows)
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

  /** The same on the device. */
  get tokenRegions(): TokenRegions {
    return this.regions as TokenRegions
  }

  /** Adds a step; `bindings` follow the uniform. */
  step(shader: Shader, uniform: ArrayBufferView | ArrayBuffer, bindings: readonly Region[], groups: number): void {
    this.steps.push({ shader, bindings: [this.arenas.inputs.put(uniform), ...bindings], groups })
  }

  destroy(): void {
    this.arenas.destroy()
    this.copies.destroy()
    this.results.destroy()
  }
}
