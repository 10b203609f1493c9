/**
 * Every backend and instruction set against PyTorch in float64: the cases of golden/, which golden/generate.py wrote.
 * The bounds hold for the token log-probs and the gradient. The generator has derived the bounds of sums, losses and
 * coefficients from them through PyTorch's autograd.
 */
import { describe, expect, test } from 'vitest'
import { preferenceLossSync, unpairedPreferenceLossSync } from '../lib/index.js'
import type {
  FusedLinearUnpairedOptions,
  FusedOptions,
  FusedUnpairedOptions,
  PreferenceOptions,
  SequenceOptions,
  TokenOutput,
  UnpairedPreferenceOptions,
} from '../lib/options/index.js'
import type {
  FusedLinearUnpairedPreferenceLoss,
  FusedUnpairedPreferenceLoss,
  Labels,
  Logits,
  PairLogProbs,
  TokenOutputs,
  UnpairedPreferenceLoss,
  UnpairedSequences,
} from '../lib/types/index.js'
import * as calls from './calls.js'
import { element, type LogitsSpec, logitsOf } from './golden/inputs.js'
import {
  ALL_TARGETS,
  decode,
  encode,
  goldenCases,
  OUTPUTS,
  relativeOf,
  storage,
  TARGETS,
  type Target,
  ulp,
  ulpsOf,
  vanishingOf,
  WAITING,
} from './support.js'

/** A number, or the name of one that JSON cannot hold. */
type Value = number | 'NaN' | 'Infinity' | '-Infinity'

interface Gradient {
  /** Indices of the elements that are given; all of them when absent. */
  at?: number[]
  values: Value[]
}

type Tokens = Partial<Record<TokenOutput, Value[]>>

interface Case<Options, Expected> {
  name: string
  options: Options
  expected: Expected
}

interface LogitsCase<Options, Expected> extends Case<Options, Expected> {
  logits: LogitsSpec
  labels: number[]
  int64?: boolean
}

interface SequenceCase extends LogitsCase<SequenceOptions, SequenceExpected> {
  coefficients: number[]
}

interface SequenceExpected extends Tokens {
  logProbs: Value[]
  logProbBounds: number[]
  tokenCounts: number[]
  gradient: Gradient
}

const SCALARS = ['loss', 'margin'] as const
const LISTS = ['losses', 'chosenRewards', 'rejectedRewards'] as const
const FUSED_LISTS = [...LISTS, 'chosenLogProbs', 'rejectedLogProbs'] as const

type LossValues = Record<(typeof SCALARS)[number], Value> & Record<(typeof LISTS)[number], Value[]>

interface LossCase extends Case<PreferenceOptions, LossExpected> {
  /** Name of its inputs. */
  pairs: string
}

interface LossExpected extends LossValues {
  accuracy: number
  gradient: { chosen: Value[]; rejected: Value[] }
}

interface FusedCase extends LogitsCase<FusedOptions, FusedExpected> {
  reference?: { chosen: number[]; rejected: number[] } | { logits: LogitsSpec }
}

interface FusedExpected extends Tokens, Record<(typeof SCALARS)[number], Value> {
  accuracy: number
  tokenCounts: number[]
  losses: Value[]
  chosenRewards: Value[]
  rejectedRewards: Value[]
  chosenLogProbs: Value[]
  rejectedLogProbs: Value[]
  /** d loss / d log-prob of each sequence, in all its pairs. */
  coefficients: number[]
  bounds: Record<(typeof SCALARS)[number], number> &
    Record<(typeof FUSED_LISTS)[number], number[]> & { coefficients: number[] }
  gradient: Gradient
}

/** Results of the unpaired functions by name, 'meanRewards.desirable' being a part of one. */
type UnpairedValues = Record<string, Value | Value[]>

interface UnpairedCase extends Case<UnpairedPreferenceOptions, UnpairedValues> {
  /** Name of its inputs. */
  sequences: string
}

