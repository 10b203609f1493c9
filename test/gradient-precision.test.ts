/**
 * `gradientPrecision`: the gradient with respect to logits, but for the labels', rounded to bfloat16 on its way to the
 * gradients of an output layer. test/blas.test.ts has the products of a BLAS, test/amx.test.ts those of AMX, and
 * test/linear-golden.test.ts the golden cases.
 */
import { describe, expect, test } from 'vitest'
import { checkPrecision } from '../lib/call/head-gradients.js'
import type { Runner } from '../lib/call/run.js'
import * as library from '../lib/index.js'
import type { HeadGradients } from '../lib/types/index.js'
import {
  byWords,
  dataOf,
  errorOf,
  expectOneRounding,
  PARTS,
  problemOf,
  rounded,
  rowsOf,
  SHAPES,
  type Sizes,
  step,
} from './one-rounding.js'
import { cutFunctions } from './sharded.js'
import { ALL_NATIVE, fusesMultiplyAdds, TARGETS, type Target, values, WASM } from './support.js'

const { fusedLinearPreferenceLossSync, linearSequenceLogProbsSync } = library
const BACKENDS = TARGETS.filter(({ name }) => name !== 'wasm')
const OWN = TARGETS.filter(({ run }) => run.backend === 'cpu')

describe.each(BACKENDS)('on $name', ({ run }) => {
  test.each(SHAPES)('one rounding of what is not the label’s: %s', (_, most, sizes) => {
    expectOneRounding(run, sizes, most)
  })

  test('the layout of the weight, the gradients’ type and the number of threads change no bit of the sums', () => {
    const sizes = { rows: 131, width: 18, vocab: 402 }
    const options = { ...run, gradientPrecision: 'bfloat16' } as const
    const wanted = step(problemOf(sizes), options)
    const across = step(problemOf({ ...sizes, transposed: true }), options)
    expect(dataOf(across, 'gradHidden')).toEqual(dataOf(wanted, 'gradHidden'))
    expect(byWords(across, 'gradWeight', { ...sizes, transposed: true })).toEqual(dataOf(wanted, 'gradWeight'))
    const narrow = step(problemOf(sizes), { ...options, gradientDType: 'bfloat16' })
    for (const name of ['gradHidden', 'gradWeight'] as const) {
      expect([...values(narrow[name]!)], name).toEqual([...dataOf(wanted, name)].map(rounded))
    }
    if (run.backend === 'cpu') {
      expect(rowsOf(step(problemOf(sizes), { ...options, threads: 3, logitsBudget: 0 }))).toEqual(rowsOf(wanted))
    }
  })

  test('with an accumulating array, and where the gradient is asked for later', () => {
    const problem = problemOf({ rows: 24, width: 6, vocab: 35 })
    const options = { ...run, gradientPrecision: 'bfloat16' } as const
    const once = step(problem, options)
    const hidden = new Float32Array(24 * 6)
    for (let i = 0; i < 2; i++) step(problem, { ...options, gradient: { hidden }, accumulate: true })
    expect(hidden).toEqual(dataOf(once, 'gradHidden').map((x) => 2 * x))
    const { bias, labels } = problem
    const sums = linearSequenceLogProbsSync(problem.hidden, problem.weight, labels, { ...run, bias, shift: false })
    const later = sums.backwardSync(Float64Array.of(-1 / 24), { gradientPrecision: 'bfloat16' })
    expect(rowsOf(later)).toEqual(rowsOf(once))
  })

  test('the bias, and rows of weight 0', () => {
    const problem = problemOf({ rows: 7, width: 5, vocab: 33 })
    const tokenWeights = Float64Array.of(1, 0, 2, 0, 1, 0, 3)
    const call = (gradientPrecision: 'float32' | 'bfloat16') =>
      step(problem, { ...run, tokenWeights, gradientPrecision })
    const [got, full] = [call('bfloat16'), call('float32')]
    expect(dataOf(got, 'gradBias')).toEqual(dataOf(full, 'gradBias'))
    const rows = dataOf(got, 'gradHidden')
    for (let i = 0; i < rows.length; i++) expect(rows[i] === 0, `${i}`).toBe(tokenWeights[Math.floor(i / 5)] === 0)
  })

  test('pairs of chosen and rejected sequences, with a scale, added to what there is', () => {
    const { hidden, weight, labels, bias } = problemOf({ rows: 24, width: 6, vocab: 135 })
    const call = (gradientPrecision: 'float32' | 'bfloat16') => {
      const gradient = { hidden: new Float32Array(24 * 6).fill(1), weight: new Float32Array(135 * 6).fill(-1) }
      const options = {
        ...run,
        bias,
        lossType: 'ipo',
        referenceFree: true,
        gradientScale: -3,
        accumulate: true,
      } as const
      const tensor = { ...hidden, shape: [4, 6, 6] }
      fusedLinearPreferenceLossSync(tensor, weight, labels, { ...options, gradient, gradientPrecision })
      return [gradient.hidden.map((x) => x - 1), gradient.weight.map((x) => x + 1)]
    }
    const [got, wanted] = [call('bfloat16'), call('float32')]
    for (const k of [0, 1]) expect(errorOf(got[k], Float64Array.from(wanted[k]))).toBeLessThan(1e-3)
  })

  test.runIf(run.backend !== 'cuda')('ranks that share a vocabulary, where a label is one rank’s', () => {
    const { hidden, weight, labels, bias } = problemOf({ rows: 24, width: 6, vocab: 135 })
    const options = { ...run, bias, lossType: 'cpo', gradient: true } as const
    const cut = cutFunctions(library as never, [{ ranks: 3, even: false, segments: 'exact', copies: false }])
    const call = ({ fusedLinearPreferenceLossSync }: typeof library, gradientPrecision: 'float32' | 'bfloat16') =>
      fusedLinearPreferenceLossSync({ ...hidden, shape: [4, 6, 6] }, weight, labels, { ...options, gradientPrecision })
    const [got, full] = [call(cut as never, 'bfloat16'), call(cut as never, 'float32')]
    const wanted = call(library, 'bfloat16')
    for (const name of ['gradHidden', 'gradWeight'] as const) {
      const whole = Float64Array.from(wanted[name]!.data as Float32Array)
      expect(errorOf(got[name]!.data as Float32Array, whole), name).toBeLessThan(2e-4)
      // The bound may be as large as all that the rounding does.
      expect(got[name]!.data, name).not.toEqual(full[name]!.data)
    }
  })

  test('capped logits, whose labels have slopes of their own', () => {
    const problem = problemOf({ rows: 20, width: 8, vocab: 97, certainty: 4 })
    const capped = {
      ...run,
      logitSoftcap: 3,
      temperature: 0.7,
      labelSmoothing: 0.1,
      classWeights: problem.bias.map(Math.abs),
    }
    const wanted = step(problem, { ...capped })
    const got = step(problem, { ...capped, gradientPrecision: 'bfloat16' })
    for (const name of PARTS) {
      expect(errorOf(dataOf(got, name), Float64Array.from(dataOf(wanted, name))), name).toBeLessThan(1e-3)
    }
  })
})

