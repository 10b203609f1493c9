/**
 * How the functions start a call: alone, or together with the other ranks of a communicator.
 */

import { isNcclRanks } from '../backends/cuda/ranks.js'
import { communicatorOf, syncCommunicator } from '../check/communicator.js'
import type { Communicator, ShardOptions } from '../types/index.js'
import { type Planned, run, runSync } from './run.js'
import { sharedCall } from './shared-call.js'
import { runSteps, runStepsSync } from './steps.js'

const NAME = 'options.communicator'

/** Checks a call with `plan`, and runs it off the calling thread. */
export async function start<Result>(options: ShardOptions | undefined, plan: () => Planned<Result>): Promise<Result> {
  const ranks = ranksOf(options)
  return ranks ? runSteps(sharedCall(ranks, plan, options?.segments === 'merged')) : run(plan())
}

/** {@link start} on the calling thread. */
export function startSync<Result>(options: ShardOptions | undefined, plan: () => Planned<Result>): Result {
  const ranks = ranksOf(options)
  if (ranks === undefined) return runSync(plan())
  return runStepsSync(sharedCall(syncCommunicator(ranks, NAME), plan, options?.segments === 'merged'))
}

/**
 * The communicator over which a call agrees, or undefined. Read before all else: other ranks have to hear of whatever is
 * wrong.
 */
export function ranksOf(options: ShardOptions | undefined | null): Communicator | undefined {
  const given = options?.communicator
  if (given === undefined) return undefined
  return isNcclRanks(given) ? given.host : communicatorOf(given, NAME)
}
