/**
 * Losses of single sequences: the fused functions do what their stages do one by one, gradients are slopes, what takes no
 * part takes none, batches add up, and what is wrong is refused. Values are compared in golden.test.ts and peers.test.ts.
 */
import { beforeEach, describe, expect, test } from 'vitest'
import {
  fusedLinearUnpairedPreferenceLossSync,
  fusedUnpairedPreferenceLoss,
  fusedUnpairedPreferenceLossSync,
  linearSequenceLogProbsSync,
  runningRewardMean,
  sequenceLogProbsSync,
  unpairedPreferenceLoss,
  unpairedPreferenceLossSync,
} from '../lib/index.js'
import type { FusedUnpairedOptions, UnpairedPreferenceOptions } from '../lib/options/index.js'
import type {
  FusedUnpairedPreferenceLoss,
  Logits,
  UnpairedLossType,
  UnpairedPreferenceLoss,
} from '../lib/types/index.js'
import { spyOnWarnings } from './platform.js'
import { bytes, DTYPES, gaussian, hex, logitsOf, NATIVE, OUTPUTS, random, TARGETS, values } from './support.js'

const { NaN: nan, POSITIVE_INFINITY: inf } = Number
/** The losses that take a side; that of 'regression' is in per-each.test.ts. */
type SidedLossType = Exclude<UnpairedLossType, 'regression'>
const LOSSES: SidedLossType[] = ['kto', 'apo_zero_unpaired', 'bco']
const KL = { klLogProbs: [-30, -22.5], referenceKlLogProbs: [-32, -25] }
/** What each loss has besides β and weights. */
const CONSTANTS: Record<SidedLossType, object> = { kto: KL, apo_zero_unpaired: {}, bco: { rewardShift: 0.3 } }

const [BATCH, TIME, VOCAB, WIDTH] = [5, 4, 11, 6]
const next = random(77)
const normal = (length: number, scale = 1) => Float64Array.from({ length }, () => scale * gaussian(next))
const LABELS = Int32Array.from({ length: BATCH * TIME }, (_, i) => (i % 6 === 4 ? -100 : (5 * i + 2) % VOCAB))
const desirable = [true, false, false, true, true]
const reference = { logProbs: [-9, -6.5, -7, -8, -10] }
const WEIGHTS = { desirableWeight: 1.3, undesirableWeight: 0.7 }

/** Everything about a result, for comparisons to the bit. */
const bits = (result: object): unknown =>
  JSON.parse(
    JSON.stringify(result, (_, value) =>
      ArrayBuffer.isView(value) ? hex(value) : typeof value === 'number' ? String(value) : value,
    ),
  )

