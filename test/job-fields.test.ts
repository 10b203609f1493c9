/**
 * The border between TypeScript and C++: both sides name the fields of a job in the order in which they pass and read
 * them, a name is the path of its value in the job, and an addon with another order is refused.
 */
import { afterEach, describe, expect, test } from 'vitest'
import type { Addon } from '../lib/backends/cpu/addon.js'
import { findAddon, loadNative } from '../lib/backends/cpu/index.js'
import { JobArguments, jobFields } from '../lib/backends/cpu/job-arguments.js'
import type { Job, RunSettings } from '../lib/job.js'
import { GIVEN_NAMES } from '../lib/job.js'

const BUNDLED = Symbol.for('fused-preference-loss.addon')
const globals = globalThis as { [key: symbol]: unknown }

const native = loadNative()
if ('reason' in native) throw new Error(native.reason)
const { addon } = native
const lines = jobFields().trimEnd().split('\n')

/** The result of loading an addon with these fields. */
function problemOf(fields: unknown): string | undefined {
  globals[BUNDLED] = { ...addon, jobFields: fields }
  const loaded = findAddon()
  return 'reason' in loaded ? loaded.reason : undefined
}

afterEach(() => {
  delete globals[BUNDLED]
})

test('the addon and lib have the same fields', () => {
  expect(addon.jobFields.split('\n')).toEqual(jobFields().split('\n'))
  expect(problemOf(addon.jobFields)).toBeUndefined()
})

describe('an addon is refused', () => {
  const text = (of: string[]) => `${of.join('\n')}\n`

  test('when any two neighbours have changed places', () => {
    for (let i = 0; i + 1 < lines.length; i++) {
      const swapped = [...lines]
      swapped.splice(i, 2, lines[i + 1], lines[i])
      expect(problemOf(text(swapped))).toContain(`whose jobs have '${lines[i + 1]}' in place of '${lines[i]}'`)
    }
  })

  test('when a field is missing, or there is one more', () => {
    for (let i = 0; i < lines.length; i++) {
      expect(problemOf(text(lines.toSpliced(i, 1)))).toContain(`in place of '${lines[i]}'`)
      expect(problemOf(text(lines.toSpliced(i, 0, 'number more')))).toContain(`'number more' in place of`)
    }
    expect(problemOf(text([...lines, 'number more']))).toContain(`'number more' in place of ''`)
  })

  test('when an array has other elements, or is read and not written', () => {
    const [wide] = lines.filter((line) => line === 'in tokens.weights float64')
    expect(problemOf(jobFields().replace(wide, 'in tokens.weights float32'))).toContain(`in place of '${wide}'`)
    const [result] = lines.filter((line) => line === 'out loss.losses float64')
    expect(problemOf(jobFields().replace(result, 'in loss.losses float64'))).toContain(`in place of '${result}'`)
  })

  test('when it is of a version that had no such text', () => {
    expect(problemOf(undefined)).toContain('belongs to another version of this package')
  })
})

