/**
 * The webgpu backend.
 */
import { failure } from '../../errors.js'
import type { Backend, Job, RunSettings, Tokens } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import { preferenceLoss } from '../js/preference-loss.js'
import { tokenLoss } from '../js/token-loss.js'
import { unpairedPreferenceLoss } from '../js/unpaired-preference-loss.js'
import { type DeviceState, stateOf } from './device.js'
import { logProbsIn, Plan } from './plan.js'
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
    signal?.throwIfAborted()
    state.checkThere()
    await stages(job, state)
  },
}

// For now stage 3 is the js backend's.
async function stages(given: Job, state: DeviceState): Promise<void> {
  const { policy, tokens, gradient } = given
  const rowCount = policy ? policy.logits.batch * policy.logits.time : 0
  const states = policy && (policy.states ?? new Float64Array(4 * rowCount))
  const isPlain = given.loss !== undefined && tokens?.plainWeights !== undefined
  const perSequence = () => (isPlain && policy ? new Float64Array(policy.logProbs.length) : undefined)
  const job: Job = {
    ...given,
    policy: policy && { ...policy, states, plainLogProbs: perSequence() },
    gradient: gradient && { ...gradient, states: gradient.states ?? states, plainCoefficients: perSequence() },
  }
  if (job.policy) {
    await execute(job, state, (plan) => {
      if (job.policy) plan.forward(job.policy)
      if (job.reference) plan.forward(job.reference)
    })
  }
  if (job.loss) preferenceLoss(job)
  if (job.unpairedLoss) unpairedPreferenceLoss(job)
  if (job.tokenLoss && states) {
    if (job.gradient) {
      const perRow = () => new Float64Array(rowCount)
      job.gradient.tokenCoefficients = { logProb: perRow(), logSumExp: perRow(), meanLogit: perRow() }
    }
    const rows = {
      logProbs: logProbsIn(states),
      logSumExp: new Float64Array(rowCount),
      meanLogits: new Float64Array(rowCount),
    }
    tokenLoss(job.tokenLoss, tokens as Tokens, rows, job.gradient?.tokenCoefficients)
  }
  if (job.gradient) {
    const stage = job.gradient
    await execute(job, state, (plan) => plan.gradient(stage))
  }
}

async function execute(job: Job, state: DeviceState, build: (plan: Plan) => void): Promise<void> {
  const { device } = state
  const plan = new Plan(job, device)
  const { steps, arenas, results } = plan
  try {
    build(plan)
    const pipelines = await pipelinesOf(steps, state)
    await state.checked(() => {
      arenas.make(device)
      const recording = new Recording(steps, pipelines, device)
      const encoder = device.createCommandEncoder({ label: 'fused-preference-loss' })
      const pass = encoder.beginComputePass({ label: 'fused-preference-loss' })
      recording.record(pass)
      pass.end()
      results.record(device, encoder)
      device.queue.submit([encoder.finish()])
    })
    await results.take()
  } finally {
    plan.destroy()
  }
}
