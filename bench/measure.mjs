/**
 * Measures one case: starts every contender in its own process or page (variants of ours share one), interleaves the
 * repetitions so that other load on the machine affects all alike, and turns samples into figures. Prints nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Absent } from './absent.mjs'
import { activeRows, elementSize, logitsOf } from './inputs.mjs'
import { undisturbed } from './load.mjs'
import { bandwidths, floorSeconds, leastTraffic, sweepsFor } from './roofline.mjs'
import { median, summarise } from './statistics.mjs'

/** Threads that spin while they wait for work get this long to stop before the next contender's turn. */
const PAUSE_MILLISECONDS = 5

/**
 * @typedef {import('./cases.mjs').Case} Case
 * @typedef {import('./cases.mjs').Workload} Workload
 * @typedef {import('./peers/index.mjs').Peer} Peer
 * @typedef {import('./cases.mjs').Settings & { threads: number }} Settings
 *
 * @typedef {object} Plan the contenders and the limits of time
 * @property {Peer[]} peers the first is ours
 * @property {boolean} peersWereNamed the user named the peers, which then run even where they are slow
 * @property {Map<string, string>} absent peers found not to be on this machine, and why
 * @property {Set<string>} accuracies the errors that earlier cases have measured
 * @property {Peer} meter of the roofline
 * @property {(peerName: string, patience: number) => Contender} start starts a contender
 * @property {boolean} exact results are compared with those of float64 arithmetic, not with those of ours
 * @property {number} threads
 * @property {number} lastLevelCache bytes
 * @property {number} rounds most repetitions of one contender
 * @property {number} seconds that the repetitions of one contender may take; it makes at least three in any case
 * @property {number} slowLogits most logits that a slow peer is given
 * @property {number} patience seconds after which a peer that has not answered is abandoned
 * @property {(text: string) => void} progress
 *
 * @typedef {object} Contender
 * @property {boolean} running
 * @property {(message: object) => Promise<any>} ask
 * @property {() => void} stop
 * @property {number} [helper] the process that does its work, if it is another
 * @property {() => void} [pause] takes no processor time until `resume`
 * @property {() => void} [resume]

 *
 * @typedef {object} Entry one row of a case's table
 * @property {string} peer
 * @property {string} title
 * @property {string} [version]
 * @property {string} [note]
 * @property {Settings} settings
 * @property {[number, number, number]} shape
 * @property {number} masked
 * @property {number} logits in the batch
 * @property {number} activeRows
 * @property {{ agrees: boolean, error: number, of: string, exact: boolean }} agreement
 * @property {import('./accuracy.mjs').Accuracy} [accuracy] of an output layer
 * @property {number} [peakBytes] memory beyond the inputs
 * @property {number[]} samples seconds
 * @property {number} dropped repetitions without the processor time they needed, which are not among the samples
 * @property {number} [load] processor time in a second of the clock, the median
 * @property {number} median seconds
 * @property {number} p20
 * @property {number} p80
 * @property {number} bytesPerSecond of all logits in the batch
 * @property {number} [operationsPerSecond] of the linear stages, those of masked tokens not counted
 * @property {number} [floor] seconds
 * @property {number} [share] of the roofline
 * @property {number} [ratio] time per logit, ours being 1
 *
 * @typedef {object} Runner
 * @property {Peer} peer
 * @property {string} title
 * @property {any} workload
 * @property {Settings} settings
 * @property {Contender} process or page
 * @property {number} index among the runners of its process
 * @property {any} prepared the answer of its process to `prepare`
 * @property {any[]} samples
 * @property {(number | undefined)[]} loads
 * @property {number} spent seconds
 *
 * @typedef {{ peer: string, title: string, reason: string }} Skipped
 * @typedef {Case & { entries: Entry[], skipped: Skipped[], rooflines: Roofline[] }} CaseResult
 * @typedef {{ meter: string, threads: number, bandwidth: Partial<import('./roofline.mjs').Traffic>, samples: Record<string, number>[], dropped: number, bytes: number }} Roofline
 */

