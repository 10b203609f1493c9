/**
 * A whole job as a plan. Nothing is read back between its stages.
 */
import type { Job } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import { findsOf, forward, statesRoom } from './forward.js'
import { type Found, foundByOther, gradient, headGradient } from './gradient.js'
import { Heads } from './head-logits.js'
import { lossOf } from './loss.js'
import { Plan } from './plan.js'
import { tokenRegions } from './token-regions.js'

/** `headRows`: of a job on an output layer, which rows of the hidden states it is on. */
export function planOf(job: Job, device: GpuDevice, headRows: Int32Array = new Int32Array(0)): Plan {
  const plan = new Plan(job, device)
  const heads = new Heads(plan, headRows)
  if (job.tokens && plan.logits) plan.tokenRegions = tokenRegions(plan, job.tokens, plan.logits)
  const { policy, reference } = job
  if (policy === undefined) {
    if (plan.lastStage) lastStage(plan, heads, foundByOther(plan, plan.lastStage))
    else lossOf(plan).steps(undefined)
    return plan
  }
  const loss = lossOf(plan)
  const states = statesRoom(plan, policy)
  // First, so that the policy's states stay, and its logits where these are kept.
  if (reference) forward(plan, heads, reference, 'sums', loss.reference, states)
  const found = forward(plan, heads, policy, findsOf(policy, job), loss.policy, states)
  const coefficients = loss.steps(found)
  lastStage(plan, heads, { states, ...coefficients })
  return plan
}

/** Stage 4, of a job that has it. */
function lastStage(plan: Plan, heads: Heads, found: Found): void {
  const { job } = plan
  if (job.gradient) gradient(plan, job.gradient, found)
  if (job.headGradient) headGradient(plan, heads, job.headGradient, found)
}
