// How far arrays of numbers are apart.

/** Numbers below this may be taken for 0. */
const SMALLEST = 1.2e-38

/** The largest distance of two arrays' elements, in ULP of the second's; infinite where one alone is NaN. */
export function mostUlps(/** @type {ArrayLike<number>} */ found, /** @type {ArrayLike<number>} */ wanted) {
  if (found.length !== wanted.length) return Number.POSITIVE_INFINITY
  let most = 0
  for (let i = 0; i < wanted.length; i++) {
    const [x, y] = [found[i], wanted[i]]
    if (Object.is(x, y) || x === y) continue
    if (Math.max(Math.abs(x), Math.abs(y)) < SMALLEST) continue
    const distance = Math.abs(x - y) / ulp(y)
    most = Math.max(most, Number.isNaN(distance) ? Number.POSITIVE_INFINITY : distance)
  }
  return most
}

/** The distance of a number of float32 to the next. */
function ulp(/** @type {number} */ x) {
  return 2 ** (Math.max(-126, Math.floor(Math.log2(Math.abs(x)))) - 23)
}

/** The largest difference, as a share of the largest element; NaN where one is NaN or nothing is to be compared. */
export function shareOff(/** @type {Float32Array} */ found, /** @type {Float32Array} */ wanted) {
  const largest = wanted.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
  const off = found.reduce((most, x, i) => Math.max(most, Math.abs(x - wanted[i])), 0)
  return found.length === wanted.length && largest > 0 ? off / largest : Number.NaN
}