/**
 * The part of the batch that a peer gets: a slow peer gets fewer pairs, a slower one also fewer tokens of the last
 * pair.
 * @param {Workload} workload
 * @param {Peer} peer
 * @param {number} slowLogits
 * @returns {Workload}
 */
function slice(workload, { slowness }, slowLogits) {
  if (!slowness || workload.stage === 'loss') return workload
  const [batch, time, vocab] = workload.shape
  const tokens = Math.floor(slowLogits / slowness / vocab)
  const pairs = Math.min(batch / 2, Math.max(1, Math.floor(tokens / (2 * time))))
  return { ...workload, shape: [2 * pairs, Math.min(time, Math.max(2, Math.floor(tokens / 2))), vocab] }
}

/**
 * The copies of its inputs that a contender takes in turn: so many that none is still in a cache, or two where a cache
 * does not matter. It does not to a peer far slower than the memory, nor to products of matrices; a small call is meant
 * to find its data there.
 * @param {Pick<Case, 'width' | 'calls'>} one
 * @param {Peer} peer
 * @param {number} beyondCaches
 */
export const copiesFor = ({ width, calls }, { slowness }, beyondCaches) =>
  slowness || width || calls >= 100 ? 2 : Math.max(2, beyondCaches)

/**
 * What a contender's errors are known by where they are to be held against float64: a step's, once for each type and
 * width, of every peer and of every way in which ours multiplies.
 * @param {Pick<Runner, 'peer' | 'workload' | 'settings' | 'index'>} runner
 * @param {Set<string>} accuracies those that are known
 */
export function wantedAccuracy({ peer, workload, settings, index }, accuracies) {
  const { stage, dtype, width } = workload
  if (stage !== 'linear-step' || peer.compiles || (index > 0 && !settings.head)) return undefined
  const key = JSON.stringify([peer.name, settings.head, dtype, width])
  return accuracies.has(key) ? undefined : key
}

function isAskedFor(/** @type {Peer} */ peer, /** @type {Case} */ { peers }, /** @type {Plan} */ { peersWereNamed }) {
  if (typeof peers !== 'string') return peers.includes(peer.name)
  return peers !== 'none' && (!peer.embedded || peersWereNamed)
}

/** The samples that count. */
function counted(/** @type {Runner} */ { samples, loads, settings }) {
  const counts = undisturbed(loads, settings.threads)
  return samples.filter((_, i) => counts[i])
}

/** Whether so many samples count, or it is no use to try on. */
function hasEnough(/** @type {Runner} */ runner, /** @type {number} */ wanted) {
  return counted(runner).length >= wanted || runner.samples.length >= 3 * wanted
}

/** The samples that count, and how many do not. */
function counts(/** @type {Runner} */ runner) {
  const samples = counted(runner)
  return { samples, dropped: runner.samples.length - samples.length }
}