describe('a field is what its name says', () => {
  const NUMBER =
    /(?:batch|time|vocab|Stride|temperature|capScale|emptyLogProb|ignoreIndex|beta|gamma|rewardShift|discopopTau|[aA]lpha|[dD]ivisor|zLoss|[wW]eight|kl|labelSmoothing|gradientScale|offset|targetMargin|dpopLambda|rewardAlpha|logitsBudget|segments\.count|shard\.start)$/

  const ONES = ['loss.terms.type', 'unpairedLoss.type', 'loss.terms.count', 'instructionSet', 'cancellable']

  /** The path in lib of the value that the addon has under this name. */
  const pathOf = (name: string) =>
    name
      .replace(/^labels\./, 'tokens.labels.')
      .replace(/^invalidLabels$/, 'tokens.labels.invalid')
      .replace(/^(unpairedLoss|tokenLoss)\.constants\./, '$1.')
      .replace(/^loss\.terms\.(?!count)/, 'loss.constants.terms.0.')

  const at = (root: object, path: string) =>
    path.split('.').reduce((object: unknown, key) => (object as Record<string, unknown>)[key], root)

  const rows = (data: unknown, from: number) => ({
    data,
    dtype: 'bfloat16',
    batch: from,
    time: from + 1,
    vocab: from + 2,
    batchStride: from + 3,
    timeStride: from + 4,
  })
  const array = () => new Float64Array(1)
  const arrays = (...names: string[]) => Object.fromEntries(names.map((name) => [name, array()]))
  const head = (from: number) => ({
    hidden: rows(array(), from),
    weight: { data: array(), dtype: 'bfloat16', rowStride: from + 5, columnStride: from + 6 },
    bias: { data: array(), dtype: 'bfloat16' },
  })
  /** A job with every field, in which no value occurs twice. */
  const job = {
    tokens: {
      ...arrays('targets', 'weights', 'plainWeights', 'offsets', 'counts'),
      labels: {
        ...{ data: 1n, mask: 2n, wide: true, ignoreIndex: 101, shift: true, invalid: array() },
        ...{ partners: array(), ldAlpha: 192 },
      },
      temperature: 102,
      capScale: 104,
      average: true,
      emptyLogProb: 103,
      shard: { vocab: 105, start: 106 },
    },
    policy: {
      ...arrays('logProbs', 'states', 'logWeights', 'tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'logSumExp'),
      ...arrays('sumSquaredProbs', 'entropies', 'tokenMeanLogits'),
      swept: true,
      logits: rows(array(), 110),
      head: head(120),
      segments: { ...arrays('bounds', 'states', 'labelLogits', 'keptLogits'), count: 107 },
    },
    reference: {
      logits: rows(array(), 130),
      head: head(140),
      ...arrays('states', 'logProbs'),
      swept: true,
      segments: { ...arrays('bounds', 'states', 'labelLogits'), count: 108 },
    },
    loss: {
      ...arrays('pairs', 'chosen', 'rejected', 'referenceChosen', 'referenceRejected', 'chosenTokenCounts'),
      ...arrays('rejectedTokenCounts', 'pairWeights', 'losses', 'chosenRewards', 'rejectedRewards', 'gradChosen'),
      ...arrays('gradRejected', 'summary'),
      pairConstants: arrays('beta', 'labelSmoothing', 'offset', 'targetMargin'),
      constants: {
        terms: [{ lossType: 'hinge', weight: 150, labelSmoothing: 151 }],
        beta: 152,
        offset: 195,
        targetMargin: 196,
        dpopLambda: 197,
        rewardAlpha: 198,
        sftNormalization: 'sum',
        gamma: 153,
        rewardShift: 154,
        discopopTau: 155,
        alpha: 156,
        fDivergence: 'alpha',
        average: true,
        pairDivisor: 157,
        tokenDivisor: 158,
        gradientScale: 159,
      },
    },
    unpairedLoss: {
      ...arrays('desirable', 'logProbs', 'referenceLogProbs', 'losses', 'rewards', 'gradient', 'summary'),
      ...arrays('weights', 'betas', 'targets'),
      lossType: 'bco',
      beta: 180,
      desirableWeight: 181,
      undesirableWeight: 182,
      kl: 183,
      rewardShift: 184,
      divisor: 185,
      gradientScale: 189,
    },
    given: Object.fromEntries(GIVEN_NAMES.map((name, i) => [name, { data: BigInt(10 + i), wide: true }])),
    tokenLoss: {
      ...arrays('losses', 'summary', 'classWeights', 'weightsOfLabels'),
      labelSmoothing: 186,
      zLoss: 187,
      dft: true,
      meanClassWeight: 190,
      divisor: 188,
      gradientScale: 191,
    },
    gradient: {
      out: rows(array(), 160),
      ...arrays('rowScale', 'coefficients', 'plainCoefficients'),
      tokenCoefficients: arrays('logProb', 'logSumExp', 'entropy', 'meanLogit'),
      skipInactive: true,
    },
    headGradient: {
      ...arrays('hidden', 'weight', 'bias'),
      dtype: 'bfloat16',
      precision: 'bfloat16',
      accumulate: true,
      logitsBudget: 777,
      sharesHidden: true,
    },
    exchange: { communicator: 4n, ...arrays('columns'), merges: true },
  }
  const settings = { device: 170, stream: 3n, threads: 171, instructionSet: 'avx2', products: 172, signal: {} }
  const values = new Float64Array(lines.length + 100)
  const names = { lossNames: ['sigmoid', 'hinge'], unpairedLossNames: ['kto', 'bco'] }
  const fake = { values, ...names, instructionSets: ['avx512', 'avx2'] } as unknown as Addon
  const passed = new JobArguments(fake, 0, 1).of(job as unknown as Job, settings as unknown as RunSettings)
  const everything = { ...job, ...settings }

  test('arrays and addresses', () => {
    const names = lines.filter((line) => /^(in|out) /.test(line)).map((line) => line.split(' ')[1])
    expect(new Set(passed).size).toBe(names.length)
    expect(passed).toHaveLength(names.length)
    names.forEach((name, i) => {
      expect(passed[i], name).toBe(at(everything, pathOf(name)))
    })
  })

  test('numbers', () => {
    const fields = lines.flatMap((line, i) => (line.startsWith('number ') ? [[line.split(' ')[1], values[i]]] : []))
    const seen = new Set<unknown>()
    for (const [name, value] of fields as [string, number][]) {
      if (/dtype$|precision$/.test(name)) expect(value, name).toBe(2)
      else if (name === 'loss.constants.divergence') expect(value).toBe(3)
      else if (name === 'loss.constants.sftNormalization') expect(value).toBe(2)
      else if (ONES.includes(name)) expect(value).toBe(1)
      else if (NUMBER.test(name) || ['device', 'threads', 'products'].includes(name)) {
        expect(value, name).toBe(at(everything, pathOf(name)))
        expect(seen).not.toContain(value)
        seen.add(value)
      } else expect([name, value, at(everything, pathOf(name))]).toEqual([name, 1, true])
    }
  })
})

test('fields that a job has not are zeros, whatever the job before it had', () => {
  const values = new Float64Array(lines.length + 100).fill(NaN)
  const fake = { values, lossNames: ['sigmoid'], unpairedLossNames: [], instructionSets: ['avx2'] } as unknown as Addon
  const loss = { constants: { terms: [], fDivergence: 'reverse_kl', beta: 0.5 }, losses: new Float64Array(1) }
  expect(new JobArguments(fake, 0, 1).of({ loss } as unknown as Job, { threads: 7 })).toEqual([loss.losses])
  const used = lines.filter((line, i) => /^(in|out|number) /.test(line) && !line.includes(' loss.') && values[i] !== 0)
  expect(used).toEqual(['number device', 'number threads'])
  expect(values[lines.indexOf('out loss.losses float64')]).toBe(-1)
})
