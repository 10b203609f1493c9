/**
 * What numbers.wgsl takes in the place of float64: pairs of float32, and the constants of exponentials.
 */

/** Values x as pairs (high, low) of float32: high is nearest to x, and low to what is left, 0 beside ±∞ and NaN. */
export function twoFloats(values: ArrayLike<number>): Float32Array {
  const pairs = new Float32Array(2 * values.length)
  for (let i = 0; i < values.length; i++) setTwoFloat(pairs, 2 * i, values[i])
  return pairs
}

/** Writes one such pair at `index`. */
export function setTwoFloat(pairs: Float32Array, index: number, value: number): void {
  const high = Math.fround(value)
  pairs[index] = high
  pairs[index + 1] = Number.isFinite(high) ? value - high : 0
}

/** The values of pairs. */
export function fromTwoFloats(
  pairs: Float32Array,
  out: Float64Array = new Float64Array(pairs.length / 2),
): Float64Array {
  for (let i = 0; i < out.length; i++) out[i] = pairs[2 * i] + pairs[2 * i + 1]
  return out
}

/** `[4]` the `Temperature` of numbers.wgsl. */
export function temperatureConstants(temperature: number): Float32Array {
  const ln2 = temperature * Math.LN2
  const step = 2 ** (Math.floor(Math.log2(ln2)) - 11)
  const high = Math.round(ln2 / step) * step
  return Float32Array.of(1 / ln2, high, ln2 - high, 1 / temperature)
}

/** `[4]` the `Cap` of softcap.wgsl. */
export function capConstants(scale: number | undefined): Float32Array {
  if (scale === undefined) return new Float32Array(4)
  const high = Math.fround(2 * scale)
  return Float32Array.of(high, 2 * scale - high, 43 / scale, 0)
}
