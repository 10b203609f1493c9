/**
 * Output layers with other products than ours, those of a BLAS, on stand-ins that are compiled here, and AMX's: every
 * option beside our own products; and how a library is found and refused, and its threads. test/blas-golden.test.ts has
 * the golden cases, and the libraries of this machine.
 */
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import * as library from '../lib/index.js'
import type { DType, HeadWeight, Hidden, HostArray } from '../lib/types/index.js'
import { AMX } from './amx.js'
import { BLASES, products, standIn } from './blas.js'
import { expectOneRounding, SHAPES, type Sizes } from './one-rounding.js'
import { cutFunctions } from './sharded.js'
import { CUDA, decode, encode, gaussian, JS, OUTPUTS, random, storage, type Target, WASM } from './support.js'

/** Options and results, whatever the function. */
// biome-ignore lint/suspicious/noExplicitAny: one way for all functions
type Any = any

const { fusedLinearPreferenceLossSync, fusedLinearUnpairedPreferenceLossSync } = library
const { linearCrossEntropySync, linearSequenceLogProbsSync } = library
const VARIABLE = 'FUSED_PREFERENCE_LOSS_BLAS'
/** Other products than ours, and the only type that they are of. */
const OTHERS: Target[] = [products({ name: 'a stand-in', path: standIn('THREADS') }), ...AMX]
/** With one rounding; of them a library that multiplies bfloat16, and one that does not. */
const ROUNDED = [
  products({ name: 'a stand-in with bfloat16', path: standIn('BFLOAT16') }),
  products({ name: 'a stand-in', path: standIn() }),
  ...AMX,
].map(
  ({ name, run }): Target => ({
    name: `${name}, one rounding`,
    dtype: 'bfloat16',
    run: Object.create(Object.prototype, {
      ...Object.getOwnPropertyDescriptors(run), // the library is named when a call reads it
      gradientPrecision: { value: 'bfloat16', enumerable: true },
    }),
  }),
)
const own = { backend: 'cpu' } as const

afterEach(() => {
  delete process.env[VARIABLE]
  delete process.env.STAND_IN_LOG
})

interface Layer {
  batch: number
  time: number
  width: number
  vocab: number
  dtype: DType
  transposed: boolean
  /** Unused elements, NaN, after each row. */
  padding: number
}
const SMALL: Layer = { batch: 4, time: 11, width: 21, vocab: 130, dtype: 'float32', transposed: false, padding: 0 }

/** A layer of random numbers, and labels, of which every fifth is ignored. */
function randomLayer(given: Partial<Layer> = {}) {
  const { batch, time, width, vocab, dtype, transposed, padding } = { ...SMALL, ...given }
  const next = random(5)
  const put = (data: HostArray, at: number, value: number) => (data[at] = encode[dtype](value))
  const step = width + padding
  const states = storage(dtype, batch * time * step).fill(encode[dtype](Number.NaN))
  for (let i = 0; i < batch * time * width; i++) put(states, Math.floor(i / width) * step + (i % width), gaussian(next))
  const [rowStride, columnStride] = transposed ? [1, vocab + padding] : [step, 1]
  const table = storage(dtype, transposed ? width * columnStride : vocab * rowStride).fill(encode[dtype](Number.NaN))
  for (let v = 0; v < vocab; v++) {
    for (let d = 0; d < width; d++) put(table, v * rowStride + d * columnStride, gaussian(next) / 3)
  }
  const hidden: Hidden = { data: states, shape: [batch, time, width], dtype, strides: [time * step, step, 1] }
  const weight: HeadWeight = { data: table, shape: [vocab, width], dtype, strides: [rowStride, columnStride] }
  const bias = Float32Array.from({ length: vocab }, () => gaussian(next))
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 5 === 3 ? -100 : (i * 37) % vocab))
  return { hidden, weight, bias, labels }
}

