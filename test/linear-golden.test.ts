/**
 * The output layer on every backend: gradients through each result of a token, and of the cross-entropy with its options.
 * The cases of golden/head.jsonl are PyTorch's autograd, in float64, from hidden states, weight and bias.
 */
import { describe, expect, test } from 'vitest'
import * as library from '../lib/index.js'
import type { LinearCrossEntropyOptions, TokenOutput } from '../lib/options/index.js'
import type { DType, HeadGradients, HostArray, Logits, ResultGradients } from '../lib/types/index.js'
import * as calls from './calls.js'
import { type LogitsSpec, logitsOf } from './golden/inputs.js'
import { ALL_TARGETS, decode, encode, goldenCases, tooFar, values } from './support.js'

interface Gradient {
  /** Indices of the elements that are given; all of them when absent. */
  at?: number[]
  values: number[]
  /** The sum of the magnitudes of the terms of each. */
  magnitudes: number[]
}

interface Case {
  name: string
  hidden: LogitsSpec
  weight: LogitsSpec
  bias?: LogitsSpec
  labels: number[]
  options: LinearCrossEntropyOptions
  /** Absent in a case of the cross-entropy. */
  gradients?: { [Name in keyof ResultGradients]: number[] }
  expected: Partial<Record<TokenOutput, number[]>> & {
    loss?: number
    losses?: number[]
    gradHidden: Gradient
    gradWeight: Gradient
    gradBias?: Gradient
  }
}

const CASES = await goldenCases<Case>('head')

const OUTPUTS: TokenOutput[] = ['tokenLogProbs', 'logSumExp', 'tokenEntropies', 'tokenMeanLogits']
const GRADIENTS = ['gradHidden', 'gradWeight', 'gradBias'] as const

/** Of the sum of the magnitudes of a gradient's terms, as docs/numerics.md has it. */
const RELATIVE = 2e-5
/** With one rounding of the gradient of logits to bfloat16, for each of its terms. */
const ONE_ROUNDING = 2 ** -8
/** A GPU multiplies gradients that it has rounded to the 16 bits of hidden. */
const ROUNDED: Record<DType, number> = { float32: 0, float16: 2 ** -10, bfloat16: 2 ** -7 }

function expectNear(got: ArrayLike<number>, wanted: readonly number[], what: string): void {
  expect(
    tooFar(got, wanted, (x) => RELATIVE * Math.max(1, Math.abs(x))),
    what,
  ).toBe(undefined)
}

/** Those that take an output layer of this type. */
const targetsOf = (type: DType) => ALL_TARGETS.filter(({ dtype = type }) => dtype === type)
/** The same, and again with `gradientPrecision: 'bfloat16'` those that have it. */
const waysOf = (type: DType) =>
  targetsOf(type).flatMap((target) => {
    const rounds = type === 'bfloat16' && (target.run.backend === 'cpu' || target.run.backend === 'js')
    const rounded = { ...target, name: `${target.name}, one rounding`, precision: 'bfloat16' } as const
    return [{ ...target, precision: undefined }, ...(rounds ? [rounded] : [])]
  })
const TAKEN = CASES.filter(({ hidden }) => targetsOf(hidden.dtype).length > 0)

describe.each(TAKEN)('$name', ({ hidden, weight, bias, labels, options, gradients, expected }) => {
  test.each(waysOf(hidden.dtype))('$name', async ({ run, precision: gradientPrecision }) => {
    const inputs = [logitsOf(hidden), logitsOf(weight), Int32Array.from(labels)] as const
    // In a buffer it would be of the weight's type.
    const { linearCrossEntropy, linearSequenceLogProbs } = bias && bias.dtype !== weight.dtype ? library : calls
    const all = { ...options, ...(bias && { bias: logitsOf(bias).data as HostArray }), ...run }
    let found: HeadGradients
    if (gradients === undefined) {
      const got = await linearCrossEntropy(...inputs, { ...all, gradient: true, gradientPrecision })
      expectNear([got.loss], [expected.loss!], 'loss')
      expectNear(got.losses, expected.losses!, 'losses')
      found = got
    } else {
      const got = await linearSequenceLogProbs(...inputs, { ...(all as object), outputs: OUTPUTS })
      for (const name of OUTPUTS) expectNear(got[name]!, expected[name]!, name)
      found = await got.backward(gradients, { gradientPrecision })
    }
    expect(found.gradBias === undefined).toBe(bias === undefined)

    const dtype = options.gradientDType ?? 'float32'
    for (const name of GRADIENTS) {
      const wanted = expected[name]
      if (wanted === undefined) continue
      const rounding = gradientPrecision === undefined || name === 'gradBias' ? 0 : ONE_ROUNDING
      const relative = RELATIVE + (run.backend === 'cuda' ? ROUNDED[hidden.dtype] : rounding)
      const gradient = found[name] as HostArray | Logits
      const got = values({ data: ArrayBuffer.isView(gradient) ? gradient : gradient.data, dtype, shape: [] })
      if (wanted.at === undefined) expect(got).toHaveLength(wanted.values.length)
      for (const [k, x] of wanted.values.entries()) {
        const bound: number = relative * wanted.magnitudes[k]
        const [low, high] = [x - bound, x + bound].map((end) => decode[dtype](encode[dtype](end)))
        const value: number = got[wanted.at?.[k] ?? k]
        if (!(value >= low && value <= high)) expect.fail(`${name}[${k}] is ${value}, not ${x} ± ${bound}`)
      }
    }
  })
})

test('the cases have every option, result and type', () => {
  const given = new Set(CASES.flatMap(({ options }) => Object.keys(options)))
  const ofLoss = ['labelSmoothing', 'zLoss', 'dft', 'classWeights', 'tokenWeights', 'gradientScale', 'gradientDType']
  expect(given).toEqual(new Set(['logitScale', 'logitSoftcap', 'temperature', ...ofLoss]))
  expect(new Set(CASES.flatMap(({ gradients = {} }) => Object.keys(gradients)))).toEqual(new Set(OUTPUTS))
  expect(new Set(CASES.map(({ hidden }) => hidden.dtype)).size).toBe(3)
})