/** All runners of a case: ours, its variants, the peers, and one meter per number of threads. */
function line(/** @type {Case} */ one, /** @type {Plan} */ plan) {
  const { stage, dtype, shape, width, shift, masked, leaveMasked, entropies, byProducts, shared } = one
  /** @type {Workload} */
  const workload = { stage, dtype, shape, width, shift, masked, leaveMasked, entropies, byProducts, shared }
  const [ours, ...others] = plan.peers
  const settings = { threads: plan.threads }
  const contenders = [
    { peer: ours, title: ours.title, workload: slice(workload, ours, plan.slowLogits), settings },
    ...one.variants.map((variant) => ({
      peer: ours,
      title: `  ${variant.label}`,
      workload: { ...slice(workload, ours, plan.slowLogits), ...variant.workload },
      settings: { ...settings, ...variant.settings },
    })),
  ]
  /** @type {Skipped[]} */
  const skipped = []
  for (const peer of others.filter((peer) => isAskedFor(peer, one, plan))) {
    const refusal = width && !peer.linear ? 'no output layer to compare' : undefined
    const supported = plan.absent.get(peer.name) ?? refusal ?? peer.supports(workload)
    if (supported === true && peer.slowness && one.peers === 'fast' && !plan.peersWereNamed) {
      skipped.push({ peer: peer.name, title: peer.title, reason: 'too slow for every case; --peer runs it' })
    } else if (supported === true) {
      contenders.push({ peer, title: peer.title, workload: slice(workload, peer, plan.slowLogits), settings })
    } else {
      skipped.push({ peer: peer.name, title: peer.title, reason: supported })
    }
  }
  const meters = [...new Set(contenders.map((contender) => contender.settings.threads))]
    .filter((threads) => shape[2] > 1000 && one.calls < 100 && !(plan.meter.oneThread && threads > 1))
    .map((threads) => ({
      peer: plan.meter,
      title: `${plan.meter.title}, ${threads} threads`,
      workload,
      settings: { threads },
    }))
  return { contenders, meters, skipped }
}

/**
 * @param {Case} one
 * @param {Plan} plan
 * @returns {Promise<CaseResult>}
 */
