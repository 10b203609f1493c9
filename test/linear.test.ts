/**
 * The linear functions: values and all gradients against a float64 oracle written from the formulas, on every available
 * backend; the same bits for any number of threads; and the arguments that are refused.
 */
import { describe, expect, it } from 'vitest'
import {
  fusedLinearPreferenceLoss,
  fusedLinearPreferenceLossSync,
  fusedPreferenceLossSync,
  linearSequenceLogProbs,
  linearSequenceLogProbsSync,
  preferenceLossSync,
} from '../lib/index.js'
import type { FusedLinearOptions, LossOptions, TokenOptions } from '../lib/options/index.js'
import type { DType, FusedLinearPreferenceLoss, HeadWeight, Hidden, LossType } from '../lib/types/index.js'
import * as calls from './calls.js'
import {
  ALL_NATIVE,
  ALL_TARGETS,
  DTYPES,
  decode,
  encode,
  firstDifference,
  fusesMultiplyAdds,
  gaussian,
  JS,
  LOSS_TYPES,
  NATIVE,
  neededBy,
  OUTPUTS,
  random,
  storage,
  WASM,
} from './support.js'
import { TESTS_WEBGPU } from './webgpu/device.js'

interface Spec {
  seed: number
  batch: number
  time: number
  width: number
  vocab: number
  dtype?: DType
  /** Stored [width, vocab]. */
  transposed?: boolean
  /** Unused elements after each row of hidden and of weight. */
  padding?: number
  bias?: boolean
  /** Share of labels that are ignored. */
  ignored?: number
  /** Lengths of packed sequences, instead of batch and time. */
  lengths?: number[]
  weighted?: boolean
  options?: TokenOptions
}

/** A random call, and its matrices in float64. */
function problemOf(spec: Spec) {
  const { width, vocab, dtype = 'float32', transposed, padding = 0, lengths } = spec
  const next = random(spec.seed)
  const rows = lengths ? lengths.reduce((a, b) => a + b) : spec.batch * spec.time
  const put = (data: Float32Array | Uint16Array, index: number, value: number) => {
    data[index] = encode[dtype](value)
    return decode[dtype](data[index])
  }
  const hiddenStep = width + padding
  const hiddenData = storage(dtype, rows * hiddenStep).fill(encode[dtype](Number.NaN))
  const h = Array.from({ length: rows }, (_, r) =>
    Float64Array.from({ length: width }, (_, d) => put(hiddenData, r * hiddenStep + d, gaussian(next))),
  )
  const [rowStride, columnStride] = transposed ? [1, vocab + padding] : [width + padding, 1]
  const weightData = storage(dtype, transposed ? width * columnStride : vocab * rowStride)
  const w = Array.from({ length: vocab }, (_, v) =>
    Float64Array.from({ length: width }, (_, d) =>
      put(weightData, v * rowStride + d * columnStride, (2 * gaussian(next)) / Math.sqrt(width)),
    ),
  )
  const biasData = storage(dtype, vocab)
  const b = Float64Array.from({ length: vocab }, (_, v) => (spec.bias ? put(biasData, v, gaussian(next)) : 0))
  const labels = Int32Array.from({ length: rows }, () =>
    next() < (spec.ignored ?? 0) ? -100 : Math.floor(next() * vocab),
  )
  const options: TokenOptions & { bias?: Float32Array | Uint16Array } = { ...spec.options }
  if (spec.bias) options.bias = biasData
  if (spec.weighted) options.tokenWeights = Array.from({ length: rows }, () => 2 * next() - 0.5)
  const offsets = [0]
  for (const length of lengths ?? new Array<number>(spec.batch).fill(spec.time)) {
    offsets.push(offsets[offsets.length - 1] + length)
  }
  if (lengths) options.sequenceOffsets = offsets
  const hidden: Hidden = lengths
    ? { data: hiddenData, dtype, shape: [rows, width] }
    : { data: hiddenData, dtype, shape: [spec.batch, spec.time, width] }
  if (padding > 0) hidden.strides = lengths ? [hiddenStep, 1] : [spec.time * hiddenStep, hiddenStep, 1]
  const weight: HeadWeight = { data: weightData, dtype, shape: [vocab, width] }
  if (padding > 0 || transposed) weight.strides = [rowStride, columnStride]
  return { hidden, weight, labels, options, offsets, h, w, b, rows, width, vocab }
}

type Problem = ReturnType<typeof problemOf>

