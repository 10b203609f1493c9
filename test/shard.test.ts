/**
 * A vocabulary that several ranks share, against the calls that have all of it. Where ranks have whole segments, all bits
 * are those of these calls; elsewhere sums in float64 are taken in another order. On all ranks they are the same.
 */
import { describe, expect, test } from 'vitest'
import * as api from '../lib/index.js'
import { getBackends } from '../lib/index.js'
import type { CrossEntropyOptions, FusedOptions, TokenOutput } from '../lib/options/index.js'
import type { DType, HeadWeight, Logits } from '../lib/types/index.js'
import { onRanks } from './ranks.js'
import { type Cut, cutFunctions } from './sharded.js'
import { type Borders, columnsOf, joined, joinedWords, wordsOf } from './shards.js'
import {
  bytes,
  CUDA,
  gaussian,
  hex,
  JS,
  LOSS_TYPES,
  logitsOf,
  NATIVE,
  neededBy,
  random,
  type Target,
  tooFar,
  values,
  WASM,
} from './support.js'

const OUTPUTS: TokenOutput[] = [
  ...(['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'logSumExp'] as const),
  ...(['sumSquaredProbs', 'tokenMeanLogits'] as const),
]

// biome-ignore lint/suspicious/noExplicitAny: results of any function
type Any = any
type Functions = Record<string, (...args: Any[]) => Any>

const next = random(21)
const normal = (count: number) => Float64Array.from({ length: count }, () => 3 * gaussian(next))

/** The inputs of all calls with logits: four sequences of three positions. */
interface Inputs {
  logits: Logits
  reference: Logits
  labels: Int32Array
  classWeights: Float64Array
  vocab: number
}

function inputs(vocab: number, dtype: DType): Inputs {
  const labels = Int32Array.from({ length: 12 }, () => Math.floor(next() * vocab))
  // At both ends, and one that does not count.
  labels[1] = vocab - 1
  labels[2] = 0
  labels[4] = -100
  const classWeights = Float64Array.from({ length: vocab }, (_, v) => (v % 7) / 4)
  const tensor = () => logitsOf(dtype, [4, 3, vocab], normal(12 * vocab))
  return { logits: tensor(), reference: tensor(), labels, classWeights, vocab }
}

/** The inputs of all calls with an output layer. */
interface HeadInputs {
  hidden: Logits
  weight: HeadWeight
  other: HeadWeight
  bias: Float32Array
  labels: Int32Array
  vocab: number
}

function headInputs(vocab: number, width: number, dtype: DType, byWord = true): HeadInputs {
  const { labels } = inputs(vocab, 'float32')
  const shape = byWord ? [vocab, width] : [width, vocab]
  const weight = (): HeadWeight => {
    const { data } = logitsOf(
      dtype,
      shape,
      normal(vocab * width).map((x) => x / 4),
    )
    return { data, dtype, shape: [vocab, width], ...(!byWord && { strides: [1, vocab] }) }
  }
  const hidden = logitsOf(dtype, [4, 3, width], normal(12 * width))
  return { hidden, weight: weight(), other: weight(), bias: Float32Array.from(normal(vocab)), labels, vocab }
}

const REFERENCE = { chosen: [-20, -31], rejected: [-24, -30] }

/** A call with logits, by what is special about it. */
const CALLS: Record<string, (functions: Functions, inputs: Inputs, run: object) => Any> = {
  'log-probs, and the gradient through each result': ({ sequenceLogProbsSync }, { logits, labels }, run) => {
    const tokens = Array.from({ length: 8 }, (_, i) => (i - 3) / 4)
    const got = sequenceLogProbsSync(logits, labels, { outputs: OUTPUTS, temperature: 0.9, ...run })
    const gradients = { logProbs: [1, -2, 0, 0.5], tokenEntropies: tokens, logSumExp: tokens, tokenMeanLogits: tokens }
    return { ...got, ...got.backwardSync(gradients) }
  },
  'a preference loss': ({ fusedPreferenceLossSync }, { logits, labels }, run) =>
    fusedPreferenceLossSync(logits, labels, { reference: REFERENCE, gradient: true, ...run }),
  'a reference by its logits, wpo, ldAlpha': ({ fusedPreferenceLossSync }, { logits, reference, labels }, run) =>
    fusedPreferenceLossSync(logits, labels, {
      lossType: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight: 0.5 }],
      weighting: 'wpo',
      ldAlpha: 0.5,
      reference: { logits: reference },
      gradient: true,
      outputs: ['tokenArgmax'],
      ...run,
    }),
  'soft-capped logits': ({ fusedPreferenceLossSync }, { logits, labels }, run) =>
    fusedPreferenceLossSync(logits, labels, {
      lossType: 'simpo',
      logitSoftcap: 7,
      averageLogProb: true,
      gradient: true,
      outputs: OUTPUTS,
      ...run,
    }),
  'single sequences': ({ fusedUnpairedPreferenceLossSync }, { logits, reference, labels }, run) =>
    fusedUnpairedPreferenceLossSync(logits, labels, {
      desirable: [true, false, true, false],
      kl: 0.1,
      reference: { logits: reference },
      gradient: true,
      ...run,
    }),
  'cross-entropy, smoothed, with a z-loss': ({ crossEntropySync }, { logits, labels }, run) =>
    crossEntropySync(logits, labels, { labelSmoothing: 0.1, zLoss: 0.01, gradient: true, outputs: OUTPUTS, ...run }),
  'cross-entropy with weights of classes': ({ crossEntropySync }, { logits, labels, classWeights }, run) => {
    const options: CrossEntropyOptions = { classWeights, labelSmoothing: 0.2, logitSoftcap: 9, gradient: true, ...run }
    const smoothed = crossEntropySync(logits, labels, options)
    const plain = crossEntropySync(logits, labels, { classWeights, gradient: true, ...run })
    return { smoothed, plain }
  },
  'cross-entropy, its scale deferred': ({ crossEntropySync }, { logits, labels }, run) =>
    crossEntropySync(logits, labels, { dft: true, deferredScale: true, gradient: true, ...run }),
}

