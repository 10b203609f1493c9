/**
 * Small calls of every kind on the cuda backend, for compute-sanitizer: shapes that leave heads and tails everywhere,
 * every element type, in place and not, by-products, both references, labels on the device, few rows and many; losses and
 * gradients of single tokens, with soft-capped logits and without; and the output layer, in chunks and not. Each result is
 * compared with the js backend's.
 */
import {
  crossEntropySync,
  fusedLinearPreferenceLossSync,
  fusedPreferenceLossSync,
  linearCrossEntropySync,
  sequenceLogProbsSync,
} from 'fused-preference-loss'
import { DeviceBuffer } from 'fused-preference-loss/cuda'

const SHAPES = [
  [2, 1, 1],
  [2, 3, 7],
  [4, 5, 1027],
  [2, 3, 16_387],
  [2, 2, 40_001],
]
const OUTPUTS = /** @type {const} */ ([
  'tokenLogProbs',
  'tokenEntropies',
  'tokenArgmax',
  'logSumExp',
  'sumSquaredProbs',
])
const LOSSES = /** @type {const} */ (['sigmoid', 'aot', 'aot_unpaired', 'simpo', 'orpo'])

let calls = 0
for (const shape of SHAPES) {
  for (const dtype of /** @type {const} */ (['float32', 'bfloat16', 'float16'])) {
    for (const lossType of LOSSES) {
      const [batch, time, vocab] = shape
      const values = Float32Array.from({ length: batch * time * vocab }, (_, i) => 4 * Math.sin(i * 12.9898 + i * i))
      const bits = new Uint32Array(values.buffer)
      const data =
        dtype === 'float32' ? values : Uint16Array.from(bits, (b) => (dtype === 'bfloat16' ? b >>> 16 : half(b)))
      const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 4 === 1 ? -100 : (i * 7919) % vocab))
      const reference = {
        chosen: Array.from({ length: batch / 2 }, () => -5),
        rejected: Array.from({ length: batch / 2 }, () => -6),
      }
      const options = { shift: false, lossType, reference, outputs: calls % 2 ? OUTPUTS : [] }
      const wanted = fusedPreferenceLossSync({ data, dtype, shape }, labels, { ...options, backend: 'js' })
      const buffer = DeviceBuffer.from(data)
      const onDevice = { data: buffer, dtype, shape }
      const got = [
        fusedPreferenceLossSync(onDevice, DeviceBuffer.from(labels), { ...options, gradient: true }),
        fusedPreferenceLossSync({ data, dtype, shape }, labels, { ...options, backend: 'cuda', gradient: true }),
        fusedPreferenceLossSync(onDevice, labels, { ...options, gradient: 'in-place' }),
      ]
      for (const { loss } of got) {
        const off = Math.abs(loss - wanted.loss)
        if (!(off <= 1e-5 * Math.max(1, Math.abs(wanted.loss))) && !Number.isNaN(wanted.loss)) {
          throw new Error(`${dtype} [${shape}] ${lossType}: ${loss}, not ${wanted.loss}`)
        }
      }
      buffer.dispose()
      calls += got.length
    }
  }
}

/**
 * Whether numbers are near those of the js backend.
 * @param {ArrayLike<number>} got
 * @param {ArrayLike<number>} wanted
 */
function near(got, wanted, tolerance = 1e-5) {
  if (got.length !== wanted.length) return false
  for (let i = 0; i < got.length; i++) {
    const isNear = Math.abs(got[i] - wanted[i]) <= tolerance * Math.max(1, Math.abs(wanted[i]))
    if (!isNear && !Object.is(got[i], wanted[i])) return false
  }
  return true
}