/** Everything by the formulas. `coefficients`: d loss / d logProb of each sequence, made of these. */
function oracle(
  { h, w, b, labels, options, offsets, rows, width, vocab }: Problem,
  coefficientsOf: (logProbs: Float64Array, counts: Int32Array) => ArrayLike<number>,
) {
  const { temperature = 1, shift = true, averageLogProb = false, tokenWeights } = options
  const sequences = offsets.length - 1
  const logProbs = new Float64Array(sequences)
  const counts = new Int32Array(sequences)
  const active: { row: number; label: number; s: number; weight: number; p: Float64Array }[] = []
  for (let s = 0; s < sequences; s++) {
    for (let row = offsets[s]; row < offsets[s + 1]; row++) {
      const at = row + (shift ? 1 : 0)
      if (at >= offsets[s + 1] || labels[at] === -100) continue
      const logits = w.map((of, v) => (b[v] + of.reduce((sum, x, d) => sum + x * h[row][d], 0)) / temperature)
      const top = Math.max(...logits)
      const total = logits.reduce((sum, x) => sum + Math.exp(x - top), 0)
      const weight = tokenWeights ? tokenWeights[at] : 1
      logProbs[s] += weight * (logits[labels[at]] - top - Math.log(total))
      counts[s]++
      active.push({ row, label: labels[at], s, weight, p: Float64Array.from(logits, (x) => Math.exp(x - top) / total) })
    }
  }
  if (averageLogProb) for (let s = 0; s < sequences; s++) if (counts[s] > 0) logProbs[s] /= counts[s]
  const coefficients = coefficientsOf(logProbs, counts)
  // Each gradient, and the sum of the magnitudes of its terms, in which errors are measured.
  const zeros = (length: number) => ({ value: new Float64Array(length), size: new Float64Array(length) })
  const hidden = zeros(rows * width)
  const weight = zeros(vocab * width)
  const bias = zeros(vocab)
  for (const { row, label, s, weight: tokenWeight, p } of active) {
    const factor = (tokenWeight * coefficients[s]) / (averageLogProb ? counts[s] : 1) / temperature
    for (let v = 0; v < vocab; v++) {
      const g = factor * ((v === label ? 1 : 0) - p[v])
      bias.value[v] += g
      bias.size[v] += Math.abs(g)
      for (let d = 0; d < width; d++) {
        hidden.value[row * width + d] += g * w[v][d]
        hidden.size[row * width + d] += Math.abs(g * w[v][d])
        weight.value[v * width + d] += g * h[row][d]
        weight.size[v * width + d] += Math.abs(g * h[row][d])
      }
    }
  }
  return { logProbs, counts, coefficients, hidden, weight, bias, active }
}

// Float32 sums of so few terms err by a few units in the last place of the sum of magnitudes; the error of a logit
// carries over to its softmax.
const TOLERANCE = 2e-5

function expectClose(
  got: ArrayLike<number>,
  want: { value: ArrayLike<number>; size: ArrayLike<number> },
  what: string,
) {
  expect(got.length, what).toBe(want.value.length)
  let worst = 0
  let at = -1
  for (let i = 0; i < got.length; i++) {
    const error = Math.abs(got[i] - want.value[i])
    const relative = error === 0 ? 0 : error / want.size[i]
    if (!(relative <= worst)) [worst, at] = [relative, i]
  }
  expect(worst, `${what}[${at}] is ${got[at]}, not ${want.value[at]}`).toBeLessThan(TOLERANCE)
}

/** The weight's gradient as [vocab, width]. */
function byWord({ data, shape, strides }: HeadWeight): Float64Array {
  const [vocab, width] = shape
  const [rowStride, columnStride] = strides ?? [width, 1]
  return Float64Array.from({ length: vocab * width }, (_, i) => {
    const v = Math.floor(i / width)
    return (data as Float32Array)[v * rowStride + (i - v * width) * columnStride]
  })
}

const SHAPES: readonly (Spec & { what: string })[] = [
  { what: 'one row, one word', seed: 1, batch: 2, time: 1, width: 1, vocab: 1, options: { shift: false } },
  { what: 'small and ragged', seed: 2, batch: 2, time: 5, width: 7, vocab: 13, ignored: 0.3 },
  { what: 'a bias', seed: 3, batch: 4, time: 6, width: 33, vocab: 101, bias: true, ignored: 0.2 },
  { what: 'stored [width, vocab]', seed: 4, batch: 2, time: 9, width: 19, vocab: 211, transposed: true, bias: true },
  { what: 'rows with gaps', seed: 5, batch: 2, time: 4, width: 21, vocab: 67, padding: 3 },
  { what: 'columns with gaps', seed: 6, batch: 2, time: 4, width: 21, vocab: 67, padding: 3, transposed: true },
  { what: 'packed', seed: 7, batch: 0, time: 0, lengths: [3, 9, 1, 6], width: 12, vocab: 45, ignored: 0.2 },
  { what: 'several tiles of words', seed: 8, batch: 2, time: 7, width: 10, vocab: 1300, bias: true },
  {
    what: 'several blocks of words, stored [width, vocab]',
    seed: 13,
    batch: 2,
    time: 5,
    width: 9,
    vocab: 2500,
    transposed: true,
  },
  { what: 'several tiles of rows', seed: 9, batch: 4, time: 60, width: 9, vocab: 70, ignored: 0.1 },
  { what: 'several terms at once', seed: 10, batch: 2, time: 3, width: 521, vocab: 37 },
  {
    what: 'token weights, a mean, a temperature',
    seed: 11,
    batch: 2,
    time: 8,
    width: 17,
    vocab: 53,
    weighted: true,
    options: { averageLogProb: true, temperature: 1.7 },
  },
  { what: 'nothing active', seed: 12, batch: 2, time: 3, width: 5, vocab: 11, ignored: 1 },
]

