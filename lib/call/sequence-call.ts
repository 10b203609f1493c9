/**
 * A call from logits to the log-probs of sequences, for logits of any origin: stages 1 and 2, and the values that a
 * later gradient needs.
 */
import type { ForwardStage, Job, Tokens } from '../job.js'
import { type TokenOptions, tokenOptions } from '../options/token-options.js'
import type { DeviceData, Labels, ShardOptions } from '../types/index.js'
import { forwardStage } from './stages.js'
import type { LogitsSource } from './tensor.js'
import { type TokenPlan, tokensOf } from './tokens.js'

/** Stages 1 and 2 of a call that has been checked. */
export interface SequenceCall {
  tokenPlan: TokenPlan
  policy: ForwardStage
  job: Job & { tokens: Tokens }
}

/** Checks such a call. */
export function sequenceCall(
  source: LogitsSource,
  labels: Labels | DeviceData,
  options: TokenOptions & ShardOptions,
): SequenceCall {
  const tokenPlan = tokensOf(labels, source.rows, options, false, source.range)
  const { tokens } = tokenPlan
  const outputs = tokenOptions.outputs.read(options.outputs)
  const policy = forwardStage(source, tokens.counts.length, outputs)
  const count = source.rows.batch * source.rows.time
  policy.states = new Float64Array(4 * count)
  if (policy.tokenEntropies) policy.entropies = new Float64Array(count)
  return { tokenPlan, policy, job: { tokens, policy } }
}

/** The job where no gradient follows: nothing is kept for that. */
export function withoutStates(job: SequenceCall['job']): SequenceCall['job'] {
  const { states: _, entropies: _unrounded, ...policy } = job.policy as ForwardStage
  return { ...job, policy }
}
