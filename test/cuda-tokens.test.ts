/**
 * Gradients of per-token results, soft-capped logits and the cross-entropy on the cuda backend: device memory, labels
 * that are there, how rows are cut and where they lie, and output layers in chunks and of 16 bits. Without a GPU the
 * kernels run on the host. That the numbers are right is tested on every backend: token-gradients.test.ts,
 * cross-entropy.test.ts.
 */
import { describe, expect, test } from 'vitest'
import { DeviceBuffer, getDevices, prepareFusedPreferenceLoss, Stream } from '../lib/cuda/index.js'
import {
  crossEntropy,
  crossEntropySync,
  fusedPreferenceLossSync,
  getBackends,
  linearCrossEntropySync,
  linearSequenceLogProbsSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { CrossEntropyOptions, SequenceOptions, TokenOutput } from '../lib/options/index.js'
import type { CrossEntropy, DType, Logits, ResultGradients } from '../lib/types/index.js'
import { read } from './device-memory.js'
import { bytes, CUDA, DTYPES, decode, encode, gaussian, random, storage, tooFar, values } from './support.js'

const RUN = { backend: 'cuda' } as const
const hasHead = getBackends().cuda.cublasLt?.available === true
const CHUNK_VARIABLE = 'FUSED_PREFERENCE_LOSS_CHUNK_BYTES'

const [B, T, V] = [4, 6, 1027]
const KEPT = B * (T - 1)
const OUTPUTS: TokenOutput[] = ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'logSumExp', 'tokenMeanLogits']
const CAPPED = { logitScale: 1.3, logitSoftcap: 4, temperature: 0.8 }
/** With each of these stage 4 has another form; the last one needs no mean logit. */
const TRANSFORMS: SequenceOptions[] = [{ temperature: 0.9 }, CAPPED]
const LOSSES: CrossEntropyOptions[] = [
  {},
  { zLoss: 0.01, dft: true },
  { labelSmoothing: 0.1, temperature: 0.9 },
  { labelSmoothing: 0.1, zLoss: 0.01, ...CAPPED },
]

/** Random logits in host memory, and labels with a masked prompt. */
function problem(dtype: DType, seed = 1) {
  const next = random(seed)
  const data = storage(dtype, B * T * V)
  for (let i = 0; i < data.length; i++) data[i] = encode[dtype](3 * gaussian(next))
  const labels = Int32Array.from({ length: B * T }, (_, i) => (i % T < 2 ? -100 : Math.floor(next() * V)))
  return { logits: { data, dtype, shape: [B, T, V] } satisfies Logits, labels, data }
}

/** Derivatives of every result. */
function slopes(seed = 9, size = 1): ResultGradients {
  const next = random(seed)
  const list = (length: number) => Float64Array.from({ length }, () => size * gaussian(next))
  return {
    logProbs: list(B),
    tokenLogProbs: list(KEPT),
    logSumExp: list(KEPT),
    tokenEntropies: list(KEPT),
    tokenMeanLogits: list(KEPT),
  }
}

/** The content of an array of the host's or of device memory. */
const bytesOf = (memory: unknown, like: Float32Array | Uint16Array) => bytes(read(memory, like).slice())

/** A result's numbers, for comparisons to the bit. */
function numbers({ gradLogits, ...result }: CrossEntropy) {
  return { ...result, gradLogits: undefined }
}

