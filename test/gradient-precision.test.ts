/**
 * `gradientPrecision`: the gradient with respect to logits, but for the labels', rounded to bfloat16 on its way to the
 * gradients of an output layer.
 */
import { describe, expect, test } from 'vitest'
import { checkPrecision } from '../lib/call/head-gradients.js'
import type { Runner } from '../lib/call/run.js'
import { fusedLinearPreferenceLossSync, linearCrossEntropySync, linearSequenceLogProbsSync } from '../lib/index.js'
import type { HeadGradients } from '../lib/types/index.js'
import {
  ALL_NATIVE,
  decode,
  encode,
  fusesMultiplyAdds,
  gaussian,
  hex,
  random,
  storage,
  TARGETS,
  type Target,
  values,
} from './support.js'

const PARTS = ['gradHidden', 'gradWeight', 'gradBias'] as const
const BACKENDS = TARGETS.filter(({ name }) => name !== 'wasm')

/** The largest relative error of one rounding to bfloat16, which has 8 significant bits. */
const UNIT = 2 ** -8
/** Of float32: logits, probabilities and sums. */
const FLOAT = 2 ** -16

interface Sizes {
  rows: number
  width: number
  vocab: number
  transposed?: boolean
  /** How much the hidden state of a row points to the weights of its label. */
  certainty?: number
}

function problemOf({ rows, width, vocab, transposed = false, certainty = 0 }: Sizes) {
  const next = random(rows + width + vocab)
  const labels = Int32Array.from({ length: rows }, () => Math.floor(next() * vocab))
  const w = Float64Array.from({ length: vocab * width }, () => 0.2 * gaussian(next))
  const ofHidden = (i: number) => gaussian(next) + certainty * w[labels[Math.floor(i / width)] * width + (i % width)]
  const h = Float64Array.from({ length: rows * width }, (_, i) => ofHidden(i))
  const bias = Float32Array.from({ length: vocab }, () => gaussian(next))
  const bits = (list: ArrayLike<number>, at: (i: number) => number = (i) => i) => {
    const stored = storage('bfloat16', list.length)
    for (let i = 0; i < list.length; i++) stored[at(i)] = encode.bfloat16(list[i])
    return stored
  }
  const hidden = { data: bits(h), shape: [1, rows, width], dtype: 'bfloat16' } as const
  const column = (i: number) => (i % width) * vocab + Math.floor(i / width)
  const weight = transposed
    ? ({ data: bits(w, column), shape: [vocab, width], strides: [1, vocab], dtype: 'bfloat16' } as const)
    : ({ data: bits(w), shape: [vocab, width], dtype: 'bfloat16' } as const)
  return { hidden, weight, labels, bias, w: w.map(rounded), h: h.map(rounded), rows, width, vocab }
}
const rounded = (x: number) => decode.bfloat16(encode.bfloat16(x))

type Problem = ReturnType<typeof problemOf>
type Options = Parameters<typeof linearCrossEntropySync>[3]

const step = ({ hidden, weight, labels, bias }: Problem, options: Options) =>
  linearCrossEntropySync(hidden, weight, labels, { bias, shift: false, gradient: true, ...options }) as HeadGradients

const rowsOf = (step: HeadGradients) => PARTS.map((name) => hex(dataOf(step, name)))
const dataOf = (step: HeadGradients, name: (typeof PARTS)[number]) =>
  (name === 'gradBias' ? step.gradBias : step[name]?.data) as Float32Array

/** In float64: the gradients of the mean of the losses, and the sums of the magnitudes that are rounded and of all. */
function oracle({ h, w, bias, labels, rows, width, vocab }: Problem) {
  const zeros = (length: number) => ({
    exact: new Float64Array(length),
    others: new Float64Array(length),
    all: new Float64Array(length),
  })
  const out = { gradHidden: zeros(rows * width), gradWeight: zeros(vocab * width), gradBias: zeros(vocab) }
  for (let r = 0; r < rows; r++) {
    const logits = Float64Array.from({ length: vocab }, (_, v) => {
      let sum = bias[v]
      for (let d = 0; d < width; d++) sum += h[r * width + d] * w[v * width + d]
      return sum
    })
    const top = logits.reduce((a, b) => Math.max(a, b))
    const exps = logits.map((x) => Math.exp(x - top))
    const total = exps.reduce((a, b) => a + b)
    const complement = exps.reduce((a, b, v) => (v === labels[r] ? a : a + b), 0) / total
    for (let v = 0; v < vocab; v++) {
      const isLabel = v === labels[r]
      const gradient = (isLabel ? -complement : exps[v] / total) / rows
      const add = (part: (typeof PARTS)[number], at: number, factor: number) => {
        out[part].exact[at] += gradient * factor
        out[part].all[at] += Math.abs(gradient * factor)
        if (!isLabel) out[part].others[at] += Math.abs(gradient * factor)
      }
      add('gradBias', v, 1)
      for (let d = 0; d < width; d++) {
        add('gradHidden', r * width + d, w[v * width + d])
        add('gradWeight', v * width + d, h[r * width + d])
      }
    }
  }
  return out
}

