/**
 * The products of AMX: their bits depend on the numbers alone, and what is not theirs is refused. test/blas.test.ts has
 * every option beside our own products, test/amx-golden.test.ts the golden cases, and test/native/emulated_tiles.cc the
 * tiles on machines without AMX.
 */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { fusedLinearPreferenceLossSync, getBackends, linearCrossEntropySync } from '../lib/index.js'
import type { DType, HeadWeight, Hidden } from '../lib/types/index.js'
import { AMX, AMX_PROBLEM } from './amx.js'
import { encode, gaussian, JS, random, storage } from './support.js'

const cpuinfo = () => (process.platform === 'linux' ? readFileSync('/proc/cpuinfo', 'utf8') : '')

type Options = NonNullable<Parameters<typeof fusedLinearPreferenceLossSync>[3]>

const BATCH = 2
type Sizes = [time: number, width: number, vocab: number]
const SIZES: Sizes = [150, 45, 2100]
const [TIME, WIDTH, VOCAB] = SIZES

function layer(dtype: DType = 'bfloat16', byWord = true, [time, width, vocab] = SIZES) {
  const next = random(7)
  const numbers = (count: number) => Array.from({ length: count }, () => encode[dtype](gaussian(next) / 2))
  const states = storage(dtype, BATCH * time * width)
  states.set(numbers(states.length))
  const table = storage(dtype, vocab * width)
  const words = numbers(table.length)
  for (const [i, x] of words.entries()) {
    const [v, d] = [Math.floor(i / width), i % width]
    table[byWord ? i : d * vocab + v] = x
  }
  const hidden: Hidden = { data: states, shape: [BATCH, time, width], dtype }
  const strides = byWord ? [width, 1] : [1, vocab]
  const weight: HeadWeight = { data: table, shape: [vocab, width], dtype, strides: strides as [number, number] }
  const labels = Int32Array.from({ length: BATCH * time }, (_, i) => (i % 7 === 3 ? -100 : (i * 37) % vocab))
  return { hidden, weight, labels }
}

/** A step's gradients, the weight's by its words. */
function step(options: object, byWord = true, sizes = SIZES) {
  const { hidden, weight, labels } = layer('bfloat16', byWord, sizes)
  const all = { lossType: 'cpo', gradient: { hidden: true, weight: true }, ...AMX[0]?.run, ...options } as const
  const { gradHidden, gradWeight, losses } = fusedLinearPreferenceLossSync(hidden, weight, labels, all as Options)
  const found = gradWeight!.data as Float32Array
  const words = byWord
    ? found
    : Float32Array.from({ length: found.length }, (_, i) => found[(i % WIDTH) * VOCAB + Math.floor(i / WIDTH)])
  return { losses, hidden: gradHidden!.data, words }
}

describe.runIf(AMX_PROBLEM === undefined)('the bits do not depend on', () => {
  test.each([
    ['the threads', { threads: 1 }],
    ['the threads, of which there are many', { threads: 5 }],
    ['the instruction set of the other stages', { instructionSet: 'avx2' }],
  ])('%s', (_, options) => {
    expect(step(options)).toEqual(step({}))
  })

  test('the order in which the weights are stored', () => {
    expect(step({}, false)).toEqual(step({}))
  })

  // There are some 560 rows. Those that are not kept are worked on in chunks of up to 512.
  test.each([0, 511, 545])('whether logits are kept, with memory for those of %i rows', (rows) => {
    const sizes: Sizes = [330, WIDTH, 300]
    expect(step({ logitsBudget: rows * 4 * 304 }, true, sizes)).toEqual(step({}, true, sizes))
  })
})

test.runIf(AMX_PROBLEM === undefined)('states of tokens that take no part are not read in any chunk', () => {
  const { hidden, weight, labels } = layer('bfloat16', true, [330, WIDTH, 300])
  const tokenWeights = Float32Array.from(labels, (_, i) => (i % 5 === 2 ? 0 : 1))
  const run = () => {
    const all = { tokenWeights, shift: false, gradient: { weight: true }, logitsBudget: 0, ...AMX[0]?.run } as const
    return linearCrossEntropySync(hidden, weight, labels, all).gradWeight.data
  }
  const wanted = run()
  for (let i = 2; i < labels.length; i += 5) (hidden.data as Uint16Array).fill(0x7fc0, i * WIDTH, (i + 1) * WIDTH)
  expect(run()).toEqual(wanted)
})

// Of logits that are not kept, one thread has 4096 words at a time. Logits that are kept are one block, of two segments.
describe.runIf(AMX_PROBLEM === undefined).each([
  ['plain', {}],
  ['from a bias, capped', { logitSoftcap: 2, gradientPrecision: 'bfloat16' }],
  [
    'with sums of logits, weighted',
    {
      labelSmoothing: 0.1,
      zLoss: 1e-3,
      classWeights: Float32Array.from({ length: 17_000 }, (_, i) => 0.5 + (i % 3)),
    },
  ],
])('a vocabulary in blocks: %s', (_, options: object) => {
  const vocab = 17_000
  const { hidden, weight, labels } = layer('bfloat16', true, [TIME, 16, vocab])
  const bias = Float32Array.from({ length: vocab }, (_, i) => ((i * 5) % 7) / 4)
  const run = (more: object) => {
    const outputs = ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'tokenMeanLogits'] as const
    const all = { bias, gradient: true, outputs, backend: 'cpu', ...options, ...more } as const
    return linearCrossEntropySync(hidden, weight, labels, all)
  }
  const inBlocks = (threads: number) => run({ products: 'amx', logitsBudget: 0, threads })

  test.each([1, 2, 9])('the bits of one block, on %i threads', (threads) => {
    expect(inBlocks(threads)).toEqual(run({ products: 'amx' }))
  })

  test('the results of our own products', () => {
    const [got, own] = [inBlocks(1), run({})]
    const near = (x: ArrayLike<number>, y: ArrayLike<number>, bound: number) =>
      expect(Array.from(y).findIndex((yi, i) => !(Math.abs(x[i] - yi) <= bound))).toBe(-1)
    expect(got.loss).toBeCloseTo(own.loss, 5)
    expect(got.tokenArgmax).toEqual(own.tokenArgmax)
    near(got.tokenEntropies, own.tokenEntropies, 1e-5)
    near(got.gradHidden.data as Float32Array, own.gradHidden.data as Float32Array, 2e-6)
    near(got.gradWeight.data as Float32Array, own.gradWeight.data as Float32Array, 2e-6)
    near(got.gradBias as Float32Array, own.gradBias as Float32Array, 1e-6)
  })
})

