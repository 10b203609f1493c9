/**
 * `prepareFusedPreferenceLoss`: a call whose checks, memory and inputs are out of the way before it is enqueued.
 */
import { cudaCall } from '../backends/cuda.js'
import { streamOf } from '../device/memory.js'
import { cudaFunctions, requireCuda } from '../device/open.js'
import { failure, invalidValue } from '../errors.js'
import { type Plan, plan, result } from '../fused-preference-loss.js'
import type { DeviceMemory, FusedOptions, FusedPreferenceLoss, Labels, Logits, RunOptions } from '../types.js'

/** A call that can be enqueued again and again, on whatever its device memory then holds. */
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
  /** Gives its memory back. */
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
  const planned: Plan = plan(logits, labels, options)
  const { runner } = planned
  const { job } = planned.call
  for (const rows of [job.policy?.logits, job.reference?.logits]) {
    if (rows && typeof rows.data !== 'bigint') throw invalidValue('logits.data', 'must be device memory')
  }
  const cuda = cudaFunctions()
  const { signal, ...settings } = runner.settings
  let prepared: object | undefined = requireCuda().backend.prepare(job, settings)
  const open = (): object => {
    if (prepared === undefined) throw failure('ERR_DISPOSED', 'this prepared call has been disposed of')
    return prepared
  }
  const onStream = (stream: RunOptions['stream']) =>
    Number(stream === undefined ? (settings.stream ?? 0) : streamOf(stream))
  return {
    workspaceBytes: cuda.workspaceBytes(prepared),
    enqueue(stream) {
      const call = open()
      cudaCall(() => cuda.enqueue(call, onStream(stream)))
    },
    read(stream) {
      const call = open()
      cudaCall(() => cuda.read(call, onStream(stream)))
      return result(planned)
    },
    dispose() {
      if (prepared !== undefined) cuda.destroyPrepared(prepared)
      prepared = undefined
    },
  }
}