interface FusedUnpairedCase extends LogitsCase<FusedUnpairedOptions, FusedUnpairedExpected> {
  reference?: { logProbs: number[] } | { logits: LogitsSpec }
}

interface FusedUnpairedExpected extends Tokens {
  gradient: number[]
  gradLogits: Gradient
  tokenCounts: number[]
  bounds: Record<string, number | number[]> & { gradient: number[] }
  [name: string]: unknown
}

const [lossInputs, ...losses] = (await goldenCases<unknown>('losses')) as [Record<string, PairLogProbs>, ...LossCase[]]
const sequences = await goldenCases<SequenceCase>('sequences')
const fused = await goldenCases<FusedCase>('fused')
const [unpairedInputs, ...unpaired] = (await goldenCases<unknown>('unpaired')) as [
  Record<string, UnpairedSequences>,
  ...UnpairedCase[],
]
const fusedUnpaired = await goldenCases<FusedUnpairedCase>('fused-unpaired')

const LOSS_RELATIVE = 1e-12
/** Of a token's log-prob, for which the generator has derived the bounds. */
const TOKEN_ULPS = 2
const LOG_PROBS: readonly TokenOutput[] = ['tokenLogProbs']
const ENTROPY_BOUND = 1e-6
const SUM_SQUARES_RELATIVE = 1e-6

/** Lines of a report for each backend and instruction set. */
const MOST_LINES = 10

/** Descriptions of the differences that are too large. */
class Report {
  readonly lines: string[] = []
  /** How exact what is compared must be. */
  ulps = { logProb: 0, gradient: 0 }
  vanishing = 0
  relative = 0
  private count = 0
  private where = ''

  /** Names the values that are compared from here on. */
  at(where: string): void {
    if (this.count > MOST_LINES) this.lines.push(`${this.where}: and ${this.count - MOST_LINES} more`)
    this.where = where
    this.count = 0
  }

  /** A bound of the generator's, for this exactness. */
  scaled(bound: number): number {
    return (bound * this.ulps.logProb) / TOKEN_ULPS
  }

  near(got: number, wanted: Value, bound: number, what: string): void {
    const value = Number(wanted)
    if (got === value || Math.abs(got - value) <= bound || (Number.isNaN(got) && Number.isNaN(value))) return
    this.fail(
      `${what} is ${got}, not ${value} ± ${bound} (${(Math.abs(got - value) / bound).toPrecision(3)} bounds off)`,
    )
  }

  all(got: ArrayLike<number>, wanted: Value[], bound: (i: number) => number, what: string): void {
    if (got.length !== wanted.length) this.fail(`${what} has ${got.length} elements, not ${wanted.length}`)
    for (let i = 0; i < wanted.length; i++) this.near(got[i], wanted[i], bound(i), `${what}[${i}]`)
  }

  fail(line: string): void {
    if (++this.count <= MOST_LINES) this.lines.push(`${this.where}: ${line}`)
  }
}

/** A test that makes its inputs once and runs `compare` on every backend and instruction set. */
function everywhere<T>(
  name: string,
  inputs: () => T,
  compare: (made: T, target: Target, report: Report) => void | Promise<void>,
  targets = ALL_TARGETS,
): void {
  test.skipIf(targets.length === 0)(name, async () => {
    const report = new Report()
    const made = inputs()
    for (const target of targets) {
      report.at(target.name)
      report.ulps = ulpsOf(target.run)
      report.vanishing = vanishingOf(target.run)
      report.relative = relativeOf(target.run)
      await compare(made, target, report)
    }
    report.at('')
    expect(report.lines.join('\n')).toBe('')
  })
}

const labelsOf = ({ labels, int64 }: { labels: number[]; int64?: boolean }): Labels =>
  int64 ? BigInt64Array.from(labels, BigInt) : Int32Array.from(labels)