const TOKEN_OUTPUTS = /** @type {const} */ ([...OUTPUTS, 'tokenMeanLogits'])
for (const shape of SHAPES) {
  for (const transform of [{ temperature: 0.9 }, { logitSoftcap: 5, temperature: 0.8 }]) {
    const [batch, time, vocab] = shape
    const data = Float32Array.from({ length: batch * time * vocab }, (_, i) => 4 * Math.sin(i * 12.9898 + i * i))
    const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 4 === 1 ? -100 : (i * 7919) % vocab))
    const buffer = DeviceBuffer.from(data)
    const out = new DeviceBuffer(data.byteLength)
    const written = new Float32Array(data.length)
    const host = { data, shape }
    const onDevice = { data: buffer, shape }
    for (const loss of [
      { zLoss: 0.01, dft: true, classWeights: new Float64Array(vocab).fill(2) },
      { labelSmoothing: 0.1 },
    ]) {
      const options = { shift: false, outputs: TOKEN_OUTPUTS, ...transform, ...loss }
      const wanted = crossEntropySync(host, labels, { ...options, backend: 'js', gradient: true })
      for (const there of [labels, DeviceBuffer.from(labels)]) {
        const got = crossEntropySync(onDevice, there, { ...options, gradient: out })
        out.copyTo(written)
        const gradient = /** @type {Float32Array} */ (wanted.gradLogits?.data)
        const isNear = near([got.loss], [wanted.loss]) && near(got.losses, wanted.losses) && near(written, gradient)
        if (!isNear) throw new Error(`cross-entropy of [${shape}], ${JSON.stringify(transform)}`)
        calls++
      }
    }
    const options = { shift: false, outputs: TOKEN_OUTPUTS, ...transform }
    const slopes = Float64Array.from(labels, (_, i) => Math.cos(i))
    const ofTokens = { tokenLogProbs: slopes, logSumExp: slopes, tokenEntropies: slopes, tokenMeanLogits: slopes }
    for (const given of [{ tokenLogProbs: slopes, logSumExp: slopes.map((x) => 2 * x) }, ofTokens]) {
      const wanted = sequenceLogProbsSync(host, labels, { ...options, backend: 'js' })
      const got = sequenceLogProbsSync(onDevice, labels, options)
      got.backwardSync(given, { gradient: out })
      out.copyTo(written)
      const gradient = /** @type {Float32Array} */ (wanted.backwardSync(given).gradLogits.data)
      // Capped float32 logits have equal maxima where those of the js backend differ.
      const compared = TOKEN_OUTPUTS.filter((name) => name !== 'tokenArgmax' || !transform.logitSoftcap)
      const isNear = compared.every((name) => near(got[name] ?? [], wanted[name] ?? []))
      if (!isNear || !near(written, gradient)) throw new Error(`tokens of [${shape}], ${JSON.stringify(transform)}`)
      calls++
    }
    for (const memory of [buffer, out]) memory.dispose()
  }
}

// Rows that are read and written in one go, for which there have to be many of them: several short ones of a multiprocessor
// at a time, and one long one. Arrays of the host go through one stage after the other, with the same bits.
for (const shape of [
  [2, 400, 1027],
  [2, 200, 40_001],
]) {
  const [batch, time, vocab] = shape
  const data = Float32Array.from({ length: batch * time * vocab }, (_, i) => 4 * Math.sin(i * 12.9898 + i * i))
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 4 === 1 ? -100 : (i * 7919) % vocab))
  const buffer = DeviceBuffer.from(data)
  const out = new DeviceBuffer(data.byteLength)
  const written = new Float32Array(data.length)
  for (const options of [{}, { outputs: OUTPUTS }, { deferredScale: true, logitSoftcap: 5 }]) {
    const given = { shift: false, ...options }
    const wanted = crossEntropySync({ data, shape }, labels, { ...given, backend: 'cuda', gradient: true })
    const got = crossEntropySync({ data: buffer, shape }, labels, { ...given, gradient: out })
    out.copyTo(written)
    const gradient = /** @type {Float32Array} */ (wanted.gradLogits?.data)
    if (got.loss !== wanted.loss || !near(written, gradient, 0)) throw new Error(`rows in one go, [${shape}]`)
    calls += 2
  }
  for (const memory of [buffer, out]) memory.dispose()
}

/**
 * Loss and gradients of an output layer: the logits are computed here, the loss by the js backend.
 * @param {Float32Array[]} parts hidden, weight and bias
 * @param {number[]} shape
 * @param {number} vocab
 * @param {Int32Array} labels
 * @param {import('../../dist/index.mjs').FusedOptions} options
 */
function layer([hidden, weight, bias], [batch, time, width], vocab, labels, options) {
  const rows = batch * time
  const data = new Float32Array(rows * vocab)
  for (let r = 0; r < rows; r++) {
    for (let v = 0; v < vocab; v++) {
      let sum = bias[v]
      for (let d = 0; d < width; d++) sum += hidden[r * width + d] * weight[v * width + d]
      data[r * vocab + v] = sum
    }
  }
  const logits = { data, shape: [batch, time, vocab] }
  const { loss, gradLogits } = fusedPreferenceLossSync(logits, labels, { ...options, backend: 'js', gradient: true })
  const gradients = /** @type {Float32Array} */ (gradLogits?.data)
  const gradient = [new Float64Array(rows * width), new Float64Array(vocab * width), new Float64Array(vocab)]
  for (let r = 0; r < rows; r++) {
    for (let v = 0; v < vocab; v++) {
      const g = gradients[r * vocab + v]
      gradient[2][v] += g
      for (let d = 0; d < width; d++) {
        gradient[0][r * width + d] += g * weight[v * width + d]
        gradient[1][v * width + d] += g * hidden[r * width + d]
      }
    }
  }
  return { loss, gradient }
}