describe.each(TARGETS)('$name', ({ run, name }) => {
  describe.each(LOSSES)('%s', (lossType) => {
    const common = { lossType, beta: 0.5, desirable, ...WEIGHTS, ...CONSTANTS[lossType] }

    test.each(DTYPES)('the fused function is its stages, one after the other, on %s', (dtype) => {
      const logits = logitsOf(dtype, [BATCH, TIME, VOCAB], normal(BATCH * TIME * VOCAB, 2))
      const other = logitsOf(dtype, [BATCH, TIME, VOCAB], normal(BATCH * TIME * VOCAB, 2))
      for (const tokens of [{}, { averageLogProb: true, shift: false }, { temperature: 1.5 }]) {
        const sums = sequenceLogProbsSync(logits, LABELS, { ...tokens, outputs: OUTPUTS, ...run })
        const referenceSums = sequenceLogProbsSync(other, LABELS, { ...tokens, ...run })
        const stage = unpairedPreferenceLossSync(
          { logProbs: sums.logProbs, referenceLogProbs: referenceSums.logProbs },
          { ...common, ...run },
        )
        for (const given of [{ logits: other }, referenceSums]) {
          const options = { ...common, ...tokens, reference: given, outputs: OUTPUTS, gradient: true, ...run }
          const fused = fusedUnpairedPreferenceLossSync(logits, LABELS, options)
          const { logProbs, tokenCounts, layout, gradLogits, ...rest } = fused
          const { logProbs: _, tokenCounts: counts, backward: __, backwardSync, ...byProducts } = sums
          expect(bits(rest)).toEqual(bits({ ...stage, ...byProducts }))
          expect(bits([logProbs, tokenCounts])).toEqual(bits([sums.logProbs, counts]))
          expect(layout).toEqual({ desirable: Int32Array.of(1, 0, 0, 1, 1), shift: !('shift' in tokens) })
          expect(bits(gradLogits!)).toEqual(bits(backwardSync(stage.gradLogProbs).gradLogits))
        }
      }
    })

    test('so is that of an output layer', () => {
      const hidden = logitsOf('float32', [BATCH, TIME, WIDTH], normal(BATCH * TIME * WIDTH))
      const weight = logitsOf('float32', [VOCAB, WIDTH], normal(VOCAB * WIDTH))
      const bias = Float32Array.from(normal(VOCAB))
      const sums = linearSequenceLogProbsSync(hidden, weight, LABELS, { bias, ...run })
      const stage = unpairedPreferenceLossSync(
        { logProbs: sums.logProbs, referenceLogProbs: reference.logProbs },
        { ...common, ...run },
      )
      const options = { ...common, bias, reference, gradient: true as const, ...run }
      const fused = fusedLinearUnpairedPreferenceLossSync(hidden, weight, LABELS, options)
      const { logProbs, tokenCounts, layout: _, gradHidden, gradWeight, gradBias, ...rest } = fused
      expect(bits(rest)).toEqual(bits(stage))
      expect(bits([logProbs, tokenCounts])).toEqual(bits([sums.logProbs, sums.tokenCounts]))
      expect(bits({ gradHidden, gradWeight, gradBias })).toEqual(bits(sums.backwardSync(stage.gradLogProbs)))
      const model = { reference: { hidden, weight, bias } }
      const same = fusedLinearUnpairedPreferenceLossSync(hidden, weight, LABELS, { ...options, ...model })
      expect(Array.from(same.rewards, Math.abs)).toEqual([0, 0, 0, 0, 0])
    })

    test('packed sequences, destinations, promises and threads have the same bits', async () => {
      const logits = logitsOf('float32', [BATCH, TIME, VOCAB], normal(BATCH * TIME * VOCAB, 2))
      const options = { ...common, reference, gradient: true as const, outputs: OUTPUTS, ...run }
      const wanted = fusedUnpairedPreferenceLossSync(logits, LABELS, options)
      const promised = await fusedUnpairedPreferenceLoss(logits, LABELS, options)
      expect(bits(promised)).toEqual(bits(wanted))
      const packed = { ...logits, shape: [BATCH * TIME, VOCAB] }
      const sequenceOffsets = Array.from({ length: BATCH + 1 }, (_, s) => s * TIME)
      const flat = fusedUnpairedPreferenceLossSync(packed, LABELS, { ...options, outputs: [], sequenceOffsets })
      expect(flat.layout.sequenceOffsets).toEqual(Int32Array.from(sequenceOffsets))
      expect(bits([flat.loss, flat.losses, flat.gradLogits!.data])).toEqual(
        bits([wanted.loss, wanted.losses, wanted.gradLogits!.data]),
      )
      const own = { data: (logits.data as Float32Array).slice(), shape: logits.shape }
      const inPlace = fusedUnpairedPreferenceLossSync(own, LABELS, { ...options, gradient: 'in-place' })
      expect(inPlace.gradLogits!.data).toBe(own.data)
      expect(bits(own.data)).toEqual(bits(wanted.gradLogits!.data))
      const alone = { ...common, ...run }
      const log = { logProbs: wanted.logProbs, referenceLogProbs: reference.logProbs }
      expect(bits(await unpairedPreferenceLoss(log, alone))).toEqual(bits(unpairedPreferenceLossSync(log, alone)))
    })

    test('batches add up, under the number of all sequences', () => {
      const logProbs = Array.from(normal(BATCH, 20), (x) => -60 + x)
      const referenceLogProbs = Array.from(normal(BATCH, 20), (x) => -60 + x)
      const of = (first: number, end: number, normalizer: UnpairedPreferenceOptions['normalizer']) =>
        unpairedPreferenceLossSync(
          { logProbs: logProbs.slice(first, end), referenceLogProbs: referenceLogProbs.slice(first, end) },
          { ...common, ...run, desirable: desirable.slice(first, end), normalizer },
        )
      const whole = of(0, BATCH, 'mean')
      for (const normalizer of [{ sequences: BATCH }, BATCH]) {
        const [one, two] = [of(0, 2, normalizer), of(2, BATCH, normalizer)]
        expect([...one.gradLogProbs, ...two.gradLogProbs]).toEqual([...whole.gradLogProbs])
        expect(one.loss + two.loss).toBeCloseTo(whole.loss, 14)
      }
      expect(of(0, BATCH, 'sum').loss).toBeCloseTo(whole.loss * BATCH, 13)
    })

    test('a sequence of weight 0 takes no part, whatever its log-prob is', () => {
      for (const bad of [nan, inf, -inf]) {
        const sequences = { logProbs: [-5, bad], referenceLogProbs: [-6, -6] }
        const options = { ...common, ...run, desirable: [1, 0], undesirableWeight: 0 }
        const got = unpairedPreferenceLossSync(sequences, options)
        const wanted = unpairedPreferenceLossSync({ logProbs: [-5, -6], referenceLogProbs: [-6, -6] }, options)
        expect(got.losses).toEqual(wanted.losses)
        expect(got.gradLogProbs).toEqual(wanted.gradLogProbs)
        expect([got.loss, got.losses[1], got.gradLogProbs[1]]).toEqual([wanted.loss, 0, 0])
        const turned = { ...common, ...run, desirable: [0, 1], desirableWeight: 0 }
        const other = unpairedPreferenceLossSync(sequences, turned)
        expect([Number.isFinite(other.loss), other.losses[1], other.gradLogProbs[1]]).toEqual([true, 0, 0])
      }
    })

    test('sequences of one kind alone', () => {
      const sequences = { logProbs: [-5, -7], referenceLogProbs: [-6, -6] }
      const yes = unpairedPreferenceLossSync(sequences, { ...common, ...run, desirable: [true, true] })
      expect(yes.meanRewards).toEqual({ desirable: 0 })
      expect(yes.meanLogProbs).toEqual({ desirable: -6 })
      const no = unpairedPreferenceLossSync(sequences, { ...common, ...run, desirable: new Uint8Array(2) })
      expect(no.meanRewards).toEqual({ undesirable: 0 })
      expect(no.meanLogProbs).toEqual({ undesirable: -6 })
      for (const { margin, loss, gradLogProbs } of [yes, no]) {
        expect(margin).toBe(undefined)
        expect([loss, ...gradLogProbs].every(Number.isFinite)).toBe(true)
      }
      expect(yes.gradLogProbs.every((x) => x < 0)).toBe(true)
      expect(no.gradLogProbs.every((x) => x > 0)).toBe(true)
    })
  })

  test('an impossible or certain sequence has the limit of its loss, and no NaN', () => {
    const ends = (lossType: SidedLossType, logProb: number) => {
      const constants = { ...CONSTANTS[lossType], lossType, beta: 0.5, desirable: [1, 0], ...run }
      const got = unpairedPreferenceLossSync(
        { logProbs: [logProb, logProb], referenceLogProbs: [-10, -10] },
        constants as UnpairedPreferenceOptions,
      )
      return [...got.losses, ...got.gradLogProbs]
    }
    for (const lossType of ['kto', 'apo_zero_unpaired'] as const) {
      expect(ends(lossType, -inf).map(Math.abs)).toEqual([1, 0, 0, 0])
      expect(ends(lossType, inf).map(Math.abs)).toEqual([0, 1, 0, 0])
    }
    expect(ends('bco', -inf)).toEqual([inf, 0, -0.25, 0])
    expect(ends('bco', inf).map(Math.abs)).toEqual([0, inf, 0, 0.25])
    // A σ near either end is as exact as one in the middle: e^-300 is not lost beside 1.
    const [yes, no, dYes, dNo] = ends('apo_zero_unpaired', 590)
    expect(yes / Math.exp(-300)).toBeCloseTo(1, 12)
    expect(no).toBe(1)
    expect(dYes / (-0.25 * Math.exp(-300))).toBeCloseTo(1, 12)
    expect(dNo / (0.25 * Math.exp(-300))).toBeCloseTo(1, 12)
  })

  test('gradients are slopes', () => {
    const logProbs = [-9.25, -6, -7.5, -8, -11]
    const step = 2 ** -10
    for (const lossType of LOSSES) {
      const options = { lossType, beta: 0.5, desirable, ...WEIGHTS, ...CONSTANTS[lossType], ...run }
      const lossAt = (at: number, by: number) =>
        unpairedPreferenceLossSync(
          { logProbs: logProbs.map((x, i) => (i === at ? x + by : x)), referenceLogProbs: reference.logProbs },
          options,
        ).loss
      const { gradLogProbs } = unpairedPreferenceLossSync({ logProbs, referenceLogProbs: reference.logProbs }, options)
      for (let i = 0; i < BATCH; i++) {
        expect(gradLogProbs[i]).toBeCloseTo((lossAt(i, step) - lossAt(i, -step)) / (2 * step), 7)
      }

      const shape = [BATCH, TIME, WIDTH]
      const hidden = logitsOf('float32', shape, normal(BATCH * TIME * WIDTH))
      const weight = logitsOf('float32', [VOCAB, WIDTH], normal(VOCAB * WIDTH))
      const bias = Float32Array.from(normal(VOCAB))
      const linear = { ...options, bias, reference, gradient: true as const }
      const got = fusedLinearUnpairedPreferenceLossSync(hidden, weight, LABELS, linear)
      const slope = (array: Float32Array, at: number) => {
        const [kept, by] = [array[at], 2 ** -5]
        const losses = [by, -by].map((d) => {
          array[at] = kept + d
          return fusedLinearUnpairedPreferenceLossSync(hidden, weight, LABELS, { ...linear, gradient: false }).loss
        })
        array[at] = kept
        return (losses[0] - losses[1]) / (2 * by)
      }
      const tensors = [
        [hidden.data, got.gradHidden!.data],
        [weight.data, got.gradWeight!.data],
        [bias, got.gradBias],
      ] as [Float32Array, Float32Array][]
      for (const [array, found] of tensors) {
        for (let at = 0; at < array.length; at += 5) expect(found[at]).toBeCloseTo(slope(array, at), 3)
      }
    }
  })

  test('a sequence without tokens', () => {
    const logits = logitsOf('float32', [2, TIME, VOCAB], normal(2 * TIME * VOCAB))
    const labels = Int32Array.of(3, 1, 4, 1, -100, -100, -100, -100)
    const options = { lossType: 'bco' as const, desirable: [1, 0], gradient: true as const, ...run }
    const zero = fusedUnpairedPreferenceLossSync(logits, labels, { ...options, reference: { logProbs: [-7, -0.5] } })
    expect([zero.logProbs[1], zero.tokenCounts[1]]).toEqual([0, 0])
    expect(
      values(zero.gradLogits!)
        .subarray(TIME * VOCAB)
        .every((x) => x === 0),
    ).toBe(true)
    const empty = { ...options, emptySequence: 'nan' as const, reference: { logProbs: [-7, nan] } }
    const none = fusedUnpairedPreferenceLossSync(logits, labels, empty)
    expect([none.losses[1], none.rewards[1], none.loss]).toEqual([nan, nan, nan])
    const out = fusedUnpairedPreferenceLossSync(logits, labels, { ...empty, undesirableWeight: 0 })
    expect([out.losses[1], out.loss]).toEqual([0, out.losses[0] / 2])
  })

  test('κ is the clamped mean, and has no gradient', () => {
    const sequences = { logProbs: [-5, -7], referenceLogProbs: [-6, -6] }
    const of = (options: object) => unpairedPreferenceLossSync(sequences, { desirable: [1, 0], ...options, ...run })
    const given = of({ klLogProbs: [-10, -20, -3], referenceKlLogProbs: [-11, -25, -3] })
    expect(given.kl).toBe(2)
    expect(bits(of({ kl: 2 }))).toEqual(bits(given))
    expect(bits(of({ klLogProbs: [-1], referenceKlLogProbs: [-9], kl: undefined }))).toEqual(bits(of({ kl: 8 })))
    expect(of({ klLogProbs: [-11, -25], referenceKlLogProbs: [-10, -20] }).kl).toBe(0)
    expect(bits(of({ kl: -3 }))).toEqual(bits(of({ kl: 0 })))
    expect(of({ lossType: 'bco' }).kl).toBe(0)
    expect(of({ referenceFree: true, klLogProbs: [-1, -2] }).kl).toBe(0)
    expect(of({ referenceFree: true, klLogProbs: [3, 2], referenceKlLogProbs: 'any' }).kl).toBe(2.5)
  })

  test('referenceFree takes no reference, whatever is given', () => {
    const logits = logitsOf('float32', [BATCH, TIME, VOCAB], normal(BATCH * TIME * VOCAB))
    const options = { lossType: 'bco' as const, desirable, referenceFree: true, ...run }
    const none = fusedUnpairedPreferenceLossSync(logits, LABELS, options)
    for (const given of [reference, { logits }]) {
      expect(bits(fusedUnpairedPreferenceLossSync(logits, LABELS, { ...options, reference: given }))).toEqual(
        bits(none),
      )
    }
    expect(none.rewards).toEqual(none.logProbs.map((x) => 0.1 * x))
    const alone = unpairedPreferenceLossSync(
      { logProbs: none.logProbs, referenceLogProbs: reference.logProbs },
      options,
    )
    expect(alone.losses).toEqual(none.losses)
  })

  if (name.startsWith('cpu')) {
    test('more sequences than the cache holds, on any number of threads', async () => {
      const [batch, time, vocab] = [12, 6, 1_000_000]
      const window = Float32Array.from(
        { length: vocab + batch * 1009 + time * 31 },
        (_, i) => ((i * 7919) % 4099) / 512,
      )
      const logits: Logits = { data: window, shape: [batch, time, vocab], strides: [1009, 31, 1] }
      const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 7 === 3 ? -100 : (i * 104_729) % vocab))
      const flags = Int32Array.from({ length: batch }, (_, s) => (s * s) % 2)
      const given = { logProbs: Float64Array.from({ length: batch }, (_, s) => -30 - 3 * s) }
      const sums = sequenceLogProbsSync(logits, labels, run)
      const options = { ...KL, beta: 0.02, desirable: flags, ...WEIGHTS, ...run }
      const stage = unpairedPreferenceLossSync({ ...sequencesOf(sums, given) }, options)
      const wanted = bytes(sums.backwardSync(stage.gradLogProbs).gradLogits.data as Float32Array)
      const gradient = new Float32Array(batch * time * vocab)
      const check = ({ gradLogits, ...result }: FusedUnpairedPreferenceLoss) => {
        expect(result).toMatchObject(stage)
        expect(bytes(gradLogits!.data as Float32Array).equals(wanted)).toBe(true)
      }
      const { signal } = new AbortController()
      for (const more of [{ threads: 1 }, { threads: 3 }, { threads: 2, signal }] as FusedUnpairedOptions[]) {
        const call = { ...options, reference: given, gradient: gradient.fill(nan), ...more }
        check(fusedUnpairedPreferenceLossSync(logits, labels, call))
      }
      gradient.fill(nan)
      check(await fusedUnpairedPreferenceLoss(logits, labels, { ...options, reference: given, gradient }))
    })
  }
})

