/**
 * What a job takes of a device: steps, room for their arrays, and results on their way back.
 */
import type { Job, Tokens } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import { Arenas, type Region } from './arena.js'
import { ReadBack } from './read-back.js'
import type { Shader } from './shader.js'
import type { Step } from './steps.js'
import { HostCopies } from './tensors.js'
import { type TokenRegions, tokenRegions } from './token-regions.js'

export class Plan {
  readonly steps: Step[] = []
  readonly arenas: Arenas
  readonly copies: HostCopies
  readonly results = new ReadBack()
  private readonly regions: TokenRegions | undefined

  constructor(
    readonly job: Job,
    readonly device: GpuDevice,
  ) {
    const { minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment } = device.limits
    this.arenas = new Arenas(Math.max(minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment))
    this.copies = new HostCopies(device)
    this.regions = job.tokens && tokenRegions(job.tokens, this.arenas.inputs)
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