/**
 * Distance in the norm of `wanted`.
 * @param {ArrayLike<number>} got
 * @param {Float64Array} wanted
 */
function distance(got, wanted) {
  const norm = (/** @type {Float64Array} */ list) => Math.sqrt(list.reduce((sum, x) => sum + x * x, 0))
  return norm(wanted.map((x, i) => got[i] - x)) / norm(wanted)
}

/** Bytes of the logits of a chunk, of which there are several then. */
const CHUNK = 'FUSED_PREFERENCE_LOSS_CHUNK_BYTES'

// With the rows of a chunk, or none where there is one chunk only. The last has chunks of several blocks of rows.
for (const [batch, time, width, vocab, rowsOfChunk] of [
  [2, 3, 7, 33],
  [2, 3, 7, 33, 2],
  [4, 5, 64, 1027],
  [4, 5, 64, 1027, 3],
  [2, 9, 130, 17_001],
  [2, 400, 7, 129, 384],
]) {
  delete process.env[CHUNK]
  if (rowsOfChunk) process.env[CHUNK] = String(rowsOfChunk * 4 * 64 * Math.ceil(vocab / 64))
  for (const dtype of /** @type {const} */ (['float32', 'bfloat16', 'float16'])) {
    for (const logitsBudget of [undefined, 0]) {
      // Numbers of few bits, which every type holds exactly.
      const fill = (/** @type {number} */ length, /** @type {number} */ scale) =>
        Float32Array.from({ length }, (_, i) => (scale * Math.round(16 * Math.sin(i * 12.9898 + i * i))) / 16)
      const numbers = [fill(batch * time * width, 1), fill(vocab * width, 0.25), fill(vocab, 1)]
      const stored = numbers.map((list) => {
        const bits = new Uint32Array(list.buffer)
        return dtype === 'float32' ? list : Uint16Array.from(bits, (b) => (dtype === 'bfloat16' ? b >>> 16 : half(b)))
      })
      const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 4 === 1 ? -100 : (i * 7919) % vocab))
      const options = { shift: false, lossType: /** @type {const} */ ('cpo') }
      const wanted = layer(numbers, [batch, time, width], vocab, labels, options)
      const [hidden, weight, bias] = stored.map((data) => DeviceBuffer.from(data))
      const outs = numbers.map((list) => new DeviceBuffer(4 * list.length))
      for (const there of [labels, DeviceBuffer.from(labels)]) {
        const { loss } = fusedLinearPreferenceLossSync(
          { data: hidden, dtype, shape: [batch, time, width] },
          { data: weight, dtype, shape: [vocab, width] },
          there,
          { ...options, bias, logitsBudget, gradient: { hidden: outs[0], weight: outs[1], bias: outs[2] } },
        )
        const off = [Math.abs(loss - wanted.loss) / Math.max(1, Math.abs(wanted.loss))]
        for (const [i, out] of outs.entries()) {
          const got = new Float32Array(out.byteLength / 4)
          out.copyTo(got)
          off.push(distance(got, wanted.gradient[i]) / (dtype === 'float32' ? 1 : 1000))
        }
        if (!off.every((x) => x <= 1e-5)) throw new Error(`${dtype} layer [${vocab}, ${width}]: off by ${off}`)
        calls++
      }
      const smoothed = { shift: false, labelSmoothing: 0.1, zLoss: 0.01, logitSoftcap: 5, bias }
      const parts = { hidden: outs[0], weight: outs[1], bias: outs[2] }
      const given = /** @type {const} */ ([
        { data: hidden, dtype, shape: [batch, time, width] },
        { data: weight, dtype, shape: [vocab, width] },
      ])
      const losses = [labels, DeviceBuffer.from(labels)].map(
        (there) => linearCrossEntropySync(...given, there, { ...smoothed, gradient: parts }).loss,
      )
      if (!near([losses[0]], [losses[1]]) || !(losses[0] > 0))
        throw new Error(`${dtype} layer: a cross-entropy of ${losses}`)
      calls += 2
      for (const buffer of [hidden, weight, bias, ...outs]) buffer.dispose()
    }
  }
}
delete process.env[CHUNK]
console.log(`${calls} calls; all results agree with the js backend`)

/** A float16 near a normal float32, by its bits. */
function half(/** @type {number} */ bits) {
  const exponent = ((bits >>> 23) & 255) - 112
  return exponent <= 0 ? 0 : ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 1023)
}
