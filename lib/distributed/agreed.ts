/**
 * What every function of ranks begins with.
 */
import { agreement, type Terms } from '../call/agreement.js'
import type { Steps } from '../call/steps.js'
import { communicatorOf } from '../check/communicator.js'

/** Checks the communicator, and holds the terms of the ranks against each other; returns the numbers of all. */
export function* agreed(communicator: unknown, terms: () => Terms): Steps<number[][]> {
  return yield* agreement(communicatorOf(communicator, 'communicator'), terms)
}
