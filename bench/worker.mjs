/**
 * The process that one peer runs in. The parent (contender.mjs) says what to prepare and when to run; this file builds
 * the inputs, checks the peer against ours, watches its memory and takes the times. It decides nothing.
 */
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { Absent } from './absent.mjs'
import { compare, expected } from './agreement.mjs'
import {
  elementSize,
  logitsOf,
  makeLabels,
  makeLogits,
  makeReference,
  makeTargets,
  makeWeight,
  samplePositions,
} from './inputs.mjs'
import { watchPeak } from './memory.mjs'
import { findPeer } from './peers/index.mjs'

const peer = findPeer(process.argv[2])

/** @type {import('./peers/index.mjs').Inputs} */
let inputs
/** @type {import('./cases.mjs').Workload} */
let workload
let calls = 1
let copy = 0

/** Logits more than once, so that in turn none of them is still in a cache. */
function makeInputs(/** @type {number} */ copies, /** @type {number} */ distinct) {
  const none = { logits: [], labels: new Int32Array(0), targets: new Int32Array(0), positions: [], distinct }
  if (peer.ownInputs) return none
  if (workload.stage === 'loss') {
    return { ...none, policy: makeReference({ ...workload, shape: [workload.shape[0], 2, 7] }) }
  }
  const logits = [makeLogits(workload)]
  while (logits.length < copies) logits.push(logits[0].slice())
  const pristine = workload.stage === 'in-place' && peer.overwrites ? logits[0].slice() : undefined
  const positions = samplePositions(workload)
  const weight = workload.width ? makeWeight(workload) : undefined
  return { weight, logits, pristine, labels: makeLabels(workload), targets: makeTargets(workload), positions, distinct }
}

/** Memory of arrays is given back by another thread, a little after the collector has found them. */
async function collectGarbage() {
  for (let i = 0; i < 2; i++) {
    globalThis.gc?.()
    await sleep(50)
  }
}

/** Cases with as many calls to a sample as this are about latency. */
const SMALL_CALLS = 100

/**
 * A sample is at least this long, as many calls as that takes, unless they overwrite their inputs: or it would time the
 * caches' recovery from whoever ran before.
 */
const SAMPLE_MILLISECONDS = 25

/** From this many seconds on, a call is long enough to be timed at once. */
const SLOW_SECONDS = 0.2
let last = 0

/** A repetition; what it overwrites is put back. */
async function once() {
  const index = copy
  const sample = await repetition()
  restore(index)
  return sample
}

/** Seconds of one call on the next copy, or of several in turn, per call. */
async function repetition() {
  let own = 0
  let done = 0
  const start = performance.now()
  do {
    for (let i = 0; i < calls; i++) {
      const pending = peer.run(copy)
      const seconds = typeof pending === 'object' ? await pending : pending
      copy = copy + 1 === inputs.copies ? 0 : copy + 1
      if (typeof seconds === 'object') return seconds
      own += seconds ?? 0
    }
    done += calls
  } while (!inputs.pristine && performance.now() - start < SAMPLE_MILLISECONDS)
  const seconds = (performance.now() - start) / 1000
  return (own || seconds) / done
}

/**
 * What was overwritten is put back at once, outside the timed part. The next call is on another copy, restored one call
 * earlier: this one is all that a cache can hold.
 */
function restore(/** @type {number} */ index) {
  if (inputs.pristine && peer.overwrites) inputs.logits[index].set(inputs.pristine)
}

const handlers = {
  async prepare({ workload: given, settings, copies, cacheBytes, calls: callsTogether, warmUp }) {
    workload = given
    calls = callsTogether
    const bytes = logitsOf(workload) * elementSize(workload.dtype)
    const distinct = Math.max(1, Math.ceil(cacheBytes / bytes))
    inputs = { ...makeInputs(peer.ownCopies ? 1 : copies, distinct), copies, reference: makeReference(workload) }
    await peer.prepare(workload, inputs, settings)
    if (peer.ownInputs) return {}

    const wanted = expected(workload, inputs)
    if (peer.ownCopies) inputs.logits = []
    await collectGarbage()
    const peak = watchPeak(peer.pid ?? process.pid)
    await peer.run(0)
    const peakBytes = peak()
    const agreement = compare(wanted, await peer.result(), workload.dtype)
    restore(0)
    for (let i = 1; i < Math.max(copies, warmUp); i++) {
      await peer.run(i % copies)
      restore(i % copies)
    }
    // Small calls are fast only once they are compiled.
    const start = performance.now()
    for (let i = 0; calls >= SMALL_CALLS && i < 200 && performance.now() - start < 1500; i++) await repetition()
    return { version: peer.version, note: peer.note, agreement, peakBytes }
  },

  async run() {
    // A process that has been waiting for its turn is slow to start, by a millisecond or two: what takes long does not
    // notice, what is fast goes once before it is timed.
    if (last < SLOW_SECONDS) await once()
    const sample = await once()
    last = typeof sample === 'number' ? sample : 0
    return { sample }
  },
}

/** What went wrong, in words, and whether the peer is one that this machine does not have. */
function failureOf(/** @type {any} */ error) {
  if (error?.code === 'ERR_MODULE_NOT_FOUND') {
    const name = /package '([^']+)'/.exec(error.message)?.[1] ?? 'it'
    return { failure: `${name} is not installed`, absent: true }
  }
  return { failure: error instanceof Error ? error.message : String(error), absent: error instanceof Absent }
}

process.on('message', async (/** @type {any} */ message) => {
  try {
    process.send?.({ reply: await handlers[message.type](message) })
  } catch (error) {
    process.send?.(failureOf(error))
  }
})
process.on('disconnect', () => process.exit())
