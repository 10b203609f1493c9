/**
 * The process in which one peer runs, or the worker of a page. The parent (contender.mjs, browser/contender.mjs) decides
 * what to prepare and when to run; this file makes the inputs, checks the peer against ours, watches its memory and takes
 * the times.
 */
import { Absent } from './absent.mjs'
import { accuracyOf } from './accuracy.mjs'
import { compare, expected } from './agreement.mjs'
import { ownProcess, peerName, processorSeconds, serve } from './host.mjs'
import {
  elementSize,
  logitsOf,
  makeLabels,
  makeLogits,
  makeReference,
  makeTargets,
  makeWeight,
  samplePositions,
  sharedCopy,
} from './inputs.mjs'
import { watchPeak } from './memory.mjs'
import { findPeer } from './peers/index.mjs'

const peer = findPeer(peerName)

/**
 * One way of running the peer: most processes have one, ours has one more for each variant of a case.
 * @typedef {object} Line
 * @property {import('./peers/index.mjs').Peer} peer
 * @property {import('./peers/index.mjs').Inputs} inputs
 * @property {import('./cases.mjs').Workload} workload
 * @property {number} calls number of calls timed together
 * @property {number} last seconds of the last sample
 *
 * @typedef {object} Repetition
 * @property {number | Record<string, number>} sample seconds per call; of a meter, what it has measured
 * @property {number} [load] seconds of processor time per second of the clock; absent where it is not known
 */
/** @type {Line[]} */
const lines = []

/** The index of the next copy, shared by all lines. */
let copy = 0

/**
 * Large inputs, with the key they were made for. Lines on logits of the same shape share them, so that variants read
 * the same memory: the place of an array in memory makes a difference of some percent.
 * @type {{ key: string, arrays: Pick<import('./peers/index.mjs').Inputs, 'logits' | 'pristine' | 'weight'> }}
 */
let large = { key: '', arrays: { logits: [] } }

/** Several copies of the logits, used in turn so that none is still in a cache. */
function largeInputs(/** @type {import('./cases.mjs').Workload} */ workload, /** @type {number} */ copies) {
  const { stage, dtype, shape, width, shared } = workload
  const overwritten = (stage === 'in-place' || stage === 'cross-entropy') && peer.overwrites
  const key = JSON.stringify([overwritten, dtype, shape, width, shared, copies])
  if (key !== large.key) {
    large.arrays = { logits: [] }
    const made = makeLogits(workload)
    const logits = [shared ? sharedCopy(made) : made]
    while (logits.length < copies) logits.push(shared ? sharedCopy(made) : made.slice())
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

/** Another thread frees the memory of arrays, shortly after the collector has found them. */
async function collectGarbage() {
  for (let i = 0; i < 2; i++) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** Cases with as many calls to a sample as this are about latency. */
const SMALL_CALLS = 100

/**
 * A sample takes at least this long and as many calls as that needs, unless the calls overwrite their inputs. A
 * shorter sample would measure how the caches recover from the previous contender.
 */
const SAMPLE_MILLISECONDS = 25

/** From this many seconds on, a call is long enough to be timed at once. */
const SLOW_SECONDS = 0.2

/** One repetition; overwritten inputs are restored. */
async function once(/** @type {Line} */ line) {
  copy %= line.inputs.copies
  const index = copy
  const done = await repetition(line)
  restore(line, index)
  return done
}

/**
 * One call on the next copy, or several in turn.
 * @param {Line} line
 * @returns {Promise<Repetition>}
 */
async function repetition({ peer, inputs, calls }) {
  let own = 0
  let ownProcessor = 0
  let done = 0
  const processor = processorSeconds()
  const start = performance.now()
  /** Of this process, or of the peer's own. */
  const load = (/** @type {number} */ seconds) => {
    const value = peer.pid ? ownProcessor / own : (processorSeconds() - processor) / seconds
    return Number.isNaN(value) ? undefined : value
  }
  do {
    for (let i = 0; i < calls; i++) {
      const pending = peer.run(copy)
      const taken = typeof pending === 'object' ? await pending : pending
      copy = copy + 1 === inputs.copies ? 0 : copy + 1
      if (peer.ownInputs) return { sample: taken, load: load((performance.now() - start) / 1000) }
      own += taken?.seconds ?? taken ?? 0
      ownProcessor += taken?.processor ?? 0
    }
    done += calls
  } while (!inputs.pristine && performance.now() - start < SAMPLE_MILLISECONDS)
  const seconds = (performance.now() - start) / 1000
  return { sample: (own || seconds) / done, load: load(seconds) }
}

/**
 * Restores overwritten inputs at once, outside the timed part. The next call runs on another copy, which was restored
 * one call earlier: a cache can hold only the copy restored last.
 */
function restore(/** @type {Line} */ { peer, inputs }, /** @type {number} */ index) {
  if (inputs.pristine && peer.overwrites) inputs.logits[index].set(inputs.pristine)
}

/** @type {Record<string, (message: any) => Promise<object>>} */
const handlers = {
  async prepare({ index, workload, settings, copies, cacheBytes, calls, warmUp, exact, accuracy }) {
    const own = index === 0 ? peer : /** @type {Required<typeof peer>} */ (peer).another()
    const errors = accuracy ? await accuracyOf(own, workload, settings) : undefined
    const bytes = logitsOf(workload) * elementSize(workload.dtype)
    const distinct = Math.max(1, Math.ceil(cacheBytes / bytes))
    const made = makeInputs(workload, peer.ownCopies ? 1 : copies, distinct)
    const inputs = { ...made, copies, reference: makeReference(workload) }
    const line = { peer: own, inputs, workload, calls, last: 0 }
    lines[index] = line
    await own.prepare(workload, inputs, settings)
    if (peer.ownInputs) return {}

    const wanted = expected(workload, inputs, exact)
    if (peer.ownCopies) {
      inputs.logits = []
      large = { key: '', arrays: { logits: [] } }
    }
    await collectGarbage()
    const peak = await watchPeak(own.pid ?? ownProcess)
    await own.run(0)
    const peakBytes = await peak()
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
    return {
      version: own.version,
      note: own.note,
      agreement: { ...agreement, exact: exact && !workload.width },
      accuracy: errors,
      peakBytes,
      pid: own.pid,
    }
  },

  async run({ index }) {
    const line = lines[index]
    // A process that has waited for its turn starts slowly, by a millisecond or two. Long calls are not affected; a
    // fast call runs once before it is timed.
    if (line.last < SLOW_SECONDS) await once(line)
    const done = await once(line)
    line.last = typeof done.sample === 'number' ? done.sample : 0
    return done
  },
}

/** A description of the error, and whether it means that the peer is missing on this machine. */
function failureOf(/** @type {any} */ error) {
  if (error?.code === 'ERR_MODULE_NOT_FOUND') {
    const name = /package '([^']+)'/.exec(error.message)?.[1] ?? 'it'
    return { failure: `${name} is not installed`, absent: true }
  }
  return { failure: error instanceof Error ? error.message : String(error), absent: error instanceof Absent }
}

serve(async (/** @type {any} */ message) => {
  try {
    return { reply: await handlers[message.type](message) }
  } catch (error) {
    return failureOf(error)
  }
})
