/**
 * A call from logits, or from an output layer, to a loss and its gradient, whatever the loss: stages 1 to 3 have been
 * checked, and stage 4 is added here.
 */
import type { NamedArray, Watched } from '../check/arrays.js'
import { flag, oneOf } from '../check/options.js'
import { invalidValue } from '../errors.js'
import type { ForwardStage, Job } from '../job.js'
import type {
  HeadGradientOptions,
  HeadGradients,
  HeadOptions,
  LogitsBudgetOptions,
  RunOptions,
  TypedLogits,
} from '../types/index.js'
import { destinationOf } from './destination.js'
import type { HeadSource } from './head.js'
import { budgetOf, checkPrecision, headDestinations } from './head-gradients.js'
import { headRunner } from './head-runner.js'
import { inLayout } from './layout.js'
import { type Planned, runnerOf } from './run.js'
import { DTYPES, type Tensor } from './tensor.js'
import type { TokenPlan } from './tokens.js'

/** Stages 1 to 3 of a call, checked, and the arrays that they will fill. */
export interface LossCall {
  tokenPlan: TokenPlan
  policy: ForwardStage
  /** The option that makes the gradient of a row more than a multiple of onehot − softmax. */
  ownForm?: string
  /** Stage 4 is added to it. */
  job: Job
  /** The caller's arrays except the policy's; a gradient must not overwrite them. */
  arrays(): NamedArray[]
  /** The arrays among them that the call uses in place. */
  watched: readonly Watched[]
}

/** The options of the gradient, as callers pass them. */
interface GradientOptions extends RunOptions {
  gradient?: unknown
  gradientDType?: unknown
  deferredScale?: unknown
}

/** Adds the gradient of the logits, if it is wanted. `result` makes the rest of the caller's result. */
export function planOfLogits<Result extends { gradLogits?: TypedLogits; rowScale?: Float64Array }>(
  logits: Tensor,
  call: LossCall,
  options: GradientOptions,
  zeroInactive: boolean,
  result: () => Result,
): Planned<Result> {
  const { job } = call
  const watched = [...logits.watched, ...call.watched]
  const defers = flag(options.deferredScale, DEFERRED_SCALE, false)
  let gradient: TypedLogits | undefined
  let rowScale: Float64Array | undefined
  if (options.gradient !== undefined && options.gradient !== false) {
    if (defers && call.ownForm) throw notDeferrable(call.ownForm)
    const { gradientDType } = options
    const out = destinationOf(options.gradient, 'options.gradient', zeroInactive, logits, call.arrays(), gradientDType)
    const coefficients = new Float64Array(call.policy.logProbs.length)
    job.gradient = { logits: logits.rows, out: out.rows, coefficients, skipInactive: out.skipInactive }
    gradient = out.gradient
    watched.push(...out.watched)
    if (defers) rowScale = job.gradient.rowScale = new Float64Array(logits.rows.batch * logits.rows.time)
  } else {
    oneOf(options.gradientDType, 'options.gradientDType', DTYPES, 'float32')
    if (defers) throw invalidValue(DEFERRED_SCALE, 'needs options.gradient: it is how that is written')
  }
  const arrays = () => [...logits.arrays, ...call.arrays(), ['options.gradient', gradient?.data] as const]
  return {
    job,
    runner: runnerOf(options, logits.range, arrays, watched),
    watched,
    result() {
      const found = result()
      if (gradient) found.gradLogits = gradient
      if (rowScale) found.rowScale = inLayout(rowScale, call.policy, call.tokenPlan)
      return found
    },
  }
}

const DEFERRED_SCALE = 'options.deferredScale'

/** The error for a deferred scale beside something that makes the gradient of a row more than a multiple. */
export function notDeferrable(name: string) {
  return invalidValue(
    DEFERRED_SCALE,
    `cannot go with ${name}: the gradient of a row is then no multiple of onehot - softmax`,
  )
}

/** Adds the gradients of the output layer that are wanted. `result` makes the rest of the caller's result. */
export function planOfHead<Result extends object>(
  head: HeadSource,
  call: LossCall,
  options: RunOptions & HeadOptions & HeadGradientOptions & LogitsBudgetOptions & { gradient?: unknown },
  result: () => Result,
): Planned<Result & Partial<HeadGradients>> {
  const { job } = call
  const watched = [...head.watched, ...call.watched]
  const logitsBudget = budgetOf(options.logitsBudget)
  const destinations = headDestinations(options.gradient, 'options.gradient', head, options, call.arrays())
  if (destinations) {
    const coefficients = new Float64Array(call.policy.logProbs.length)
    job.headGradient = { head: head.head, logits: head.rows, coefficients, logitsBudget, ...destinations.stage }
    watched.push(...destinations.watched)
  }
  const arrays = () => [...head.arrays, ...call.arrays(), ...(destinations?.arrays ?? [])]
  const runner = headRunner(options, head, arrays, watched, job.reference?.head)
  if (destinations) checkPrecision(destinations.stage, runner)
  return {
    job,
    runner,
    watched,
    result: () => Object.assign(result(), destinations?.gradients as Partial<HeadGradients>),
  }
}
