/**
 * A call whose checks, allocations and copies of inputs are done before it is enqueued.
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
import type { RunOptions, ShardOptions } from '../types/index.js'
import { type DeviceResults, resultsOnDevice } from './results.js'

/**
 * A call that can be enqueued again and again, on the current content of its device memory. It keeps all its arguments
 * alive. All enqueued runs share one workspace, so a run on another stream must wait for the one before.
 */
export interface PreparedCall<Result> {
  /** Bytes of device memory that it holds: inputs, results and scratch. */
  readonly workspaceBytes: number
  /**
   * Results that stay on the device, as parts of the workspace: valid in the order of the stream, until `dispose`. Throws
   * `ERR_DISPOSED` after that.
   */
  readonly buffers: DeviceResults
  /**
   * Enqueues all stages. Allocates nothing, copies nothing to the host and waits for nothing, so it can be captured in a
   * graph (`stream.capture(() => prepared.enqueue(stream))`). Labels in device memory are looked at by `read`. With a
   * communicator, the GPU waits for those of the other ranks; in the first runs of a communicator the calling thread may, too, as
   * NCCL connects the ranks when it first has to: run once before a capture.
   * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE` (a stream of another device); RangeError
   *   `ERR_OUT_OF_RANGE`; Error `ERR_DISPOSED`, `ERR_CUDA`
   */
  enqueue(stream?: RunOptions['stream']): void
  /**
   * Copies the results of the last run that was enqueued on the stream to the host, waits for that, and returns them. The
   * next result overwrites its arrays.
   * @throws as `enqueue`; TypeError `ERR_INVALID_ARG_VALUE` (an array of its results was detached); of labels in device
   *   memory, for which the gradient has been written by then, RangeError `ERR_LABEL_OUT_OF_RANGE` and what
   *   `emptySequence: 'error'` throws, `ERR_INVALID_ARG_VALUE`
   */
  read(stream?: RunOptions['stream']): Result
  /** Frees its memory, as soon as no graph that has captured it exists any more. */
  dispose(): void
}

/** Prepares a call that `checked` checks; with a communicator on all of its ranks. */
export function prepared<Result>(
  options: ShardOptions | undefined,
  checked: () => Planned<Result>,
): PreparedCall<Result> {
  const ranks = ranksOf(options)
  if (ranks === undefined) return new Prepared(checked())
  const communicator = syncCommunicator(ranks, 'options.communicator')
  const merges = options?.segments === 'merged'
  return runStepsSync(sharedPreparation(communicator, checked, merges, (planned) => new Prepared(planned)))
}

class Prepared<Result> extends Handle<object> implements PreparedCall<Result> {
  readonly workspaceBytes: number
  #plan: Planned<Result>
  #buffers: DeviceResults | undefined
  // The results of each run; the caller holds parts of them by then.
  readonly #results: readonly Watched[]

  constructor(planned: Planned<Result>) {
    const { settings } = planned.runner
    const { job } = planned
    // Without logits it is about log-probs.
    if (!job.policy && !job.given) {
      throw invalidValue(job.loss ? 'logProbs.chosen' : 'sequences.logProbs', 'must be device memory')
    }
    for (const stage of [job.policy, job.reference]) {
      const [name, rows] = stage?.head ? ['hidden', stage.head.hidden] : ['logits', stage?.logits]
      if (rows && typeof rows.data !== 'bigint') throw invalidValue(`${name}.data`, 'must be device memory')
    }
    const { backend, functions: cuda } = requireCuda()
    const holds = new Holds(settings.needs)
    let handle: object
    try {
      handle = backend.prepare(job, { ...settings, signal: undefined })
    } catch (error) {
      holds.letGo(false)
      throw error
    }
    super(handle, (isForgotten) => {
      try {
        if (isForgotten) cuda.destroyPreparedAsync(nextId(), handle).catch(() => {})
        else cuda.destroyPrepared(handle)
      } finally {
        holds.letGo(isForgotten)
      }
    })
    keepAlive(this, settings.needs ?? [])
    this.workspaceBytes = cuda.workspaceBytes(handle)
    this.#plan = planned
    this.#results = hostArraysOf(job, settings).map((array) => watch('a result of this prepared call', array))
  }

  get buffers(): DeviceResults {
    void this.handle
    const { job, runner } = this.#plan
    this.#buffers ??= resultsOnDevice(this, job, runner.settings.device ?? 0)
    return this.#buffers
  }

  enqueue(stream?: RunOptions['stream']): void {
    const { handle } = this
    const address = this.#onStream(stream)
    cudaCall(() => cudaFunctions().enqueue(handle, address))
    enqueued(this)
  }

  read(stream?: RunOptions['stream']): Result {
    const { handle } = this
    const address = this.#onStream(stream)
    checkUnchanged(this.#results)
    cudaCall(() => cudaFunctions().read(handle, address))
    return this.#plan.result()
  }

  override dispose(): void {
    super.dispose()
    this.#plan = undefined as never
  }

  #onStream(stream: RunOptions['stream']): number {
    const { settings } = this.#plan.runner
    return Number(stream === undefined ? (settings.stream ?? 0) : streamOf(stream, settings.device))
  }
}