/** All numbers of a result, by their names. */
function numbersOf(result: object, name = ''): [string, Float64Array][] {
  return Object.entries(result).flatMap(([key, value]): [string, Float64Array][] => {
    if (typeof value === 'number') return [[name + key, Float64Array.of(value)]]
    if (ArrayBuffer.isView(value)) return [[name + key, new Float64Array(value as HostArray)]]
    if (value?.data === undefined) return []
    const decoder = decode[(value.dtype ?? 'float32') as DType]
    return [[name + key, new Float64Array(value.data as HostArray).map((x) => decoder(x))]]
  })
}

/** What products of float32 may differ by. */
const FLOAT = 4e-6

/** Two results are the same but for the rounding of their products, of so much of the largest number of each kind. */
function expectClose(got: object, wanted: object, relative: number | ((name: string) => number) = FLOAT): void {
  const ours = new Map(numbersOf(wanted))
  const theirs = numbersOf(got)
  expect(theirs.map(([name]) => name)).toEqual([...ours.keys()])
  for (const [name, values] of theirs) {
    const others = ours.get(name)!
    expect(values, name).toHaveLength(others.length)
    let largest = 1e-3
    for (const x of others) if (Number.isFinite(x)) largest = Math.max(largest, Math.abs(x))
    const most = largest * (typeof relative === 'number' ? relative : relative(name))
    const off = values.findIndex((x, i) => !(Math.abs(x - others[i]) <= most) && !Object.is(x, others[i]))
    expect(off, `${name}: ${values[off]}, not ${others[off]}`).toBe(-1)
  }
}

const ids = (length: number, of: (i: number) => number) => Float64Array.from({ length }, (_, i) => of(i))
const rowBytes = 4 * 144 // of 130 words
const GRADIENT = { hidden: true, weight: true, bias: true }

const OPTIONS: [what: string, options: Any, layer?: Partial<Layer>][] = [
  ['no option', {}],
  ['no bias', { bias: undefined, gradient: true }],
  ['no gradient of the weight', { gradient: { hidden: true } }],
  ['no gradient of hidden', { gradient: { weight: true } }],
  ['no gradient', { gradient: false }],
  ['no budget', { logitsBudget: 0 }],
  ['soft-capped logits', { logitSoftcap: 2, temperature: 0.7, logitScale: 1.3 }],
  ['a mask and weights of tokens, some 0', { mask: ids(44, (i) => i % 3), tokenWeights: ids(44, (i) => (i * 5) % 4) }],
  ['a pair that takes no part', { pairWeights: [0, 2] }],
  ['no pair that takes part', { pairWeights: [0, 0] }],
  ['rows left as they are', { zeroInactive: false, gradient: { hidden: new Float32Array(4 * 11 * 21).fill(7) } }],
  ['every output', { outputs: [...OUTPUTS, 'tokenMeanLogits'] }],
  ['weights of the policy', { weighting: 'wpo' }],
  ['a scale of the gradients', { gradientScale: -3 }],
  ['packed sequences', { sequenceOffsets: [0, 9, 20, 31, 44] }],
  ['gradients in bfloat16', { gradientDType: 'bfloat16' }],
  ['gradients in float16, in two chunks', { gradientDType: 'float16', logitsBudget: 0 }, { time: 200 }],
  ['a weight of columns', {}, { transposed: true, padding: 2 }],
  ['gradients in bfloat16 of a weight of columns', { gradientDType: 'bfloat16' }, { transposed: true }],
  ['rows with gaps', {}, { padding: 3 }],
  ['float16', {}, { dtype: 'float16', padding: 1 }],
  ['bfloat16', {}, { dtype: 'bfloat16' }],
  ['bfloat16, a weight of columns', {}, { dtype: 'bfloat16', transposed: true }],
  ['several blocks of words', {}, { dtype: 'float16', time: 3, width: 64, vocab: 40_000 }],
  ['several chunks', { logitsBudget: 0 }, { time: 200 }],
  ['some rows kept', { logitsBudget: 550 * rowBytes }, { time: 200 }],
  ['all but a few rows kept', { logitsBudget: 630 * rowBytes, pairWeights: [0, 1] }, { time: 200 }],
]

