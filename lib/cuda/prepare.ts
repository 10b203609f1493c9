/**
 * `prepareFusedPreferenceLoss`: a call whose checks, allocations and copies of inputs are done before it is enqueued.
 */

import { hostArraysOf } from '../backends/cpu/job-arguments.js'
import { streamOf } from '../backends/cuda/addresses.js'
import { cudaCall } from '../backends/cuda/calls.js'
import { Handle } from '../backends/cuda/handle.js'
import { enqueued, Holds, keepAlive } from '../backends/cuda/holds.js'
import { nextId } from '../backends/cuda/index.js'
import { cudaFunctions, requireCuda } from '../backends/cuda/open.js'
import type { Planned } from '../call/run.js'
import { sharedPreparation } from '../call/shared-preparation.js'
import { ranksOf } from '../call/start.js'
import { runStepsSync } from '../call/steps.js'
import { checkUnchanged, type Watched, watch } from '../check/arrays.js'
import { syncCommunicator } from '../check/communicator.js'
import { invalidValue } from '../errors.js'
import { plan } from '../functions/fused-preference-loss.js'
import type { FusedOptions } from '../options/index.js'
import type { DeviceMemory, FusedPreferenceLoss, Labels, Logits, RunOptions, ShardOptions } from '../types/index.js'

/**
 * A call that can be enqueued again and again, on the current content of its device memory. It keeps all its arguments
 * alive. All enqueued runs share one workspace, so a run on another stream must wait for the one before.
 */
export interface PreparedPreferenceLoss {
  /** Bytes of device memory that it holds: inputs, results and scratch. */
  readonly workspaceBytes: number
  /**
   * Enqueues all stages. Allocates nothing and waits for nothing, so it can be captured in a graph
   * (`stream.capture(() => prepared.enqueue(stream))`).
   */
  enqueue(stream?: RunOptions['stream']): void
  /** Waits for the stream and returns the result of the last enqueued run. The next result overwrites its arrays. */
  read(stream?: RunOptions['stream']): FusedPreferenceLoss
  /** Frees its memory, as soon as no graph that has captured it exists any more. */
  dispose(): void
}

/**
 * Prepares {@link fusedPreferenceLoss} on tensors in device memory. Arrays in host memory (labels, masks, weights,
 * reference log-probs) are copied now; arrays in device memory are read on each run. Of a shared vocabulary, all ranks
 * prepare the call, whose communicator is one of `fused-preference-loss/nccl`, and enqueue it as often as each other.
 *
 * @param logits, labels, options as of `fusedPreferenceLoss`; logits and gradient in device memory, `signal` not used.
 * @throws as `fusedPreferenceLoss`; Error `ERR_CUDA`
 */
export function prepareFusedPreferenceLoss(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options: FusedOptions & ShardOptions = {},
): PreparedPreferenceLoss {
  const checked = () => plan(logits, labels, options)
  const ranks = ranksOf(options)
  if (ranks === undefined) return new PreparedCall(checked())
  const merges = options.segments === 'merged'
  const communicator = syncCommunicator(ranks, 'options.communicator')
  return runStepsSync(sharedPreparation(communicator, checked, merges, (planned) => new PreparedCall(planned)))
}

class PreparedCall extends Handle<object> implements PreparedPreferenceLoss {
  readonly workspaceBytes: number
  #plan: Planned<FusedPreferenceLoss> | undefined
  // The results of each run; the caller holds parts of them by then.
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
