/**
 * The js backend: the four stages in plain TypeScript with float64 inside. It runs wherever JavaScript does, and is
 * written from the formulas, so that tests can hold the native backends against it. This file only decides the order of
 * the stages and how they share the thread.
 */
import type { Backend, GradientStage, Job, Tokens } from '../../job.js'
import { turn } from '../turn.js'
import { headGradient } from './head-gradient.js'
import { logitsGradient } from './logits-gradient.js'
import { preferenceLoss } from './preference-loss.js'
import type { OwnCoefficients } from './row-gradient.js'
import { sequenceSums } from './sequence-sums.js'
import { STATE_SIZE, tokenLogProbs } from './token-log-probs.js'
import { tokenLoss } from './token-loss.js'
import { unpairedPreferenceLoss } from './unpaired-preference-loss.js'

/** How long `run` works before it lets the event loop turn, in milliseconds. */
const SLICE = 10

export const jsBackend: Backend = {
  name: 'js',

  runSync(given) {
    const job = withScratch(given)
    finish(forward(job))
    finish(backward(job))
  },

  async run(given, { signal }) {
    const job = withScratch(given)
    signal?.throwIfAborted()
    // No work is done before the promise is returned, so that even a short call can be aborted.
    await turn()
    signal?.throwIfAborted()
    await inSlices(forward(job), signal)
    // From here on the caller's array is written, so the call can no longer be aborted.
    await inSlices(backward(job))
  },
}

/**
 * The job with the notes its stages pass on: stage 1's states, the sums and coefficients of plain weights, and the
 * coefficients of single tokens.
 */
function withScratch(job: Job): Job {
  const { tokens, policy, loss, tokenLoss, gradient, headGradient } = job
  if (policy === undefined) return job
  const hasGradient = (gradient ?? headGradient) !== undefined
  const rows = policy.logits.batch * policy.logits.time
  const states = policy.states ?? (hasGradient ? new Float64Array(STATE_SIZE * rows) : undefined)
  const isPlain = loss !== undefined && tokens?.plainWeights !== undefined
  const perSequence = () => (isPlain ? new Float64Array(policy.logProbs.length) : undefined)
  const perRow = () => new Float64Array(rows)
  const shared: Partial<GradientStage> = { states, plainCoefficients: perSequence() }
  if (tokenLoss && hasGradient) {
    const { classWeights } = tokenLoss
    const own: OwnCoefficients = { logProb: perRow(), logSumExp: perRow(), meanLogit: perRow(), classWeights }
    shared.tokenCoefficients = own
  }
  return {
    ...job,
    policy: { ...policy, states, plainLogProbs: perSequence() },
    gradient: gradient && { ...gradient, ...shared },
    headGradient: headGradient && { ...headGradient, ...shared },
  }
}

/** Stages 1 to 3, a row at a time. */
function* forward(job: Job): Generator<void, void> {
  for (const stage of [job.policy, job.reference]) {
    if (stage === undefined) continue
    const tokens = job.tokens as Tokens
    const rows = yield* tokenLogProbs(stage, tokens, job.tokenLoss)
    if (stage.segments?.bounds) continue
    sequenceSums(stage, tokens, rows)
    if (job.tokenLoss !== undefined) {
      tokenLoss(job.tokenLoss, tokens, rows, (job.gradient ?? job.headGradient)?.tokenCoefficients)
    }
  }
  if (job.loss !== undefined) preferenceLoss(job)
  if (job.unpairedLoss !== undefined) unpairedPreferenceLoss(job)
}

/** Stage 4, a row at a time. */
function* backward(job: Job): Generator<void, void> {
  if (job.gradient !== undefined) yield* logitsGradient(job.gradient, job.tokens as Tokens)
  if (job.headGradient !== undefined) yield* headGradient(job.headGradient, job.tokens as Tokens)
}

function finish(work: Generator<void, void>): void {
  let step = work.next()
  while (step.done !== true) step = work.next()
}

async function inSlices(work: Generator<void, void>, signal?: AbortSignal): Promise<void> {
  let sliceEnd = performance.now() + SLICE
  while (work.next().done !== true) {
    if (performance.now() < sliceEnd) continue
    await turn()
    signal?.throwIfAborted()
    sliceEnd = performance.now() + SLICE
  }
}
