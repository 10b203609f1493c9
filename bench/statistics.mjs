/**
 * The median of a list of samples, and the range of its middle three fifths. The meaning of the samples does not matter
 * here.
 */

/**
 * The value below which a share of the samples lies, interpolated between neighbours.
 * @param {readonly number[]} samples not empty, in any order
 * @param {number} share in [0, 1]
 */
export function quantile(samples, share) {
  if (samples.length === 0) throw new RangeError('quantile: no samples')
  const sorted = samples.toSorted((a, b) => a - b)
  const at = share * (sorted.length - 1)
  const below = Math.floor(at)
  const above = Math.min(below + 1, sorted.length - 1)
  return sorted[below] + (at - below) * (sorted[above] - sorted[below])
}

/** @param {readonly number[]} samples not empty */
export const median = (samples) => quantile(samples, 0.5)

/** @param {readonly number[]} samples not empty */
export function summarise(samples) {
  return { median: median(samples), p20: quantile(samples, 0.2), p80: quantile(samples, 0.8) }
}