// The cuda backend multiplies gradients that it has rounded: cuda-head.test.ts.
describe.each(ALL_TARGETS.filter(({ name }) => name !== 'cuda'))('on $name', ({ run }) => {
  it.each(SHAPES)('linearSequenceLogProbs and its gradients: $what', async (spec) => {
    const problem = problemOf(spec)
    const { hidden, weight, labels, options } = problem
    const want = oracle(problem, (logProbs) => logProbs.map((_, s) => 0.7 - s))
    const got = await calls.linearSequenceLogProbs(hidden, weight, labels, { ...options, ...run })
    expect([...got.tokenCounts]).toEqual([...want.counts])
    for (let s = 0; s < want.logProbs.length; s++) expect(got.logProbs[s]).toBeCloseTo(want.logProbs[s], 3)
    const gradients = await got.backward(want.coefficients)
    expectClose(gradients.gradHidden!.data as Float32Array, want.hidden, 'hidden')
    expectClose(byWord(gradients.gradWeight!), want.weight, 'weight')
    if (spec.bias) expectClose(gradients.gradBias as Float32Array, want.bias, 'bias')
    else expect(gradients.gradBias).toBeUndefined()
  })

  it.each(DTYPES)('takes %s', async (dtype) => {
    for (const transposed of [false, true]) {
      const problem = problemOf({ seed: 21, batch: 2, time: 6, width: 40, vocab: 90, dtype, transposed, bias: true })
      const { hidden, weight, labels, options } = problem
      const want = oracle(problem, () => [1, -0.5])
      const got = await calls.linearSequenceLogProbs(hidden, weight, labels, { ...options, ...run })
      for (let s = 0; s < 2; s++) expect(got.logProbs[s]).toBeCloseTo(want.logProbs[s], 4)
      const gradients = await got.backward([1, -0.5])
      expectClose(gradients.gradHidden!.data as Float32Array, want.hidden, 'hidden')
      expectClose(byWord(gradients.gradWeight!), want.weight, 'weight')
      expectClose(gradients.gradBias as Float32Array, want.bias, 'bias')
    }
  })

  it.each(LOSS_TYPES)('fusedLinearPreferenceLoss: %s', async (lossType: LossType) => {
    const problem = problemOf({ seed: 31, batch: 6, time: 5, width: 14, vocab: 60, bias: true, ignored: 0.2 })
    const { hidden, weight, labels, options } = problem
    const loss: LossOptions = { lossType, beta: 0.3, ...neededBy(lossType) }
    const reference = { chosen: [-9, -12, -7], rejected: [-8, -13, -11] }
    let expected!: ReturnType<typeof preferenceLossSync>
    const want = oracle(problem, (logProbs, counts) => {
      const pairs = {
        chosen: logProbs.subarray(0, 3),
        rejected: logProbs.subarray(3),
        referenceChosen: reference.chosen,
        referenceRejected: reference.rejected,
        chosenTokenCounts: counts.subarray(0, 3),
        rejectedTokenCounts: counts.subarray(3),
      }
      expected = preferenceLossSync(pairs, { ...loss, backend: 'js' })
      return [...expected.gradLogProbs.chosen, ...expected.gradLogProbs.rejected]
    })
    const got = await calls.fusedLinearPreferenceLoss(hidden, weight, labels, {
      ...options,
      ...loss,
      reference,
      gradient: true,
      ...run,
    })
    expect(got.loss).toBeCloseTo(expected.loss, 4)
    for (let i = 0; i < 3; i++) {
      expect(got.losses[i]).toBeCloseTo(expected.losses[i], 4)
      expect(got.chosenLogProbs[i]).toBeCloseTo(want.logProbs[i], 4)
      expect(got.rejectedRewards[i]).toBeCloseTo(expected.rejectedRewards[i], 4)
    }
    // The slope of a loss may multiply an error of the log-probs.
    const scale = { value: want.weight.value, size: want.weight.size.map((x) => 10 * x + 1e-30) }
    expectClose(byWord(got.gradWeight!), scale, 'weight')
    expectClose(
      got.gradHidden!.data as Float32Array,
      { value: want.hidden.value, size: want.hidden.size.map((x) => 10 * x) },
      'hidden',
    )
    expectClose(
      got.gradBias as Float32Array,
      { value: want.bias.value, size: want.bias.size.map((x) => 10 * x) },
      'bias',
    )
  })

  it('agrees with fusedPreferenceLoss on stored logits: outputs, weighting, a reference model', async () => {
    const problem = problemOf({ seed: 41, batch: 4, time: 6, width: 11, vocab: 500, bias: true, ignored: 0.3 })
    const other = problemOf({ seed: 42, batch: 4, time: 6, width: 5, vocab: 500 })
    const logitsOf = ({ h, w, b, rows, vocab }: Problem) => {
      const data = new Float32Array(rows * vocab)
      for (let i = 0; i < data.length; i++) {
        const v = i % vocab
        data[i] = h[(i - v) / vocab].reduce((sum, x, d) => sum + x * w[v][d], b[v])
      }
      return { data, shape: [4, 6, vocab] }
    }
    const shared = { outputs: OUTPUTS, weighting: 'wpo' as const, lossType: 'sigmoid' as const }
    const got = await calls.fusedLinearPreferenceLoss(problem.hidden, problem.weight, problem.labels, {
      ...problem.options,
      ...shared,
      ...run,
      reference: { hidden: other.hidden, weight: other.weight },
    })
    const want = fusedPreferenceLossSync(logitsOf(problem), problem.labels, {
      ...shared,
      backend: 'js',
      reference: { logits: logitsOf(other) },
    })
    expect(got.loss).toBeCloseTo(want.loss, 5)
    expect(got.margin).toBeCloseTo(want.margin, 5)
    for (const name of OUTPUTS) {
      expect(got[name]!.length, name).toBe(want[name]!.length)
      for (let i = 0; i < want[name]!.length; i++) expect(got[name]![i], `${name}[${i}]`).toBeCloseTo(want[name]![i], 4)
    }
  })

  it('accumulates into arrays, or overwrites them', async () => {
    for (const transposed of [false, true]) {
      const problem = problemOf({
        seed: 51,
        batch: 2,
        time: 6,
        width: 9,
        vocab: 40,
        bias: true,
        ignored: 0.3,
        transposed,
      })
      const { hidden, weight, labels, options } = problem
      const call = (gradient: FusedLinearOptions['gradient'], accumulate?: boolean, zeroInactive?: boolean) =>
        calls.fusedLinearPreferenceLoss(hidden, weight, labels, {
          ...options,
          ...run,
          lossType: 'cpo',
          gradient,
          accumulate,
          zeroInactive,
        })
      const plain = await call(true)
      const parts = (result: FusedLinearPreferenceLoss) =>
        [result.gradHidden!.data, result.gradWeight!.data, result.gradBias!] as Float32Array[]
      const arrays = () => ({
        hidden: new Float32Array(2 * 6 * 9).fill(0.5),
        weight: new Float32Array(40 * 9).fill(0.5),
        bias: new Float32Array(40).fill(0.5),
      })
      const over = arrays()
      const overwritten = await call(over)
      expect(overwritten.gradWeight!.data).toBe(over.weight)
      expect(overwritten.gradWeight!.strides).toEqual(plain.gradWeight!.strides)
      for (let k = 0; k < 3; k++) expect(firstDifference(parts(overwritten)[k], parts(plain)[k])).toBe(-1)
      const sum = await call(arrays(), true)
      for (let k = 0; k < 3; k++) {
        for (let i = 0; i < parts(sum)[k].length; i++) expect(parts(sum)[k][i]).toBeCloseTo(parts(plain)[k][i] + 0.5, 6)
      }
      // Rows that predict nothing: zeros, or as they were.
      const last = 5 * 9
      expect(parts(overwritten)[0][last]).toBe(0)
      expect(parts(sum)[0][last]).toBe(0.5)
      expect(((await call(arrays(), false, false)).gradHidden!.data as Float32Array)[last]).toBe(0.5)
      expect(((await call(arrays(), true, true)).gradHidden!.data as Float32Array)[last]).toBe(0)
    }
  })

  it('computes the gradients that are asked for, and they do not depend on which', async () => {
    const { hidden, weight, labels, options } = problemOf({
      seed: 61,
      batch: 2,
      time: 4,
      width: 8,
      vocab: 30,
      bias: true,
    })
    const call = (gradient: FusedLinearOptions['gradient']) =>
      calls.fusedLinearPreferenceLoss(hidden, weight, labels, { ...options, ...run, lossType: 'simpo', gradient })
    const all = await call(true)
    expect(Object.keys(await call(false)).filter((name) => name.startsWith('grad'))).toEqual(['gradLogProbs'])
    const one = await call({ hidden: true })
    expect(one.gradWeight).toBeUndefined()
    expect(one.gradBias).toBeUndefined()
    expect(firstDifference(one.gradHidden!.data as Float32Array, all.gradHidden!.data as Float32Array)).toBe(-1)
    expect(
      firstDifference(
        (await call({ weight: true })).gradWeight!.data as Float32Array,
        all.gradWeight!.data as Float32Array,
      ),
    ).toBe(-1)
    expect(firstDifference((await call({ bias: true })).gradBias as Float32Array, all.gradBias as Float32Array)).toBe(
      -1,
    )
  })

  it('makes NaN of a row of NaN, and of it alone', async () => {
    const { hidden, weight, labels, options } = problemOf({ seed: 71, batch: 2, time: 3, width: 6, vocab: 20 })
    ;(hidden.data as Float32Array)[4 * 6] = Number.NaN
    const got = await calls.linearSequenceLogProbs(hidden, weight, labels, { ...options, ...run })
    expect(got.logProbs[0]).toBeLessThan(0)
    expect(got.logProbs[1]).toBeNaN()
    const { gradHidden } = await got.backward([1, 1], { gradient: { hidden: true } })
    const rows = gradHidden!.data as Float32Array
    for (let d = 0; d < 6; d++) {
      expect(rows[d]).not.toBeNaN()
      expect(rows[4 * 6 + d]).toBeNaN()
    }
  })
})

