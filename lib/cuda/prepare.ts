/**
 * `prepareFusedPreferenceLoss`: a call whose checks, memory and inputs are out of the way before it is enqueued.
 */

import { hostArraysOf } from '../backends/cpu/job-arguments.js'
import { Handle } from '../backends/cuda/handle.js'
import { enqueued, Holds, keepAlive } from '../backends/cuda/holds.js'
import { cudaCall, nextId } from '../backends/cuda/index.js'
import { streamOf } from '../backends/cuda/memory.js'
import { cudaFunctions, requireCuda } from '../backends/cuda/open.js'
import type { Planned } from '../call/run.js'
import { checkUnchanged, type Watched, watch } from '../check/arrays.js'
import { invalidValue } from '../errors.js'
import { plan } from '../functions/fused-preference-loss.js'
import type { FusedOptions } from '../options/index.js'
import type { DeviceMemory, FusedPreferenceLoss, Labels, Logits, RunOptions } from '../types/index.js'

/**
 * A call that can be enqueued again and again, on whatever its device memory then holds. It keeps alive all it was given.
 * All that is enqueued shares one workspace, so a call on another stream has to wait for the one before.
 */
export interface PreparedPreferenceLoss {
  /** Bytes of device memory it holds: inputs, results and scratch. */
  readonly workspaceBytes: number
  /**
   * Enqueues all stages. Allocates nothing and waits for nothing, so it can be captured in a graph
   * (`stream.capture(() => prepared.enqueue(stream))`).
   */
  enqueue(stream?: RunOptions['stream']): void
  /** Waits for the stream, and gives the result of what was enqueued last. Its arrays are overwritten by the next. */
  read(stream?: RunOptions['stream']): FusedPreferenceLoss
  /** Gives its memory back; once the last graph that has captured it is gone, where there are any. */
  dispose(): void
}

/**
 * Prepares {@link fusedPreferenceLoss} on tensors in device memory. What was passed in host memory (labels, masks,
 * weights, reference log-probs) is copied now; what is in device memory is read each time.
 *
 * @param logits, labels, options as of `fusedPreferenceLoss`; logits and gradient in device memory, `signal` not used.
 * @throws as `fusedPreferenceLoss`; Error `ERR_CUDA`
 */
export function prepareFusedPreferenceLoss(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options: FusedOptions = {},
): PreparedPreferenceLoss {
  return new PreparedCall(plan(logits, labels, options))
}

class PreparedCall extends Handle<object> implements PreparedPreferenceLoss {
  readonly workspaceBytes: number
  #plan: Planned<FusedPreferenceLoss> | undefined
  // What is written by each call; parts of it are the caller's by then.
  readonly #results: readonly Watched[]

  constructor(planned: Planned<FusedPreferenceLoss>) {
    const { settings } = planned.runner
    const { job } = planned
    for (const rows of [job.policy?.logits, job.reference?.logits]) {
      if (rows && typeof rows.data !== 'bigint') throw invalidValue('logits.data', 'must be device memory')
    }
    const { backend, functions: cuda } = requireCuda()
    const holds = new Holds(settings.needs)
    let prepared: object
    try {
      prepared = backend.prepare(job, { ...settings, signal: undefined })
    } catch (error) {
      holds.letGo(false)
      throw error
    }
    super(prepared, (isForgotten) => {
      try {
        if (isForgotten) cuda.destroyPreparedAsync(nextId(), prepared).catch(() => {})
        else cuda.destroyPrepared(prepared)
      } finally {
        holds.letGo(isForgotten)
      }
    })
    keepAlive(this, settings.needs ?? [])
    this.workspaceBytes = cuda.workspaceBytes(prepared)
    this.#plan = planned
    this.#results = hostArraysOf(job, settings).map((array) => watch('a result of this prepared call', array))
  }

  enqueue(stream?: RunOptions['stream']): void {
    const { handle } = this
    const address = this.#onStream(this.#plan as Planned<FusedPreferenceLoss>, stream)
    cudaCall(() => cudaFunctions().enqueue(handle, address))
    enqueued(this)
  }

  read(stream?: RunOptions['stream']): FusedPreferenceLoss {
    const { handle } = this
    const planned = this.#plan as Planned<FusedPreferenceLoss>
    const address = this.#onStream(planned, stream)
    checkUnchanged(this.#results)
    cudaCall(() => cudaFunctions().read(handle, address))
    return planned.result()
  }

  override dispose(): void {
    super.dispose()
    this.#plan = undefined
  }

  #onStream({ runner: { settings } }: Planned<FusedPreferenceLoss>, stream: RunOptions['stream']): number {
    return Number(stream === undefined ? (settings.stream ?? 0) : streamOf(stream, settings.device))
  }
}