/** A call with an output layer. */
const HEAD_CALLS: Record<string, (functions: Functions, inputs: HeadInputs, run: object) => Any> = {
  'log-probs, and the gradient through each result': (
    { linearSequenceLogProbsSync },
    { hidden, weight, bias, labels },
    run,
  ) => {
    const tokens = Array.from({ length: 8 }, (_, i) => (i - 3) / 4)
    const got = linearSequenceLogProbsSync(hidden, weight, labels, { bias, outputs: OUTPUTS, ...run })
    const gradients = { logProbs: [1, -2, 0, 0.5], tokenEntropies: tokens, logSumExp: tokens, tokenMeanLogits: tokens }
    return { ...got, ...got.backwardSync(gradients) }
  },
  'a preference loss': ({ fusedLinearPreferenceLossSync }, { hidden, weight, other, labels }, run) =>
    fusedLinearPreferenceLossSync(hidden, weight, labels, {
      reference: { hidden, weight: other },
      gradient: true,
      logitSoftcap: 20,
      outputs: OUTPUTS,
      ...run,
    }),
  'single sequences': ({ fusedLinearUnpairedPreferenceLossSync }, { hidden, weight, bias, labels }, run) =>
    fusedLinearUnpairedPreferenceLossSync(hidden, weight, labels, {
      bias,
      desirable: [1, 0, 1, 0],
      kl: 0.1,
      reference: { logProbs: [-20, -31, -24, -30] },
      gradient: true,
      ...run,
    }),
  'cross-entropy': ({ linearCrossEntropySync }, { hidden, weight, bias, labels, vocab }, run) =>
    linearCrossEntropySync(hidden, weight, labels, {
      bias,
      labelSmoothing: 0.1,
      zLoss: 0.01,
      classWeights: Float64Array.from({ length: vocab }, (_, v) => (v % 5) / 2),
      gradient: true,
      gradientDType: 'bfloat16',
      ...run,
    }),
}

/** Compares results to the bit, but for what `leaves` has the names of. */
function expectSame(got: Any, wanted: Any, leaves: ReadonlySet<string> = new Set(), path = ''): void {
  if (ArrayBuffer.isView(wanted)) expect(hex(got), path).toBe(hex(wanted))
  else if (typeof wanted === 'object' && wanted !== null) {
    expect(Object.keys(got).sort(), path).toEqual(Object.keys(wanted).sort())
    for (const [name, value] of Object.entries(wanted)) {
      if (!leaves.has(name)) expectSame(got[name], value, leaves, `${path}.${name}`)
    }
  } else if (typeof wanted !== 'function') expect(Object.is(got, wanted), `${path}: ${got}, not ${wanted}`).toBe(true)
}

/**
 * Compares results of two orders of summation, each within the bounds of docs/numerics.md: 2 ULP of float32 for a token's
 * log-prob, 4 for a gradient.
 */
