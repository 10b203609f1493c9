/**
 * A job in which ranks that share a vocabulary exchange what they have to by themselves, on the GPU: over NCCL, with nothing
 * that comes back to the host before the results.
 */
import { checkUnchanged } from '../check/arrays.js'
import type { Job, JobInParts } from '../job.js'
import type { Communicator } from '../types/index.js'
import { agreement } from './agreement.js'
import type { Planned } from './run.js'
import type { Columns } from './segments.js'
import type { Steps } from './steps.js'

/** A job with the terms on which it exchanges. `columns`: those of all ranks; none for a gradient alone. */
export function withExchange({ job, runner }: Planned<unknown>, columns: readonly Columns[], merges: boolean): Job {
  const communicator = runner.settings.communicator as bigint
  const borders = Int32Array.from(columns.flatMap(({ start, end }) => [start, end]))
  return { ...job, exchange: { communicator, columns: borders, merges } }
}

/**
 * Runs it. A rank that has begun waits on the GPU for all others, so none begins before all have said that they have the
 * memory they need. From then on a signal has no say.
 */
export function* exchangingJob(
  communicator: Communicator,
  planned: Planned<unknown>,
  columns: readonly Columns[],
  merges: boolean,
): Steps<void> {
  const { runner, watched } = planned
  const { backend, settings } = runner
  let parts: JobInParts | undefined
  let problem: { error: unknown } | undefined
  try {
    try {
      parts = backend.inParts!(withExchange(planned, columns, merges), { ...settings, signal: undefined })
      yield parts.ready
      settings.signal?.throwIfAborted()
      checkUnchanged(watched)
    } catch (error) {
      problem = { error }
    }
    yield* agreement(communicator, () => {
      if (problem) throw problem.error
      return { call: 'a job over NCCL' }
    })
    yield parts!.rest
    checkUnchanged(watched)
  } finally {
    parts?.end()
  }
}
