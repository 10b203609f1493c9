/**
 * IEEE arithmetic at its edges, on every backend, instruction set and element type: infinities, NaN, rows that must not
 * be read, one-token vocabularies, huge and tiny logits and temperatures, odd layouts.
 */
import { describe, expect, test } from 'vitest'
import { getBackends } from '../lib/index.js'
import type { SequenceOptions } from '../lib/options/index.js'
import type { DType, Logits, SequenceLogProbs } from '../lib/types/index.js'
import * as calls from './calls.js'
import { IS_BROWSER, TESTS_SHIPPED } from './platform.js'
import {
  ALL_TARGETS,
  bytes,
  DTYPES,
  decode,
  encode,
  firstDifference,
  gaussian,
  JS,
  logitsOf,
  NATIVE,
  OUTPUTS,
  random,
  storage,
  TARGETS,
  ulp,
  ulpsOf,
  values,
  vanishingOf,
  WAITING,
} from './support.js'

const { NaN: nan, POSITIVE_INFINITY: inf } = Number

const CASES = ALL_TARGETS.flatMap((target) => DTYPES.map((dtype) => ({ ...target, dtype })))

test.skipIf(IS_BROWSER || TARGETS.length === 0)('the cpu backend is among them', () => {
  expect(getBackends().cpu.available).toBe(true)
  expect(NATIVE.length).toBeGreaterThan(0)
  expect(TARGETS.includes(JS)).toBe(!TESTS_SHIPPED)
})

/**
 * Log-prob and gradient of one row by the textbook, in float64, with the label kept separate so that 1 − p does not
 * cancel.
 */
function oracle(row: ArrayLike<number>, label: number, temperature = 1) {
  let maximum = Math.max(...Array.from(row))
  if (maximum === -inf) maximum = 0
  const exps = Array.from(row, (x) => Math.exp((x - maximum) / temperature))
  const others = exps.reduce((sum, e, i) => (i === label ? sum : sum + e), 0)
  const total = others + exps[label]
  const z = Math.log(others) - (row[label] - maximum) / temperature
  const logProb = -(Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))))
  return { logProb, gradient: exps.map((e, i) => (i === label ? others : -e) / total / temperature) }
}