describe.each(TESTS_WEBGPU ? [] : [...NATIVE, ...WASM, JS])('on $name, and how it is called', ({ run }) => {
  it('linearSequenceLogProbs has the outputs asked for, those of the loss', async () => {
    const { hidden, weight, labels, options } = problemOf({
      seed: 43,
      batch: 4,
      time: 6,
      width: 11,
      vocab: 90,
      bias: true,
      ignored: 0.3,
    })
    const all = { ...options, ...run, outputs: OUTPUTS }
    const want = fusedLinearPreferenceLossSync(hidden, weight, labels, { ...all, lossType: 'cpo' })
    const got = linearSequenceLogProbsSync(hidden, weight, labels, all)
    const promised = await linearSequenceLogProbs(hidden, weight, labels, all)
    for (const name of OUTPUTS) {
      expect(got[name], name).toEqual(want[name])
      expect(promised[name], name).toEqual(want[name])
      expect(new Set(got[name]).size, name).toBeGreaterThan(3)
      const one = linearSequenceLogProbsSync(hidden, weight, labels, { ...options, ...run, outputs: [name] })
      expect(OUTPUTS.filter((other) => one[other] !== undefined)).toEqual([name])
    }
    const none = linearSequenceLogProbsSync(hidden, weight, labels, { ...options, ...run })
    expect(OUTPUTS.filter((name) => none[name] !== undefined)).toEqual([])
  })

  it('gives sequences without active tokens what it is told', () => {
    const { hidden, weight, labels } = problemOf({ seed: 44, batch: 4, time: 3, width: 5, vocab: 20 })
    labels.fill(-100, 3, 6)
    const sums = (options: TokenOptions) => linearSequenceLogProbsSync(hidden, weight, labels, { ...options, ...run })
    const loss = (options: TokenOptions) =>
      fusedLinearPreferenceLossSync(hidden, weight, labels, { ...options, ...run, lossType: 'cpo' })
    expect(sums({}).tokenCounts).toEqual(Int32Array.of(2, 0, 2, 2))
    for (const options of [{}, { emptySequence: 'zero' }] as const) {
      expect(sums(options).logProbs[1]).toBe(0)
      expect(loss(options).chosenLogProbs[1]).toBe(0)
    }
    expect(sums({ emptySequence: 'nan' }).logProbs[1]).toBeNaN()
    expect(loss({ emptySequence: 'nan' }).chosenLogProbs[1]).toBeNaN()
    for (const call of [sums, loss]) {
      expect(() => call({ emptySequence: 'error' })).toThrow(
        expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE', message: expect.stringContaining('sequence 1') }),
      )
    }
  })

  it('rejects with the reason of a signal, aborted before or during the call', async () => {
    const { hidden, weight, labels, options } = problemOf({ seed: 45, batch: 2, time: 100, width: 64, vocab: 2000 })
    const reason = new Error('stopped by the caller')
    const gradient = { hidden: new Float32Array(2 * 100 * 64).fill(7), weight: new Float32Array(2000 * 64).fill(7) }
    const sums = { ...options, ...run }
    const loss = { ...sums, lossType: 'cpo' as const, gradient }
    const signal = AbortSignal.abort(reason)
    expect(() => linearSequenceLogProbsSync(hidden, weight, labels, { ...sums, signal })).toThrow(reason)
    expect(() => fusedLinearPreferenceLossSync(hidden, weight, labels, { ...loss, signal })).toThrow(reason)
    await expect(linearSequenceLogProbs(hidden, weight, labels, { ...sums, signal })).rejects.toBe(reason)
    await expect(fusedLinearPreferenceLoss(hidden, weight, labels, { ...loss, signal })).rejects.toBe(reason)
    for (const call of [
      (signal: AbortSignal) => linearSequenceLogProbs(hidden, weight, labels, { ...sums, signal }),
      (signal: AbortSignal) => fusedLinearPreferenceLoss(hidden, weight, labels, { ...loss, signal }),
    ]) {
      // Native calls run one after the other: this one has not begun when it is aborted.
      const before = run.backend === 'js' ? 0 : 30
      const others = Array.from({ length: before }, () => linearSequenceLogProbs(hidden, weight, labels, sums))
      const controller = new AbortController()
      const running = call(controller.signal)
      controller.abort(reason)
      await expect(running).rejects.toBe(reason)
      await Promise.all(others)
    }
    for (const array of Object.values(gradient)) expect(array.every((x) => x === 7)).toBe(true)
  })

  it('gives promises of the same bits', async () => {
    const { hidden, weight, labels, options } = problemOf({ seed: 81, batch: 2, time: 6, width: 9, vocab: 300 })
    const all = { ...options, ...run, lossType: 'cpo' as const, gradient: true }
    const [a, b] = [
      await fusedLinearPreferenceLoss(hidden, weight, labels, all),
      fusedLinearPreferenceLossSync(hidden, weight, labels, all),
    ]
    expect(a.loss).toBe(b.loss)
    expect(firstDifference(a.gradWeight!.data as Float32Array, b.gradWeight!.data as Float32Array)).toBe(-1)
    const sums = await linearSequenceLogProbs(hidden, weight, labels, { ...options, ...run })
    expect(
      firstDifference(
        sums.logProbs,
        linearSequenceLogProbsSync(hidden, weight, labels, { ...options, ...run }).logProbs,
      ),
    ).toBe(-1)
  })
})

