/**
 * Scalars: the 16-bit formats, bit by bit, and the logarithms that losses are made of, each stable over its whole
 * range. No arrays of logits here (rows.ts) and no losses (losses.ts).
 */

/** ln 2, where {@link log1mexp} changes formula. */
const LN2 = Math.LN2

const float32 = new Float32Array(1)
const float32Bits = new Uint32Array(float32.buffer)

/** The spacing of the float16 numbers with each exponent; a table because powers are slow. */
const FLOAT16_STEPS = Float64Array.from({ length: 31 }, (_, exponent) => 2 ** (Math.max(exponent, 1) - 25))

/** The value of a float16, exactly. */
export function decodeFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >>> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (exponent === 0 ? fraction : 0x400 + fraction) * FLOAT16_STEPS[exponent]
}

/** The bits of `value` rounded to float32, then once more, to nearest even, to float16. */
export function encodeFloat16(value: number): number {
  float32[0] = value
  const bits = float32Bits[0]
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  // Below 2^-14 the spacing is a constant 2^-24; 2^10 of those steps are the bits of the smallest normal number.
  if (magnitude < 0x38800000) return sign | roundHalfEven(Math.abs(float32[0]) * 2 ** 24)
  // From 65520, half a step above the largest finite number, up: infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00
  const half = (magnitude - 0x38000000) >>> 13
  const rest = magnitude & 0x1fff
  // A carry out of the fraction lands in the exponent, which is what it should do.
  return sign | (rest > 0x1000 || (rest === 0x1000 && half & 1) ? half + 1 : half)
}

/** The value of a bfloat16, exactly: it is the upper half of a float32. */
export function decodeBfloat16(bits: number): number {
  float32Bits[0] = bits << 16
  return float32[0]
}

/** The bits of `value` rounded to float32, then once more, to nearest even, to bfloat16. */
export function encodeBfloat16(value: number): number {
  float32[0] = value
  const bits = float32Bits[0]
  // A NaN whose payload lies in the lower half would otherwise round to infinity.
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}

/** Rounds a non-negative number below 2^51: adding 2^52 leaves no room for a fraction, so the hardware rounds. */
function roundHalfEven(value: number): number {
  return value + 2 ** 52 - 2 ** 52
}

/** log(1 + e^z) */
export function softplus(z: number): number {
  return Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)))
}

/** log σ(z) = min(z, 0) − log1p(e^−|z|) */
export function logSigmoid(z: number): number {
  return Math.min(z, 0) - Math.log1p(Math.exp(-Math.abs(z)))
}

/** σ(z) = 1 / (1 + e^−z), with full relative accuracy in both tails; 1 − σ(z) is sigmoid(−z). */
export function sigmoid(z: number): number {
  if (z >= 0) return 1 / (1 + Math.exp(-z))
  const e = Math.exp(z)
  return e / (1 + e)
}

/** log(1 − e^x) for x ≤ 0 (Mächler 2012): near 0 the difference would lose digits, far from 0 the logarithm would. */
export function log1mexp(x: number): number {
  return x > -LN2 ? Math.log(-Math.expm1(x)) : Math.log1p(-Math.exp(x))
}

/** dσ/dz */
export function sigmoidSlope(z: number): number {
  return sigmoid(z) * sigmoid(-z)
}

/** Indices of the values in ascending order, equal values in their original order, NaN last. */
export function sortedOrder(values: Float64Array): number[] {
  const rank = (a: number, b: number) => (a < b ? -1 : a > b ? 1 : Number(Number.isNaN(a)) - Number(Number.isNaN(b)))
  return Array.from(values.keys()).sort((i, j) => rank(values[i], values[j]))
}