function sequencesOf(sums: { logProbs: Float64Array }, given: { logProbs: Float64Array }) {
  return { logProbs: sums.logProbs, referenceLogProbs: given.logProbs }
}

test('every instruction set has the same bits', () => {
  const logProbs = normal(64, 300).map((x) => -Math.abs(x))
  const referenceLogProbs = normal(64, 300).map((x) => -Math.abs(x))
  const flags = logProbs.map((_, i) => i % 2)
  for (const lossType of LOSSES) {
    const results: UnpairedPreferenceLoss[] = NATIVE.map(({ run }) =>
      unpairedPreferenceLossSync(
        { logProbs, referenceLogProbs },
        { ...CONSTANTS[lossType], lossType, beta: 0.3, desirable: flags, ...run },
      ),
    )
    for (const result of results) expect(bits(result)).toEqual(bits(results[0]))
  }
})

describe('runningRewardMean', () => {
  test('is the mean of all rewards, whatever batches they came in', () => {
    const all = normal(10, 3)
    let running = runningRewardMean(undefined, all.subarray(0, 3))
    running = runningRewardMean(running, all.subarray(3, 4), all.subarray(4, 8))
    running = runningRewardMean(JSON.parse(JSON.stringify(running)), [], all.subarray(8))
    expect(running.count).toBe(10)
    expect(running.mean).toBeCloseTo(all.reduce((a, b) => a + b) / 10, 14)
    expect(runningRewardMean(undefined)).toEqual({ mean: 0, count: 0 })
    expect(runningRewardMean({ mean: 2, count: 3 }, [6])).toEqual({ mean: 3, count: 4 })
  })

  test.each([
    [[undefined, [1, nan]], 'ERR_OUT_OF_RANGE', 'rewards[1] must be a finite number; got NaN'],
    [[undefined, [1], [inf]], 'ERR_OUT_OF_RANGE', 'rewards[1][0] must be a finite number; got Infinity'],
    [[undefined, 3], 'ERR_INVALID_ARG_TYPE', 'rewards must be an array of numbers; got 3'],
    [[{ mean: 1 }, [1]], 'ERR_INVALID_ARG_TYPE', 'previous.count must be an integer'],
    [[{ count: 1 }, [1]], 'ERR_INVALID_ARG_TYPE', 'previous.mean must be a number; got undefined'],
    [[{ mean: 1, count: -1 }, [1]], 'ERR_OUT_OF_RANGE', 'previous.count must be an integer'],
    [[{ mean: nan, count: 1 }, [1]], 'ERR_OUT_OF_RANGE', 'previous.mean must be a finite number'],
    [[{ mean: 1, count: 1, std: 1 }, [1]], 'ERR_INVALID_ARG_VALUE', 'previous.std is not an option'],
  ] as [unknown[], string, string][])('refuses %j: %s', (given, code, message) => {
    const call = () => runningRewardMean(...(given as [undefined, number[]]))
    expect(call).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }))
  })
})

