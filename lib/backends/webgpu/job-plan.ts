/**
 * A whole job as a plan. Nothing is read back between its stages.
 */
import { failure } from '../../errors.js'
import type { Job } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import { findsOf, forward } from './forward.js'
import { foundByOther, gradient } from './gradient.js'
import { lossOf } from './loss.js'
import { Plan } from './plan.js'
import { tokenRegions } from './token-regions.js'

export function planOf(job: Job, device: GpuDevice): Plan {
  if (job.policy?.head ?? job.headGradient) {
    throw failure('ERR_BACKEND_UNAVAILABLE', 'the webgpu backend does not have the functions of the output layer')
  }
  const plan = new Plan(job, device)
  if (job.tokens && plan.logits) plan.tokenRegions = tokenRegions(plan, job.tokens, plan.logits)
  const { policy, reference } = job
  if (policy === undefined) {
    if (job.gradient) gradient(plan, job.gradient, foundByOther(plan, job.gradient))
    else lossOf(plan).steps(undefined)
    return plan
  }
  const loss = lossOf(plan)
  const found = forward(plan, policy, findsOf(policy, job), loss.policy)
  if (reference) forward(plan, reference, 'sums', loss.reference)
  const coefficients = loss.steps(found)
  if (job.gradient) gradient(plan, job.gradient, { states: found.states, ...coefficients })
  return plan
}