describe.runIf(NATIVE.length > 0 && !TESTS_WEBGPU)('on the cpu', () => {
  const big = problemOf({ seed: 91, batch: 2, time: 560, width: 12, vocab: 1500, bias: true, ignored: 0.05 })
  const call = (run: FusedLinearOptions) =>
    fusedLinearPreferenceLossSync(big.hidden, big.weight, big.labels, {
      ...big.options,
      ...run,
      backend: 'cpu',
      lossType: 'cpo',
      gradient: true,
    })
  const bits = (result: FusedLinearPreferenceLoss) =>
    [[result.loss], result.gradHidden!.data, result.gradWeight!.data, result.gradBias!] as ArrayLike<number>[]

  it('has the same bits for any number of threads, with several groups of rows and blocks of words', () => {
    const one = bits(call({ threads: 1 }))
    for (const threads of [2, 3, 7]) {
      bits(call({ threads })).forEach((values, k) => {
        expect(firstDifference(values, one[k]), `${threads} threads, ${k}`).toBe(-1)
      })
    }
  })

  const [first, ...others] = ALL_NATIVE.filter(({ run }) => fusesMultiplyAdds(run))

  it.runIf(first)('has the same bits for every instruction set that fuses multiply-adds', () => {
    const wanted = bits(call(first.run))
    for (const { run } of others) {
      bits(call(run)).forEach((values, k) => {
        expect(firstDifference(values, wanted[k])).toBe(-1)
      })
    }
  })

  // AVX512-BF16 takes subnormal numbers for zeros, and rounds to zero what would be one: such sums show in mean logits.
  it.runIf(first).each([
    ['ordinary numbers', 0, 0],
    ['subnormal weights', 120, -127],
    ['subnormal hidden states', -128, 122],
    ['subnormal products', -60, -66],
    ['subnormal sums', -62, -62],
    ['of like magnitudes, whose sums cancel', -61, -62],
  ])('has the same bits there with bfloat16: %s', (name, ofHidden, ofWeight) => {
    const like = name.startsWith('of like')
    for (const [width, transposed] of [
      [130, false],
      [64, true],
      [33, false],
    ] as const) {
      const spec = { seed: 92, batch: 2, time: 30, width, vocab: 50, transposed, dtype: 'bfloat16' } as const
      const { hidden, weight, labels } = problemOf(spec)
      for (const [{ data }, exponent] of [
        [hidden, ofHidden],
        [weight, ofWeight],
      ] as const) {
        const values = data as Uint16Array
        values.forEach((stored, i) => {
          const x = decode.bfloat16(stored)
          values[i] = encode.bfloat16((like ? Math.sign(x) * (1 + (Math.abs(x) % 1)) : x) * 2 ** exponent)
        })
      }
      const logProbs = (run: FusedLinearOptions) => {
        const options = { ...run, outputs: ['tokenLogProbs', 'tokenMeanLogits'] } as const
        const result = linearSequenceLogProbsSync(hidden, weight, labels, options)
        const { gradHidden, gradWeight } = result.backwardSync([1, -2])
        return [result.tokenLogProbs, result.tokenMeanLogits, gradHidden!.data, gradWeight!.data] as ArrayLike<number>[]
      }
      const wanted = logProbs(first.run)
      expect(wanted[1][1]).not.toBe(0)
      for (const { run } of others) {
        logProbs(run).forEach((values, k) => {
          expect(firstDifference(values, wanted[k]), `${run.instructionSet}, ${width}, ${k}`).toBe(-1)
        })
      }
    }
  })

  it('agrees with the js backend there', () => {
    const got = bits(call({}))
    const want = bits(
      fusedLinearPreferenceLossSync(big.hidden, big.weight, big.labels, {
        ...big.options,
        backend: 'js',
        lossType: 'cpo',
        gradient: true,
      }),
    )
    expect(got[0][0]).toBeCloseTo(want[0][0], 3)
    for (let k = 1; k < 4; k++) {
      let largest = 0
      let worst = 0
      for (let i = 0; i < got[k].length; i++) {
        largest = Math.max(largest, Math.abs(want[k][i]))
        worst = Math.max(worst, Math.abs(got[k][i] - want[k][i]))
      }
      expect(worst / largest).toBeLessThan(1e-5)
    }
  })
})