const TYPE = 'ERR_INVALID_ARG_TYPE'
const VALUE = 'ERR_INVALID_ARG_VALUE'
const RANGE = 'ERR_OUT_OF_RANGE'
const SHAPE = 'ERR_SHAPE_MISMATCH'

describe('refuses', () => {
  // Undefined takes an option away.
  const OPTIONS: [object, string, string][] = [
    [{ desirable: undefined }, TYPE, 'options.desirable must be an array of true, false, 1 or 0'],
    [{ desirable: true }, TYPE, 'options.desirable must be an array of true, false, 1 or 0'],
    [{ desirable: [1, 0, 1, 0] }, SHAPE, 'options.desirable must have length 5, one per sequence; got 4'],
    [{ desirable: [1, 0, 2, 0, 0] }, RANGE, 'options.desirable[2] must be true, false, 1 or 0; got 2'],
    [{ desirable: [1, 0, 0, nan, 0] }, RANGE, 'options.desirable[3] must be true, false, 1 or 0; got NaN'],
    [{ desirable: [1, 0, 0, 0, 'yes'] }, TYPE, "options.desirable[4] must be true, false, 1 or 0; got 'yes'"],
    [{ desirable: [1, 0, 0, 0, 1n] }, TYPE, 'options.desirable[4] must be true, false, 1 or 0; got 1n'],
    [
      { lossType: 'kto_pair' },
      VALUE,
      "options.lossType must be one of 'kto', 'apo_zero_unpaired', 'bco', 'regression'; got",
    ],
    [
      { lossType: 'sigmoid' },
      VALUE,
      "options.lossType must be one of 'kto', 'apo_zero_unpaired', 'bco', 'regression'; got",
    ],
    [{ lossType: [{ lossType: 'kto' }] }, TYPE, 'options.lossType must be one of'],
    [{ beta: 0 }, RANGE, 'options.beta must be a finite number > 0; got 0'],
    [{ desirableWeight: -1 }, RANGE, 'options.desirableWeight must be a finite number >= 0; got -1'],
    [{ undesirableWeight: inf }, RANGE, 'options.undesirableWeight must be a finite number >= 0; got Infinity'],
    [{ undesirableWeight: [1] }, TYPE, 'options.undesirableWeight must be a finite number >= 0; got an array'],
    [{ desirableWeight: nan }, RANGE, 'options.desirableWeight must be a finite number >= 0; got NaN'],
    [{ kl: undefined }, VALUE, 'options.klLogProbs and options.referenceKlLogProbs, of mismatched completions, are'],
    [{ kl: nan }, RANGE, 'options.kl must be a finite number; got NaN'],
    [{ kl: '1' }, TYPE, "options.kl must be a finite number; got '1'"],
    [{ ...KL }, VALUE, 'options.kl is what options.klLogProbs and referenceKlLogProbs come to: give one or the other'],
    [{ kl: undefined, klLogProbs: [-1] }, TYPE, 'options.referenceKlLogProbs must be an array of numbers'],
    [{ kl: undefined, referenceKlLogProbs: [-1] }, TYPE, 'options.klLogProbs must be an array of numbers'],
    [
      { kl: undefined, klLogProbs: [-1], referenceKlLogProbs: [-1, -2] },
      SHAPE,
      'options.referenceKlLogProbs must have length 1, that of options.klLogProbs; got 2',
    ],
    [{ kl: undefined, klLogProbs: [], referenceKlLogProbs: [] }, SHAPE, 'options.klLogProbs must have at least one'],
    [
      { kl: undefined, klLogProbs: [-1, nan], referenceKlLogProbs: [-1, -2] },
      RANGE,
      'options.klLogProbs[1] must be a finite number; got NaN',
    ],
    [
      { kl: undefined, klLogProbs: [-1, -1], referenceKlLogProbs: [-inf, -2] },
      RANGE,
      'options.referenceKlLogProbs[0] must be a finite number; got -Infinity',
    ],
    [{ lossType: 'bco' }, VALUE, "options.kl is not used by lossType 'bco'; the losses that take it: kto"],
    [
      { lossType: 'apo_zero_unpaired', kl: undefined, klLogProbs: [-1] },
      VALUE,
      "options.klLogProbs is not used by lossType 'apo_zero_unpaired'; the losses that take it: kto",
    ],
    [
      { lossType: 'bco', kl: undefined, referenceKlLogProbs: [-1] },
      VALUE,
      "options.referenceKlLogProbs is not used by lossType 'bco'; the losses that take it: kto",
    ],
    [{ rewardShift: 1 }, VALUE, "options.rewardShift is not used by lossType 'kto'; the losses that take it: bco"],
    [{ lossType: 'bco', kl: 0, rewardShift: inf }, RANGE, 'options.rewardShift must be a finite number; got Infinity'],
    [{ referenceFree: 1 }, TYPE, 'options.referenceFree must be a boolean; got 1'],
    [{ normalizer: 0 }, RANGE, 'options.normalizer must be a finite number > 0; got 0'],
    [{ normalizer: 'none' }, VALUE, "options.normalizer must be one of 'mean', 'sum'; got 'none'"],
    [{ normalizer: {} }, TYPE, 'options.normalizer.sequences must be a finite number > 0; got undefined'],
    [{ normalizer: { sequences: -2 } }, RANGE, 'options.normalizer.sequences must be a finite number > 0; got -2'],
    [{ normalizer: { pairs: 2 } }, VALUE, 'options.normalizer.pairs is not an option'],
    [{ normalizer: null }, TYPE, "options.normalizer must be 'mean', 'sum', a number > 0 or an object { sequences }"],
    [{ labelSmoothing: 0.1 }, VALUE, 'options.labelSmoothing is not an option'],
    [{ pairs: [0, 1] }, VALUE, 'options.pairs is not an option'],
    [{ ldAlpha: 0.5 }, VALUE, 'options.ldAlpha is not an option'],
    [{ weighting: 'wpo' }, VALUE, 'options.weighting is not an option'],
  ]
  const FUSED: [object, string, string][] = [
    [{ reference: undefined }, VALUE, 'options.reference is needed (unless referenceFree): { logProbs } or { logits }'],
    [{ reference: [-1] }, TYPE, 'options.reference must be an object: { logProbs } or { logits }'],
    [{ reference: Promise.resolve(reference) }, TYPE, 'options.reference must be the result itself: await it'],
    [{ reference: {} }, TYPE, 'options.reference.logProbs must be an array of numbers; got undefined'],
    [{ reference: { chosen: [-1], rejected: [-1] } }, VALUE, 'options.reference.chosen is not an option'],
    [
      { reference: { logProbs: [-1] } },
      SHAPE,
      'options.reference.logProbs must have length 5, one per sequence; got 1',
    ],
    [{ reference: { logProbs: [-1, -1, nan, -1, -1] } }, RANGE, 'options.reference.logProbs[2] must be a log-prob'],
    [
      { reference: { ...reference, tokenCounts: [3, 3, 3, 3, 9] } },
      VALUE,
      'options.reference.tokenCounts[2] is 3, where 2 tokens count in this call',
    ],
    [{ reference: { ...reference, logits: {} } }, TYPE, 'options.reference must be one of { logProbs } or { logits }'],
    [
      { reference: { logits: { data: new Float32Array(2), shape: [1, 1, 2] } } },
      SHAPE,
      'options.reference.logits.shape',
    ],
    [{ gradient: new Float32Array(3) }, SHAPE, 'options.gradient must have 220 elements'],
    [{ zeroInactive: 0 }, TYPE, 'options.zeroInactive must be a boolean; got 0'],
    [{ shift: 0 }, TYPE, 'options.shift must be a boolean; got 0'],
  ]
  const logits = logitsOf('float32', [BATCH, TIME, VOCAB], normal(BATCH * TIME * VOCAB))
  const sequences = { logProbs: reference.logProbs, referenceLogProbs: reference.logProbs }
  const refused = (call: () => unknown, code: string, message: string) =>
    expect(call).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }))

  test.each(OPTIONS)('%o: %s', async (wrong, code, message) => {
    const options = { desirable, kl: 0.5, ...wrong } as FusedUnpairedOptions
    refused(() => unpairedPreferenceLossSync(sequences, options), code, message)
    const gradient = new Float32Array(BATCH * TIME * VOCAB).fill(7)
    const fused = { reference, gradient, ...options }
    refused(() => fusedUnpairedPreferenceLossSync(logits, LABELS, fused), code, message)
    expect(gradient.every((x) => x === 7)).toBe(true)
    const hidden = logitsOf('float32', [BATCH, TIME, 2], normal(BATCH * TIME * 2))
    const weight = logitsOf('float32', [VOCAB, 2], normal(VOCAB * 2))
    const linear = { ...options, reference, gradient: true as const }
    refused(() => fusedLinearUnpairedPreferenceLossSync(hidden, weight, LABELS, linear), code, message)
    const promised = fusedUnpairedPreferenceLoss(logits, LABELS, fused)
    await expect(promised).rejects.toThrow(expect.objectContaining({ code }))
  })

  test.each(FUSED)('of logits, %o: %s', (wrong, code, message) => {
    const options = { desirable, kl: 0.5, reference, ...wrong } as FusedUnpairedOptions
    refused(() => fusedUnpairedPreferenceLossSync(logits, LABELS, options), code, message)
  })

  test.each([
    [undefined, TYPE, 'sequences must be an object { logProbs, referenceLogProbs }; got undefined'],
    [{ ...sequences, desirable }, VALUE, 'sequences.desirable is not an option'],
    [{ referenceLogProbs: [-1] }, TYPE, 'sequences.logProbs must be an array of numbers; got undefined'],
    [{ logProbs: [], referenceLogProbs: [] }, SHAPE, 'sequences.logProbs must have at least one element; got 0'],
    [{ logProbs: [-1, -2] }, VALUE, 'sequences.referenceLogProbs are needed (unless referenceFree)'],
    [
      { logProbs: [-1], referenceLogProbs: [-1, -2] },
      SHAPE,
      'sequences.referenceLogProbs must have length 1, that of sequences.logProbs; got 2',
    ],
    [{ logProbs: [-1], referenceLogProbs: [nan] }, RANGE, 'sequences.referenceLogProbs[0] must be a log-prob; got NaN'],
  ] as [object, string, string][])('log-probs %j: %s', (given, code, message) => {
    const call = () => unpairedPreferenceLossSync(given as typeof sequences, { desirable: [true], kl: 0 })
    refused(call, code, message)
  })

  test('a gradient over the arrays of the options', () => {
    const memory = new ArrayBuffer(4 * BATCH * TIME * VOCAB)
    const options = { kl: 0.5, reference, gradient: new Float32Array(memory) }
    const overlapping = { ...options, desirable: new Uint8Array(memory, 0, BATCH) }
    refused(
      () => fusedUnpairedPreferenceLossSync(logits, LABELS, overlapping),
      VALUE,
      'options.gradient would overwrite options.desirable: they share memory',
    )
  })
})