describe('bits', () => {
  const sets = ALL_NATIVE.filter(({ run }) => fusesMultiplyAdds(run))
  const SIZES: [string, Sizes, number?][] = [
    ['odd numbers of rows and words', { rows: 43, width: 26, vocab: 1301, certainty: 3 }],
    ['words that are not neighbours, odd in number', { rows: 43, width: 26, vocab: 1301, transposed: true }],
    ['words that are not neighbours, even in number', { rows: 100, width: 33, vocab: 1302, transposed: true }],
    ['several groups of rows', { rows: 1101, width: 34, vocab: 210 }],
    ['gradients too small for the instruction', { rows: 43, width: 26, vocab: 401 }, 1e-34],
    ['gradients that are subnormal', { rows: 43, width: 26, vocab: 401 }, 1e-37],
  ]
  test.runIf(sets.length > 1).each(SIZES)(
    'of all sets with a fused multiply-add: %s',
    (_, sizes, gradientScale = 1) => {
      const problem = problemOf(sizes)
      for (const gradientDType of ['float32', 'bfloat16'] as const)
        expectSameBits(problem, { gradientScale, gradientDType })
    },
  )

  function expectSameBits(problem: ReturnType<typeof problemOf>, options: object): HeadGradients {
    const on = ({ run }: Target) => step(problem, { ...run, gradientPrecision: 'bfloat16', ...options })
    const wanted = on(sets.at(-1)!)
    for (const set of sets) expect(rowsOf(on(set)), set.name).toEqual(rowsOf(wanted))
    return wanted
  }

  test.runIf(sets.length > 1)('of all sets, where some gradients are subnormal and others are not', () => {
    // The rows that have hidden states count for little.
    const rows = problemOf({ rows: 200, width: 8, vocab: 70 })
    rows.hidden.data.fill(0, 96 * 8)
    const tokenWeights = Float64Array.from({ length: 200 }, (_, i) => (i < 96 ? 1e-35 : 1))
    const small = (x: number) => x !== 0 && Math.abs(x) < 2 ** -126
    const { gradWeight } = expectSameBits(rows, { tokenWeights })
    expect((gradWeight!.data as Float32Array).some(small)).toBe(true)
  })
})