const tokenBound = (wanted: Value, ulps: number) => ulps * ulp(Math.max(Math.abs(Number(wanted)), 1))

const BOUNDS: Record<TokenOutput, (wanted: Value, ulps: number) => number> = {
  tokenLogProbs: tokenBound,
  logSumExp: tokenBound,
  tokenEntropies: (wanted) => ENTROPY_BOUND * Math.max(Math.abs(Number(wanted)), 1),
  sumSquaredProbs: (wanted) => SUM_SQUARES_RELATIVE * Number(wanted),
  tokenArgmax: () => 0,
  tokenMeanLogits: (wanted) => ulp(Number(wanted)),
}

function compareTokens(got: TokenOutputs, wanted: Tokens, outputs: readonly TokenOutput[], report: Report): void {
  for (const name of outputs) {
    report.all(got[name]!, wanted[name]!, (i) => BOUNDS[name](wanted[name]![i], report.ulps.logProb), name)
  }
}

/** `relative(s)`: the relative error allowed for the coefficient of sequence s. */
function compareGradient(
  got: Logits,
  { at, values }: Gradient,
  { logits, options }: { logits: LogitsSpec; options: SequenceOptions },
  relative: (sequence: number) => number,
  report: Report,
): void {
  expect(got.shape).toEqual(logits.shape)
  expect(got.strides).toBe(undefined)
  const dtype = got.dtype!
  const [time, vocab] = logits.shape.slice(-2)
  const ends = Array.from(options.sequenceOffsets ?? [], Number).slice(1)
  for (let k = 0; k < values.length; k++) {
    const index = at === undefined ? k : at[k]
    const row = Math.floor(index / vocab)
    const sequence = ends.length === 0 ? Math.floor(row / time) : ends.findIndex((end) => row < end)
    const wanted = Number(values[k])
    const bound =
      report.ulps.gradient * ulp(wanted) + report.vanishing + Math.abs(wanted) * report.scaled(relative(sequence))
    const value = element(got, index)
    if (dtype === 'float32') report.near(value, wanted, bound, `gradient[${index}]`)
    else {
      // A number within the bound, rounded once to nearest, lies between the ends of the bound rounded.
      const [low, high] = [wanted - bound, wanted + bound].map((end) => decode[dtype](encode[dtype](end)))
      if (!(value >= low && value <= high)) {
        report.fail(`gradient[${index}] is ${value}, not in ${low} … ${high} (${wanted} ± ${bound})`)
      }
    }
  }
}

describe('preferenceLoss', () => {
  for (const { name, pairs, options, expected } of losses) {
    const of = (wanted: Value[]) => (i: number) => LOSS_RELATIVE * Math.abs(Number(wanted[i]))
    const inputs = () => lossInputs[pairs]
    everywhere(
      name,
      inputs,
      (logProbs, { run }, report) => {
        const got = preferenceLossSync(logProbs, { ...options, ...run })
        for (const key of SCALARS) report.near(got[key], expected[key], of([expected[key]])(0), key)
        for (const key of LISTS) report.all(got[key], expected[key], of(expected[key]), key)
        report.near(got.accuracy, expected.accuracy, LOSS_RELATIVE, 'accuracy')
        for (const side of ['chosen', 'rejected'] as const) {
          report.all(got.gradLogProbs[side], expected.gradient[side], of(expected.gradient[side]), `gradient.${side}`)
        }
      },
      TARGETS,
    )
  }
})

describe('sequenceLogProbs', WAITING, () => {
  for (const golden of sequences) {
    const { options, coefficients, expected } = golden
    const inputs = () => ({ logits: logitsOf(golden.logits), labels: labelsOf(golden) })
    everywhere(golden.name, inputs, async ({ logits, labels }, { name, run }, report) => {
      // With by-products, the kernels may take another path.
      for (const outputs of [LOG_PROBS, OUTPUTS]) {
        report.at(outputs === OUTPUTS ? `${name}, by-products` : name)
        const got = await calls.sequenceLogProbs(logits, labels, { ...options, ...run, outputs })
        report.all(got.logProbs, expected.logProbs, (i) => report.scaled(expected.logProbBounds[i]), 'logProbs')
        report.all(got.tokenCounts, expected.tokenCounts, () => 0, 'tokenCounts')
        compareTokens(got, expected, outputs, report)
        compareGradient((await got.backward(coefficients)).gradLogits, expected.gradient, golden, () => 0, report)
      }
    })
  }
})

