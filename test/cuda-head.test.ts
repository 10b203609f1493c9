/**
 * The output layer on the cuda backend, against sums in float64. Without a GPU the kernels run on the host, and plain
 * loops stand in for cuBLASLt.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, it } from 'vitest'
import { DeviceBuffer, prepareFusedLinearPreferenceLoss } from '../lib/cuda/index.js'
import {
  fusedLinearPreferenceLoss,
  fusedLinearPreferenceLossSync,
  getBackends,
  linearCrossEntropySync,
  linearSequenceLogProbsSync,
} from '../lib/index.js'
import type { FusedLinearOptions, TokenOptions } from '../lib/options/index.js'
import type { DType, HeadGradients, HeadWeight, Hidden, TypedLogits } from '../lib/types/index.js'
import { bytes, CUDA, DIST, DTYPES, decode, encode, gaussian, OUTPUTS, random, storage } from './support.js'

const onHost = !process.env.FPL_TEST_GPU
const hasHead = getBackends().cuda.cublasLt?.available === true

const CHUNK_VARIABLE = 'FUSED_PREFERENCE_LOSS_CHUNK_BYTES'
/** Of the backend on the host. */
const PRODUCTS_VARIABLE = 'FPL_HOST_PRODUCTS'
const CHOICES_VARIABLE = 'FPL_HOST_CHOICES'

/** Bytes of the logits of that many rows, as they lie there. */
const bytesOf = (rows: number, vocab: number) => rows * 4 * 64 * Math.ceil(vocab / 64)

/** Makes chunks of that many rows. */
function chunksOf(rows: number, vocab: number) {
  process.env[CHUNK_VARIABLE] = String(bytesOf(rows, vocab))
}
afterEach(() => {
  delete process.env[CHUNK_VARIABLE]
  delete process.env[PRODUCTS_VARIABLE]
  delete process.env[CHOICES_VARIABLE]
})

interface Sizes {
  batch?: number
  time?: number
  width?: number
  vocab?: number
}

/** An output layer, its input, labels with a masked prompt, and the same values as numbers. */
function problem(dtype: DType, { batch = 4, time = 5, width = 37, vocab = 203 }: Sizes = {}, seed = 1) {
  const next = random(seed)
  const fill = (type: DType, length: number, scale: number) => {
    const data = storage(type, length)
    for (let i = 0; i < length; i++) data[i] = encode[type](scale * gaussian(next))
    return data
  }
  const hidden: Hidden = { data: fill(dtype, batch * time * width, 1), dtype, shape: [batch, time, width] }
  const weight: HeadWeight = { data: fill(dtype, vocab * width, 2 / Math.sqrt(width)), dtype, shape: [vocab, width] }
  const bias = fill(dtype, vocab, 1)
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % time < 2 ? -100 : Math.floor(next() * vocab)))
  if (time > 3) labels.set([0, vocab - 1], time - 2) // the ends of the vocabulary
  return { hidden, weight, bias, labels, batch, time, width, vocab, dtype }
}
type Problem = ReturnType<typeof problem>

/** The weight as `[width, vocab]`. */
function byColumns({ data, dtype, shape: [vocab, width] }: TypedLogits): HeadWeight {
  const turned = storage(dtype, vocab * width)
  for (let v = 0; v < vocab; v++) for (let d = 0; d < width; d++) turned[d * vocab + v] = host(data)[v * width + d]
  return { data: turned, dtype, shape: [vocab, width], strides: [1, vocab] }
}

const host = (data: unknown) => data as Float32Array | Uint16Array

/** An element of a matrix. */
function at({ data, dtype = 'float32', shape, strides = [shape[1], 1] }: HeadWeight, row: number, column: number) {
  return decode[dtype](host(data)[row * strides[0] + column * strides[1]])
}

interface Wanted {
  tokenLogProbs: Float64Array
  logProbs: Float64Array
  hidden: Float64Array
  weight: Float64Array
  bias: Float64Array
}

/** Sums over the formulas: what each row predicts, with the coefficient of each sequence. */
function oracle(
  { hidden, weight, bias, time, width, vocab }: Problem,
  targets: ArrayLike<number>,
  coefficients: ArrayLike<number> = new Float64Array(1024),
  { withBias = true, temperature = 1, sequenceOf = (row: number) => Math.floor(row / time) } = {},
): Wanted {
  const rows = targets.length
  const wanted: Wanted = {
    tokenLogProbs: new Float64Array(rows),
    logProbs: new Float64Array(sequenceOf(rows - 1) + 1),
    hidden: new Float64Array(rows * width),
    weight: new Float64Array(vocab * width),
    bias: new Float64Array(vocab),
  }
  const [states, words] = [rowsOf({ ...hidden, shape: [rows, width] }), rowsOf(weight)]
  for (let r = 0; r < rows; r++) {
    if (targets[r] < 0) continue
    const logits = Float64Array.from({ length: vocab }, (_, v) => {
      let sum = withBias ? decode[weight.dtype as DType](bias[v]) : 0
      for (let d = 0; d < width; d++) sum += states[r * width + d] * words[v * width + d]
      return sum / temperature
    })
    const maximum = Math.max(...logits)
    const total = logits.reduce((sum, x) => sum + Math.exp(x - maximum), 0)
    wanted.tokenLogProbs[r] = logits[targets[r]] - maximum - Math.log(total)
    wanted.logProbs[sequenceOf(r)] += wanted.tokenLogProbs[r]
    for (let v = 0; v < vocab; v++) {
      const p = Math.exp(logits[v] - maximum) / total
      const g = (coefficients[sequenceOf(r)] * ((v === targets[r] ? 1 : 0) - p)) / temperature
      wanted.bias[v] += g
      for (let d = 0; d < width; d++) {
        wanted.hidden[r * width + d] += g * words[v * width + d]
        wanted.weight[v * width + d] += g * states[r * width + d]
      }
    }
  }
  return wanted
}

