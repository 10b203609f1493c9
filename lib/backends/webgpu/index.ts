/**
 * The webgpu backend: jobs on a device of the caller's.
 */
import { failure } from '../../errors.js'
import type { Backend, Job, Rows, RunSettings, Tokens } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import { compactJob } from './compact-job.js'
import { LABEL } from './constants.js'
import { type DeviceState, stateOf } from './device.js'
import { planOf } from './job-plan.js'
import { Plan } from './plan.js'
import { pipelinesOf, Recording } from './steps.js'
import { tokenRegions } from './token-regions.js'

export const webGpuBackend: Backend = {
  name: 'webgpu',

  runSync() {
    const problem = 'a page cannot wait for its GPU, so that the webgpu backend has no synchronous forms'
    throw failure('ERR_BACKEND_UNAVAILABLE', `${problem}: call the function without Sync in its name`)
  },

  async run(job: Job, { gpuDevice, signal }: RunSettings) {
    const device = gpuDevice as GpuDevice
    const state = stateOf(device)
    state.checkThere()
    if (!isOnHead(job)) return execute(planOf(job, device), state, signal)
    const known = await withTargets(job, state)
    const { job: compact, rows, expand } = compactJob(known)
    await execute(planOf(compact, device, rows), state, signal)
    expand()
  },
}

async function execute(plan: Plan, state: DeviceState, signal?: AbortSignal): Promise<void> {
  const { device } = state
  const { steps, arenas, results } = plan
  try {
    const pipelines = await pipelinesOf(steps, state)
    // From here on the call can no longer be aborted.
    signal?.throwIfAborted()
    const found = await state.checked(() => {
      arenas.make(device)
      const recording = new Recording(steps, pipelines, device)
      const encoder = device.createCommandEncoder({ label: LABEL })
      const pass = encoder.beginComputePass({ label: LABEL })
      recording.record(pass)
      pass.end()
      const copies = results.record(device, encoder)
      device.queue.submit([encoder.finish()])
      return copies
    })
    await state.awaited(results.take(found))
  } finally {
    plan.destroy()
  }
}

type JobOnHead = Job & { tokens: Tokens }

function isOnHead({ tokens, policy, headGradient }: Job) {
  return tokens !== undefined && (policy?.head ?? headGradient) !== undefined
}

/** The same job with targets that the host knows: by them it tells which rows are multiplied. */
async function withTargets(job: Job, state: DeviceState): Promise<JobOnHead> {
  const tokens = job.tokens as Tokens
  if (tokens.labels === undefined) return { ...job, tokens }
  const { policy, headGradient } = job
  const plan = new Plan({ tokens, policy, headGradient }, state.device)
  const { found: targets } = tokenRegions(plan, tokens, plan.logits as Rows)
  await execute(plan, state)
  return { ...job, tokens: { ...tokens, targets, labels: undefined } }
}