describe.runIf(CUDA.length > 0).each(DTYPES)('on the cuda backend, %s', (dtype) => {
  test.each(TRANSFORMS)(
    'results and gradients have the same bits for device memory, wherever a row starts, %j',
    (given) => {
      const { logits, labels, data } = problem(dtype)
      const options = { ...given, outputs: OUTPUTS }
      const wanted = sequenceLogProbsSync(logits, labels, { ...options, ...RUN })
      const gradient = bytesOf(wanted.backwardSync(slopes()).gradLogits.data, data)
      for (const off of [0, 1, 2, 3, 5]) {
        const padded = storage(dtype, data.length + off)
        padded.set(data, off)
        const there = DeviceBuffer.from(padded).slice(off * data.BYTES_PER_ELEMENT)
        const got = sequenceLogProbsSync({ ...logits, data: there }, DeviceBuffer.from(labels), options)
        for (const name of OUTPUTS) expect(got[name], name).toEqual(wanted[name])
        // The gradient begins where the logits do, and elsewhere.
        const out = new DeviceBuffer(data.byteLength)
        got.backwardSync(slopes(), { gradient: out })
        expect(bytesOf(out, data).equals(gradient)).toBe(true)
        got.backwardSync(slopes(), { gradient: 'in-place' })
        expect(bytesOf(there, data).equals(gradient)).toBe(true)
      }
    },
  )

  test.each(LOSSES)('the cross-entropy has the same bits for device memory, and labels there, %j', (given) => {
    const { logits, labels, data } = problem(dtype)
    const next = random(3)
    const tokenWeights = Float64Array.from(labels, () => 2 * next())
    const mask = Uint8Array.from(labels, (_, i) => (i % 7 === 5 ? 0 : 1))
    const classWeights = Float64Array.from({ length: V }, (_, v) => (v % 3) / 2)
    const { labelSmoothing = 0 } = given
    const smooth = labelSmoothing > 0
    const variants: CrossEntropyOptions[] = [
      given,
      { ...given, tokenWeights },
      { ...given, normalizer: { tokens: 77 }, tokenWeights },
      ...(smooth
        ? []
        : [
            { ...given, classWeights },
            { ...given, classWeights, tokenWeights, normalizer: 'sum' as const },
          ]),
    ]
    for (const variant of variants) {
      const options = { ...variant, outputs: OUTPUTS, gradient: true } as const
      const wanted = crossEntropySync(logits, labels, { ...options, mask, ...RUN })
      const gradient = bytesOf(wanted.gradLogits!.data, data)
      const buffer = DeviceBuffer.from(data)
      const there = { mask: DeviceBuffer.from(mask) }
      for (const ids of [labels, BigInt64Array.from(labels, BigInt)]) {
        const got = crossEntropySync({ ...logits, data: buffer }, DeviceBuffer.from(ids), { ...options, ...there })
        expect(numbers(got)).toEqual(numbers(wanted))
        expect(bytesOf(got.gradLogits!.data, data).equals(gradient)).toBe(true)
      }
      const inPlace = { ...options, mask, gradient: 'in-place' } as const
      const got = crossEntropySync({ ...logits, data: buffer }, labels, inPlace)
      expect(numbers(got)).toEqual(numbers(wanted))
      expect(bytesOf(buffer, data).equals(gradient)).toBe(true)
    }
  })

  test('a loss of tokens is what its slopes give backward', () => {
    const { logits, labels, data } = problem(dtype)
    for (const given of LOSSES) {
      const { labelSmoothing = 0, zLoss = 0, dft = false, ...transform } = given
      const whole = crossEntropySync(logits, labels, { ...given, ...RUN, normalizer: 'sum', gradient: true })
      const outputs: TokenOutput[] = ['tokenLogProbs', 'logSumExp']
      const sums = sequenceLogProbsSync(logits, labels, { ...transform, ...RUN, outputs })
      const factor = sums.tokenLogProbs!.map((x) => (dft ? Math.exp(x) : 1))
      const { gradLogits } = sums.backwardSync({
        tokenLogProbs: factor.map((x) => -x * (1 - labelSmoothing)),
        logSumExp: factor.map((x, i) => x * labelSmoothing + 2 * zLoss * sums.logSumExp![i]),
        tokenMeanLogits: factor.map((x) => -x * labelSmoothing),
      })
      const got = values(whole.gradLogits!)
      const unit = dtype === 'float32' ? 2 ** -20 : dtype === 'float16' ? 2 ** -10 : 2 ** -7
      const floor = dtype === 'float16' ? 2 ** -23 : 0
      // Where terms cancel, the sum is off by their own rounding.
      const bound = (x: number) => unit * (Math.abs(x) + 1e-4) + floor
      expect(tooFar(got, values(gradLogits), bound)).toBe(undefined)
      expect(data.length).toBe(got.length)
    }
  })

  test.each([...TRANSFORMS, { labelSmoothing: 0.2 }])('a row has the same bits in any batch, %j', (given) => {
    const { logits, labels, data } = problem(dtype)
    const options = { ...given, zLoss: 0.01, normalizer: 'sum', gradient: true, outputs: OUTPUTS, ...RUN } as const
    const whole = crossEntropySync(logits, labels, options)
    const size = T * V
    for (const b of [0, 3]) {
      const part = { ...logits, data: data.slice(b * size, (b + 1) * size), shape: [1, T, V] }
      const alone = crossEntropySync(part, labels.slice(b * T, (b + 1) * T), options)
      expect(alone.losses).toEqual(whole.losses.slice(b * (T - 1), (b + 1) * (T - 1)))
      for (const name of OUTPUTS) expect(alone[name]).toEqual(whole[name]!.slice(b * (T - 1), (b + 1) * (T - 1)))
      const wanted = (whole.gradLogits!.data as Float32Array).subarray(b * size, (b + 1) * size)
      expect(bytes(alone.gradLogits!.data as Float32Array).equals(bytes(wanted))).toBe(true)
    }
  })
})

