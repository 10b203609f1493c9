/**
 * The physical limit: the fewest bytes a workload must move and the time this machine's memory takes for them; for a
 * product of matrices, the operations and the time its cores take. peers/bandwidth.mjs measures the rates.
 */
import { activeRows, elementSize } from './inputs.mjs'
import { median } from './statistics.mjs'

/**
 * Bytes moved in each way, counting both reads and writes.
 * @typedef {object} Traffic
 * @property {number} read only read
 * @property {number} copy read from one array and written to another
 * @property {number} update read and written back in place
 * @property {number} fill only written
 * @property {number} multiply floating-point operations, two a multiply-add
 * @property {number} multiplyPairs the same, of factors in bfloat16, which some CPUs multiply two at a time
 */

/**
 * The fewest bytes: rows that count are read once for the log-probs and, where there is a gradient, read again and
 * written; the gradient of other rows is written as zeros without reading anything, unless those rows are left
 * untouched.
 * @param {import('./cases.mjs').Workload} workload
 * @returns {Traffic}
 */
export function leastTraffic(workload) {
  const [batch, time, vocab] = workload.shape
  const rowBytes = vocab * elementSize(workload.dtype)
  const active = activeRows(workload) * rowBytes
  const inactive = workload.leaveMasked ? 0 : batch * time * rowBytes - active
  const none = { read: 0, copy: 0, update: 0, fill: 0, multiply: 0, multiplyPairs: 0 }
  const way = workload.dtype === 'bfloat16' ? 'multiplyPairs' : 'multiply'
  const multiplyAdds = activeRows(workload) * vocab * (workload.width ?? 0)
  switch (workload.stage) {
    case 'forward':
      return { ...none, read: active }
    case 'step':
    case 'tokens':
      return { ...none, read: active, copy: 2 * active, fill: inactive }
    case 'in-place':
      return { ...none, read: active, update: 2 * active, fill: inactive }
    case 'cross-entropy':
      // The gradient of a row needs nothing of the others.
      return { ...none, update: 2 * active, fill: inactive }
    case 'cross-entropy-step':
      return { ...none, copy: 2 * active, fill: inactive }
    case 'linear-forward':
      return { ...none, [way]: 2 * multiplyAdds }
    case 'linear-step':
    case 'linear-tokens':
      // The logits, and the two products with their gradient.
      return { ...none, [way]: 6 * multiplyAdds }
    default:
      return none
  }
}

/**
 * Seconds that the memory needs for that traffic.
 * @param {Traffic} traffic bytes
 * @param {Partial<Traffic>} bandwidth bytes per second, at least where there is traffic
 */
export function floorSeconds(traffic, bandwidth) {
  let seconds = 0
  for (const way of WAYS) {
    const bytes = traffic[way]
    if (bytes > 0) seconds += bytes / (bandwidth[way] ?? Number.NaN)
  }
  return seconds
}

/** The sweeps that measure each way of moving memory; the fastest counts. */
const SWEEPS = {
  read: { sweeps: ['read', 'readAhead'], moved: 1 },
  copy: { sweeps: ['copy', 'copyStreaming', 'copyAhead'], moved: 2 },
  update: { sweeps: ['update', 'updateAhead'], moved: 2 },
  fill: { sweeps: ['fill', 'fillStreaming'], moved: 1 },
  multiply: { sweeps: ['multiply'], moved: 1 },
  multiplyPairs: { sweeps: ['multiplyPairs'], moved: 1 },
}
const WAYS = /** @type {(keyof Traffic)[]} */ (Object.keys(SWEEPS))

/**
 * Names of the sweeps that the traffic requires.
 * @param {Traffic} traffic
 * @returns {string[]}
 */
export function sweepsFor(traffic) {
  return WAYS.flatMap((way) => (traffic[way] > 0 ? SWEEPS[way].sweeps : []))
}

/**
 * Bytes per second of each way of moving memory that was measured.
 * @param {Record<string, number>[]} samples seconds by sweep, one entry per repetition
 * @param {number} bytes that each sweep covered
 * @returns {Partial<Traffic>}
 */
export function bandwidths(samples, bytes) {
  /** @type {Partial<Traffic>} */
  const found = {}
  for (const way of WAYS) {
    const { sweeps, moved } = SWEEPS[way]
    const medians = sweeps.filter((sweep) => sweep in samples[0]).map((sweep) => median(samples.map((s) => s[sweep])))
    // The samples are seconds per sweep over all bytes, or seconds per operation.
    if (medians.length > 0) found[way] = (way.startsWith('multiply') ? 1 : moved * bytes) / Math.min(...medians)
  }
  return found
}