describe.runIf(OWN.length > 0)('the label’s product', () => {
  test.each(OWN)('is rounded once, with the sum, on $name', ({ run }) => {
    // Of a single row the gradient of the bias is that of the logits.
    const problem = problemOf({ rows: 1, width: 400, vocab: 2, labels: [0] })
    const { w, width } = problem
    const found = step(problem, { ...run, gradientPrecision: 'bfloat16' })
    const [ofLabel, ofOther] = dataOf(found, 'gradBias')
    const wanted = Float32Array.from({ length: width }, (_, d) => rounded(ofOther) * w[width + d] + ofLabel * w[d])
    expect(dataOf(found, 'gradHidden')).toEqual(wanted)
  })
})

describe('what is refused', () => {
  const { hidden, weight, labels } = problemOf({ rows: 4, width: 2, vocab: 5 })
  const call = (options: object, ofWeight: object = weight) =>
    fusedLinearPreferenceLossSync({ ...hidden, shape: [2, 2, 2] }, ofWeight as typeof weight, labels, {
      lossType: 'cpo',
      gradient: true,
      ...options,
    })
  test.each([
    ['another type', () => call({ gradientPrecision: 'float16' }), "must be one of 'float32', 'bfloat16'"],
    [
      'a weight of float32',
      () => call({ gradientPrecision: 'bfloat16' }, { data: new Float32Array(10), shape: [5, 2] }),
      "options.gradientPrecision must be 'float32' unless hidden and weight are bfloat16; hidden is bfloat16 and weight float32",
    ],
  ] as const)('%s', (_, refused, message) => {
    expect(refused).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE', message: expect.stringContaining(message) }),
    )
  })

  test('a backend that does not have it', () => {
    const options = { gradientPrecision: 'bfloat16' } as const
    const on = (name: string) => checkPrecision(options, { backend: { name } } as unknown as Runner)
    const refused = (message: string) => expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE', message })
    for (const name of ['webgpu', 'wasm']) {
      expect(() => on(name)).toThrow(refused(`options.gradientPrecision must be 'float32' on the ${name} backend`))
    }
    for (const name of ['cpu', 'js', 'cuda']) expect(() => on(name)).not.toThrow()
    // Where no gradient is asked for, too.
    const without = { gradientPrecision: 'bfloat16', gradient: false }
    for (const { run } of WASM) {
      expect(() => call({ ...without, ...run })).toThrow("must be 'float32' on the wasm backend")
    }
    expect(() => call({ ...without, backend: 'js' })).not.toThrow()
  })
})