describe.each([...OTHERS, ...ROUNDED])('$name, beside our own products', ({ run: theirs, dtype }) => {
  const { gradientPrecision } = theirs as { gradientPrecision?: 'bfloat16' }
  const own = { backend: 'cpu', gradientPrecision } as const
  /** `ofGradients`: the rounding of their type. */
  const expectSame = (got: object, wanted: object, ofGradients = FLOAT) =>
    expectClose(got, wanted, (name) => {
      if (!['gradHidden', 'gradWeight'].includes(name)) return FLOAT
      // A rounded gradient with respect to a logit may be rounded the other way. The bias' is of what is not rounded.
      return gradientPrecision ? Math.max(ofGradients, 2 ** -8) : ofGradients
    })
  /** Of the type that these products are of. */
  const layerOf = (given: Partial<Layer> = {}) => randomLayer(dtype ? { ...given, dtype } : given)

  test.each(OPTIONS)('%s', (_, options, layer) => {
    const { hidden, weight, bias, labels } = layerOf(layer)
    const packed = options.sequenceOffsets && { ...hidden, shape: [44, 21], strides: [21, 1] }
    const call = (run: Any) => {
      const more = structuredClone(options)
      const all = { lossType: 'cpo', bias, gradient: GRADIENT, ...more, ...run }
      return fusedLinearPreferenceLossSync(packed ?? hidden, weight, labels, all as never)
    }
    const relative = { bfloat16: 2 ** -8, float16: 2 ** -11, float32: FLOAT }[
      (options.gradientDType ?? 'float32') as DType
    ]
    const wanted = call(own)
    expectSame(call(theirs), wanted, relative)
    expectSame(call({ ...theirs, threads: 1 }), wanted, relative)
  })

  test('gradients are added to what there is', () => {
    const { hidden, weight, labels } = layerOf({ time: 200 })
    const call = (run: Any) => {
      const gradient = { hidden: new Float32Array(4 * 200 * 21).fill(3), weight: new Float32Array(130 * 21).fill(-2) }
      const all = { lossType: 'cpo', gradient, accumulate: true, logitsBudget: 0, ...run }
      return fusedLinearPreferenceLossSync(hidden, weight, labels, all)
    }
    expectSame(call(theirs), call(own))
  })

  test('hidden states of tokens that take no part may be NaN', () => {
    const { hidden, weight, bias, labels } = layerOf()
    const tokenWeights = ids(44, (i) => (i === 6 ? 0 : 1))
    ;(hidden.data as Float32Array).fill(encode[dtype ?? 'float32'](Number.NaN), 5 * 21, 6 * 21)
    const call = (run: Any) =>
      linearCrossEntropySync(hidden, weight, labels, { bias, tokenWeights, gradient: true, ...run })
    const got = call(theirs)
    expect(numbersOf(got).every(([, values]) => values.every(Number.isFinite))).toBe(true)
    expectSame(got, call(own))
  })

  test('the cross-entropy of tokens, with weights of classes', () => {
    const { hidden, weight, bias, labels } = layerOf()
    const classWeights = ids(130, (v) => 0.5 + (v % 3))
    const options = { bias, labelSmoothing: 0.1, zLoss: 0.01, classWeights, gradient: true, outputs: OUTPUTS } as const
    const call = (run: Any) => linearCrossEntropySync(hidden, weight, labels, { ...options, ...run })
    expectSame(call(theirs), call(own))
  })

  test('the loss of single sequences', () => {
    const { hidden, weight, labels } = layerOf()
    const options = { desirable: [true, false, true, false], referenceFree: true, kl: 0.1, gradient: true } as const
    const call = (run: Any) => fusedLinearUnpairedPreferenceLossSync(hidden, weight, labels, { ...options, ...run })
    expectSame(call(theirs), call(own))
  })

  test('a reference model, with a layer of another width', () => {
    const { hidden, weight, labels } = layerOf({ time: 160 })
    const other = layerOf({ time: 160, width: 9, dtype: 'bfloat16' })
    const reference = { hidden: other.hidden, weight: other.weight, bias: other.bias }
    const call = (run: Any) =>
      fusedLinearPreferenceLossSync(hidden, weight, labels, { reference, gradient: true, ...run })
    expectSame(call(theirs), call(own))
    expectSame(call({ ...theirs, logitsBudget: 0 }), call(own))
  })

  test('log-probs, and gradients that are asked for later', () => {
    const { hidden, weight, bias, labels } = layerOf({ time: 160 })
    const call = ({ gradientPrecision: _, ...run }: Any) => {
      const sums = linearSequenceLogProbsSync(hidden, weight, labels, { bias, outputs: OUTPUTS, ...run })
      return { ...sums, ...sums.backwardSync([1, -2, 0.5, 0], { gradient: GRADIENT, gradientPrecision }) }
    }
    expectSame(call(theirs), call(own))
  })

  test('ranks that share a vocabulary', () => {
    const { hidden, weight, bias, labels } = layerOf()
    for (const segments of ['exact', 'merged'] as const) {
      const cut = cutFunctions(library as Any, [{ ranks: 3, even: false, segments, copies: false }])
      const call = (run: Any) => {
        const options = { bias, lossType: 'cpo', gradient: true, outputs: OUTPUTS, ...run }
        return cut.fusedLinearPreferenceLossSync(hidden, weight, labels, options)
      }
      expectSame(call(theirs), call(own))
    }
  })

  test('promises, several at a time', async () => {
    const { hidden, weight, bias, labels } = layerOf({ time: 60 })
    const call = (run: Any, beta: number) =>
      library.fusedLinearPreferenceLoss(hidden, weight, labels, { lossType: 'cpo', beta, bias, gradient: true, ...run })
    const betas = [0.1, 0.3, 1]
    const [got, wanted] = [
      await Promise.all(betas.map((b) => call(theirs, b))),
      await Promise.all(betas.map((b) => call(own, b))),
    ]
    for (const [i, result] of got.entries()) expectSame(result, wanted[i])
    const signal = AbortSignal.abort(new Error('not now'))
    await expect(call({ ...theirs, signal }, 1)).rejects.toThrow('not now')
  })
})