/** What each row predicts, shifted by one. */
function shifted(labels: Int32Array, time: number) {
  return Int32Array.from(labels, (_, r) => (r % time < time - 1 && labels[r + 1] >= 0 ? labels[r + 1] : -1))
}

/** The distance of `got` from `wanted`, relative to the norm of `wanted`. */
function distance(got: ArrayLike<number>, wanted: ArrayLike<number>) {
  expect(got.length).toBe(wanted.length)
  let off = 0
  let norm = 0
  for (let i = 0; i < wanted.length; i++) {
    off += (got[i] - wanted[i]) ** 2
    norm += wanted[i] ** 2
  }
  return Math.sqrt(off / norm)
}

// Logits and sums are float32; before the last product the logits' gradient is rounded to the type of the factors.
const VALUE = 2e-6
const GRADIENT: Record<DType, number> = { float32: 2e-6, float16: 2 ** -11, bfloat16: 2 ** -8 }

/**
 * Where the label's gradient is not rounded: the others' errors, which fall to both sides, come to less than an eighth of a
 * rounding of the whole.
 */
const APART: Record<DType, number> = { float32: 2e-6, float16: GRADIENT.float16 / 8, bfloat16: GRADIENT.bfloat16 / 8 }

/** The elements of a matrix in the order of its rows. */
function rowsOf(matrix: HeadWeight) {
  const [rows, columns] = matrix.shape
  return Float64Array.from({ length: rows * columns }, (_, i) => at(matrix, Math.floor(i / columns), i % columns))
}

function expectGradientsWithin(got: HeadGradients, wanted: Wanted, tolerance: number) {
  expect(distance(got.gradHidden!.data as Float32Array, wanted.hidden)).toBeLessThan(tolerance)
  expect(distance(rowsOf(got.gradWeight!), wanted.weight)).toBeLessThan(tolerance)
}

function expectGradients(got: HeadGradients, wanted: Wanted, dtype: DType) {
  expectGradientsWithin(got, wanted, GRADIENT[dtype])
  if (got.gradBias) expect(distance(got.gradBias as Float32Array, wanted.bias)).toBeLessThan(VALUE)
}

/** Equality to the bit. */
function expectSame(got: HeadGradients, wanted: HeadGradients) {
  for (const part of ['gradHidden', 'gradWeight', 'gradBias'] as const) {
    const [a, b] = [got[part], wanted[part]].map((found) => found && ('data' in found ? found.data : found))
    expect(bytes(a as Float32Array).equals(bytes(b as Float32Array))).toBe(true)
  }
}

const COEFFICIENTS = [1, -2, 0.5, 3]
const RUN = { backend: 'cuda' } as const

describe.runIf(CUDA.length > 0)('cuBLASLt', () => {
  it('is there, or the reason why not', () => {
    const { cublasLt } = getBackends().cuda
    const known = [[true, 'undefined'], ...(onHost ? [] : [[false, 'string']])]
    expect(known).toContainEqual([cublasLt?.available, typeof cublasLt?.reason])
  })
})