export async function measure(one, plan) {
  const { contenders, meters, skipped } = line(one, plan)
  const cacheBytes = 4 * plan.lastLevelCache
  const meterBytes = Math.max(cacheBytes, logitsOf(one) * elementSize(one.dtype))
  // Variants of ours, which follow it, share its process.
  /** @type {Runner[][]} */
  const processes = []
  for (const contender of [...meters, ...contenders]) {
    const fresh = { ...contender, index: 0, prepared: undefined, samples: [], loads: [], spent: 0 }
    const before = processes.at(-1)
    if (before && contender.peer === plan.peers[0] && before[0].peer === contender.peer) {
      before.push({ ...fresh, process: before[0].process, index: before.length })
    } else {
      processes.push([{ ...fresh, process: plan.start(contender.peer.name, plan.patience) }])
    }
  }
  const runners = processes.flat()
  // Variants of ours may move memory in other ways than the case does.
  const traffics = contenders.map(({ workload }) => leastTraffic(workload))
  const sweeps = [...new Set(traffics.flatMap(sweepsFor))]
  try {
    await prepareAll()
    for (const [{ process }] of processes) process.pause?.()
    let ready = runners.filter((runner) => runner.prepared)
    for (let round = 0; round < plan.rounds && ready.length > 0; round++) {
      plan.progress(`round ${round + 1} of ${plan.rounds}`)
      // There are many cases that only --full has.
      const seconds = one.full ? plan.seconds / 2 : plan.seconds
      const allowed = (seconds * (round + 1)) / plan.rounds
      const needed = Math.min(3, plan.rounds)
      // Each round begins with another contender, so that none always follows the same neighbour.
      const first = round % ready.length
      for (const runner of [...ready.slice(first), ...ready.slice(0, first)]) {
        if (!runner.process.running) continue
        if (runner.spent > allowed && hasEnough(runner, Math.min(round, needed))) continue
        runner.process.resume?.()
        await sleep(PAUSE_MILLISECONDS)
        await repeat(runner)
        runner.process.pause?.()
      }
      ready = ready.filter((runner) => runner.prepared && runner.process.running)
    }
  } finally {
    for (const runner of runners) runner.process.stop()
  }
  return figures()

  /** Prepares as many at a time as there are cores for them. */
  async function prepareAll() {
    const left = [...processes]
    const lane = async () => {
      for (let group = left.shift(); group; group = left.shift()) {
        for (const runner of group) {
          plan.progress(`preparing ${runner.title.trim()}`)
          await prepare(runner)
        }
      }
    }
    await Promise.all(Array.from({ length: Math.min(plan.threads, 8) }, lane))
  }

  async function prepare(/** @type {Runner} */ runner) {
    const { peer, workload, settings, index } = runner
    const bytes = logitsOf(workload) * elementSize(one.dtype)
    const copies = copiesFor(one, peer, Math.ceil(cacheBytes / bytes))
    const meter = { bytes: meterBytes, sweeps }
    const { calls, warmUp } = one
    const wanted = wantedAccuracy(runner, plan.accuracies)
    const accuracy = wanted !== undefined
    const message = { type: 'prepare', index, workload, copies, calls, warmUp, cacheBytes, exact: plan.exact, accuracy }
    await attempt(runner, async () => {
      runner.prepared = await runner.process.ask({ ...message, settings: { ...settings, ...meter } })
      runner.process.helper = runner.prepared.pid
      if (accuracy) plan.accuracies.add(wanted)
    })
  }

  async function repeat(/** @type {Runner} */ runner) {
    const start = performance.now()
    await attempt(runner, async () => {
      const { sample, load } = await runner.process.ask({ type: 'run', index: runner.index })
      runner.samples.push(sample)
      runner.loads.push(load)
    })
    runner.spent += (performance.now() - start) / 1000
  }

  /** A contender that fails is dropped and listed as skipped with the reason. */
  async function attempt(/** @type {Runner} */ runner, /** @type {() => Promise<void>} */ action) {
    try {
      await action()
    } catch (error) {
      runner.prepared = undefined
      if (error instanceof Absent) plan.absent.set(runner.peer.name, error.message)
      skipped.push({ peer: runner.peer.name, title: runner.title, reason: /** @type {Error} */ (error).message })
    }
  }

  // Runners that share a process with a failed one keep their samples, if they have any.
  function figures() {
    for (const { peer, title, prepared, samples } of runners) {
      if (!prepared || samples.length > 0 || peer === plan.meter) continue
      skipped.push({ peer: peer.name, title, reason: 'its process ended before its turn' })
    }
    const finished = runners.filter((runner) => runner.prepared && runner.samples.length > 0)
    /** @type {Roofline[]} */
    const rooflines = finished
      .filter((runner) => runner.peer === plan.meter)
      .map((runner) => ({
        meter: runner.peer.title,
        threads: runner.settings.threads,
        bytes: meterBytes,
        bandwidth: bandwidths(counted(runner), meterBytes),
        ...counts(runner),
      }))
    /** @type {Entry[]} */
    const entries = finished
      .filter((runner) => runner.peer !== plan.meter)
      .map((runner) => {
        const { peer, title, workload, settings, prepared, loads } = runner
        const summary = summarise(counted(runner))
        const known = loads.filter((load) => load !== undefined)
        const roofline = rooflines.find(({ threads }) => threads === settings.threads)
        const least = leastTraffic(workload)
        const operations = least.multiply + least.multiplyPairs
        // The multiply-adds that are measured are those of vectors.
        const hasFloor = roofline && settings.head?.products !== 'amx'
        const floor = hasFloor ? floorSeconds(least, roofline.bandwidth) : undefined
        return {
          peer: peer.name,
          title,
          version: prepared.version,
          note: prepared.note,
          settings,
          shape: workload.shape,
          masked: workload.masked,
          logits: logitsOf(workload),
          activeRows: activeRows(workload),
          agreement: prepared.agreement,
          accuracy: prepared.accuracy,
          peakBytes: prepared.peakBytes,
          ...counts(runner),
          load: known.length > 0 ? median(known) : undefined,
          ...summary,
          bytesPerSecond: (logitsOf(workload) * elementSize(workload.dtype)) / summary.median,
          operationsPerSecond: operations > 0 ? operations / summary.median : undefined,
          floor,
          share: floor && floor / summary.median,
          /** @type {number | undefined} */ ratio: undefined,
        }
      })
    const ours = entries.find((entry) => entry.title === plan.peers[0].title)
    if (ours) for (const entry of entries) entry.ratio = entry.median / entry.logits / (ours.median / ours.logits)
    return { ...one, entries, skipped, rooflines }
  }
}
