/**
 * The input data of every peer: random normal logits, labels, reference log-probs, and the positions at which gradients
 * are compared. They are the same in every process, and made from a hash of the position, so that a smaller batch is a
 * prefix of a larger one.
 *
 * With a width, the peers get hidden states and a weight instead of logits; their product is the logits.
 *
 * @typedef {import('./cases.mjs').Workload} Workload
 * @typedef {Float32Array | Uint16Array} Values a Uint16Array holds the bits of the 16-bit types
 */
const IGNORE_INDEX = -100

/** Bytes per logit. */
export const elementSize = (/** @type {string} */ dtype) => (dtype === 'float32' ? 4 : 2)

/** Number of logits in a batch. */
export const logitsOf = (/** @type {Workload} */ { shape }) => shape[0] * shape[1] * shape[2]

/** Mixes the bits of a 32-bit integer well (the last steps of MurmurHash3). */
function hash(/** @type {number} */ x) {
  let h = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/** The number in (0, 1) at `index` of the `stream`. */
const uniform = (/** @type {number} */ stream, /** @type {number} */ index) =>
  (hash(hash(stream) + index) + 0.5) / 2 ** 32

/** @type {Record<string, (x: number) => number>} */
const ENCODE = { float32: (x) => x, bfloat16: toBFloat16, float16: toFloat16 }

/** The bits of the nearest bfloat16. */
function toBFloat16(/** @type {number} */ x) {
  return roundedToBFloat16(new Uint32Array(Float32Array.of(x).buffer)[0])
}

/** The upper half of a float32's bits, rounded to nearest even. */
const roundedToBFloat16 = (/** @type {number} */ bits) => (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16

/** The bits of the nearest float16; `x` is far from the largest. */
function toFloat16(/** @type {number} */ x) {
  const sign = x < 0 ? 0x8000 : 0
  const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(x))))
  const mantissa = Math.round(Math.abs(x) * 2 ** (10 - exponent))
  // A mantissa rounded up to 2048 carries into the exponent, which is correct.
  return sign + ((exponent + 14) << 10) + mantissa
}

/**
 * 65 536 normal values: a logit is picked by 16 bits, so that one hash serves two logits.
 * @param {string} dtype
 */
function normalTable(dtype) {
  const encode = ENCODE[dtype]
  return Float64Array.from({ length: 65536 }, (_, i) =>
    encode(Math.sqrt(-2 * Math.log(uniform(1, i))) * Math.cos(2 * Math.PI * uniform(2, i))),
  )
}

/**
 * The logits, or the hidden states `[batch, time, width]`.
 * @param {Workload} workload
 */
export function makeLogits(workload) {
  const [batch, time, vocab] = workload.shape
  return makeNormal(batch * time * (workload.width ?? vocab), workload.dtype, 1)
}

/**
 * The same values in memory that threads can share.
 * @param {Values} values
 */
export function sharedCopy(values) {
  const copy = sharedLike(values)
  copy.set(values)
  return copy
}

/**
 * An array of that type and length in memory that threads can share.
 * @param {Values} values
 * @returns {Values}
 */
export function sharedLike(values) {
  return new /** @type {any} */ (values).constructor(new SharedArrayBuffer(values.byteLength))
}

/**
 * The weight `[vocab, width]` of the output layer. Its products with hidden states have a variance of 1.
 * @param {Workload} workload
 */
export function makeWeight({ shape, width = 1, dtype }) {
  const weight = /** @type {Float32Array} */ (makeNormal(shape[2] * width, 'float32', 1e9))
  for (let i = 0; i < weight.length; i++) weight[i] /= Math.sqrt(width)
  return encoded(weight, dtype)
}

/**
 * The nearest values of an element type.
 * @param {Float32Array} values
 * @param {string} dtype
 * @returns {Values}
 */
export function encoded(values, dtype) {
  if (dtype === 'float32') return values
  const out = new Uint16Array(values.length)
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  // A loop, as `from` takes thirty times as long.
  for (let i = 0; i < out.length; i++) out[i] = dtype === 'float16' ? toFloat16(values[i]) : roundedToBFloat16(bits[i])
  return out
}