function expectNear(got: Any, wanted: Any, path = ''): void {
  if (ArrayBuffer.isView(wanted)) {
    const isWhole = wanted instanceof Int32Array
    // Bits of numbers that have been rounded.
    const isRounded = wanted instanceof Uint16Array
    for (const [i, x] of Array.from(wanted as Float32Array).entries()) {
      const bound = isWhole ? 0 : isRounded ? 1 : 2e-6 * Math.abs(x) + (wanted instanceof Float64Array ? 1e-6 : 1e-7)
      const off = Math.abs(got[i] - x)
      if (!(off <= bound)) expect.unreachable(`${path}[${i}] is ${got[i]}, not ${x} ± ${bound}`)
    }
  } else if (typeof wanted === 'object' && wanted !== null) {
    for (const [name, value] of Object.entries(wanted)) expectNear(got[name], value, `${path}.${name}`)
  } else if (typeof wanted === 'number') {
    expect(Math.abs(got - wanted), `${path}: ${got}, not ${wanted}`).toBeLessThanOrEqual(1e-6 * Math.max(1, wanted))
  }
}

/** The functions for ranks with these borders. */
function cutAt(borders: Borders, segments: Cut['segments'] = 'exact', copies = false): Functions {
  const cut: Cut = { ranks: borders.length - 1, even: true, borders, segments, copies }
  return cutFunctions(api as unknown as Functions, [cut])
}

const WHOLE = api as unknown as Functions
const HIDDEN: ReadonlySet<string> = new Set(['gradHidden'])

/** That of the sums: differences are those of float32 sums in another order. */
function expectNearHidden({ gradHidden }: Any, wanted: Any, ofFloat32 = 2e-6): void {
  const [a, b] = [values({ ...gradHidden, dtype: gradHidden.dtype }), values(wanted.gradHidden)]
  const largest = b.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
  const relative = gradHidden.dtype === 'float32' ? ofFloat32 : 2 ** -8
  expect(tooFar(a, b, () => relative * largest)).toBe(undefined)
}

const FEW: readonly Target[] = [...NATIVE.slice(0, 1), ...NATIVE.slice(-1), ...WASM]
const hasHead = getBackends().cuda.cublasLt?.available === true

describe('where ranks have whole segments, all bits are those of one process', () => {
  // Of 11 008 columns, and of 384 words.
  const made = [inputs(33_000, 'float32'), inputs(33_000, 'bfloat16')]
  const cuts: Borders[] = [
    [0, 22_016, 33_000],
    [0, 11_008, 22_016, 33_000],
  ]
  for (const { name, run } of FEW) {
    test.each(Object.entries(CALLS))(`%s, ${name}`, (_, call) => {
      for (const [i, given] of made.entries()) {
        expectSame(call(cutAt(cuts[i], 'exact', i === 1), given, run), call(WHOLE, given, run))
      }
    })

    const heads = [headInputs(2000, 8, 'float32'), headInputs(2000, 5, 'bfloat16', false)]
    const headCuts: Borders[] = [
      [0, 384, 1152, 2000],
      [0, 384, 768, 1536, 2000],
    ]
    test.each(Object.entries(HEAD_CALLS))(`output layer: %s, ${name}`, (_, call) => {
      for (const [i, given] of heads.entries()) {
        const [got, wanted] = [call(cutAt(headCuts[i]), given, run), call(WHOLE, given, run)]
        expectSame(got, wanted, HIDDEN)
        expectNearHidden(got, wanted)
      }
    })
  }

  // Of 16 384 columns, whatever the logits are made of.
  for (const { name, run } of CUDA) {
    const borders: Borders = [0, 16_384, 32_768, 33_000]
    test.each(Object.entries(CALLS))(`%s, ${name}`, (_, call) => {
      expectSame(call(cutAt(borders, 'exact', true), made[1], run), call(WHOLE, made[1], run))
    })

    const given = headInputs(33_000, 5, 'float32', false)
    test.runIf(hasHead).each(Object.entries(HEAD_CALLS))(`output layer: %s, ${name}`, (_, call) => {
      const [got, wanted] = [call(cutAt(borders), given, run), call(WHOLE, given, run)]
      expectSame(got, wanted, HIDDEN)
      // 33 000 terms are added up one after the other: the bound of docs/numerics.md.
      expectNearHidden(got, wanted, 2e-5)
    })
  }

  test('four ranks, a vocabulary of 50 257, and one of 128 256 in eight segments', () => {
    for (const borders of [
      [0, 12_608, 25_216, 37_824, 50_257],
      [0, 16_064, 80_320, 128_256],
    ]) {
      const given = inputs(borders.at(-1)!, 'float32')
      const call = CALLS['a preference loss']
      expectSame(call(cutAt(borders), given, {}), call(WHOLE, given, {}))
    }
  })
})