describe.runIf(hasHead).each(DTYPES)('the output layer on the cuda backend, %s', (dtype) => {
  const targets = (p: Problem) => shifted(p.labels, p.time)

  it.each([
    ['without a bias', false, false, 1024],
    ['with a bias', true, false, 1024],
    ['in chunks of 3 rows', true, false, 3],
    ['in chunks of 4 rows', true, false, 4],
    ['with a weight stored [width, vocab]', true, true, 5],
  ])('gives log-probs and gradients, %s', (_, withBias, turned, rows) => {
    const p = problem(dtype)
    chunksOf(rows, p.vocab)
    const weight = turned ? byColumns(p.weight) : p.weight
    const options = withBias ? { ...RUN, bias: p.bias } : RUN
    const got = linearSequenceLogProbsSync(p.hidden, weight, p.labels, { ...options, outputs: ['tokenLogProbs'] })
    const wanted = oracle(p, targets(p), COEFFICIENTS, { withBias })
    expect(distance(got.logProbs, wanted.logProbs)).toBeLessThan(VALUE)
    const tokens = wanted.tokenLogProbs.filter((_, r) => r % p.time < p.time - 1)
    expect(distance(got.tokenLogProbs!, tokens)).toBeLessThan(VALUE)
    const gradients = got.backwardSync(COEFFICIENTS)
    expect(gradients.gradBias !== undefined).toBe(withBias)
    expect(gradients.gradWeight!.strides).toEqual(turned ? [1, p.vocab] : undefined)
    expectGradients(gradients, wanted, dtype)
    for (let r = 0; r < p.batch * p.time; r++) {
      if (targets(p)[r] >= 0) continue
      const row = (gradients.gradHidden!.data as Float32Array).subarray(r * p.width, (r + 1) * p.width)
      expect(row.every((x) => Object.is(x, 0))).toBe(true)
    }
  })

  it.each<[string, Sizes]>([
    ['one feature', { width: 1, vocab: 33 }],
    ['one entry in the vocabulary', { width: 7, vocab: 1 }],
    ['rows of several tiles', { time: 3, width: 1100, vocab: 2500 }],
  ])('takes any size: %s', (_, sizes) => {
    const p = problem(dtype, sizes)
    const labels = p.labels.map((label) => Math.min(label, p.vocab - 1))
    const wanted = oracle(p, shifted(labels, p.time), COEFFICIENTS)
    for (const weight of [p.weight, byColumns(p.weight)]) {
      const got = linearSequenceLogProbsSync(p.hidden, weight, labels, { ...RUN, bias: p.bias })
      const gradients = got.backwardSync(COEFFICIENTS)
      if (p.vocab === 1) {
        expect([...got.logProbs]).toEqual([0, 0, 0, 0])
        expect((gradients.gradHidden!.data as Float32Array).every((x) => x === 0)).toBe(true)
        continue
      }
      expect(distance(got.logProbs, wanted.logProbs)).toBeLessThan(VALUE)
      expectGradients(gradients, wanted, dtype)
    }
  })

  it('gives the loss and its gradients, from two models', () => {
    const p = problem(dtype)
    const model = problem(dtype, { width: 50 }, 2)
    const reference = { hidden: model.hidden, weight: model.weight }
    const got = fusedLinearPreferenceLossSync(p.hidden, p.weight, p.labels, {
      ...RUN,
      bias: p.bias,
      reference,
      gradient: true,
      beta: 0.2,
    })
    const policy = oracle(p, targets(p)).logProbs
    const base = oracle(model, targets(p), undefined, { withBias: false }).logProbs
    const margins = [0, 1].map((i) => 0.2 * (policy[i] - base[i] - (policy[i + 2] - base[i + 2])))
    const loss = margins.reduce((sum, x) => sum + Math.log1p(Math.exp(-x)), 0) / 2
    expect(Math.abs(got.loss - loss)).toBeLessThan(1e-5)
    const slopes = margins.map((x) => -0.2 / (1 + Math.exp(x)) / 2)
    expectGradients(got, oracle(p, targets(p), [...slopes, ...slopes.map((x) => -x)]), dtype)
  })

  it('gives the same bits each time, in one call and in two', () => {
    const p = problem(dtype)
    chunksOf(4, p.vocab)
    const options: FusedLinearOptions = { ...RUN, bias: p.bias, lossType: 'simpo', gradient: true }
    const first = fusedLinearPreferenceLossSync(p.hidden, p.weight, p.labels, options)
    expectSame(fusedLinearPreferenceLossSync(p.hidden, p.weight, p.labels, options), first)
    const { logProbs, backwardSync } = linearSequenceLogProbsSync(p.hidden, p.weight, p.labels, {
      ...RUN,
      bias: p.bias,
    })
    expect([...logProbs]).toEqual([...first.chosenLogProbs, ...first.rejectedLogProbs])
    const { chosen, rejected } = first.gradLogProbs
    expectSame(backwardSync([...chosen, ...rejected]), first)
  })

  it.runIf(onHost)('keeps logits that fit from the loss to the gradients: the same bits, a product fewer', () => {
    const p = problem(dtype)
    const { hidden, weight, bias } = problem(dtype, {}, 2)
    const reference = { hidden, weight, bias }
    const active = Array.from(targets(p)).filter((target) => target >= 0).length
    const folder = mkdtempSync(join(tmpdir(), 'products-'))
    const log = join(folder, 'log')
    const call = (rows: number, logitsBudget?: number) => {
      chunksOf(rows, p.vocab)
      process.env[PRODUCTS_VARIABLE] = log
      writeFileSync(log, '')
      const options = { ...RUN, bias: p.bias, reference, gradient: true, logitsBudget } as const
      const result = fusedLinearPreferenceLossSync(p.hidden, p.weight, p.labels, options)
      return { result, products: readFileSync(log, 'utf8').trim().split('\n').length }
    }
    try {
      for (const rows of [1024, 4]) {
        const chunks = Math.ceil(active / rows)
        // The reference's logits, the policy's, these again, and two products with their gradient.
        const again = call(rows, 0)
        expect(again.products).toBe(5 * chunks)
        const needed = bytesOf(active, p.vocab)
        for (const [budget, isKept] of [
          [undefined, true],
          [needed, true],
          [needed - 1, chunks === 1],
          [1, chunks === 1],
        ] as const) {
          const { result, products } = call(rows, budget)
          expect(products).toBe((isKept ? 4 : 5) * chunks)
          expect(result).toEqual(again.result)
          expectSame(result, again.result)
        }
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('gives a row the same bits in any batch, and in chunks of any size', () => {
    const p = problem(dtype)
    const outputs = OUTPUTS
    const whole = linearSequenceLogProbsSync(p.hidden, p.weight, p.labels, { ...RUN, outputs })
    const size = p.time * p.width
    const alone = { ...p.hidden, data: host(p.hidden.data).slice(size, 2 * size), shape: [1, p.time, p.width] }
    const labels = p.labels.subarray(p.time, 2 * p.time)
    for (const rows of [1, 2, 1024]) {
      chunksOf(rows, p.vocab)
      const got = linearSequenceLogProbsSync(alone, p.weight, labels, { ...RUN, outputs })
      expect(got.logProbs[0]).toBe(whole.logProbs[1])
      const kept = p.time - 1
      for (const name of outputs) expect(got[name]).toEqual(whole[name]!.slice(kept, 2 * kept))
    }
  })

  it('uses device memory where it lies, wherever that begins', () => {
    const p = problem(dtype)
    const size = host(p.hidden.data).BYTES_PER_ELEMENT
    const wanted = linearSequenceLogProbsSync(p.hidden, p.weight, p.labels, { ...RUN, bias: p.bias })
    const gradients = wanted.backwardSync(COEFFICIENTS)
    for (const off of [0, 1, 3]) {
      const moved = (data: unknown) => {
        const padded = storage(dtype, host(data).length + off)
        padded.set(host(data), off)
        const buffer = DeviceBuffer.from(padded)
        return buffer.slice(off * size)
      }
      const room = (length: number) => new DeviceBuffer(4 * (length + off)).slice(4 * off)
      const [out, outWeight, outBias] = [p.labels.length * p.width, p.vocab * p.width, p.vocab].map(room)
      const got = linearSequenceLogProbsSync(
        { ...p.hidden, data: moved(p.hidden.data) },
        { ...p.weight, data: moved(p.weight.data) },
        DeviceBuffer.from(p.labels),
        { bias: moved(p.bias) },
      )
      expect(got.logProbs).toEqual(wanted.logProbs)
      expect(got.tokenCounts).toEqual(wanted.tokenCounts)
      const found = got.backwardSync(COEFFICIENTS, { gradient: { hidden: out, weight: outWeight, bias: outBias } })
      expect(found.gradHidden!.data).toBe(out)
      const read = (memory: DeviceBuffer) => {
        const copy = new Float32Array(memory.byteLength / 4)
        memory.copyTo(copy)
        return copy
      }
      expectSame(
        {
          gradHidden: { ...p.hidden, data: read(out) },
          gradWeight: { ...p.weight, data: read(outWeight) },
          gradBias: read(outBias),
        },
        gradients,
      )
    }
  })

  it.runIf(onHost)('chooses how to multiply once, and cuts rows into even chunks', () => {
    // 16 active rows, of which a chunk may have 11.
    const p = problem(dtype, { time: 5, vocab: 211, width: 29 })
    const labels = p.labels.map((label, i) => (i % p.time < 1 ? -100 : Math.max(label, 0)))
    const active = shifted(labels, p.time).filter((target) => target >= 0).length
    chunksOf(11, p.vocab)
    const folder = mkdtempSync(join(tmpdir(), 'choices-'))
    const logs = [join(folder, 'choices'), join(folder, 'products')]
    try {
      const call = () => {
        for (const log of logs) writeFileSync(log, '')
        process.env[CHOICES_VARIABLE] = logs[0]
        process.env[PRODUCTS_VARIABLE] = logs[1]
        const options = { ...RUN, bias: p.bias, referenceFree: true, gradient: true, logitsBudget: 0 } as const
        const result = fusedLinearPreferenceLossSync(p.hidden, p.weight, labels, options)
        const lines = logs.map((log) => readFileSync(log, 'utf8').split('\n').slice(0, -1))
        return { result, choices: lines[0].length, products: lines[1] }
      }
      const [first, second] = [call(), call()]
      expect([first.choices, second.choices]).toEqual([3, 0])
      expectSame(second.result, first.result)
      const rows = first.products.slice(0, 2).map((line) => Number(line.split(' ')[1]))
      expect(active).toBe(16)
      expect(rows).toEqual([8, 8])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it.runIf(onHost && dtype === 'float32')(
    'chooses for any number of rows at once, and forgets its oldest choices',
    () => {
      const folder = mkdtempSync(join(tmpdir(), 'choices-'))
      const log = join(folder, 'choices')
      process.env[CHOICES_VARIABLE] = log
      try {
        const choices = (rows: number, vocab: number) => {
          writeFileSync(log, '')
          const weight = { data: new Float32Array(2 * vocab).fill(0.5), shape: [vocab, 2] }
          const hidden = { data: new Float32Array(2 * rows).fill(0.25), shape: [1, rows, 2] }
          const options = { ...RUN, shift: false, gradient: true, logitsBudget: 0 } as const
          linearCrossEntropySync(hidden, weight, new Int32Array(rows), options)
          return readFileSync(log, 'utf8').split('\n').length - 1
        }
        expect(choices(1, 3)).toBe(3)
        for (const rows of [1, 2, 3, 17, 130]) expect(choices(rows, 3)).toBe(0)
        let made = 0
        for (let vocab = 4; made < 128; vocab++) made += choices(1, vocab)
        expect(choices(1, 3)).toBe(3)
      } finally {
        rmSync(folder, { recursive: true })
      }
    },
  )

  it.runIf(onHost)('multiplies active rows alone where it can wait for their number, with the same bits', () => {
    const p = problem(dtype, { batch: 4, time: 9 })
    const folder = mkdtempSync(join(tmpdir(), 'products-'))
    const log = join(folder, 'log')
    const labels = p.labels.map((label, i) => (i % p.time < 5 ? -100 : label))
    const active = shifted(labels, p.time).filter((target) => target >= 0).length
    expect(active).toBe(16)
    const [hidden, weight] = [p.hidden, p.weight].map((t) => ({ ...t, data: DeviceBuffer.from(host(t.data)) }))
    const bias = DeviceBuffer.from(host(p.bias))
    const gradient = {
      hidden: new DeviceBuffer(4 * host(p.hidden.data).length),
      weight: new DeviceBuffer(4 * host(p.weight.data).length),
      bias: new DeviceBuffer(4 * p.vocab),
    }
    const options = { bias, gradient, lossType: 'cpo' } as const
    const found = () =>
      Object.values(gradient).map((memory) => {
        const copy = new Uint8Array(memory.byteLength)
        memory.copyTo(copy)
        memory.fill(7)
        return copy
      })
    try {
      for (const [rows, logitsBudget] of [[1024], [5], [5, 0], [3, 0]]) {
        chunksOf(rows, p.vocab)
        process.env[PRODUCTS_VARIABLE] = log
        const there = DeviceBuffer.from(labels)
        const step = prepareFusedLinearPreferenceLoss(hidden, weight, there, { ...options, logitsBudget })
        writeFileSync(log, '')
        step.enqueue()
        const wanted = [step.read().loss, ...found()]
        const multiplied = () => {
          const lines = readFileSync(log, 'utf8').trim().split('\n')
          // Of each product the columns and the rows; the logits have those of the vocabulary.
          const logits = lines.map((line) => line.split(' ').map(Number)).filter(([columns]) => columns === p.vocab)
          writeFileSync(log, '')
          return logits.reduce((sum, [, own]) => sum + own, 0)
        }
        const times = logitsBudget === 0 ? 2 : 1
        expect(multiplied()).toBe(times * p.batch * p.time)
        const { loss } = fusedLinearPreferenceLossSync(hidden, weight, there, { ...options, logitsBudget })
        expect([loss, ...found()]).toEqual(wanted)
        expect(multiplied()).toBe(times * active)
        step.dispose()
      }
      // Of which there are none.
      const none = DeviceBuffer.from(labels.fill(-100))
      writeFileSync(log, '')
      fusedLinearPreferenceLossSync(hidden, weight, none, options)
      expect(readFileSync(log, 'utf8')).toBe('')
      for (const bytes of found()) expect(bytes.every((byte) => byte === 0)).toBe(true)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('rounds no gradient of a label, which is nearly all there is of a token that is well predicted', () => {
    for (const turned of [false, true]) {
      const p = problem(dtype, { width: 64 })
      const predicted = targets(p)
      // Every third token is nearly certain; of the others some have the same label.
      for (const [r, target] of predicted.entries()) {
        if (target < 0) continue
        if (r % 3 === 1) p.labels[r + 1] = predicted[r] = 11
        if (r % 3 !== 0) continue
        for (let d = 0; d < p.width; d++) {
          host(p.hidden.data)[r * p.width + d] = encode[dtype](2.5 * at(p.weight, target, d))
        }
      }
      const weight = turned ? byColumns(p.weight) : p.weight
      for (const rows of [1024, 4]) {
        chunksOf(rows, p.vocab)
        const got = linearSequenceLogProbsSync(p.hidden, weight, p.labels, { ...RUN, bias: p.bias })
        const gradients = got.backwardSync(COEFFICIENTS)
        const wanted = oracle(p, predicted, COEFFICIENTS)
        const off = [
          distance(gradients.gradHidden!.data as Float32Array, wanted.hidden),
          distance(rowsOf(gradients.gradWeight!), wanted.weight),
        ]
        for (const error of off) expect(error).toBeLessThan(APART[dtype])
        expect(distance(gradients.gradBias as Float32Array, wanted.bias)).toBeLessThan(VALUE)
      }
    }
  })

  // Of 4 equal logits with a coefficient of 4, a label's gradient is 3 and that of the others is -1. A feature is 0 but in
  // rows with one label, to whose weight the product of the others then adds nothing: what is left are sums over the rows
  // with that label, one after the other in float32.
  it.runIf(dtype !== 'float32').each([1024, 300])(
    'adds hidden states to the weights of their labels in the order of rows, in chunks of %i',
    (rows) => {
      const [batch, time, vocab] = [2, 600, 4]
      const total = batch * time
      chunksOf(rows, vocab)
      const next = random(7)
      const labels = Int32Array.from({ length: total }, (_, r) => {
        if (r === 5 || r === 1100) return 3
        if (r % 7 === 0) return -100
        return r < 300 ? r % 2 : r % 3 === 0 ? 2 : 0
      })
      const wanted = Array.from({ length: vocab }, () => [0, 0])
      const data = storage(dtype, total * vocab)
      const add = (label: number, direction: number, state: number) => {
        wanted[label][direction] = Math.fround(wanted[label][direction] + 3 * state)
      }
      const states: [number, number][] = []
      for (const [r, label] of labels.entries()) {
        if (label < 0) continue
        const at = r * vocab + label
        data[at] = encode[dtype](gaussian(next) * 2 ** (8 * next()))
        states.push([label, decode[dtype](data[at])])
      }
      for (const [label, state] of states) add(label, 0, state)
      for (const [label, state] of states.reverse()) add(label, 1, state)
      const hidden = { data, dtype, shape: [batch, time, vocab] } as const
      const weight = { data: storage(dtype, vocab * vocab), dtype, shape: [vocab, vocab] } as const
      const sums = linearSequenceLogProbsSync(hidden, weight, labels, { ...RUN, shift: false })
      const { gradWeight } = sums.backwardSync([4, 4], { gradient: { weight: true } })
      const got = wanted.map((_, label) => at(gradWeight!, label, label))
      expect(got).toEqual(wanted.map(([inOrder]) => inOrder))
      // Other orders have other bits.
      expect(got).not.toEqual(wanted.map(([, reversed]) => reversed))
    },
  )

  // The last has 257 rows that predict something: one more than two strips of them.
  it.each([
    [1024, 4, 150],
    [300, 4, 150],
    [1024, 1, 259],
  ])('sums the gradient of the bias over many rows, in chunks of %i', (rows, batch, time) => {
    const p = problem(dtype, { batch, time, width: 5, vocab: 2051 })
    chunksOf(rows, p.vocab)
    const options = { ...RUN, bias: p.bias }
    const { backwardSync } = linearSequenceLogProbsSync(p.hidden, p.weight, p.labels, options)
    const coefficients = COEFFICIENTS.slice(0, batch)
    const { gradBias } = backwardSync(coefficients, { gradient: { bias: true } })
    expect(distance(gradBias as Float32Array, oracle(p, targets(p), coefficients).bias)).toBeLessThan(VALUE)
  })

  it('keeps the digits of small gradients', () => {
    const p = problem(dtype)
    const small = COEFFICIENTS.map((c) => c * 2 ** -40)
    const { backwardSync } = linearSequenceLogProbsSync(p.hidden, p.weight, p.labels, { ...RUN, bias: p.bias })
    expectGradients(backwardSync(small), oracle(p, targets(p), small), dtype)
  })
})

describe.runIf(hasHead)('the output layer on the cuda backend', () => {
  it('takes packed sequences, strides, temperature, weights and a mask', () => {
    const p = problem('bfloat16', { batch: 1, time: 13, width: 9, vocab: 65 })
    const offsets = [0, 3, 4, 9, 13]
    const stride = 11
    const spread = storage('bfloat16', 13 * stride).fill(encode.bfloat16(Number.NaN))
    for (let r = 0; r < 13; r++) spread.set(host(p.hidden.data).subarray(9 * r, 9 * r + 9), r * stride)
    const labels = Int32Array.from({ length: 13 }, (_, r) => (7 * r) % 65)
    const mask = labels.map((_, r) => (r === 10 ? 0 : 1))
    const temperature = 1.5
    const options: TokenOptions = { sequenceOffsets: offsets, mask, temperature }
    const hidden = { data: spread, dtype: 'bfloat16', shape: [13, 9], strides: [stride, 1] } as const
    const got = linearSequenceLogProbsSync(hidden, p.weight, labels, { ...RUN, ...options, bias: p.bias })
    const sequenceOf = (row: number) => offsets.findLastIndex((start) => start <= row)
    const targets = labels.map((_, r) => (offsets.includes(r + 1) || mask[r + 1] === 0 ? -1 : labels[r + 1]))
    const wanted = oracle(p, targets, COEFFICIENTS, { temperature, sequenceOf })
    expect(distance(got.logProbs, wanted.logProbs)).toBeLessThan(VALUE)
    expectGradients(got.backwardSync(COEFFICIENTS), wanted, 'bfloat16')
  })

  it('takes hidden states and a weight of different types', () => {
    for (const [dtype, other] of [
      ['float32', 'bfloat16'],
      ['float16', 'float32'],
      ['bfloat16', 'float16'],
    ] as const) {
      const p = { ...problem(dtype), ...{ weight: problem(other).weight, bias: problem(other).bias } }
      for (const weight of [p.weight, byColumns(p.weight)]) {
        const got = linearSequenceLogProbsSync(p.hidden, weight, p.labels, { ...RUN, bias: p.bias })
        const wanted = oracle(p, shifted(p.labels, p.time), COEFFICIENTS)
        expect(distance(got.logProbs, wanted.logProbs)).toBeLessThan(VALUE)
        expectGradients(got.backwardSync(COEFFICIENTS), wanted, 'float32')
      }
    }
  })

  it('adds to what the arrays hold, and leaves inactive rows alone when told to', () => {
    const p = problem('float32')
    chunksOf(4, p.vocab)
    const { backwardSync } = linearSequenceLogProbsSync(p.hidden, p.weight, p.labels, { ...RUN, bias: p.bias })
    const alone = backwardSync(COEFFICIENTS)
    const full = (length: number) => new Float32Array(length).fill(0.5)
    const into = () => ({
      hidden: full(p.labels.length * p.width),
      weight: full(p.vocab * p.width),
      bias: full(p.vocab),
    })
    const plus = (found: ArrayLike<number>) => Float64Array.from(found, (x) => x + 0.5)
    const added = into()
    backwardSync(COEFFICIENTS, { gradient: added, accumulate: true })
    expect(distance(added.hidden, plus(alone.gradHidden!.data as Float32Array))).toBeLessThan(1e-6)
    expect(distance(added.weight, plus(alone.gradWeight!.data as Float32Array))).toBeLessThan(1e-6)
    expect(distance(added.bias, plus(alone.gradBias as Float32Array))).toBeLessThan(1e-6)
    expect(added.hidden[0]).toBe(0.5)

    const kept = into()
    backwardSync(COEFFICIENTS, { gradient: kept, zeroInactive: false })
    expect(kept.hidden[0]).toBe(0.5)
    const active = p.width // row 1 is the first that predicts something
    expect(kept.hidden[active]).toBe((alone.gradHidden!.data as Float32Array)[active])
    expect(bytes(kept.weight).equals(bytes(alone.gradWeight!.data as Float32Array))).toBe(true)
    const cleared = into()
    backwardSync(COEFFICIENTS, { gradient: cleared })
    expect(cleared.hidden[0]).toBe(0)

    const there = DeviceBuffer.from(full(p.vocab * p.width))
    const onDevice = linearSequenceLogProbsSync(
      { ...p.hidden, data: DeviceBuffer.from(p.hidden.data as Float32Array) },
      { ...p.weight, data: DeviceBuffer.from(p.weight.data as Float32Array) },
      p.labels,
      { bias: DeviceBuffer.from(p.bias as Float32Array) },
    )
    onDevice.backwardSync(COEFFICIENTS, { gradient: { weight: there }, accumulate: true })
    const copy = new Float32Array(p.vocab * p.width)
    there.copyTo(copy)
    expect(bytes(copy).equals(bytes(added.weight))).toBe(true)
  })

  it('adds to no new memory, and leaves none of it as it was found', () => {
    const p = problem('float32')
    const sums = linearSequenceLogProbsSync(
      { ...p.hidden, data: DeviceBuffer.from(p.hidden.data as Float32Array) },
      { ...p.weight, data: DeviceBuffer.from(p.weight.data as Float32Array) },
      p.labels,
    )
    const there = DeviceBuffer.from(new Float32Array(p.vocab * p.width))
    expect(() =>
      sums.backwardSync(COEFFICIENTS, { gradient: { hidden: true, weight: there }, accumulate: true }),
    ).toThrow(
      expect.objectContaining({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringContaining('options.accumulate needs memory for all gradients on a GPU'),
      }),
    )
    const { gradHidden } = sums.backwardSync(COEFFICIENTS, { gradient: { hidden: true }, zeroInactive: false })
    const rows = new Float32Array(p.batch * p.time * p.width)
    ;(gradHidden!.data as DeviceBuffer).copyTo(rows)
    // The last position of a sequence predicts nothing.
    expect([...rows.subarray((p.time - 1) * p.width, p.time * p.width)]).toEqual(new Array(p.width).fill(0))
  })

  it('refuses labels that are said to be on another GPU', () => {
    const p = problem('float32')
    const hidden = { ...p.hidden, data: DeviceBuffer.from(p.hidden.data as Float32Array) }
    const weight = { ...p.weight, data: DeviceBuffer.from(p.weight.data as Float32Array) }
    const { ptr, byteLength } = DeviceBuffer.from(p.labels)
    expect(() => linearSequenceLogProbsSync(hidden, weight, { ptr, byteLength, device: 1 })).toThrow(
      /labels.device is 1, but the memory is on device 0/,
    )
  })

  it('gives zeros where nothing is predicted, and adds none', () => {
    const p = problem('bfloat16')
    const options = { ...RUN, bias: p.bias }
    const got = linearSequenceLogProbsSync(
      p.hidden,
      p.weight,
      p.labels.map(() => -100),
      options,
    )
    expect([...got.logProbs]).toEqual([0, 0, 0, 0])
    const { gradHidden, gradWeight, gradBias } = got.backwardSync(COEFFICIENTS)
    for (const data of [gradHidden!.data, gradWeight!.data, gradBias]) {
      expect((data as Float32Array).every((x) => Object.is(x, 0))).toBe(true)
    }
    const kept = new Float32Array(p.vocab * p.width).fill(3)
    got.backwardSync(COEFFICIENTS, { gradient: { weight: kept }, accumulate: true })
    expect(kept.every((x) => x === 3)).toBe(true)
  })

  it('gives WPO and all by-products as in one piece', () => {
    const p = problem('float32')
    const options: FusedLinearOptions = { ...RUN, lossType: 'cpo', weighting: 'wpo', outputs: OUTPUTS }
    const whole = fusedLinearPreferenceLossSync(p.hidden, p.weight, p.labels, options)
    expect(whole.tokenArgmax![0]).toBe(-1)
    expect(whole.tokenEntropies![1]).toBeGreaterThan(0)
    expect(whole.tokenEntropies![0]).toBe(0)
    chunksOf(2, p.vocab)
    expect(fusedLinearPreferenceLossSync(p.hidden, p.weight, p.labels, options)).toEqual(whole)
  })

  it('reports labels on the device that are out of range', () => {
    const p = problem('float32')
    p.labels[p.time - 1] = p.vocab
    const hidden = { ...p.hidden, data: DeviceBuffer.from(p.hidden.data as Float32Array) }
    const weight = { ...p.weight, data: DeviceBuffer.from(p.weight.data as Float32Array) }
    const call = () => linearSequenceLogProbsSync(hidden, weight, DeviceBuffer.from(p.labels))
    expect(call).toThrow(expect.objectContaining({ code: 'ERR_LABEL_OUT_OF_RANGE' }))
    expect(call).toThrow('1 of the labels')
  })

  it('is cancelled before a gradient is begun', async () => {
    const p = problem('float32')
    const gradient = { weight: new Float32Array(p.vocab * p.width).fill(7) }
    const controller = new AbortController()
    const options: FusedLinearOptions = { ...RUN, lossType: 'cpo', gradient, signal: controller.signal }
    const running = fusedLinearPreferenceLoss(p.hidden, p.weight, p.labels, options)
    controller.abort(new Error('enough'))
    await expect(running).rejects.toThrow('enough')
    expect(gradient.weight.every((x) => x === 7)).toBe(true)
  })
})

/** The findings of a fresh process where cuBLASLt is missing or fails: the error, and whether anything was written. */
function inProcess(environment: Record<string, string>) {
  const source = `
    const { fusedLinearPreferenceLossSync, fusedPreferenceLossSync, getBackends } = await import(${JSON.stringify(DIST.href)})
    const hidden = { data: new Float32Array(32).fill(1), shape: [2, 2, 8] }
    const weight = { data: new Float32Array(40).fill(1), shape: [5, 8] }
    const labels = Int32Array.of(1, 2, 3, 4)
    const gradient = { hidden: new Float32Array(32).fill(7), weight: new Float32Array(40).fill(7) }
    const options = { lossType: 'cpo', backend: 'cuda' }
    let error
    try {
      fusedLinearPreferenceLossSync(hidden, weight, labels, { ...options, gradient })
    } catch ({ code, message }) {
      error = { code, message }
    }
    const logits = { data: new Float32Array(20), shape: [2, 2, 5] }
    const { loss } = fusedPreferenceLossSync(logits, labels, options)
    const untouched = [...gradient.hidden, ...gradient.weight].every((x) => x === 7)
    console.log(JSON.stringify({ error, loss, untouched, cublasLt: getBackends().cuda.cublasLt }))`
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', source], {
    encoding: 'utf8',
    env: { ...process.env, ...environment },
  })
  if (child.status !== 0) throw new Error(`exit ${child.status} ${child.signal}: ${child.stderr}`)
  return JSON.parse(child.stdout)
}

it.runIf(onHost && CUDA.length > 0)('cuts rows into chunks that fit the multiprocessors', () => {
  const unit = fileURLToPath(new URL('../build/Release/fused_preference_loss_chunks_unit', import.meta.url))
  expect(execFileSync(unit, { encoding: 'utf8' })).toMatch(/^\d{4,} checks, 0 wrong/)
})

describe.runIf(hasHead)('products of TF32', () => {
  // Both factors of a product may lose the last 13 of 23 bits, at most 2^-10 of them.
  const VALUE_OF_TF32 = 2 ** -8
  const tf32 = { ...RUN, products: 'tf32' } as const

  it('are near those of float32, and take the gradients of labels apart', () => {
    for (const turned of [false, true]) {
      const p = problem('float32', { width: 64 })
      const weight = turned ? byColumns(p.weight) : p.weight
      const predicted = shifted(p.labels, p.time)
      for (const rows of [1024, 4]) {
        chunksOf(rows, p.vocab)
        const got = linearSequenceLogProbsSync(p.hidden, weight, p.labels, { ...tf32, bias: p.bias })
        const wanted = oracle(p, predicted, COEFFICIENTS)
        const gradients = got.backwardSync(COEFFICIENTS)
        const off = [
          distance(got.logProbs, wanted.logProbs),
          distance(gradients.gradHidden!.data as Float32Array, wanted.hidden),
          distance(rowsOf(gradients.gradWeight!), wanted.weight),
          distance(gradients.gradBias as Float32Array, wanted.bias),
        ]
        for (const error of off) expect(error).toBeLessThan(VALUE_OF_TF32)
        // They are not those of float32.
        expect(off[1]).toBeGreaterThan(VALUE)
        expect(linearSequenceLogProbsSync(p.hidden, weight, p.labels, { ...tf32, bias: p.bias })).toMatchObject({
          logProbs: got.logProbs,
        })
      }
    }
  })

  // Without a bias and with logits of 0, the gradient of the label of four is 3 and those of others are -1. Hidden states
  // that TF32 cannot hold come whole to the weight of their label, and cut off to the others.
  it('round neither the label nor what it is multiplied by', () => {
    const state = 1 + 2 ** -20
    const hidden = { data: new Float32Array(4).fill(state), shape: [1, 1, 4] }
    const weight = { data: new Float32Array(16), shape: [4, 4] }
    const sums = linearSequenceLogProbsSync(hidden, weight, Int32Array.of(2), { ...tf32, shift: false })
    const { gradWeight } = sums.backwardSync([4])
    const rows = [0, 1, 2, 3].map((v) => at(gradWeight!, v, 0))
    expect(rows[2]).toBe(Math.fround(3 * state))
    if (onHost) expect(rows).toEqual([-1, -1, Math.fround(3 * state), -1])
  })

  it('are those of float32 factors, on cuda', () => {
    const p = problem('bfloat16')
    const refused = (call: () => unknown, message: string) =>
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE', message }))
    refused(
      () => linearSequenceLogProbsSync(p.hidden, p.weight, p.labels, tf32),
      "options.products 'tf32' multiplies factors of float32; here hidden is bfloat16, weight is bfloat16",
    )
    const { hidden, weight, labels } = problem('float32')
    refused(
      () => linearSequenceLogProbsSync(hidden, weight, labels, { backend: 'cpu', products: 'tf32' }),
      "options.products 'tf32' is of the cuda backend; this call runs on 'cpu'",
    )
    // Factors of two types are float32.
    const mixed = { ...problem('float32'), weight: p.weight, bias: p.bias }
    const got = linearSequenceLogProbsSync(mixed.hidden, mixed.weight, mixed.labels, { ...tf32, bias: mixed.bias })
    const wanted = oracle(mixed, shifted(mixed.labels, mixed.time), COEFFICIENTS)
    expect(distance(got.logProbs, wanted.logProbs)).toBeLessThan(VALUE_OF_TF32)
    expectGradientsWithin(got.backwardSync(COEFFICIENTS), wanted, VALUE_OF_TF32)
  })
})

describe.runIf(onHost && CUDA.length > 0)('cuBLASLt that', () => {
  it('is missing: says so, writes nothing, and is missed by nothing else', () => {
    const path = '/nowhere/libcublasLt.so'
    const { error, loss, untouched, cublasLt } = inProcess({ FUSED_PREFERENCE_LOSS_CUBLASLT: path })
    expect(error.code).toBe('ERR_CUDA')
    expect(error.message).toMatch(/output layer needs cuBLASLt, which cannot be opened: .*nowhere/)
    expect(cublasLt).toEqual({ available: false, reason: expect.stringContaining(path) })
    expect([untouched, typeof loss]).toEqual([true, 'number'])
  })

  it('is something else: says so', () => {
    const { error } = inProcess({ FUSED_PREFERENCE_LOSS_CUBLASLT: process.env.FUSED_PREFERENCE_LOSS_CUDA_LIBRARY! })
    expect(error.message).toContain('it has no cublasLt')
  })

  it('fails: says so, and writes nothing', () => {
    const { error, loss, untouched } = inProcess({ FPL_HOST_FAULT: 'matmul' })
    expect(error.code).toBe('ERR_CUDA')
    expect(error.message).toContain('CUBLAS_STATUS_EXECUTION_FAILED while multiplying')
    expect([untouched, typeof loss]).toEqual([true, 'number'])
  })
})