describe.runIf(CUDA.length > 0)('on the cuda backend', () => {
  test('a row has the same bits whether its segments have blocks of their own or not', () => {
    // Few rows are split over blocks, and that many, of which the host does not know how many count, are not.
    const rows = 24 * getDevices()[0].multiprocessors
    const vocab = 40_000
    const next = random(5)
    const row = new Float32Array(vocab).map(() => 3 * gaussian(next))
    const labels = new Int32Array(rows).fill(-100)
    labels[17] = 33_333
    const strided = { data: DeviceBuffer.from(row), shape: [1, rows, vocab], strides: [0, 0, 1] }
    for (const given of [{ labelSmoothing: 0.1 }, { labelSmoothing: 0.1, ...CAPPED }, CAPPED]) {
      const options = { ...given, shift: false, outputs: OUTPUTS }
      const few = crossEntropySync({ data: row, shape: [1, 1, vocab] }, Int32Array.of(33_333), { ...options, ...RUN })
      const got = crossEntropySync(strided, DeviceBuffer.from(labels), options)
      expect(got.loss).toBe(few.loss)
      for (const name of OUTPUTS) expect(got[name]![17]).toBe(few[name]![0])
      expect(got.losses[16]).toBe(0)
      // The sum of a thread goes over several tiles and segments.
      const wanted = crossEntropySync({ data: row, shape: [1, 1, vocab] }, Int32Array.of(33_333), {
        ...options,
        backend: 'js',
      })
      for (const name of OUTPUTS) expect(Math.abs(few[name]![0] - wanted[name]![0]), name).toBeLessThan(2e-6 * 12)
      expect(Math.abs(few.loss - wanted.loss)).toBeLessThan(2e-6 * 12)
    }
  })

  test('labels there that are out of range are told, and NaN', () => {
    const { logits, labels, data } = problem('float32')
    labels[T - 1] = V
    labels[2 * T - 1] = -7
    const there = { ...logits, data: DeviceBuffer.from(data) }
    const gradient = new DeviceBuffer(data.byteLength)
    const classWeights = new Float64Array(V).fill(0.5)
    for (const options of [{}, { classWeights }, { labelSmoothing: 0.1, ...CAPPED }]) {
      const call = () => crossEntropySync(there, DeviceBuffer.from(labels), { ...options, gradient })
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_LABEL_OUT_OF_RANGE' }))
      expect(call).toThrow('2 of the labels in device memory')
      const written = data.slice()
      gradient.copyTo(written)
      const row = (i: number) => written.subarray(i * V, (i + 1) * V)
      for (const i of [T - 2, 2 * T - 2]) expect(row(i).every(Number.isNaN)).toBe(true)
      for (const i of [T - 3, 2 * T - 3]) expect(row(i).some(Number.isNaN)).toBe(false)
    }
  })

  test('labels there of which none counts give 0', () => {
    const { logits, data } = problem('float32')
    const there = { ...logits, data: DeviceBuffer.from(data) }
    const none = DeviceBuffer.from(new Int32Array(B * T).fill(-100))
    const got = crossEntropySync(there, none, { gradient: 'in-place', labelSmoothing: 0.1 })
    expect([got.loss, ...got.tokenCounts]).toEqual([0, 0, 0, 0, 0])
    expect(got.losses.every((x) => Object.is(x, 0))).toBe(true)
    expect(bytesOf(there.data, data).every((byte) => byte === 0)).toBe(true)
  })

  test('masked and ignored rows are not read, and written only as zeros', () => {
    const { labels, data } = problem('float32')
    for (let r = 0; r < B * T; r++) {
      const isActive = r % T < T - 1 && labels[r + 1] >= 0
      if (!isActive) data.fill(Number.NaN, r * V, (r + 1) * V)
    }
    const logits = { data: DeviceBuffer.from(data), shape: [B, T, V] }
    for (const given of LOSSES) {
      const out = DeviceBuffer.from(new Float32Array(data.length).fill(7))
      const kept = crossEntropySync(logits, labels, { ...given, gradient: out, zeroInactive: false, outputs: OUTPUTS })
      expect(kept.loss).not.toBeNaN()
      expect([kept.losses[0], kept.tokenMeanLogits![0], kept.tokenEntropies![0]]).toEqual([0, 0, 0])
      const written = new Float32Array(data.length)
      out.copyTo(written)
      expect(written.subarray(0, V).every((x) => x === 7)).toBe(true)
      expect(written.some(Number.isNaN)).toBe(false)
      crossEntropySync(logits, labels, { ...given, gradient: out })
      out.copyTo(written)
      expect(written.subarray(0, V).every((x) => Object.is(x, 0))).toBe(true)
    }
  })

  test('nothing is written outside of the gradient', () => {
    const { logits, labels, data } = problem('float16')
    const around = storage('float16', data.length + 10).fill(7)
    for (const given of LOSSES) {
      const out = DeviceBuffer.from(around)
      const inside = out.slice(6, 6 + data.byteLength)
      crossEntropySync({ ...logits, data: DeviceBuffer.from(data) }, labels, { ...given, gradient: inside })
      const written = around.slice()
      out.copyTo(written)
      expect([...written.subarray(0, 3), ...written.subarray(3 + data.length)]).toEqual(new Array(10).fill(7))
    }
  })

  test('infinities and NaN are what they are on the cpu', () => {
    const rows: number[][] = [
      [1, Number.NEGATIVE_INFINITY, 2, 3, -1],
      [1, Number.NaN, 2, 3, -1],
      [1, Number.POSITIVE_INFINITY, 2, 3, -1],
      [-1, Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY],
      [3e38, 3e38, 3e38, -3e38, 1],
      [1e-40, -1e-40, 2e-45, 0, 1e-39],
      [2, 1, 0.5, -0.5, 4],
    ]
    const logits = { data: Float32Array.from(rows.flat()), shape: [1, rows.length, 5] }
    const labels = new Int32Array(rows.length)
    const next = random(2)
    const list = () => Float64Array.from(labels, () => gaussian(next))
    const gradients = [
      { tokenLogProbs: list(), logSumExp: list() },
      { tokenLogProbs: list(), logSumExp: list(), tokenEntropies: list(), tokenMeanLogits: list() },
      { tokenMeanLogits: list() },
    ]
    for (const given of [{}, { logitSoftcap: 5 }, { logitSoftcap: 500, temperature: 0.7 }]) {
      const options = { ...given, shift: false, outputs: OUTPUTS }
      const [got, wanted] = (['cuda', 'js'] as const).map((backend) =>
        sequenceLogProbsSync(logits, labels, { ...options, backend }),
      )
      const near = (a: ArrayLike<number>, b: ArrayLike<number>, name: string) => {
        expect(a.length).toBe(b.length)
        for (let i = 0; i < b.length; i++) {
          const isSame = Object.is(a[i], b[i]) || Math.abs(a[i] - b[i]) <= 2e-6 * Math.max(1, Math.abs(b[i]))
          expect(isSame, `${name}[${i}] is ${a[i]}, not ${b[i]}`).toBe(true)
        }
      }
      for (const name of OUTPUTS) near(got[name]!, wanted[name]!, name)
      for (const gradient of gradients) {
        const [a, b] = [got, wanted].map((sums) => values(sums.backwardSync(gradient).gradLogits))
        near(a, b, Object.keys(gradient).join())
      }
    }
  })

  test('a captured call has soft-capped logits and mean logits', () => {
    const { logits, labels, data } = problem('bfloat16')
    const there = { ...logits, data: DeviceBuffer.from(data) }
    const out = new DeviceBuffer(data.byteLength)
    const options = { ...CAPPED, referenceFree: true, outputs: ['tokenMeanLogits'] } as const
    const wanted = fusedPreferenceLossSync(logits, labels, { ...options, ...RUN, gradient: true })
    using stream = new Stream()
    const prepared = prepareFusedPreferenceLoss(there, labels, { ...options, gradient: out })
    using graph = stream.capture(() => prepared.enqueue(stream))
    for (let i = 0; i < 2; i++) {
      out.copyFrom(data)
      graph.launch(stream)
      const { loss, tokenMeanLogits } = prepared.read(stream)
      expect([loss, tokenMeanLogits]).toEqual([wanted.loss, wanted.tokenMeanLogits])
      expect(bytesOf(out, data).equals(bytesOf(wanted.gradLogits!.data, data))).toBe(true)
    }
    prepared.dispose()
  })

  test('a cross-entropy is cancelled before its gradient is begun', async () => {
    const { logits, labels, data } = problem('float32')
    const buffer = DeviceBuffer.from(data)
    const controller = new AbortController()
    const options = { labelSmoothing: 0.1, gradient: 'in-place', signal: controller.signal } as const
    const running = crossEntropy({ ...logits, data: buffer }, DeviceBuffer.from(labels), options)
    controller.abort(new Error('enough'))
    await expect(running).rejects.toThrow('enough')
    expect(bytesOf(buffer, data).equals(bytes(data))).toBe(true)
  })
})