describe('a label on either side of every border, and at both ends', () => {
  /** These labels, on the positions of 4 sequences of 3 that have one. */
  const labelsAt = (borders: Borders) => {
    const vocab = borders.at(-1)!
    const beside = [...new Set(borders.flatMap((border) => [border - 1, border]))].filter((v) => v >= 0 && v < vocab)
    expect(beside.length).toBeLessThanOrEqual(8)
    const labels = new Int32Array(12).fill(-100)
    for (const [i, label] of beside.entries()) labels[3 * Math.floor(i / 2) + 1 + (i % 2)] = label
    return labels
  }
  const [call, headCall] = [CALLS['a preference loss'], HEAD_CALLS['a preference loss']]

  test.each(FEW)('of whole segments, $name', ({ run }) => {
    const borders = [0, 11_008, 22_016, 33_000]
    const given = { ...inputs(33_000, 'float32'), labels: labelsAt(borders) }
    expectSame(call(cutAt(borders), given, run), call(WHOLE, given, run))
    const headBorders = [0, 384, 768, 1536, 2000]
    const headGiven = { ...headInputs(2000, 8, 'float32'), labels: labelsAt(headBorders) }
    const [got, wanted] = [headCall(cutAt(headBorders), headGiven, run), headCall(WHOLE, headGiven, run)]
    expectSame(got, wanted, HIDDEN)
    expectNearHidden(got, wanted)
  })

  test.each([...FEW, JS])('of single columns, $name', ({ run }) => {
    const borders = [0, 1, 2, 609, 610, 611]
    const given = { ...inputs(611, 'float32'), labels: labelsAt(borders) }
    const headGiven = { ...headInputs(611, 6, 'float32'), labels: given.labels }
    for (const segments of ['exact', 'merged'] as const) {
      expectNear(call(cutAt(borders, segments), given, run), call(WHOLE, given, run))
      const [got, wanted] = [headCall(cutAt(borders, segments), headGiven, run), headCall(WHOLE, headGiven, run)]
      expectNearHidden(got, wanted)
      expectNear({ ...got, gradHidden: 0 }, { ...wanted, gradHidden: 0 })
    }
  })
})

describe('logits of an output layer that are kept from the states to the gradients', () => {
  // 360 rows, in tiles of 96; segments of 384 words.
  const [batch, time, width, vocab] = [6, 60, 130, 1500]
  const borders = [0, 768, 1500]
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 13 === 5 ? -100 : (i * 397) % vocab))
  const hidden = logitsOf('float32', [batch, time, width], normal(batch * time * width))
  const weight = logitsOf(
    'float32',
    [1, vocab, width],
    normal(vocab * width).map((x) => x / 8),
  )
  const call = ({ fusedLinearPreferenceLossSync }: Functions, more: object) =>
    fusedLinearPreferenceLossSync(hidden, { ...weight, shape: [vocab, width] }, labels, {
      lossType: 'cpo',
      gradient: true,
      ...more,
    })

  describe.each(FEW)('$name', ({ run }) => {
    test.each([
      ['as they are', {}],
      ['soft-capped', { logitSoftcap: 3, temperature: 0.8 }],
      ['pairs whose weights are 0', { pairWeights: [1, 0, 2] }],
    ])('have the bits of those that are made again: %s', (_, more) => {
      const again = call(cutAt(borders), { ...run, ...more, logitsBudget: 0 })
      expectSame(again, call(WHOLE, { ...run, ...more, logitsBudget: 0 }), HIDDEN)
      // None, one tile and a part, three tiles, of one rank or of both, and all.
      for (const rows of [95, 100, 290, 1e6]) {
        expectSame(call(cutAt(borders), { ...run, ...more, logitsBudget: rows * 4 * 768 }), again)
      }
      expectSame(call(cutAt(borders), { ...run, ...more }), again)
    })
  })
})

