/**
 * Calls that wait several times, for other ranks or for a backend, written once for the promise form and the Sync one: a
 * generator yields each {@link Step}, and is thrown the step's error.
 */
import { type SyncCommunicator, syncCommunicator } from '../check/communicator.js'
import type { Wait } from '../job.js'
import type { Communicator } from '../types/index.js'

/** Something to wait for. */
export type Step = Wait

/** A call in steps. */
export type Steps<Result> = Generator<Step, Result, void>

/** Takes the steps off the calling thread. */
export async function runSteps<Result>(steps: Steps<Result>): Promise<Result> {
  let next = steps.next()
  while (next.done !== true) {
    try {
      await next.value.run()
    } catch (error) {
      next = steps.throw(error)
      continue
    }
    next = steps.next()
  }
  return next.value
}

/** Takes the steps on the calling thread. */
export function runStepsSync<Result>(steps: Steps<Result>): Result {
  let next = steps.next()
  while (next.done !== true) {
    try {
      next.value.runSync()
    } catch (error) {
      next = steps.throw(error)
      continue
    }
    next = steps.next()
  }
  return next.value
}

/** A collective. */
export function collective(
  communicator: Communicator,
  run: (communicator: Communicator) => Promise<void>,
  runSync: (communicator: SyncCommunicator) => void,
): Step {
  return {
    run: () => run(communicator),
    runSync: () => runSync(syncCommunicator(communicator, 'communicator')),
  }
}

/** All ranks' bytes, in the order of ranks. */
export function* gather(communicator: Communicator, send: Uint8Array): Steps<Uint8Array> {
  const receive = new Uint8Array(communicator.size * send.byteLength)
  yield collective(
    communicator,
    (ranks) => ranks.allGather(send, receive),
    (ranks) => ranks.allGatherSync(send, receive),
  )
  return receive
}

/** Adds up the arrays of all ranks, in place. */
export function* sum(communicator: Communicator, data: Float32Array | Float64Array): Steps<void> {
  yield collective(
    communicator,
    (ranks) => ranks.allReduceSum(data),
    (ranks) => ranks.allReduceSumSync(data),
  )
}