const WIDTH = 16

/** An output layer whose numbers every type holds exactly, and its logits. */
function layer(dtype: DType, vocab: number) {
  const next = random(7)
  const sixteenths = (count: number, size: number) =>
    Float64Array.from({ length: count }, () => (Math.round(8 * gaussian(next)) / 16) * size)
  const [hidden, weight, bias] = [sixteenths(B * T * WIDTH, 1), sixteenths(vocab * WIDTH, 2), sixteenths(vocab, 1)]
  const stored = (list: Float64Array) => {
    const data = storage(dtype, list.length)
    for (let i = 0; i < list.length; i++) data[i] = encode[dtype](list[i])
    expect(Array.from(data, decode[dtype])).toEqual([...list])
    return data
  }
  const logits = new Float32Array(B * T * vocab)
  for (let r = 0; r < B * T; r++) {
    for (let v = 0; v < vocab; v++) {
      let sum = bias[v]
      for (let d = 0; d < WIDTH; d++) sum += hidden[r * WIDTH + d] * weight[v * WIDTH + d]
      logits[r * vocab + v] = sum
    }
  }
  return {
    numbers: { hidden, weight },
    hidden: { data: stored(hidden), dtype, shape: [B, T, WIDTH] },
    weight: { data: stored(weight), dtype, shape: [vocab, WIDTH] },
    bias: stored(bias),
    logits: { data: logits, shape: [B, T, vocab] },
    labels: Int32Array.from({ length: B * T }, (_, i) => (i % T < 2 ? -100 : Math.floor(next() * vocab))),
  }
}