/**
 * @param {number} size
 * @param {string} dtype
 * @param {number} seed
 * @returns {Values}
 */
function makeNormal(size, dtype, seed) {
  const values = dtype === 'float32' ? new Float32Array(size) : new Uint16Array(size)
  const table = normalTable(dtype)
  for (let i = 0; i < size; i += 2) {
    const h = hash(i + seed)
    values[i] = table[h & 0xffff]
    values[i + 1] = table[h >>> 16]
  }
  return values
}

/**
 * `[batch, time]` token ids, -100 at the masked share of the positions.
 * @param {Workload} workload
 */
export function makeLabels({ shape: [batch, time, vocab], masked }) {
  return Int32Array.from({ length: batch * time }, (_, i) =>
    uniform(3, i) < masked ? IGNORE_INDEX : Math.floor(uniform(4, i) * vocab),
  )
}

/**
 * `[batch, time]` the label that each row of logits predicts, -1 where it does not count.
 * @param {Workload} workload
 */
export function makeTargets(workload) {
  const { shape, shift } = workload
  const [batch, time] = shape
  const labels = makeLabels(workload)
  const targets = new Int32Array(batch * time).fill(-1)
  for (let b = 0; b < batch; b++) {
    for (let t = 0; t < (shift ? time - 1 : time); t++) {
      targets[b * time + t] = Math.max(-1, labels[b * time + t + (shift ? 1 : 0)])
    }
  }
  return targets
}

/** Rows of logits that count. */
export const activeRows = (/** @type {Workload} */ workload) =>
  makeTargets(workload).reduce((count, target) => count + (target < 0 ? 0 : 1), 0)

/**
 * Log-probs of the reference model, near those of the policy so that no loss is saturated.
 * @param {Workload} workload
 * @returns {{ chosen: Float64Array, rejected: Float64Array }}
 */
export function makeReference(workload) {
  const [batch, time, vocab] = workload.shape
  const targets = makeTargets(workload)
  const perToken = Math.log(vocab) + 0.5
  const sums = Float64Array.from({ length: batch }, (_, b) => {
    const active = targets.subarray(b * time, (b + 1) * time).reduce((count, target) => count + (target < 0 ? 0 : 1), 0)
    return -perToken * active + 4 * (uniform(5, b) - 0.5)
  })
  return { chosen: sums.slice(0, batch / 2), rejected: sums.slice(batch / 2) }
}

/**
 * `[batch, time]` d loss / d log-prob of each token of a policy-gradient loss: an advantage per sequence, the mean over the
 * tokens that count; 0 where they do not.
 * @param {Workload} workload
 */
export function makeCoefficients(workload) {
  const [, time] = workload.shape
  const targets = makeTargets(workload)
  const tokens = activeRows(workload)
  return Float32Array.from(targets, (target, i) =>
    target < 0 ? 0 : (2 * uniform(9, Math.floor(i / time)) - 1) / tokens,
  )
}

/**
 * Positions at which gradients are compared: at labels, beside them, and in rows that do not count; with a width,
 * anywhere in the gradients of the hidden states and then of the weight.
 */
export function samplePositions(/** @type {Workload} */ workload) {
  const [batch, time, vocab] = workload.shape
  if (workload.width) {
    const sizes = [batch * time * workload.width, vocab * workload.width]
    return Array.from({ length: 64 }, (_, i) => (i % 2) * sizes[0] + Math.floor(uniform(8, i) * sizes[i % 2]))
  }
  const targets = makeTargets(workload)
  const positions = []
  for (let i = 0; i < 32; i++) {
    const row = Math.floor(uniform(6, i) * targets.length)
    if (workload.leaveMasked && targets[row] < 0) continue
    positions.push(row * vocab + Math.max(0, targets[row]), row * vocab + Math.floor(uniform(7, i) * vocab))
  }
  return positions
}

/**
 * The value at `index`.
 * @param {Values} values
 * @param {number} index
 * @param {string} dtype
 */
export function valueAt(values, index, dtype) {
  const bits = values[index]
  if (dtype === 'float32') return bits
  if (dtype === 'bfloat16') return new Float32Array(Uint32Array.of(bits << 16).buffer)[0]
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const mantissa = bits & 1023
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25))
}