describe.each(CASES)('$name, $dtype', WAITING, ({ run, dtype }) => {
  const ulps = ulpsOf(run)

  /** Rows of one sequence each, row i predicting labels[i]. */
  async function forward(rows: readonly ArrayLike<number>[], labels: number[], options: SequenceOptions = {}) {
    const vocab = rows[0].length
    const elements = new Float64Array(rows.length * vocab)
    for (const [i, row] of rows.entries()) elements.set(row, i * vocab)
    const logits = logitsOf(dtype, [rows.length, 1, vocab], elements)
    return await calls.sequenceLogProbs(logits, Int32Array.from(labels), { shift: false, ...run, ...options })
  }

  /** One row, its gradient for a coefficient of 1, and the by-products; the kernels without them must agree. */
  async function one(row: ArrayLike<number>, label: number, options: SequenceOptions = {}) {
    const plain = await forward([row], [label], options)
    const full = await forward([row], [label], { ...options, outputs: OUTPUTS })
    const gradient = Array.from(values((await plain.backward([1])).gradLogits))
    expectNear(full.logProbs[0], plain.logProbs[0], ulps.logProb * ulp(Math.max(1, Math.abs(plain.logProbs[0]))))
    for (const [i, x] of values((await full.backward([1])).gradLogits).entries())
      expectNear(x, gradient[i], step(x, 2 * ulps.gradient))
    return {
      logProb: plain.logProbs[0],
      gradient,
      tokenLogProb: full.tokenLogProbs![0],
      entropy: full.tokenEntropies![0],
      argmax: full.tokenArgmax![0],
      logSumExp: full.logSumExp![0],
      sumSquaredProbs: full.sumSquaredProbs![0],
    }
  }

  /** The row's logits after they have been stored. */
  const stored = (row: ArrayLike<number>) => Array.from(row, (x) => decode[dtype](encode[dtype](x)))

  const vanishing = vanishingOf(run)

  /** A number of float32 ULP, plus one ULP of the 16-bit type where there is one. */
  function step(x: number, ulps: number): number {
    const bits = dtype === 'float32' ? 24 : dtype === 'float16' ? 11 : 8
    const least = dtype === 'float16' ? 2 ** -24 : vanishing
    return ulps * ulp(x) + vanishing + (dtype === 'float32' ? 0 : Math.max(Math.abs(x) * 2 ** (1 - bits), least))
  }

  function expectNear(got: number, wanted: number, bound: number): void {
    if (Object.is(got, wanted) || Math.abs(got - wanted) <= bound) return
    expect.fail(`${got} is not within ${bound} of ${wanted}`)
  }

  /** Compares a row with the oracle. */
  async function check(row: ArrayLike<number>, label: number, temperature = 1): Promise<void> {
    const result = await one(row, label, { temperature })
    const wanted = oracle(stored(row), label, temperature)
    expectNear(result.logProb, wanted.logProb, ulps.logProb * ulp(Math.max(1, Math.abs(wanted.logProb))))
    for (const [i, x] of wanted.gradient.entries()) expectNear(result.gradient[i], x, step(x, ulps.gradient))
  }

  const huge = dtype === 'float16' ? 65504 : 3e38

  test('a logit of -inf that is not the label has probability 0', async () => {
    const result = await one([1, -inf, 2, -inf], 0)
    const without = await one([1, 2], 0)
    for (const name of ['logProb', 'entropy', 'sumSquaredProbs', 'logSumExp'] as const) {
      expectNear(result[name], without[name], 3e-7)
    }
    expect(result.argmax).toBe(2)
    expectNear(result.gradient[0], without.gradient[0], step(without.gradient[0], ulps.gradient))
    expectNear(result.gradient[2], without.gradient[1], step(without.gradient[1], ulps.gradient))
    for (const i of [1, 3]) expect(Math.abs(result.gradient[i])).toBe(0)
  })

  test('a label that alone has any probability is certain', async () => {
    for (const [row, label] of [
      [[-inf, 4, -inf], 1],
      [[-100], 0],
      [[0], 0],
      [[512], 0],
      [[-huge], 0],
      [Array.from({ length: 2049 }, (_, i) => (i === 2048 ? -50 : -inf)), 2048],
      [Array.from({ length: 40_000 }, (_, i) => (i === 20_000 ? -50 : -inf)), 20_000],
    ] as [number[], number][]) {
      const result = await one(row, label)
      expect([result.logProb, result.tokenLogProb, result.entropy].map(Math.abs)).toEqual([0, 0, 0])
      expect(result.argmax).toBe(label)
      expect(result.sumSquaredProbs).toBe(1)
      expect(result.logSumExp).toBe(stored(row)[label])
      expect(result.gradient.every((x) => x === 0)).toBe(true)
    }
  })

  test('a vocabulary of 1 is certain at every temperature, NaN and infinities apart', async () => {
    for (const temperature of [1e-3, 1, 1e3]) {
      for (const x of [0, 1, -100, 700, -huge, huge]) {
        const sums = await forward([[x]], [0], { temperature })
        expect([Math.abs(sums.logProbs[0]), Math.abs(values((await sums.backward([-3])).gradLogits)[0])]).toEqual([
          0, 0,
        ])
      }
    }
    for (const x of [nan, inf, -inf]) expect((await one([x], 0)).logProb).toBeNaN()
  })

  test('a label of -inf has log-prob -inf and a finite gradient', async () => {
    const result = await one([0, -inf, 0], 1)
    expect(result.logProb).toBe(-inf)
    expect(result.tokenLogProb).toBe(-inf)
    expect(result.gradient).toEqual([-0.5, 1, -0.5])
    expect(result.entropy).toBeCloseTo(Math.LN2, 6)
    expect(result.sumSquaredProbs).toBe(0.5)
    expect(result.argmax).toBe(0)
    const long = Float64Array.from({ length: 20_001 }, (_, i) => (i === 20_000 ? -inf : Math.sin(i)))
    const far = await one(long, 20_000)
    expect(far.logProb).toBe(-inf)
    expect(far.gradient.every(Number.isFinite)).toBe(true)
    expect(far.gradient[20_000]).toBe(1)
  })

  // Positions in the first tile, within a vector, a block later, in the second segment, in the tail.
  const places = [0, 63, 2048, 12_000, 16_500]
  const hopeless: [string, number[]][] = [
    ['NaN', [nan]],
    ['+inf', [inf]],
    ['-inf and +inf', [-inf, inf]],
    ['NaN and +inf', [nan, inf]],
    ['NaN and -inf', [nan, -inf]],
  ]
  test.each(hopeless)('%s anywhere in a row is NaN for its sequence alone', async (_, bad) => {
    const next = random(7)
    const good = Float64Array.from({ length: 16_501 }, () => gaussian(next))
    const alone = await forward([good], [11])
    const aloneGradient = values((await alone.backward([1])).gradLogits)
    for (const place of places) {
      for (const label of [11, place]) {
        const row = good.slice()
        for (const [i, x] of bad.entries()) row[(place + 7 * i) % row.length] = x
        for (const outputs of [undefined, OUTPUTS]) {
          const sums = await forward([good, row, good], [11, label, 11], { outputs })
          expect(sums.logProbs[1]).toBeNaN()
          if (!outputs) expect([sums.logProbs[0], sums.logProbs[2]]).toEqual([alone.logProbs[0], alone.logProbs[0]])
          if (outputs) {
            for (const name of OUTPUTS) expect(sums[name]![1]).toEqual(name === 'tokenArgmax' ? -1 : nan)
            for (const name of OUTPUTS) expect([sums[name]![0], sums[name]![2]]).not.toContain(nan)
          }
          if (outputs || label !== 11) continue
          const gradient = values((await sums.backward([1, 1, 1])).gradLogits)
          expect(gradient.subarray(row.length, 2 * row.length).every(Number.isNaN)).toBe(true)
          expect(firstDifference(gradient.subarray(0, row.length), aloneGradient)).toBe(-1)
          expect(firstDifference(gradient.subarray(2 * row.length), aloneGradient)).toBe(-1)
        }
      }
    }
  })

  test('a row of -inf is NaN for its sequence alone', async () => {
    for (const vocab of [1, 3, 64, 65, 2049, 20_000]) {
      const bad = new Float64Array(vocab).fill(-inf)
      const good = Float64Array.from(bad, (_, i) => i % 5)
      const sums = await forward([good, bad, good], [0, vocab >> 1, 0], { outputs: OUTPUTS })
      expect(sums.logProbs[1]).toBeNaN()
      expect([sums.logProbs[0], sums.logProbs[2]]).not.toContain(nan)
      for (const name of OUTPUTS) expect(sums[name]![1]).toEqual(name === 'tokenArgmax' ? -1 : nan)
      const gradient = values((await sums.backward([1, 1, 1])).gradLogits)
      expect(gradient.subarray(vocab, 2 * vocab).every(Number.isNaN)).toBe(true)
      expect(gradient.subarray(0, vocab).some(Number.isNaN)).toBe(false)
      expect(gradient.subarray(2 * vocab).some(Number.isNaN)).toBe(false)
      // The kernels without by-products.
      expect((await forward([bad], [0])).logProbs[0]).toBeNaN()
    }
  })

  test('a NaN coefficient is NaN for its sequence alone', async () => {
    const gradient = values(
      (
        await (
          await forward(
            [
              [1, 2, 3],
              [4, 5, 7],
            ],
            [0, 1],
          )
        ).backward([nan, 1])
      ).gradLogits,
    )
    expect(Array.from(gradient.subarray(0, 3)).every(Number.isNaN)).toBe(true)
    expect(Array.from(gradient.subarray(3)).some(Number.isNaN)).toBe(false)
  })

  /** [2, 5, vocab] with labels of which some are ignored, and rows that predict nothing filled with `garbage`. */
  function garbled(garbage: (i: number) => number, vocab: number): [Logits, Int32Array, number[]] {
    const next = random(99)
    const labels = Int32Array.from({ length: 10 }, (_, i) => (i === 1 || i === 6 ? -100 : (i * 7919) % vocab))
    const mask = Array.from({ length: 10 }, (_, i) => (i === 3 ? 0 : 1))
    const elements = Float64Array.from({ length: 10 * vocab }, (_, i) =>
      SILENT.includes(Math.floor(i / vocab)) ? garbage(i) : 8 * next() - 4,
    )
    return [logitsOf(dtype, [2, 5, vocab], elements), labels, mask]
  }
  // The row before each ignored or masked label, and the last of each sequence.
  const SILENT = [0, 2, 4, 5, 9]

  const rubbish: [string, (i: number) => number][] = [
    ['NaN', () => nan],
    ['+inf', () => inf],
    ['-inf', () => -inf],
    ['a mixture', (i) => [nan, inf, -inf, huge, -huge][i % 5]],
  ]
  test.each(rubbish)('%s in a row that predicts nothing never shows', async (_, garbage) => {
    for (const vocab of garbage(0) === garbage(1) ? [3, 2049] : [1, 17, 16_400]) {
      const call = async (filling: (i: number) => number, gradient: 'in-place' | true) => {
        const [logits, labels, mask] = garbled(filling, vocab)
        const reference = {
          ...logits,
          dtype,
          data:
            logits.data instanceof Float32Array ? logits.data.slice() : Uint16Array.from(logits.data as Uint16Array),
        }
        const result = await calls.fusedPreferenceLoss(logits, labels, {
          mask,
          gradient,
          outputs: OUTPUTS,
          weighting: 'wpo',
          reference: { logits: reference },
          ...run,
        })
        return { ...result, gradLogits: values(result.gradLogits!) }
      }
      const clean = await call(() => 0, true)
      for (let row = 0; row < 10; row++) {
        const part = clean.gradLogits.subarray(row * vocab, (row + 1) * vocab)
        if (SILENT.includes(row)) expect(part.every((x) => Object.is(x, 0))).toBe(true)
        else expect(vocab === 1 || part.some((x) => x !== 0)).toBe(true)
      }
      for (const place of [true, 'in-place'] as const) {
        const got = await call(garbage, place)
        expect(firstDifference(got.gradLogits, clean.gradLogits)).toBe(-1)
        expect({ ...got, gradLogits: 0 }).toEqual({ ...clean, gradLogits: 0 })
      }
    }
  })

  test('a gradient written into a used array leaves nothing of what was there', async () => {
    const [logits, labels, mask] = garbled(() => nan, 300)
    const sums = await calls.sequenceLogProbs(logits, labels, { mask, ...run })
    const fresh = (await sums.backward([1, -2])).gradLogits.data
    for (const old of [nan, 1, -inf]) {
      const out = storage(dtype, (logits.data as Float32Array).length).fill(encode[dtype](old))
      await sums.backward([1, -2], { gradient: out })
      expect(bytes(out).equals(bytes(fresh as Float32Array))).toBe(true)
    }
    // A coefficient of 0 is a gradient of 0, whatever the logits.
    expect(values((await sums.backward([0, 0])).gradLogits).every((x) => x === 0)).toBe(true)
  })

  test('a sequence without active tokens', async () => {
    const labels = Int32Array.of(-100, -100, -100, 1, 2, 0)
    const logits = logitsOf(
      dtype,
      [2, 3, 4],
      new Float64Array(24).map((_, i) => Math.cos(i)),
    )
    const call = (options: SequenceOptions) => calls.sequenceLogProbs(logits, labels, { ...run, ...options })
    for (const averageLogProb of [false, true]) {
      for (const [emptySequence, wanted] of [
        [undefined, 0],
        ['zero', 0],
        ['nan', nan],
      ] as const) {
        const sums = await call({ emptySequence, averageLogProb })
        expect(sums.logProbs[0]).toBe(wanted)
        expect(sums.logProbs[1]).toBeLessThan(0)
        expect(sums.tokenCounts).toEqual(Int32Array.of(0, 2))
        const gradient = values((await sums.backward([5, 1])).gradLogits)
        expect(gradient.subarray(0, 12).every((x) => Object.is(x, 0))).toBe(true)
        expect(gradient.subarray(12, 20).every((x) => x !== 0)).toBe(true)
      }
      await expect(call({ emptySequence: 'error', averageLogProb })).rejects.toThrow(/sequence 0/)
    }
    // One position under shift, and everything masked.
    const single = await calls.sequenceLogProbs(logitsOf(dtype, [2, 1, 2], [nan, 1, 2, nan]), Int32Array.of(0, 1), run)
    expect(Array.from(single.logProbs)).toEqual([0, 0])
    expect(values((await single.backward([1, 1])).gradLogits).every((x) => Object.is(x, 0))).toBe(true)
    expect(Array.from((await call({ mask: new Uint8Array(6) })).logProbs)).toEqual([0, 0])
  })

  test.each([1, 2, 15, 16, 17, 33, 63, 64, 65, 127, 2047, 2048, 2049, 16_385])(
    'the label anywhere in a row of %i logits: first, last, either side of each boundary',
    async (vocab) => {
      const next = random(vocab)
      const row = Float64Array.from({ length: vocab }, () => 2 * gaussian(next))
      const boundaries = [0, 16, 64, 2048, 8192, 16_384, vocab]
      const labels = new Set(boundaries.flatMap((at) => [at - 1, at]).filter((at) => at >= 0 && at < vocab))
      for (const label of labels) await check(row, label)
    },
  )

  test('unaligned bases and padded rows give the bits of aligned ones, and padding stays as it was', async () => {
    for (const vocab of [5, 70, 2051]) {
      const next = random(vocab)
      const elements = Float64Array.from({ length: 6 * vocab }, () => 3 * gaussian(next))
      const labels = Int32Array.from({ length: 6 }, (_, i) => (i * 31) % vocab)
      const plain = logitsOf(dtype, [2, 3, vocab], elements)
      const wanted = await calls.sequenceLogProbs(plain, labels, run)
      const wantedGradient = values((await wanted.backward([1, -2])).gradLogits)
      for (let offset = 0; offset < 8; offset++) {
        for (const [rowPad, batchPad] of [
          [0, 0],
          [1, 0],
          [3, 7],
        ]) {
          const timeStride = vocab + rowPad
          const batchStride = 3 * timeStride + batchPad
          const whole = storage(dtype, offset + 2 * batchStride).fill(encode[dtype](nan))
          const data = whole.subarray(offset, offset + 2 * batchStride)
          const at = (row: number) => Math.floor(row / 3) * batchStride + (row % 3) * timeStride
          for (let row = 0; row < 6; row++) {
            data.set((plain.data as Float32Array).subarray(row * vocab, (row + 1) * vocab), at(row))
          }
          const before = bytes(whole).slice()
          const logits = { data, dtype, shape: [2, 3, vocab], strides: [batchStride, timeStride, 1] }
          const sums = await calls.sequenceLogProbs(logits, labels, run)
          expect(sums.logProbs).toEqual(wanted.logProbs)
          const out = storage(dtype, elements.length + 3).subarray(3)
          await sums.backward([1, -2], { gradient: out })
          expect(firstDifference(values({ ...plain, dtype, data: out }), wantedGradient)).toBe(-1)
          expect(bytes(whole).equals(before)).toBe(true)

          await sums.backward([1, -2], { gradient: 'in-place' })
          const size = data.BYTES_PER_ELEMENT
          const expected = before.slice()
          for (let row = 0; row < 6; row++) {
            expected.set(bytes(out).subarray(row * vocab * size, (row + 1) * vocab * size), (offset + at(row)) * size)
          }
          expect(bytes(whole).equals(expected)).toBe(true)
        }
      }
    }
  })

  test('rows that share memory are read as often as asked', async () => {
    const row = [1, 2, 3, 4, 5]
    const logits = { ...logitsOf(dtype, [5], row), shape: [3, 1, 3], strides: [1, 0, 1] }
    const sums = await calls.sequenceLogProbs(logits, Int32Array.of(0, 0, 0), { shift: false, ...run })
    const single = await one([1, 2, 3], 0)
    for (const logProb of sums.logProbs) expectNear(logProb, single.logProb, 1e-6)
  })

  describe('the range of the logits', () => {
    const offsets = { float32: [1e30, 3e38, -3e38, 1e6, -1e6], bfloat16: [1e30, 3e38, -3e38], float16: [65504, -65504] }
    test.each(offsets[dtype])('all about %d', async (offset) => {
      // Neighbours of the offset in the element type, whose differences it can represent.
      const up = (k: number) => {
        const near = storage(dtype, 1)
        near[0] = encode[dtype](offset)
        const bits = dtype === 'float32' ? new Int32Array(near.buffer) : new Uint16Array(near.buffer)
        bits[0] -= Math.sign(offset) * k * (offset > 0 ? 1 : -1)
        return decode[dtype](near[0])
      }
      const row = Array.from({ length: 100 }, (_, i) => up(i % 40))
      for (const label of [0, 1, 39, 99]) {
        const { logProb, gradient } = await one(row, label)
        const wanted = oracle(row, label)
        expectNear(logProb, wanted.logProb, ulps.logProb * ulp(Math.max(1, Math.abs(wanted.logProb))))
        for (const [i, x] of wanted.gradient.entries()) expectNear(gradient[i], x, step(x, ulps.gradient))
      }
    })

    test('a million more, with differences of a sixteenth', async () => {
      if (dtype !== 'float32') return await check([1024, 1024.5, 1023], 1)
      for (const offset of [1e6, -1e6, 123_456]) {
        const row = Array.from({ length: 3000 }, (_, i) => offset + ((i * 37) % 64) / 16)
        for (const label of [0, 2999]) await check(row, label)
        const shifted = await one(row, 5)
        const plain = await one(
          row.map((x) => x - offset),
          5,
        )
        expectNear(shifted.logProb, plain.logProb, 4 * ulp(plain.logProb))
      }
    })

    test('one towers over all others, or lies far below them', async () => {
      for (const far of [30, 90, 200, 800, 5000, huge / 2]) {
        for (const sign of [1, -1]) {
          const row = Array.from({ length: 70 }, (_, i) => (i === 66 ? sign * far : (i % 7) / 4))
          for (const label of [66, 3]) await check(row, label)
        }
      }
    })

    test('a label that towers over logits so far below that their unit has no digits for it', async () => {
      const row = [-Infinity, -huge / 4, -Infinity, 1.25, -Infinity]
      const { logSumExp, tokenEntropies } = await forward([row], [3], { outputs: ['logSumExp', 'tokenEntropies'] })
      expect([logSumExp![0], tokenEntropies![0]]).toEqual([1.25, 0])
    })

    test('the largest and the smallest together', async () => {
      const row = [huge, -huge, 0, huge]
      expect((await one(row, 0)).gradient.map((x) => x + 0)).toEqual([0.5, 0, 0, -0.5])
      expect((await one(row, 0)).logProb).toBeCloseTo(-Math.LN2, 14)
      const low = await one(row, 1)
      const wanted = -2 * stored([huge])[0] - Math.LN2
      // A two-float number is no larger than float32.
      if (run.backend === 'webgpu' && dtype !== 'float16') expect(low.logProb).toBe(-inf)
      else expectNear(low.logProb, wanted, ulp(wanted))
      expect(low.gradient[1]).toBe(1)
    })

    test('subnormal and signed zeros', async () => {
      const row = [1e-45, -1e-45, 0, -0, 6e-8, 1e-40]
      for (const label of [0, 3]) await check(row, label)
    })
  })

  test.each([
    // A new maximum in each block of 2048, each more than 60 ln 2 above the last.
    ['rising by blocks', (i: number) => Math.floor(i / 2048) * 50],
    ['rising by more, beyond what one unit can hold', (i: number) => Math.floor(i / 2048) * 300 - 600],
    ['rising within a block', (i: number) => (i % 2048) / 5 + Math.floor(i / 2048) * 45],
    ['falling', (i: number) => 900 - Math.floor(i / 2048) * 100],
    ['to and fro', (i: number) => (Math.floor(i / 2048) % 2 === 0 ? -400 : 400)],
    ['across 700, where the unit takes a base of its own', (i: number) => 640 + Math.floor(i / 2048) * 45],
    ['nothing in the first block, then little', (i: number) => (i < 2048 ? -inf : -500 + (i % 8) / 2)],
    ['nothing in the first segment, then little', (i: number) => (i < 12_300 ? -inf : -500 + (i % 8) / 2)],
    ['nothing but in the first block', (i: number) => (i < 2048 ? -500 + (i % 8) / 2 : -inf)],
    ['nothing but in the tail', (i: number) => (i < 18_498 ? -inf : -650)],
    ['a plain first block, then -inf among far lower ones', (i: number) => (i < 2048 ? 0 : i % 2 ? -inf : -300)],
    ['beyond the reach of the first', (i: number) => (i < 2048 ? 0 : -65 - (i % 60))],
  ] as [string, (i: number) => number][])('logits %s', async (_, logit) => {
    const row = Float64Array.from({ length: 18_500 }, (_, i) => logit(i) + ((i * 7) % 5) / 4)
    for (const label of [0, 2048, 18_499]) await check(row, label)
  })

  test.each([1e-3, 0.03, 0.5, 2, 33, 150, 1e3])('temperature %d', async (temperature) => {
    const next = random(3)
    for (const [vocab, scale] of [
      [7, 1],
      [2100, 3],
      [17_000, 100],
    ]) {
      const row = Float64Array.from({ length: vocab }, () => scale * gaussian(next))
      for (const label of [0, vocab - 1]) await check(row, label, temperature)
      const close = row.map((x) => 3 + x * temperature)
      await check(close, vocab >> 1, temperature)
    }
    // Certain, impossible, and all the same.
    await check([0, 100, -100], 1, temperature)
    await check([0, 100, -100], 2, temperature)
    await check(new Float64Array(1000).fill(-7), 999, temperature)
  })

  test('coefficients from the smallest to the largest', async () => {
    const row = [1, 0.5, -2, 3, -60, -inf]
    const { gradient } = oracle(stored(row), 1)
    for (const coefficient of [1e-30, -1e-20, 1e-5, -1, 1e4, -1e10, 1e30]) {
      const got = values((await (await forward([row], [1])).backward([coefficient])).gradLogits)
      const largest = dtype === 'float16' ? 65504 : 3e38
      for (const [i, x] of gradient.entries()) {
        const wanted = coefficient * x
        if (Math.abs(wanted) < largest / 2) expectNear(got[i], wanted, step(wanted, ulps.gradient))
        else if (dtype === 'float16') expect(got[i]).toBe(Math.sign(wanted) * inf)
      }
    }
  })

  test('weights of 0 silence a token, and its -inf with it or not at all', async () => {
    const logits = logitsOf(dtype, [1, 3, 2], [1, 2, 3, 4, 5, 7])
    const labels = Int32Array.of(0, 1, 0)
    const sums: SequenceLogProbs = await calls.sequenceLogProbs(logits, labels, { tokenWeights: [9, 0, 1], ...run })
    expect(sums.logProbs[0]).toBe((await one([3, 4], 0)).logProb)
    const gradient = values((await sums.backward([1])).gradLogits)
    expect(Array.from(gradient.subarray(0, 2)).map(Math.abs)).toEqual([0, 0])
    expect(gradient[2]).toBe((await one([3, 4], 0)).gradient[0])
  })
})

describe.each(ALL_TARGETS)('$name', WAITING, ({ run }) => {
  test.each([
    ['float32', 1e30],
    ['bfloat16', 1e30],
    ['float16', 6e4],
  ] as [DType, number][])('the gradient of a %s row does not depend on an offset of %d', async (dtype, offset) => {
    const row = [offset, offset, -offset, offset, 0]
    const logits = logitsOf(dtype, [1, 1, 5], row)
    const sums = await calls.sequenceLogProbs(logits, Int32Array.of(3), { shift: false, ...run })
    expect(sums.logProbs[0]).toBeCloseTo(-Math.log(3), 12)
    const wanted = [-1 / 3, -1 / 3, 0, 2 / 3, 0].map((x) => decode[dtype](encode[dtype](x)))
    for (const [i, x] of values((await sums.backward([1])).gradLogits).entries()) expect(x).toBeCloseTo(wanted[i], 6)
  })
})