describe.each(TESTS_WEBGPU ? [] : [...NATIVE, ...WASM])(
  'logits that are kept for the gradients, on $name',
  ({ run }) => {
    // Tiles have 96 rows.
    const spec = { batch: 6, time: 60, width: 130, vocab: 500, bias: true, ignored: 0.1 }
    const rowBytes = 4 * 512
    const budgets = [95 * rowBytes, 100 * rowBytes, 300 * rowBytes, 2 ** 40, undefined]

    it.each([
      ['a loss whose pairs are weighted, one by 0', {}, { pairWeights: [1, 0, 2] }],
      ['several groups of rows', { time: 220, vocab: 200 }, {}],
      ['soft-capped logits', { options: { logitSoftcap: 3, temperature: 0.8 } }, {}],
      ['gradients of another type', { dtype: 'bfloat16' }, { gradientDType: 'bfloat16' }],
      ['a weight of columns', { transposed: true, padding: 3 }, { outputs: OUTPUTS }],
    ] as [string, Partial<Spec>, FusedLinearOptions][])('are those that are made again: %s', (_, given, more) => {
      const problem = problemOf({ seed: 17, ...spec, ...given })
      const call = (logitsBudget: number | undefined) => {
        const options = { ...problem.options, ...run, ...more, logitsBudget, gradient: true, lossType: 'cpo' } as const
        const result = fusedLinearPreferenceLossSync(problem.hidden, problem.weight, problem.labels, options)
        return [[result.loss], result.gradHidden.data, result.gradWeight.data, result.gradBias!] as ArrayLike<number>[]
      }
      const wanted = call(0)
      expect(Array.from(wanted[2]).some((x) => x !== 0)).toBe(true)
      for (const budget of budgets) {
        for (const [k, values] of call(budget).entries()) {
          expect(firstDifference(values, wanted[k]), `${budget} bytes, ${k}`).toBe(-1)
        }
      }
    })
  },
)