/** What a stand-in was asked for: the calls of its functions in their order, with a number. */
function asked(work: () => void): string[] {
  const log = join(tmpdir(), `fpl-blas-${process.pid}.log`)
  writeFileSync(log, '')
  process.env.STAND_IN_LOG = log
  try {
    work()
    return readFileSync(log, 'utf8').trim().split('\n')
  } finally {
    rmSync(log)
  }
}

/** A step, on that library. */
function step(path: string, options: Any = {}, layer: Partial<Layer> = {}) {
  const { hidden, weight, labels } = randomLayer(layer)
  const run = products({ name: 'it', path }).run
  return fusedLinearPreferenceLossSync(hidden, weight, labels, { lossType: 'cpo', ...run, gradient: true, ...options })
}

describe('the products', () => {
  test.each([
    ['OpenBLAS', 'THREADS', 3],
    ['MKL', 'MKL_THREADS', 3],
    ['BLIS', 'BLIS_THREADS', 3],
  ])('are three, on as many threads as the call, which %s gets back', (_, definition, before) => {
    const path = standIn(definition)
    step(path) // opens it, and tries it
    const big = { time: 30, vocab: 1300 }
    const product = ['threads 2', 'float 2', `threads ${before}`]
    expect(asked(() => step(path, { threads: 2 }, big))).toEqual([...product, ...product, ...product])
    expect(asked(() => step(path, { threads: 3 }, big)).filter((line) => line.startsWith('float'))).toEqual(
      Array.from({ length: 3 }, () => 'float 3'),
    )
  })

  test('of a library that has no threads of its own are made all the same', () => {
    const path = standIn()
    step(path)
    expect(asked(() => step(path))).toEqual(['float 3', 'float 3', 'float 3'])
  })

  test('are four where the logits do not fit the budget, and those of the weight are left out', () => {
    const path = standIn()
    step(path)
    expect(asked(() => step(path, { logitsBudget: 0 }))).toHaveLength(4)
    expect(asked(() => step(path, { gradient: { hidden: true } }))).toHaveLength(2)
    expect(asked(() => step(path, { gradient: false }))).toHaveLength(1)
  })

  test('of bfloat16 are the library’s own where it has them', () => {
    const path = standIn('BFLOAT16')
    const layer = { dtype: 'bfloat16' } as const
    const got = step(path, {}, layer)
    expect(asked(() => step(path, {}, layer))).toEqual(['uint16_t 3', 'float 3', 'float 3'])
    expectClose(got, step(standIn(), {}, layer))
  })

  test('of a rounded gradient are the library’s own where it has them', () => {
    const layer = { dtype: 'bfloat16' } as const
    const options = { gradientPrecision: 'bfloat16', logitsBudget: 0 } as const
    const [narrow, wide] = [standIn('BFLOAT16'), standIn()]
    for (const [path, element] of [
      [narrow, 'uint16_t'],
      [wide, 'float'],
    ]) {
      step(path, {}, layer)
      expect(asked(() => step(path, options, layer))).toEqual(Array.from({ length: 4 }, () => `${element} 3`))
    }
    // It is rounded for either.
    expectClose(step(wide, options, layer), step(narrow, options, layer), 1e-6)
  })

  test('are not the library’s by default', () => {
    const { hidden, weight, labels } = randomLayer()
    const path = standIn()
    process.env[VARIABLE] = path
    for (const more of [{}, { products: 'own' }, { products: undefined }] as const) {
      const call = () => fusedLinearPreferenceLossSync(hidden, weight, labels, { lossType: 'cpo', ...own, ...more })
      expect(asked(call)).toEqual([''])
    }
  })
})