describe('fusedPreferenceLoss', WAITING, () => {
  for (const golden of fused) {
    const { options, reference, expected } = golden
    const { bounds } = expected
    const inputs = () => {
      const given: FusedOptions = { ...options, gradient: true }
      if (reference !== undefined) {
        given.reference = 'logits' in reference ? { logits: logitsOf(reference.logits) } : reference
      }
      return { logits: logitsOf(golden.logits), labels: labelsOf(golden), given }
    }
    const pairs = Array.from(options.pairs ?? halves(expected.tokenCounts.length), Number)
    everywhere(golden.name, inputs, async ({ logits, labels, given }, { run }, report) => {
      const got = await calls.fusedPreferenceLoss(logits, labels, { ...given, ...run })
      for (const key of SCALARS) report.near(got[key], expected[key], report.scaled(bounds[key]), key)
      for (const key of FUSED_LISTS) report.all(got[key], expected[key], (i) => report.scaled(bounds[key][i]), key)
      report.near(got.accuracy, expected.accuracy, LOSS_RELATIVE, 'accuracy')
      report.all(got.tokenCounts, expected.tokenCounts, () => 0, 'tokenCounts')
      compareTokens(got, expected, options.outputs ?? [], report)

      const coefficients = new Float64Array(expected.coefficients.length)
      for (let i = 0; i < pairs.length / 2; i++) {
        coefficients[pairs[2 * i]] += got.gradLogProbs.chosen[i]
        coefficients[pairs[2 * i + 1]] += got.gradLogProbs.rejected[i]
      }
      const ofCoefficient = (s: number) =>
        report.scaled(bounds.coefficients[s]) + report.relative * Math.abs(expected.coefficients[s])
      report.all(coefficients, expected.coefficients, ofCoefficient, 'coefficients')
      const relative = (s: number) =>
        expected.coefficients[s] === 0 ? 0 : bounds.coefficients[s] / Math.abs(expected.coefficients[s])
      compareGradient(got.gradLogits!, expected.gradient, golden, relative, report)
    })
  }
})

const UNPAIRED_NAMES = [
  ...['loss', 'losses', 'rewards', 'gradient', 'kl', 'margin'],
  ...['meanRewards.desirable', 'meanRewards.undesirable', 'meanLogProbs.desirable', 'meanLogProbs.undesirable'],
]

/** Whether the results are those expected, or absent where these are; `boundOf(name)` by how much each may be off. */
function compareUnpaired(
  got: UnpairedPreferenceLoss | FusedUnpairedPreferenceLoss | FusedLinearUnpairedPreferenceLoss,
  expected: Record<string, unknown>,
  names: readonly string[],
  boundOf: (name: string) => number | number[],
  report: Report,
): void {
  const results = { ...got, gradient: got.gradLogProbs }
  for (const name of names) {
    const value = name.split('.').reduce((part, key) => (part as never)[key], results as unknown)
    const wanted = expected[name] as Value | Value[] | undefined
    const bound = boundOf(name)
    if (wanted === undefined || value === undefined) {
      if (wanted !== value) report.fail(`${name} is ${value}, not ${wanted}`)
    } else if (Array.isArray(wanted)) {
      report.all(value as ArrayLike<number>, wanted, (i) => report.scaled((bound as number[])[i]), name)
    } else report.near(value as number, wanted, report.scaled(bound as number), name)
  }
}

