/**
 * The webgpu backend: jobs on a device of the caller's.
 */
import { failure } from '../../errors.js'
import type { Backend, Job, RunSettings } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import { LABEL } from './constants.js'
import { stateOf } from './device.js'
import { planOf } from './job-plan.js'
import { pipelinesOf, Recording } from './steps.js'

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
    const plan = planOf(job, device)
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
  },
}