/** Distance in the norm of `wanted`. */
function distance(got: ArrayLike<number>, wanted: Float64Array) {
  expect(got.length).toBe(wanted.length)
  const norm = (list: Float64Array) => Math.sqrt(list.reduce((sum, x) => sum + x * x, 0))
  return norm(wanted.map((x, i) => got[i] - x)) / norm(wanted)
}

// As in cuda-head.test.ts: before the last product the logits' gradient is rounded to the type of the factors.
const TOLERANCE: Record<DType, number> = { float32: 2e-6, float16: 2 ** -11, bfloat16: 2 ** -8 }

describe.runIf(hasHead).each(DTYPES)('the output layer on the cuda backend, %s', (dtype) => {
  const vocab = 203
  const made = layer(dtype, vocab)
  const { hidden, weight, bias, logits, labels } = made

  /** The gradients of the layer that belong to one of the logits. */
  function multiplied(gradient: Logits) {
    const slope = values(gradient)
    const out = {
      hidden: new Float64Array(B * T * WIDTH),
      weight: new Float64Array(vocab * WIDTH),
      bias: new Float64Array(vocab),
    }
    for (let r = 0; r < B * T; r++) {
      for (let v = 0; v < vocab; v++) {
        const x = slope[r * vocab + v]
        out.bias[v] += x
        for (let d = 0; d < WIDTH; d++) {
          out.hidden[r * WIDTH + d] += x * made.numbers.weight[v * WIDTH + d]
          out.weight[v * WIDTH + d] += x * made.numbers.hidden[r * WIDTH + d]
        }
      }
    }
    return out
  }
  const chunksOf = (rows: number) => {
    process.env[CHUNK_VARIABLE] = String(rows * 4 * 64 * Math.ceil(vocab / 64))
  }

  // Of a size whose 16-bit forms would vanish, or overflow, if they were not scaled.
  test.each([1, 2 ** -40, 2 ** 20])('gradients of per-token results, of size %d', (size) => {
    for (const given of TRANSFORMS) {
      for (const rows of [3, 1024]) {
        chunksOf(rows)
        const options = { ...given, outputs: OUTPUTS, ...RUN }
        const got = linearSequenceLogProbsSync(hidden, weight, labels, { ...options, bias })
        const wanted = sequenceLogProbsSync(logits, labels, { ...options, backend: 'js' })
        for (const name of OUTPUTS)
          expect(distance(got[name]!, Float64Array.from(wanted[name]!)), name).toBeLessThan(2e-6)
        for (const names of [['tokenLogProbs', 'logSumExp'], Object.keys(slopes())]) {
          const all = slopes(9, size)
          const gradient = Object.fromEntries(names.map((name) => [name, all[name as keyof ResultGradients]]))
          const { gradHidden, gradWeight, gradBias } = got.backwardSync(gradient)
          const of = multiplied(wanted.backwardSync(gradient).gradLogits)
          expect(distance(gradHidden!.data as Float32Array, of.hidden)).toBeLessThan(TOLERANCE[dtype])
          expect(distance(gradWeight!.data as Float32Array, of.weight)).toBeLessThan(TOLERANCE[dtype])
          expect(distance(gradBias as Float32Array, of.bias)).toBeLessThan(4e-6)
        }
      }
    }
    delete process.env[CHUNK_VARIABLE]
  })

  test.each(LOSSES)('the cross-entropy and its gradients, labels on the device, in chunks, %j', (given) => {
    const classWeights = Float64Array.from({ length: vocab }, (_, v) => (v % 4) / 2)
    const options = given.labelSmoothing ? given : { ...given, classWeights }
    const wanted = crossEntropySync(logits, labels, { ...options, backend: 'js', gradient: true })
    const of = multiplied(wanted.gradLogits!)
    const there = {
      hidden: { ...hidden, data: DeviceBuffer.from(hidden.data) },
      weight: { ...weight, data: DeviceBuffer.from(weight.data) },
      bias: DeviceBuffer.from(bias),
      labels: DeviceBuffer.from(labels),
    }
    const outs = [B * T * WIDTH, vocab * WIDTH, vocab].map((length) => new DeviceBuffer(4 * length))
    for (const rows of [3, 1024]) {
      chunksOf(rows)
      const all = { ...options, ...RUN, outputs: OUTPUTS }
      const got = linearCrossEntropySync(hidden, weight, labels, { ...all, bias, gradient: true })
      expect(Math.abs(got.loss - wanted.loss)).toBeLessThan(2e-6 * Math.abs(wanted.loss))
      expect(distance(got.losses, wanted.losses)).toBeLessThan(2e-6)
      expect(got.losses[0]).toBe(0)
      expect(got.tokenCounts).toEqual(wanted.tokenCounts)
      expect(distance(got.gradHidden!.data as Float32Array, of.hidden)).toBeLessThan(TOLERANCE[dtype])
      expect(distance(got.gradWeight!.data as Float32Array, of.weight)).toBeLessThan(TOLERANCE[dtype])
      expect(distance(got.gradBias as Float32Array, of.bias)).toBeLessThan(4e-6)

      const onDevice = linearCrossEntropySync(there.hidden, there.weight, there.labels, {
        ...options,
        outputs: OUTPUTS,
        bias: there.bias,
        gradient: { hidden: outs[0], weight: outs[1], bias: outs[2] },
      })
      expect([onDevice.loss, onDevice.losses, onDevice.tokenCounts]).toEqual([got.loss, got.losses, got.tokenCounts])
      for (const name of OUTPUTS) expect(onDevice[name], name).toEqual(got[name])
      for (const [i, array] of [got.gradHidden!.data, got.gradWeight!.data, got.gradBias].entries()) {
        const copy = (array as Float32Array).slice()
        outs[i].copyTo(copy)
        // More rows are multiplied where the host does not know them; those are zeros.
        if (i !== 1 || rows !== 3) expect(bytes(copy).equals(bytes(array as Float32Array))).toBe(true)
        else expect(distance(copy, Float64Array.from(array as Float32Array))).toBeLessThan(TOLERANCE[dtype])
      }
    }
    delete process.env[CHUNK_VARIABLE]
  })
})
