/**
 * `prepareFusedPreferenceLoss` and `prepareFusedLinearPreferenceLoss`: calls whose checks, allocations, shaders and copies
 * of inputs are done before they are recorded.
 */
import type { Region } from '../backends/webgpu/arena.js'
import { compactJob } from '../backends/webgpu/compact-job.js'
import { LABEL } from '../backends/webgpu/constants.js'
import { type DeviceState, stateOf } from '../backends/webgpu/device.js'
import { planOf } from '../backends/webgpu/job-plan.js'
import type { Plan } from '../backends/webgpu/plan.js'
import { pipelinesOf, Recording } from '../backends/webgpu/steps.js'
import { isSlice } from '../backends/webgpu/tensors.js'
import type { Planned } from '../call/run.js'
import { failure, invalidType, invalidValue } from '../errors.js'
import { plan as planLinear } from '../functions/fused-linear-preference-loss.js'
import { plan } from '../functions/fused-preference-loss.js'
import type { Job, Tokens } from '../job.js'
import type { FusedLinearOptions, FusedOptions } from '../options/index.js'
import type {
  DeviceData,
  FusedLinearPreferenceLoss,
  FusedPreferenceLoss,
  GpuDevice,
  GpuEncoder,
  GpuPass,
  GpuRange,
  HeadWeight,
  Hidden,
  Labels,
  Logits,
} from '../types/index.js'

/**
 * A call that can be recorded again and again, on the content that its buffers have when it runs. All runs share one
 * workspace, so that they must run one after the other, as those of one queue do.
 */
export interface PreparedCall<Result> {
  /** Bytes of the buffers that it holds: inputs, results and scratch. */
  readonly workspaceBytes: number
  /**
   * Results that stay on the device, in buffers that shaders may read and commands copy from. Each number is a pair of
   * float32, and the first is the number rounded to float32. `loss`: the loss, the accuracy and the margin. `logProbs`: `[B]`
   * the policy's.
   */
  readonly buffers: { readonly loss: GpuRange; readonly logProbs: GpuRange }
  /** Records all stages in a command encoder or in a compute pass. Allocates nothing and reads nothing back. */
  encode(target: GpuEncoder | GpuPass): void
  /** Waits for the last run that has been submitted and returns its result. The next result overwrites its arrays. */
  read(): Promise<Result>
  /** Destroys its buffers. Runs that have been submitted before still end. */
  dispose(): void
}

/**
 * Prepares {@link fusedPreferenceLoss} on logits in buffers of WebGPU. Arrays in host memory (labels, masks, weights,
 * reference log-probs) are copied now; buffers are read on each run.
 *
 * @param logits, labels, options as of `fusedPreferenceLoss`; logits and gradient in GPUBuffers, and `gpuDevice` given.
 *   Without `gradient` there is none.
 * @throws as `fusedPreferenceLoss`; Error `ERR_WEBGPU`, `ERR_DEVICE_LOST`, `ERR_OUT_OF_MEMORY`
 */
export async function prepareFusedPreferenceLoss(
  logits: Logits,
  labels: Labels | DeviceData,
  options: FusedOptions,
): Promise<PreparedCall<FusedPreferenceLoss>> {
  return prepared(plan(logits, labels, options))
}

/**
 * Prepares {@link fusedLinearPreferenceLoss} on tensors in buffers of WebGPU. Arrays in host memory are copied now; buffers
 * are read on each run.
 *
 * @param hidden, weight, labels, options as of `fusedLinearPreferenceLoss`; hidden states, weight, bias and gradients in
 *   GPUBuffers, and `gpuDevice` given. Labels and masks are in host memory: they tell which rows are multiplied. Without
 *   `gradient` there is none.
 * @throws as `fusedLinearPreferenceLoss`; Error `ERR_WEBGPU`, `ERR_DEVICE_LOST`, `ERR_OUT_OF_MEMORY`
 */
export async function prepareFusedLinearPreferenceLoss(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels,
  options: FusedLinearOptions,
): Promise<PreparedCall<FusedLinearPreferenceLoss>> {
  const planned = planLinear(hidden, weight, labels, options)
  if (planned.job.tokens?.labels) {
    throw invalidValue('labels', 'must be in host memory: they tell which rows of a prepared call are multiplied')
  }
  return prepared(planned)
}

async function prepared<Result>(planned: Planned<Result>): Promise<PreparedCall<Result>> {
  const { job, runner } = planned
  for (const stage of [job.policy, job.reference]) {
    const [name, rows] = stage?.head ? ['hidden', stage.head.hidden] : ['logits', stage?.logits]
    if (rows && !isSlice(rows.data)) throw invalidValue(`${name}.data`, 'must be a GPUBuffer or a part of one')
  }
  const device = runner.settings.gpuDevice as GpuDevice
  const state = stateOf(device)
  const { work, expand } = workOf(job, device)
  try {
    const pipelines = await pipelinesOf(work.steps, state)
    const recording = await state.checked(() => {
      work.arenas.make(device)
      return new Recording(work.steps, pipelines, device)
    })
    const result = () => {
      expand()
      return planned.result()
    }
    return new Prepared({ ...planned, result }, work, recording, state)
  } catch (error) {
    work.destroy()
    throw error
  }
}

/** The plan of a job, and what brings the results of its rows to the job. */
function workOf(job: Job, device: GpuDevice): { work: Plan; expand(): void } {
  if (!job.policy?.head) return { work: planOf(job, device), expand() {} }
  const { job: compact, rows, expand } = compactJob({ ...job, tokens: job.tokens as Tokens })
  return { work: planOf(compact, device, rows), expand }
}

class Prepared<Result> implements PreparedCall<Result> {
  readonly workspaceBytes: number
  readonly buffers: PreparedCall<unknown>['buffers']
  #recording: Recording | undefined

  constructor(
    private readonly planned: Planned<Result>,
    private readonly work: Plan,
    recording: Recording,
    private readonly state: DeviceState,
  ) {
    const { kept, arenas } = work
    const sequences = planned.job.policy?.logProbs.length ?? 0
    this.#recording = recording
    this.workspaceBytes = arenas.size
    this.buffers = { loss: rangeOf(kept.summary, 3), logProbs: rangeOf(kept.logProbs, sequences) }
  }

  encode(target: GpuEncoder | GpuPass): void {
    const recording = this.#there()
    if (typeof target !== 'object' || target === null) {
      throw invalidType('target', 'a GPUCommandEncoder or a GPUComputePassEncoder', target)
    }
    if ('dispatchWorkgroups' in target) {
      recording.record(target)
      return
    }
    const pass = target.beginComputePass({ label: LABEL })
    recording.record(pass)
    pass.end()
  }

  async read(): Promise<Result> {
    this.#there()
    const { results } = this.work
    const { device } = this.state
    const found = await this.state.checked(() => {
      const encoder = device.createCommandEncoder({ label: LABEL })
      const copies = results.record(device, encoder)
      device.queue.submit([encoder.finish()])
      return copies
    })
    await this.state.awaited(results.take(found))
    return this.planned.result()
  }

  dispose(): void {
    this.#recording = undefined
    this.work.destroy()
  }

  #there(): Recording {
    if (this.#recording === undefined) throw failure('ERR_DISPOSED', 'this prepared call has been disposed of')
    return this.#recording
  }
}

/** The first numbers of a region. */
function rangeOf(region: Region | undefined, count: number): GpuRange {
  const { buffer, offset } = region as Region
  return { buffer, byteOffset: offset, byteLength: 8 * count }
}