describe.skipIf(TESTS_WEBGPU)('what is refused', () => {
  const { hidden, weight, labels } = problemOf({ seed: 99, batch: 2, time: 3, width: 4, vocab: 10 })
  const call = (changed: { hidden?: object; weight?: object; options?: object }) => () =>
    fusedLinearPreferenceLossSync(
      { ...hidden, ...changed.hidden } as Hidden,
      { ...weight, ...changed.weight } as HeadWeight,
      labels,
      { lossType: 'cpo', ...changed.options } as FusedLinearOptions,
    )
  const cases: [what: string, Parameters<typeof call>[0], code: string, message: RegExp][] = [
    [
      'shapes that do not chain',
      { weight: { data: new Float32Array(50), shape: [10, 5] } },
      'ERR_SHAPE_MISMATCH',
      /weight\.shape must be \[vocab, 4\].*got \[10, 5\]/,
    ],
    [
      'a weight stored as [width, vocab] that does not say so',
      { weight: { shape: [4, 10] } },
      'ERR_SHAPE_MISMATCH',
      /must be \[vocab, 4\], .*; got \[4, 10\]; one stored as \[4, vocab\] has strides \[1, vocab\] besides$/,
    ],
    [
      'a weight of one dimension',
      { weight: { shape: [40] } },
      'ERR_SHAPE_MISMATCH',
      /weight\.shape must be \[vocab, width\]/,
    ],
    ['data of another length', { weight: { shape: [11, 4] } }, 'ERR_SHAPE_MISMATCH', /weight\.data has 40 elements/],
    [
      'strides without neighbours',
      { weight: { strides: [8, 2] } },
      'ERR_INVALID_ARG_VALUE',
      /weight\.strides must be \[at least 4, 1\] or \[1, at least 10\]/,
    ],
    ['strides past the end', { weight: { strides: [5, 1] } }, 'ERR_OUT_OF_RANGE', /weight\.strides/],
    [
      'hidden of two dimensions',
      { hidden: { shape: [6, 4] } },
      'ERR_SHAPE_MISMATCH',
      /hidden\.shape must be \[batch, time, width\]/,
    ],
    [
      'a bias of another length',
      { options: { bias: new Float32Array(9) } },
      'ERR_SHAPE_MISMATCH',
      /options\.bias must have 10 elements/,
    ],
    [
      'bits as a bias of float32',
      { options: { bias: new Uint16Array(10) } },
      'ERR_INVALID_ARG_TYPE',
      /options\.bias must be a Float32Array/,
    ],
    [
      'a gradient of what is not there',
      { options: { gradient: { bias: true } } },
      'ERR_INVALID_ARG_VALUE',
      /options\.gradient\.bias .*options\.bias is not given/,
    ],
    [
      'an unknown gradient',
      { options: { gradient: { weights: true } } },
      'ERR_INVALID_ARG_VALUE',
      /did you mean 'weight'/,
    ],
    [
      'a gradient into the weight',
      { options: { gradient: { weight: weight.data } } },
      'ERR_INVALID_ARG_VALUE',
      /options\.gradient\.weight would overwrite weight\.data/,
    ],
    [
      'a gradient into hidden',
      { options: { gradient: { hidden: hidden.data } } },
      'ERR_INVALID_ARG_VALUE',
      /options\.gradient\.hidden would overwrite hidden\.data/,
    ],
    [
      'a gradient of another length',
      { options: { gradient: { weight: new Float32Array(39) } } },
      'ERR_SHAPE_MISMATCH',
      /options\.gradient\.weight must have 40 elements/,
    ],
    [
      'a gradient of another type',
      { options: { gradient: { weight: new Float64Array(40) } } },
      'ERR_INVALID_ARG_TYPE',
      /a boolean or a Float32Array/,
    ],
    [
      'accumulate without an array',
      { options: { gradient: true, accumulate: true } },
      'ERR_INVALID_ARG_VALUE',
      /options\.accumulate needs an array/,
    ],
    [
      'accumulate without a gradient',
      { options: { accumulate: true } },
      'ERR_INVALID_ARG_VALUE',
      /options\.accumulate needs an array/,
    ],
    [
      'in-place',
      { options: { gradient: 'in-place' } },
      'ERR_INVALID_ARG_TYPE',
      /options\.gradient must be a boolean or an object/,
    ],
    [
      'no reference',
      { options: { lossType: 'sigmoid' } },
      'ERR_INVALID_ARG_VALUE',
      /\{ chosen, rejected \}, \{ logProbs \} or \{ hidden, weight, bias \}/,
    ],
    [
      'an odd batch without pairs',
      { hidden: { shape: [3, 2, 4] } },
      'ERR_SHAPE_MISMATCH',
      /^the batch has an odd number of sequences, 3, where/,
    ],
    [
      'offsets of nothing',
      { options: { sequenceOffsets: null } },
      'ERR_INVALID_ARG_TYPE',
      /^options\.sequenceOffsets must be an array of rising row numbers; got null/,
    ],
    [
      'a reference that is no object',
      { options: { reference: new Float64Array(2) } },
      'ERR_INVALID_ARG_TYPE',
      /^options\.reference must be an object: .*\{ hidden, weight, bias \}; got Float64Array\(2\)/,
    ],
    [
      'a reference with NaN',
      { options: { reference: { logProbs: [-1, Number.NaN] } } },
      'ERR_OUT_OF_RANGE',
      /^options\.reference\.logProbs\[1\] must be a log-prob; got NaN/,
    ],
    [
      'a reference of another vocabulary',
      {
        options: { lossType: 'sigmoid', reference: { hidden, weight: { data: new Float32Array(36), shape: [9, 4] } } },
      },
      'ERR_SHAPE_MISMATCH',
      /options\.reference must give logits of shape \[2, 3, 10\].*\[2, 3, 9\]/,
    ],
  ]
  it.each(cases)('%s', (_, changed, code, message) => {
    expect(call(changed)).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }))
  })

  it('backward for nothing', () => {
    const { backwardSync } = linearSequenceLogProbsSync(hidden, weight, labels)
    for (const request of [false, null, 'weight']) {
      expect(() => backwardSync([1, 1], { gradient: request as never })).toThrow(
        expect.objectContaining({
          code: 'ERR_INVALID_ARG_TYPE',
          message: expect.stringMatching(/^options\.gradient must be (true|a boolean) or an object/),
        }),
      )
    }
    expect(() => linearSequenceLogProbsSync(hidden, weight, labels, { sequenceOffsets: null as never })).toThrow(
      /^options\.sequenceOffsets must be an array/,
    )
  })

  it('writes nothing when it throws', () => {
    const shared = new Float32Array(64).fill(7)
    const gradient = { hidden: shared.subarray(0, 24), weight: shared.subarray(20, 60) }
    expect(call({ options: { gradient } })).toThrow(
      /options\.gradient\.weight would overwrite options\.gradient\.hidden/,
    )
    const bad = new Int32Array(6).fill(10)
    const out = new Float32Array(40).fill(7)
    expect(() =>
      fusedLinearPreferenceLossSync(hidden, weight, bad, { lossType: 'cpo', gradient: { weight: out } }),
    ).toThrow(expect.objectContaining({ code: 'ERR_LABEL_OUT_OF_RANGE' }))
    expect([...shared, ...out].every((x) => x === 7)).toBe(true)
  })

  describe('a gradient over an array of the caller', () => {
    // The gradient begins with the bytes of the array, whatever its type is.
    type Typed = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array
    const over = <T extends Typed>(View: new (buffer: ArrayBuffer, offset: number, length: number) => T, of: T) => {
      const memory = new Float32Array(64).fill(7)
      const array = new View(memory.buffer, 0, of.length)
      array.set(of as never)
      return { memory, array }
    }
    const reference = { chosen: Float32Array.of(-1), rejected: Float64Array.of(-2) }
    const others = { hidden: new Float32Array(24).fill(0.5), weight: new Float32Array(40).fill(0.25) }
    const owned: [string, Typed, (array: never) => object][] = [
      ['labels', labels, () => ({})],
      ['labels', BigInt64Array.from(labels, BigInt), () => ({})],
      ['options.mask', Uint8Array.of(1, 1, 1, 0, 1, 1), (mask) => ({ mask })],
      ['options.mask', Float32Array.of(1, 1, 1, 0, 1, 1), (mask) => ({ mask })],
      ['options.tokenWeights', new Float32Array(6).fill(2), (tokenWeights) => ({ tokenWeights })],
      ['options.pairs', Int32Array.of(1, 0), (pairs) => ({ pairs })],
      ['options.sequenceOffsets', Int32Array.of(0, 2, 6), (sequenceOffsets) => ({ sequenceOffsets })],
      ['options.bias', new Float32Array(10).fill(1), (bias) => ({ bias })],
    ]
    const ofLoss: typeof owned = [
      ['options.reference.chosen', reference.chosen, (chosen) => ({ reference: { ...reference, chosen } })],
      ['options.reference.rejected', reference.rejected, (rejected) => ({ reference: { ...reference, rejected } })],
      [
        'options.reference.hidden.data',
        others.hidden,
        (data) => ({
          reference: { hidden: { data, shape: [2, 3, 4] }, weight: { data: others.weight, shape: [10, 4] } },
        }),
      ],
      [
        'options.reference.weight.data',
        others.weight,
        (data) => ({
          reference: { hidden: { data: others.hidden, shape: [2, 3, 4] }, weight: { data, shape: [10, 4] } },
        }),
      ],
      [
        'options.reference.bias',
        new Float32Array(10),
        (bias) => ({
          reference: {
            hidden: { data: others.hidden, shape: [2, 3, 4] },
            weight: { data: others.weight, shape: [10, 4] },
            bias,
          },
        }),
      ],
    ]
    const given = (options: object) => ('sequenceOffsets' in options ? { ...hidden, shape: [6, 4] } : hidden) as Hidden
    const sizes = { hidden: 24, weight: 40 }
    const overwrites = (name: string) =>
      expect.objectContaining({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringContaining(`would overwrite ${name}:`),
      })

    it.each([...owned, ...ofLoss])('%s (%o) is refused by the loss', (name, of, optionsOf) => {
      const { memory, array } = over(of.constructor as never, of)
      const options = { lossType: 'sigmoid', reference, ...optionsOf(array as never) } as FusedLinearOptions
      const ids = (name === 'labels' ? array : labels) as Int32Array
      const before = memory.slice()
      for (const part of ['hidden', 'weight'] as const) {
        for (const accumulate of [false, true]) {
          const gradient = { [part]: memory.subarray(0, sizes[part]) }
          const call = { ...options, gradient, accumulate }
          expect(() => fusedLinearPreferenceLossSync(given(options), weight, ids, call)).toThrow(overwrites(name))
        }
      }
      expect(firstDifference(memory, before)).toBe(-1)
      expect(fusedLinearPreferenceLossSync(given(options), weight, ids, options).losses).toHaveLength(1)
    })

    it.each(owned)('%s (%o) is refused by backward', (name, of, optionsOf) => {
      const { memory, array } = over(of.constructor as never, of)
      const options = optionsOf(array as never)
      const ids = (name === 'labels' ? array : labels) as Int32Array
      const { backwardSync } = linearSequenceLogProbsSync(given(options), weight, ids, options)
      const before = memory.slice()
      for (const part of ['hidden', 'weight'] as const) {
        const request = { [part]: memory.subarray(0, sizes[part]) }
        expect(() => backwardSync([1, 1], { gradient: request })).toThrow(overwrites(name))
      }
      expect(firstDifference(memory, before)).toBe(-1)
      expect(backwardSync([1, 1], { gradient: { weight: true } }).gradWeight!.shape).toEqual([10, 4])
    })

    it('and of the upstream gradient, hidden and weight by backward', () => {
      const { backwardSync } = linearSequenceLogProbsSync(hidden, weight, labels)
      const { memory, array } = over(Float64Array, Float64Array.of(1, 1))
      const request = (data: object) => ({ weight: data as Float32Array })
      expect(() => backwardSync(array, { gradient: request(memory.subarray(0, 40)) })).toThrow(overwrites('gradient'))
      expect(() => backwardSync([1, 1], { gradient: request(weight.data) })).toThrow(overwrites('weight.data'))
      expect(() => backwardSync([1, 1], { gradient: { hidden: hidden.data as Float32Array } })).toThrow(
        overwrites('hidden.data'),
      )
    })
  })
})