describe.runIf(AMX_PROBLEM === undefined)('with one rounding', () => {
  const { hidden } = layer()
  /** √Σ(x − y)² ÷ √Σy² */
  const distance = (x: Float32Array, y: Float32Array) =>
    Math.sqrt(x.reduce((sum, xi, i) => sum + (xi - y[i]) ** 2, 0) / y.reduce((sum, yi) => sum + yi ** 2, 0))
  const gradients = (bias: Float32Array, labels: Int32Array, options: object, byWord = true) => {
    const all = { bias, gradient: true, ...options } as const
    const { gradHidden, gradWeight, gradBias } = linearCrossEntropySync(
      hidden,
      layer('bfloat16', byWord).weight,
      labels,
      all as NonNullable<Parameters<typeof linearCrossEntropySync>[3]>,
    )
    return [gradHidden!.data, gradWeight!.data, gradBias!] as Float32Array[]
  }
  const rounded = { ...AMX[0]?.run, gradientPrecision: 'bfloat16' }

  test.each([
    ['labels of every kind', Int32Array.from({ length: BATCH * TIME }, (_, i) => (i * 37) % VOCAB), 0],
    ['a label that is nearly certain', new Int32Array(BATCH * TIME).fill(5), 14],
  ])('%s', (_, labels, atFive) => {
    const bias = new Float32Array(VOCAB)
    bias[5] = atFive
    for (const byWord of [true, false]) {
      const wanted = gradients(bias, labels, { backend: 'cpu' }, byWord)
      const got = gradients(bias, labels, rounded, byWord)
      // The label's own gradient, rounded too, would be off by up to 2e-3.
      for (const k of [0, 1]) expect(distance(got[k], wanted[k])).toBeLessThan(3e-4)
      for (const k of [0, 1]) expect(distance(got[k], wanted[k])).toBeGreaterThan(1e-6)
      expect(distance(got[2], wanted[2])).toBeLessThan(1e-6)
      for (const more of [{ threads: 1 }, { logitsBudget: 0 }]) {
        expect(gradients(bias, labels, { ...rounded, ...more }, byWord)).toEqual(got)
      }
    }
  })
})

describe('refused, with nothing written, is', () => {
  const refusal = (run: object, dtype?: DType, more: object = {}) => {
    const { hidden, weight, labels } = layer(dtype)
    const gradient = {
      hidden: new Float32Array(BATCH * TIME * WIDTH).fill(5),
      weight: new Float32Array(VOCAB * WIDTH).fill(6),
    }
    const options = { lossType: 'cpo', products: 'amx', gradient, ...run, ...more } as Options
    try {
      fusedLinearPreferenceLossSync(hidden, weight, labels, options)
    } catch (error) {
      expect(gradient.hidden.every((x) => x === 5) && gradient.weight.every((x) => x === 6)).toBe(true)
      return error as { code: string; message: string }
    }
    throw new Error('it was taken')
  }
  const cpu = getBackends().cpu.available

  test.runIf(cpu).each(['float32', 'float16'] as const)('a layer of %s', (dtype) => {
    const { code, message } = refusal({ backend: 'cpu' }, dtype)
    expect(code).toBe('ERR_INVALID_ARG_VALUE')
    expect(message).toBe(
      `options.products 'amx' multiplies hidden states and weights of bfloat16; here hidden is ${dtype}, weight is ${dtype}`,
    )
  })

  test.runIf(cpu)('a reference of another type', () => {
    const { hidden, weight } = layer('float32')
    const { code, message } = refusal({ backend: 'cpu' }, 'bfloat16', {
      lossType: 'sigmoid',
      reference: { hidden, weight },
    })
    expect([code, message]).toEqual(['ERR_INVALID_ARG_VALUE', expect.stringContaining('here hidden is float32')])
  })

  test('another backend', () => {
    const { code, message } = refusal(JS.run)
    expect([code, message]).toEqual(['ERR_INVALID_ARG_VALUE', expect.stringContaining("'amx' is of the cpu backend")])
  })

  test.runIf(cpu && /\bamx_bf16\b/.test(cpuinfo()))('is there where the CPU has it', () => {
    expect(AMX_PROBLEM ?? '').toMatch(/^$|does not let this process|does not save/)
  })

  test.runIf(cpu && AMX_PROBLEM !== undefined)('a machine without it', () => {
    const { code, message } = refusal({ backend: 'cpu' })
    expect([code, message]).toEqual(['ERR_BACKEND_UNAVAILABLE', expect.stringContaining("products: 'amx'")])
  })
})