const several: Sizes = { rows: 600, width: 12, vocab: 130, transposed: true }
describe.each([...ROUNDED, ...BLASES.map(products)])('one rounding: $name', ({ run }) => {
  test.each([...SHAPES, ['words that are not neighbours, in several chunks', 1e-3, several] as const])(
    '%s',
    (_, most, sizes) => expectOneRounding(run, sizes, most, { logitsBudget: 0 }),
  )
})

describe('a library', () => {
  test.each([
    ['with integers of 32 bits', []],
    ['with integers of 64 bits', ['INTEGER=int64_t']],
    ['whose names end in 64_', ['INTEGER=int64_t', 'NAME(x)=x##64_']],
    ['whose names end in _64', ['INTEGER=int64_t', 'NAME(x)=x##_64']],
    ['of the wheels', ['NAME(x)=scipy_##x']],
    ['of the wheels, with integers of 64 bits', ['INTEGER=int64_t', 'NAME(x)=scipy_##x##64_']],
  ])('%s is taken', (_, definitions) => {
    const { hidden, weight, labels } = randomLayer()
    const wanted = fusedLinearPreferenceLossSync(hidden, weight, labels, { lossType: 'cpo', ...own, gradient: true })
    expectClose(step(standIn(...definitions)), wanted)
  })

  /** What a call of it says; it must not have written anything. */
  function refusal(path: string): { code: string; message: string } {
    const gradient = { hidden: new Float32Array(4 * 11 * 21).fill(5), weight: new Float32Array(130 * 21).fill(6) }
    try {
      step(path, { gradient })
    } catch (error) {
      expect(gradient.hidden.every((x) => x === 5) && gradient.weight.every((x) => x === 6)).toBe(true)
      return error as { code: string; message: string }
    }
    throw new Error('it was taken')
  }

  test.each([
    ['lacks the product', ['WITHOUT_PRODUCT'], 'it has no cblas_sgemm'],
    ['lacks the product of vectors', ['WITHOUT_DOT'], 'it has no cblas_sdot'],
    [
      'says integers of 64 bits and takes 32',
      ['NAME(x)=x##64_'],
      'its names end in 64_, which says integers of 64 bits, but they have 32',
    ],
    ['multiplies vectors wrongly', ['WRONG_DOT'], 'its cblas_sdot gives wrong results'],
    ['does not add', ['WITHOUT_BETA'], 'its cblas_sgemm gives wrong results'],
    ['does not transpose', ['WITHOUT_ORDER'], 'its cblas_sgemm gives wrong results'],
    ['writes beyond its result', ['WRITES_OUTSIDE'], 'its cblas_sgemm gives wrong results'],
    ['multiplies bfloat16 wrongly', ['WRONG_BFLOAT16'], 'its product of bfloat16 gives wrong results'],
  ])('that %s is refused', (_, definitions, problem) => {
    const path = standIn(...definitions)
    const { code, message } = refusal(path)
    expect(code).toBe('ERR_BACKEND_UNAVAILABLE')
    expect(message).toContain(`No library of BLAS can be used. Tried:\n  ${path}: ${problem}\nInstall one:`)
  })

  test('that is missing, or is none, is refused', () => {
    const missing = join(tmpdir(), 'fpl-no-such-library.so')
    expect(existsSync(missing)).toBe(false)
    expect(refusal(missing)).toMatchObject({
      code: 'ERR_BACKEND_UNAVAILABLE',
      message: expect.stringMatching(/Tried:\n {2}.*fpl-no-such-library\.so: .*\nInstall one:\n {2}apt install/),
    })
    const text = join(tmpdir(), `fpl-blas-${process.pid}.so`)
    writeFileSync(text, 'no library')
    expect(refusal(text).message).toContain(text)
    rmSync(text)
  })

  const mkl = BLASES.find(({ name }) => name === 'MKL')
  test.runIf(mkl)('of MKL, which ends the process where one of its parts is missing, is refused', () => {
    const folder = mkdtempSync(join(tmpdir(), 'fpl-mkl-'))
    const path = join(folder, 'libmkl_rt.so.3')
    copyFileSync(mkl!.path, path) // a link would be the same file, which the tests above have opened
    const needs = (name: string) => expect(refusal(path).message).toContain(`${path}: it needs ${join(folder, name)}`)
    needs('libmkl_core.so.3')
    writeFileSync(join(folder, 'libmkl_core.so.3'), '')
    needs('libmkl_intel_thread.so.3')
    rmSync(folder, { recursive: true })
  })

  test('that has been refused is looked at anew', () => {
    const path = join(tmpdir(), `fpl-late-blas-${process.pid}.so`)
    refusal(path)
    writeFileSync(path, readFileSync(standIn()))
    expect(step(path).loss).toBeGreaterThan(0)
    rmSync(path)
  })

  test.runIf(BLASES.some(({ name }) => name.startsWith('Debian')))('is found by its usual names', () => {
    const { hidden, weight, labels } = randomLayer()
    const call = (more: Any) =>
      fusedLinearPreferenceLossSync(hidden, weight, labels, { lossType: 'cpo', ...own, ...more })
    expectClose(call({ products: 'blas' }), call({}))
  })
})

describe('is refused', () => {
  const { hidden, weight, labels } = randomLayer()
  test.each([...WASM, JS, ...CUDA])('on $name', ({ run }) => {
    const options = { lossType: 'cpo', ...run, products: 'blas' } as const
    const message = `options.products 'blas' is of the cpu backend; this call runs on '${run.backend}'`
    const error = expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE', message })
    expect(() => fusedLinearPreferenceLossSync(hidden, weight, labels, options)).toThrow(error)
    expect(() => linearSequenceLogProbsSync(hidden, weight, labels, { ...run, products: 'blas' })).toThrow(error)
  })

  test('by another name, and where there are no products', () => {
    const given = { lossType: 'cpo', products: 'mkl' } as never
    expect(() => fusedLinearPreferenceLossSync(hidden, weight, labels, given)).toThrow(
      expect.objectContaining({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringMatching(/'own'.*'blas'.*'mkl'/),
      }),
    )
    const logits = { data: new Float32Array(40), shape: [2, 2, 10] }
    const options = { lossType: 'cpo', products: 'blas' } as never
    expect(() => library.fusedPreferenceLossSync(logits, Int32Array.of(1, 2, 3, 4), options)).toThrow(
      /options\.products is not an option/,
    )
  })
})