describe('unpairedPreferenceLoss', () => {
  for (const { name, sequences: key, options, expected } of unpaired) {
    const inputs = () => unpairedInputs[key]
    everywhere(
      name,
      inputs,
      (logProbs, { run }, report) => {
        const got = unpairedPreferenceLossSync(logProbs, { ...options, ...run })
        const relative = (wanted: Value) => LOSS_RELATIVE * Math.abs(Number(wanted))
        const boundOf = (of: string) => {
          const wanted = expected[of] ?? 0
          return Array.isArray(wanted) ? wanted.map(relative) : relative(wanted)
        }
        compareUnpaired(got, expected, UNPAIRED_NAMES, boundOf, report)
      },
      TARGETS,
    )
  }
})

/** The most tokens of a vocabulary for which an output layer is made that gives back what goes into it. */
const MOST_IDENTITY = 64

describe('fusedUnpairedPreferenceLoss', WAITING, () => {
  for (const golden of fusedUnpaired) {
    const { options, reference, expected } = golden
    const { bounds } = expected
    const inputs = () => {
      const given: FusedUnpairedOptions = { ...options, gradient: true }
      const model = reference && 'logits' in reference ? logitsOf(reference.logits) : undefined
      if (reference !== undefined) given.reference = model ? { logits: model } : (reference as { logProbs: number[] })
      return { logits: logitsOf(golden.logits), labels: labelsOf(golden), given, model }
    }
    const relative = (s: number) =>
      expected.gradient[s] === 0 ? 0 : bounds.gradient[s] / Math.abs(expected.gradient[s])
    const compare = (got: FusedUnpairedPreferenceLoss | FusedLinearUnpairedPreferenceLoss, report: Report) => {
      compareUnpaired(got, expected, [...UNPAIRED_NAMES, 'logProbs'], (name) => bounds[name] ?? 0, report)
      report.all(got.tokenCounts, expected.tokenCounts, () => 0, 'tokenCounts')
      compareTokens(got, expected, options.outputs ?? [], report)
      expect(Array.from(got.layout.desirable)).toEqual(Array.from(options.desirable, Number))
    }
    everywhere(golden.name, inputs, async ({ logits, labels, given }, { run }, report) => {
      const got = await calls.fusedUnpairedPreferenceLoss(logits, labels, { ...given, ...run })
      compare(got, report)
      compareGradient(got.gradLogits!, expected.gradLogits, golden, relative, report)
    })

    const vocab = golden.logits.shape.at(-1)!
    if (vocab > MOST_IDENTITY) continue
    everywhere(`${golden.name}, linear`, inputs, async ({ logits, labels, given, model }, { name, run }, report) => {
      const { dtype } = golden.logits
      const data = storage(dtype, vocab * vocab)
      for (let i = 0; i < vocab; i++) data[i * vocab + i] = encode[dtype](1)
      const weight = { data, dtype, shape: [vocab, vocab] }
      const { zeroInactive: _, ...rest } = given
      const reference = model ? { hidden: model, weight } : (given.reference as { logProbs: number[] } | undefined)
      const linear: FusedLinearUnpairedOptions = { ...rest, reference, gradient: true, ...run }
      const got = await calls.fusedLinearUnpairedPreferenceLoss(logits, weight, labels, linear)
      compare(got, report)
      // A GPU multiplies gradients that it has rounded to the 16 bits of hidden: cuda-head.test.ts.
      if (name === 'cuda' && dtype !== 'float32') return
      const gradHidden: Logits = { ...got.gradHidden!, dtype: 'float32' }
      compareGradient(gradHidden, expected.gradLogits, golden, relative, report)
    })
  }
})

/** Chosen and rejected sequence of each pair, when the call does not say. */
function halves(sequences: number): number[] {
  const half = sequences / 2
  return Array.from({ length: sequences }, (_, i) => (i % 2 === 0 ? i / 2 : half + (i - 1) / 2))
}
