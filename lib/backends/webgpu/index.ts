/**
 * The webgpu backend.
 */
import { failure } from '../../errors.js'
import type { Backend, ForwardStage, Job, RunSettings, Tokens } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import { preferenceLoss } from '../js/preference-loss.js'
import { tokenLoss } from '../js/token-loss.js'
import { unpairedPreferenceLoss } from '../js/unpaired-preference-loss.js'
import { compactJob } from './compact-job.js'
import { type DeviceState, stateOf } from './device.js'
import { Plan } from './plan.js'
import { asksForResults } from './row-results.js'
import type { Finds } from './shaders.js'
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
    await run(job, state)
  },
}

async function run(job: Job, state: DeviceState): Promise<void> {
  const { tokens, policy, headGradient } = job
  if (tokens === undefined || (policy?.head ?? headGradient) === undefined) return stages(job, state)
  const compact = compactJob({ ...job, tokens })
  await stages(compact.job, state, compact.rows)
  compact.expand()
}

function findsOf(stage: ForwardStage, job: Job): Finds {
  if (job.tokenLoss?.classWeights) return 'classes'
  return asksForResults(stage) || stage.logWeights || job.tokenLoss ? 'all' : 'sums'
}

// For now stage 3 is the js backend's.
async function stages(given: Job, state: DeviceState, headRows?: Int32Array): Promise<void> {
  const { policy, tokens, gradient, headGradient } = given
  const rowCount = policy ? policy.logits.batch * policy.logits.time : 0
  const states = policy && (policy.states ?? new Float64Array(4 * rowCount))
  const isPlain = given.loss !== undefined && tokens?.plainWeights !== undefined
  const perSequence = () => (isPlain && policy ? new Float64Array(policy.logProbs.length) : undefined)
  const perRow = () => new Float64Array(rowCount)
  const rows = { logProbs: perRow(), logSumExp: perRow(), meanLogits: perRow() }
  const job: Job = {
    ...given,
    policy: policy && { ...policy, states, plainLogProbs: perSequence() },
    gradient: gradient && { ...gradient, states: gradient.states ?? states, plainCoefficients: perSequence() },
    headGradient: headGradient && {
      ...headGradient,
      states: headGradient.states ?? states,
      plainCoefficients: perSequence(),
    },
  }
  if (job.policy) {
    await execute(job, state, headRows, (plan) => {
      if (job.policy) {
        const { states, results } = plan.forward(job.policy, findsOf(job.policy, job))
        if (job.tokenLoss && results) {
          plan.results.bytes(states, 32 * rowCount, (bytes) => {
            const f = new Float32Array(bytes)
            for (let r = 0; r < rowCount; r++) rows.logProbs[r] = f[8 * r] + f[8 * r + 1]
          })
          plan.results.bytes(results, 40 * rowCount, (bytes) => {
            const f = new Float32Array(bytes)
            for (let r = 0; r < rowCount; r++) {
              rows.logSumExp[r] = f[10 * r + 2] + f[10 * r + 3]
              const at = 10 * r + (job.tokenLoss?.classWeights ? 6 : 4)
              rows.meanLogits[r] = f[at] + f[at + 1]
            }
          })
        }
      }
      if (job.reference) plan.forward(job.reference, 'sums')
    })
  }
  if (job.loss) preferenceLoss(job)
  if (job.unpairedLoss) unpairedPreferenceLoss(job)
  if (job.tokenLoss) {
    const last = job.gradient ?? job.headGradient
    if (last) last.tokenCoefficients = { logProb: perRow(), logSumExp: perRow(), meanLogit: perRow() }
    tokenLoss(job.tokenLoss, tokens as Tokens, rows, last?.tokenCoefficients)
  }
  if (job.gradient) {
    const stage = job.gradient
    await execute(job, state, headRows, (plan) => plan.gradient(stage))
  }
  if (job.headGradient) {
    const stage = job.headGradient
    await execute(job, state, headRows, (plan) => plan.headGradient(stage))
  }
}

async function execute(
  job: Job,
  state: DeviceState,
  headRows: Int32Array | undefined,
  build: (plan: Plan) => void,
): Promise<void> {
  const { device } = state
  const plan = new Plan(job, device, headRows)
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
