/**
 * Repetitions that did not have the processors they needed. On a virtual machine, threads may share one core for seconds
 * on end, and other programs take their part: the time of such a repetition is not the contender's. The processor time
 * that it got in a second of the clock, its load, tells it from others.
 */

/** The least part of its threads' processor time with which a repetition counts. */
export const LEAST_LOAD = 0.8

/**
 * How many threads a contender keeps busy: as many as it was given, or fewer if it has not had that load twice. A
 * contender with one thread, and a call too small to be shared, need one.
 * @param {readonly number[]} loads of its repetitions
 * @param {number} threads
 */
export function busyThreads(loads, threads) {
  const [first, second = first] = loads.toSorted((a, b) => b - a)
  return Math.max(1, Math.min(threads, Math.round(second)))
}

/**
 * Which repetitions count: those with enough load, or all where fewer than two have it, or where loads are not known.
 * @param {readonly (number | undefined)[]} loads of the repetitions
 * @param {number} threads
 * @returns {boolean[]}
 */
export function undisturbed(loads, threads) {
  const known = loads.filter((load) => load !== undefined)
  const least = LEAST_LOAD * busyThreads(known, threads)
  const counts = loads.map((load) => load === undefined || load >= least)
  return counts.filter(Boolean).length < 2 ? loads.map(() => true) : counts
}
