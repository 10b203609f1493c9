/**
 * A call that several ranks prepare together, to enqueue it later: they agree now, and wait for each other on the GPU alone
 * then.
 */
import { invalidValue } from '../errors.js'
import type { Communicator } from '../types/index.js'
import { agreement } from './agreement.js'
import { withExchange } from './exchanging-job.js'
import type { Planned } from './run.js'
import { columnsOf, termsOf } from './shared-call.js'
import type { Steps } from './steps.js'

/** Checks the call and prepares it, on all ranks or on none. `merges`: each rank sends one state of a row. */
export function* sharedPreparation<Result, Made extends { dispose(): void }>(
  communicator: Communicator,
  plan: () => Planned<Result>,
  merges: boolean,
  prepare: (planned: Planned<Result>) => Made,
): Steps<Made> {
  let planned = undefined as unknown as Planned<Result>
  const all = yield* agreement(communicator, () => {
    planned = plan()
    if (planned.runner.settings.communicator === undefined) {
      throw invalidValue('options.communicator', 'of a prepared call must be one of fused-preference-loss/nccl')
    }
    const terms = termsOf(planned, merges)
    return { ...terms, call: `a prepared call, ${terms.call}` }
  })
  let made: Made | undefined
  try {
    const columns = columnsOf(all, planned.job)
    let problem: { error: unknown } | undefined
    try {
      made = prepare({ ...planned, job: withExchange(planned, columns, merges) })
    } catch (error) {
      problem = { error }
    }
    yield* agreement(communicator, () => {
      if (problem) throw problem.error
      return { call: 'a prepared call over NCCL' }
    })
    return made as Made
  } catch (error) {
    made?.dispose()
    throw error
  }
}