function errorOf(got: ArrayLike<number>, wanted: Float64Array): number {
  let [error, norm] = [0, 0]
  for (const [i, x] of wanted.entries()) {
    error += (got[i] - x) ** 2
    norm += x ** 2
  }
  return Math.sqrt(error / norm)
}

/** With the largest error of a whole gradient, relative: one rival with nearly all that a label leaves is rounded alone. */
const SHAPES: [string, number, Sizes][] = [
  ['unlikely labels', 1e-3, { rows: 40, width: 24, vocab: 1301 }],
  ['likely labels', 1e-3, { rows: 40, width: 24, vocab: 1301, certainty: 12 }],
  ['nearly certain labels', UNIT, { rows: 41, width: 24, vocab: 1300, certainty: 30 }],
]

describe.each(BACKENDS)('on $name', ({ run }) => {
  test.each(SHAPES)('one rounding of what is not the label’s: %s', (_, most, sizes) => {
    const problem = problemOf(sizes)
    const wanted = oracle(problem)
    const got = step(problem, { ...run, gradientPrecision: 'bfloat16' })
    const full = step(problem, { ...run, gradientPrecision: 'float32' })
    let differs = false
    for (const name of PARTS) {
      const [data, ofFull] = [dataOf(got, name), dataOf(full, name)]
      const { exact, others, all } = wanted[name]
      for (let i = 0; i < exact.length; i++) {
        const bound = (name === 'gradBias' ? 0 : UNIT * others[i]) + FLOAT * all[i] + 1e-37
        expect(Math.abs(data[i] - exact[i]), `${name} ${i}`).toBeLessThanOrEqual(bound)
        differs ||= data[i] !== ofFull[i]
      }
      expect(errorOf(data, exact), name).toBeLessThan(most)
    }
    // cuda always rounds.
    expect(differs).toBe(run.backend !== 'cuda')
    // The bias has no product.
    expect(dataOf(got, 'gradBias')).toEqual(dataOf(full, 'gradBias'))
  })

  test('the layout of the weight, the gradients’ type and the number of threads change no bit of the sums', () => {
    const sizes = { rows: 131, width: 18, vocab: 402 }
    const options = { ...run, gradientPrecision: 'bfloat16' } as const
    const wanted = step(problemOf(sizes), options)
    const across = step(problemOf({ ...sizes, transposed: true }), options)
    expect(dataOf(across, 'gradHidden')).toEqual(dataOf(wanted, 'gradHidden'))
    const columns = dataOf(across, 'gradWeight')
    const turned = columns.map((_, i) => columns[(i % sizes.width) * sizes.vocab + Math.floor(i / sizes.width)])
    expect(turned).toEqual(dataOf(wanted, 'gradWeight'))
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
      for (const gradientDType of ['float32', 'bfloat16'] as const) {
        const on = ({ run }: Target) =>
          rowsOf(step(problem, { ...run, gradientPrecision: 'bfloat16', gradientScale, gradientDType }))
        const wanted = on(sets.at(-1)!)
        for (const set of sets) expect(on(set), set.name).toEqual(wanted)
      }
    },
  )
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

  test('a backend or a library that does not have it', () => {
    const options = { gradientPrecision: 'bfloat16' } as const
    const on = (name: string, products?: number) =>
      checkPrecision(options, { backend: { name }, settings: { threads: 1, products } } as unknown as Runner)
    const refused = (message: string) => expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE', message })
    for (const name of ['webgpu', 'wasm']) {
      expect(() => on(name)).toThrow(refused(`options.gradientPrecision must be 'float32' on the ${name} backend`))
    }
    const ofBlas = "options.gradientPrecision must be 'float32' where products is 'blas'"
    expect(() => on('cpu', 1)).toThrow(refused(ofBlas))
    for (const name of ['cpu', 'js', 'cuda']) expect(() => on(name)).not.toThrow()
    // Where no gradient is asked for, too.
    const onWasm = { gradientPrecision: 'bfloat16', gradient: false, backend: 'wasm' }
    expect(() => call(onWasm)).toThrow("must be 'float32' on the wasm backend")
    expect(() => call({ ...onWasm, backend: 'js' })).not.toThrow()
  })
})