describe('anywhere else, and with one state a rank, results are those of one process but for the order of sums', () => {
  const made = [inputs(611, 'float32'), inputs(20_000, 'bfloat16')]
  const cuts: [Borders, Cut['segments']][] = [
    [[0, 1, 300, 611], 'exact'],
    [[0, 4096 + 33, 20_000], 'exact'],
    [[0, 5, 10_100, 19_999, 20_000], 'merged'],
  ]
  for (const { name, run } of [...FEW, JS]) {
    test.each(Object.entries(CALLS))(`%s, ${name}`, (_, call) => {
      for (const [borders, segments] of cuts) {
        const given = made.find(({ vocab }) => vocab === borders.at(-1)) as Inputs
        const got = call(cutAt(borders, segments, true), given, run)
        expectNear(got, call(WHOLE, given, run))
      }
    })

    const given = headInputs(1000, 6, 'float32')
    test.each(Object.entries(HEAD_CALLS))(`output layer: %s, ${name}`, (_, call) => {
      const got = call(cutAt([0, 100, 711, 1000], 'exact'), given, run)
      const merged = call(cutAt([0, 100, 711, 1000], 'merged'), given, run)
      const wanted = call(WHOLE, given, run)
      for (const found of [got, merged]) {
        expectNearHidden(found, wanted)
        const { gradHidden: _got, ...rest } = found
        const { gradHidden: _wanted, ...others } = wanted
        expectNear(rest, others)
      }
    })
  }

  test.each(LOSS_TYPES)('%s', (lossType) => {
    const [given] = made
    const options: FusedOptions = { lossType, reference: REFERENCE, ...neededBy(lossType), gradient: true }
    const call = ({ fusedPreferenceLossSync }: Functions) =>
      fusedPreferenceLossSync(given.logits, given.labels, options)
    expectNear(call(cutAt([0, 77, 411, 611])), call(WHOLE))
  })
})

describe('the promise form', () => {
  const given = headInputs(900, 4, 'float32')
  const borders = [0, 333, 900]

  test('has the bits of the Sync form, in place, in arrays, and added to them', async () => {
    const { hidden, weight, bias, labels } = given
    const options = { reference: REFERENCE, bias }
    const wanted = cutAt(borders).fusedLinearPreferenceLossSync(hidden, weight, labels, { ...options, gradient: true })
    const parts = await onRanks(2, async (rank) => {
      const [start, end] = [borders[rank.rank], borders[rank.rank + 1]]
      const into = { hidden: new Float32Array(48).fill(2), weight: new Float32Array(4 * (end - start)).fill(1) }
      const call = {
        reference: REFERENCE,
        bias: bias.subarray(start, end),
        communicator: rank,
        shard: { start, vocab: 900 },
      }
      const got = await api.fusedLinearPreferenceLoss(hidden, wordsOf(weight, start, end), labels, {
        ...call,
        gradient: into,
        accumulate: true,
      })
      expect(Object.is(got.loss, wanted.loss)).toBe(true)
      expect(got.gradHidden!.data).toBe(into.hidden)
      return into
    })
    const gradHidden = values(wanted.gradHidden)
    for (const { hidden: sums } of parts) {
      for (const [i, x] of gradHidden.entries()) expect(sums[i]).toBe(Math.fround(2 + x))
    }
    const sums = joinedWords(
      parts.map((part, r) => ({ data: part.weight, shape: [borders[r + 1] - borders[r], 4] })),
      borders,
    )
    for (const [i, x] of values(wanted.gradWeight).entries()) {
      expect(Math.abs((sums.data as Float32Array)[i] - 1 - x)).toBeLessThan(1e-6)
    }
  })

  test('overwrites the logits of each rank, and leaves rows that do not count alone', async () => {
    const { logits, labels } = inputs(500, 'float32')
    const wanted = cutAt([0, 200, 500]).crossEntropySync(logits, labels, { gradient: true })
    const copy = { ...logits, data: (logits.data as Float32Array).slice() }
    const before = bytes(copy.data).slice()
    const columns = [columnsOf(copy, 0, 200), columnsOf(copy, 200, 500)]
    const results = await onRanks(2, (rank) =>
      api.crossEntropy(columns[rank.rank], labels, {
        gradient: 'in-place',
        zeroInactive: false,
        communicator: rank,
        shard: { start: [0, 200][rank.rank], vocab: 500 },
      }),
    )
    const got = joined(
      results.map(({ gradLogits }) => gradLogits as Logits),
      [0, 200, 500],
    )
    for (let row = 0; row < 12; row++) {
      const [from, to] = [4 * 500 * row, 4 * 500 * (row + 1)]
      const isActive = row % 3 < 2 && labels[row + 1] >= 0
      const same = isActive ? bytes(wanted.gradLogits.data) : before
      expect(hex(bytes(got.data as Float32Array).subarray(from, to)), `row ${row}`).toBe(hex(same.subarray(from, to)))
    }
  })
})