describe('warnings', () => {
  const warn = spyOnWarnings()
  beforeEach(() => {
    warn.mockClear()
    Reflect.deleteProperty(globalThis, Symbol.for('fused-preference-loss.warnings'))
  })
  const codes = () => warn.mock.calls.map(([, options]) => (options as { code: string }).code)
  const [batch, time] = [2, 12]
  const logits = logitsOf('float32', [batch, time, VOCAB], normal(batch * time * VOCAB))
  const labels = new Int32Array(batch * time).fill(1)
  const options = { desirable: [1, 0], kl: 0 }

  test.each([
    ['zeros', [0, 0], 'FUSED_PREFERENCE_LOSS_ZERO_REFERENCE'],
    ['a loss', [31, 28], 'FUSED_PREFERENCE_LOSS_POSITIVE_REFERENCE'],
  ])('a reference that is %s', (_, logProbs, code) => {
    fusedUnpairedPreferenceLossSync(logits, labels, { ...options, reference: { logProbs } })
    expect(codes()).toEqual([code])
  })

  test('a reference of means, where the policy has sums', () => {
    const { logProbs } = sequenceLogProbsSync(logits, labels, { averageLogProb: true })
    fusedUnpairedPreferenceLossSync(logits, labels, { ...options, reference: { logProbs } })
    expect(codes()).toEqual(['FUSED_PREFERENCE_LOSS_AVERAGED_REFERENCE'])
  })

  test('no tokens at all', () => {
    const none = new Int32Array(batch * time).fill(-100)
    fusedUnpairedPreferenceLossSync(logits, none, { ...options, reference: { logProbs: [-3, -4] } })
    expect(codes()).toEqual(['FUSED_PREFERENCE_LOSS_NO_ACTIVE_TOKENS'])
  })

  test('a sound call has none', () => {
    const { logProbs } = sequenceLogProbsSync(logits, labels)
    fusedUnpairedPreferenceLossSync(logits, labels, { ...options, reference: { logProbs } })
    expect(codes()).toEqual([])
  })
})
