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

/**
 * One way of running the peer: most processes have one, ours has one more for each variant of a case.
 * @typedef {object} Line
 * @property {import('./peers/index.mjs').Peer} peer
 * @property {import('./peers/index.mjs').Inputs} inputs
 * @property {import('./cases.mjs').Workload} workload
 * @property {number} calls timed together
 * @property {number} last seconds of the last sample
 */
/** @type {Line[]} */
const lines = []

/** The copy whose turn it is, whichever line's turn it is. */
let copy = 0

/**
 * Large inputs, and what they were made for. Lines on logits of the same shape share them: variants read the very same
 * memory, as where in it an array lies makes a difference of some percent.
 * @type {{ key: string, arrays: Pick<import('./peers/index.mjs').Inputs, 'logits' | 'pristine' | 'weight'> }}
 */
let large = { key: '', arrays: { logits: [] } }

/** Logits more than once, so that in turn none of them is still in a cache. */
function largeInputs(/** @type {import('./cases.mjs').Workload} */ workload, /** @type {number} */ copies) {
  const { stage, dtype, shape, width } = workload
  const key = JSON.stringify([stage, dtype, shape, width, copies])
  if (key !== large.key) {
    large.arrays = { logits: [] }
    const logits = [makeLogits(workload)]
    while (logits.length < copies) logits.push(logits[0].slice())
    const overwritten = (stage === 'in-place' || stage === 'cross-entropy') && peer.overwrites
    const pristine = overwritten ? logits[0].slice() : undefined
    large = { key, arrays: { logits, pristine, weight: width ? makeWeight(workload) : undefined } }
  }
  return large.arrays
}

function makeInputs(
  /** @type {import('./cases.mjs').Workload} */ workload,
  /** @type {number} */ copies,
  /** @type {number} */ distinct,
) {
  const none = { logits: [], labels: new Int32Array(0), targets: new Int32Array(0), positions: [], distinct }
  if (peer.ownInputs) return none
  if (workload.stage === 'loss') {
    return { ...none, policy: makeReference({ ...workload, shape: [workload.shape[0], 2, 7] }) }
  }
  const positions = samplePositions(workload)
  const small = { labels: makeLabels(workload), targets: makeTargets(workload), positions, distinct }
  return { ...largeInputs(workload, copies), ...small }
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

/** A repetition; what it overwrites is put back. */
async function once(/** @type {Line} */ line) {
  copy %= line.inputs.copies
  const index = copy
  const sample = await repetition(line)
  restore(line, index)
  return sample
}

/** Seconds of one call on the next copy, or of several in turn, per call. */
async function repetition(/** @type {Line} */ { peer, inputs, calls }) {
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
function restore(/** @type {Line} */ { peer, inputs }, /** @type {number} */ index) {
  if (inputs.pristine && peer.overwrites) inputs.logits[index].set(inputs.pristine)
}

const handlers = {
  async prepare({ index, workload, settings, copies, cacheBytes, calls, warmUp }) {
    const own = index === 0 ? peer : peer.another()
    const bytes = logitsOf(workload) * elementSize(workload.dtype)
    const distinct = Math.max(1, Math.ceil(cacheBytes / bytes))
    const made = makeInputs(workload, peer.ownCopies ? 1 : copies, distinct)
    const inputs = { ...made, copies, reference: makeReference(workload) }
    const line = { peer: own, inputs, workload, calls, last: 0 }
    lines[index] = line
    await own.prepare(workload, inputs, settings)
    if (peer.ownInputs) return {}

    const wanted = expected(workload, inputs)
    if (peer.ownCopies) {
      inputs.logits = []
      large = { key: '', arrays: { logits: [] } }
    }
    await collectGarbage()
    const peak = watchPeak(own.pid ?? process.pid)
    await own.run(0)
    const peakBytes = peak()
    const agreement = compare(wanted, await own.result(), workload.dtype)
    restore(line, 0)
    copy = 0
    for (let i = 1; i < Math.max(copies, warmUp); i++) {
      await own.run(i % copies)
      restore(line, i % copies)
    }
    // Small calls are fast only once they are compiled.
    const start = performance.now()
    for (let i = 0; calls >= SMALL_CALLS && i < 200 && performance.now() - start < 1500; i++) await repetition(line)
    return { version: own.version, note: own.note, agreement, peakBytes }
  },

  async run({ index }) {
    const line = lines[index]
    // A process that has been waiting for its turn is slow to start, by a millisecond or two: what takes long does not
    // notice, what is fast goes once before it is timed.
    if (line.last < SLOW_SECONDS) await once(line)
    const sample = await once(line)
    line.last = typeof sample === 'number' ? sample : 0
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
