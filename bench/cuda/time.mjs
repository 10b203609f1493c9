/**
 * The time of work on a stream: of several calls between two events, on sets of arrays that take turns, so that none of them
 * is still in the second-level cache when it is read again.
 */
import { Event } from 'fused-preference-loss/cuda'
import { quantile } from '../statistics.mjs'

/** Between two events there are at least so many calls, and so many milliseconds of them. */
const LEAST_CALLS = 4
const LEAST_MS = 5

/** How many sets of so many bytes are some times the second-level cache. */
export function setsBeyond(/** @type {number} */ l2Cache, /** @type {number} */ bytes) {
  return Math.max(1, Math.ceil((4 * l2Cache) / bytes))
}

/**
 * Median and spread of the milliseconds of one call.
 * @param {import('fused-preference-loss/cuda').Stream} stream
 * @param {readonly (() => void)[]} calls which enqueue the same work on a set each
 * @param {object} [options]
 * @param {number} [options.rounds] that are timed
 * @param {() => void} [options.before] what has to be enqueued before the calls of a round, which it makes once each; it
 *   is not timed
 * @param {boolean} [options.inGraph] whether the calls of a round are one graph
 */
export function timeCalls(stream, calls, { rounds = 15, before, inGraph = false } = {}) {
  const [start, end] = [new Event(), new Event()]
  const round = (/** @type {() => void} */ work) => {
    before?.()
    start.record(stream)
    work()
    end.record(stream)
    return start.millisecondsTo(end)
  }
  const all = () => {
    for (const call of calls) call()
  }
  round(all) // which loads what the calls need
  const roughly = round(all) / calls.length
  const passes = before ? 1 : Math.ceil(Math.max(LEAST_CALLS, LEAST_MS / roughly) / calls.length)
  const repeated = () => {
    for (let i = 0; i < passes; i++) all()
  }
  const graph = inGraph ? stream.capture(repeated) : undefined
  const work = graph ? () => graph.launch(stream) : repeated
  round(work)
  const times = Array.from({ length: rounds }, () => round(work) / (passes * calls.length))
  for (const used of [graph, start, end]) used?.dispose()
  return { ms: quantile(times, 0.5), p20: quantile(times, 0.2), p80: quantile(times, 0.8) }
}
