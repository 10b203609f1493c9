/**
 * Accumulated batches: with the whole batch's numbers of pairs and tokens as `normalizer`, the losses and gradients of
 * its parts add up to those of the whole, however uneven the parts are. Runs on every backend and instruction set, with
 * every loss that allows it.
 */
import { describe, expect, test } from 'vitest'
import {
  crossEntropySync,
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLossSync,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLossSync,
  linearCrossEntropySync,
  preferenceLossSync,
  unpairedPreferenceLossSync,
} from '../lib/index.js'
import type { FusedOptions, PreferenceOptions } from '../lib/options/index.js'
import { TAKERS } from '../lib/options/loss-options.js'
import type { LossType, Normalizer, PairLogProbs, UnpairedLossType, WeightedLoss } from '../lib/types/index.js'
import { LOSS_TYPES, logitsOf, neededBy, random, TARGETS, tooFar, values } from './support.js'

const SORTING: readonly LossType[] = ['aot', 'aot_unpaired']
const LISTS: Record<string, WeightedLoss[]> = {
  RPO: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight: 0.3 }],
  'ORPO + sft': [{ lossType: 'sft' }, { lossType: 'orpo' }],
  'three losses': [{ lossType: 'simpo', weight: 2 }, { lossType: 'ipo_norm', weight: -0.5 }, { lossType: 'hinge' }],
}
const CASES: [string, LossType | WeightedLoss[]][] = [
  ...LOSS_TYPES.filter((type) => !SORTING.includes(type)).map((type): [string, LossType] => [type, type]),
  ...Object.entries(LISTS),
]

const PAIRS = 11
/** Where the parts end: 1, 4, 2, 3 and 1 pairs. */
const PARTS = [0, 1, 5, 7, 10, 11]

const next = random(31)
const list = (of: () => number) => Array.from({ length: PAIRS }, of)
const whole = {
  chosen: list(() => -40 * next() - 0.5),
  rejected: list(() => -40 * next() - 0.5),
  referenceChosen: list(() => -40 * next() - 0.5),
  referenceRejected: list(() => -40 * next() - 0.5),
  chosenTokenCounts: list(() => 1 + Math.floor(next() * 30)),
  rejectedTokenCounts: list(() => 1 + Math.floor(next() * 30)),
}
const weights = list(() => 2 * next())
const TOKENS = whole.chosenTokenCounts.reduce((a, b) => a + b)

/** The loss of the batch's pairs from `first` to `end`. */
function lossOf(first: number, end: number, options: PreferenceOptions) {
  const entries = Object.entries(whole).map(([name, numbers]) => [name, numbers.slice(first, end)])
  const pairs = Object.fromEntries(entries) as PairLogProbs
  return preferenceLossSync(pairs, { ...options, pairWeights: weights.slice(first, end) })
}

function parts<T>(call: (first: number, end: number) => T): T[] {
  return PARTS.slice(1).map((end, i) => call(PARTS[i], end))
}

function expectNear(got: ArrayLike<number>, wanted: ArrayLike<number>, relative: number): void {
  const largest = Math.max(...Array.from(wanted, Math.abs))
  expect(tooFar(got, wanted, () => relative * largest)).toBe(undefined)
}

/** The losses of a list, or the single loss. */
const namesOf = (lossType: LossType | readonly WeightedLoss[]): LossType[] =>
  typeof lossType === 'string' ? [lossType] : lossType.map((term) => term.lossType)

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0)
const joined = (lists: readonly Float64Array[]) => Float64Array.from(lists.flatMap((one) => [...one]))

describe.each(TARGETS)('$name', ({ run }) => {
  describe.each(CASES)('%s', (_, lossType) => {
    test('uneven parts of log-probs add up', () => {
      for (const fDivergence of ['reverse_kl', 'js'] as const) {
        const takes = (type: LossType) => ['sigmoid', 'robust', 'hinge', 'ipo', 'ipo_norm'].includes(type)
        if (fDivergence === 'js' && !(typeof lossType === 'string' && takes(lossType))) continue
        const smoothing = TAKERS.labelSmoothing.some((type) => namesOf(lossType).includes(type))
          ? { labelSmoothing: 0.1 }
          : {}
        const options = { lossType, fDivergence, ...neededBy(...namesOf(lossType)), ...smoothing, ...run }
        const all = lossOf(0, PAIRS, options)
        const normalizer = { pairs: PAIRS, tokens: TOKENS }
        const some = parts((first, end) => lossOf(first, end, { ...options, normalizer }))
        expectNear([sum(some.map(({ loss }) => loss))], [all.loss], 1e-12)
        expectNear(joined(some.map(({ losses }) => losses)), all.losses, 1e-12)
        expectNear(joined(some.map(({ gradLogProbs }) => gradLogProbs.chosen)), all.gradLogProbs.chosen, 1e-12)
        expectNear(joined(some.map(({ gradLogProbs }) => gradLogProbs.rejected)), all.gradLogProbs.rejected, 1e-12)
      }
    })

    test("'sum' is the mean times what it is divided by", () => {
      const one = typeof lossType === 'string'
      const options = { lossType, ...neededBy(...namesOf(lossType)), ...run }
      const mean = lossOf(0, PAIRS, options)
      const total = lossOf(0, PAIRS, { ...options, normalizer: 'sum' })
      if (one) {
        const divisor = lossType === 'sft' ? TOKENS : PAIRS
        expectNear([total.loss / divisor], [mean.loss], 1e-13)
        expectNear(
          total.gradLogProbs.chosen.map((x) => x / divisor),
          mean.gradLogProbs.chosen,
          1e-13,
        )
        expectNear(
          total.gradLogProbs.rejected.map((x) => x / divisor),
          mean.gradLogProbs.rejected,
          1e-13,
        )
        const given = lossOf(0, PAIRS, { ...options, normalizer: divisor })
        expectNear(given.gradLogProbs.chosen, mean.gradLogProbs.chosen, 0)
      }
      // These are always means, whatever the loss is divided by.
      expect([total.accuracy, total.margin]).toEqual([mean.accuracy, mean.margin])
      expect(total.chosenRewards).toEqual(mean.chosenRewards)
    })

    test('uneven parts of logits add up', () => {
      const [time, vocab] = [6, 7]
      const row = time * vocab
      // Sequence 2 i is chosen and 2 i + 1 rejected.
      const elements = Float64Array.from({ length: 2 * PAIRS * row }, (_, i) => 3 * Math.sin(17 * i))
      const labels = Int32Array.from({ length: 2 * PAIRS * time }, (_, i) =>
        i % time < 1 + (((i / time) | 0) % 4) ? -100 : (5 * i) % vocab,
      )
      const call = (first: number, end: number, more: FusedOptions) => {
        const logits = logitsOf(
          'float32',
          [2 * (end - first), time, vocab],
          elements.slice(2 * first * row, 2 * end * row),
        )
        const options: FusedOptions = {
          ...run,
          ...more,
          ...neededBy(...namesOf(lossType)),
          lossType,
          gradient: true,
          pairs: Array.from({ length: 2 * (end - first) }, (_, i) => i),
          reference: {
            chosen: whole.referenceChosen.slice(first, end),
            rejected: whole.referenceRejected.slice(first, end),
          },
        }
        return fusedPreferenceLossSync(logits, labels.slice(2 * first * time, 2 * end * time), options)
      }
      for (const more of [{}, { averageLogProb: true }, { weighting: 'wpo' as const }, { ldAlpha: 0.4 }]) {
        const all = call(0, PAIRS, more)
        const tokens = all.tokenCounts.reduce((total, count, s) => total + (s % 2 === 0 ? count : 0), 0)
        const normalizer = { pairs: PAIRS, tokens }
        const some = parts((first, end) => call(first, end, { ...more, normalizer }))
        expectNear([sum(some.map(({ loss }) => loss))], [all.loss], 1e-12)
        expectNear(joined(some.map(({ gradLogProbs }) => gradLogProbs.chosen)), all.gradLogProbs.chosen, 1e-12)
        expectNear(joined(some.map(({ gradLogProbs }) => gradLogProbs.rejected)), all.gradLogProbs.rejected, 1e-12)
        expectNear(joined(some.map(({ gradLogits }) => values(gradLogits!))), values(all.gradLogits!), 1e-12)
      }
    })
  })

  test('uneven parts through the output layer add up in one array', () => {
    const [time, width, vocab] = [4, 3, 6]
    const hidden = Float32Array.from({ length: 2 * PAIRS * time * width }, (_, i) => Math.sin(11 * i))
    const weight = {
      data: Float32Array.from({ length: vocab * width }, (_, i) => Math.cos(5 * i)),
      shape: [vocab, width],
    }
    const labels = Int32Array.from({ length: 2 * PAIRS * time }, (_, i) =>
      i % time <= ((i / time) | 0) % 3 ? -100 : i % vocab,
    )
    const call = (first: number, end: number, normalizer: Normalizer, gradWeight: Float32Array) =>
      fusedLinearPreferenceLossSync(
        {
          data: hidden.slice(2 * first * time * width, 2 * end * time * width),
          shape: [2 * (end - first), time, width],
        },
        weight,
        labels.slice(2 * first * time, 2 * end * time),
        {
          ...run,
          lossType: LISTS.RPO,
          ldAlpha: 0.5,
          pairs: Array.from({ length: 2 * (end - first) }, (_, i) => i),
          reference: {
            chosen: whole.referenceChosen.slice(first, end),
            rejected: whole.referenceRejected.slice(first, end),
          },
          normalizer,
          gradient: { weight: gradWeight, hidden: true },
          accumulate: true,
        },
      )
    const together = new Float32Array(vocab * width)
    const apart = new Float32Array(vocab * width)
    const all = call(0, PAIRS, 'mean', together)
    const tokens = all.tokenCounts.reduce((total, count, s) => total + (s % 2 === 0 ? count : 0), 0)
    const some = parts((first, end) => call(first, end, { pairs: PAIRS, tokens }, apart))
    expectNear([sum(some.map(({ loss }) => loss))], [all.loss], 1e-12)
    expectNear(joined(some.map(({ gradLogProbs }) => gradLogProbs.chosen)), all.gradLogProbs.chosen, 1e-12)
    // The weight's gradient is float32.
    expectNear(apart, together, 1e-6)
  })

  test("the means and the sums of 'sft' are divided as pairs are", () => {
    for (const sftNormalization of ['sequences', 'sum'] as const) {
      const options = { lossType: LISTS.RPO, sftNormalization, ...run }
      const all = lossOf(0, PAIRS, options)
      const some = parts((first, end) => lossOf(first, end, { ...options, normalizer: PAIRS }))
      expectNear([sum(some.map(({ loss }) => loss))], [all.loss], 1e-12)
      expectNear(joined(some.map(({ gradLogProbs }) => gradLogProbs.chosen)), all.gradLogProbs.chosen, 1e-12)
    }
  })

  test('a mean of means is not the mean', () => {
    const options = { lossType: 'sft', ...run } as const
    const all = lossOf(0, PAIRS, options)
    const some = parts((first, end) => lossOf(first, end, options))
    const average = sum(some.map(({ loss }) => loss)) / some.length
    expect(Math.abs(average / all.loss - 1)).toBeGreaterThan(0.01)
  })
})

/** Uneven parts of sequences that stand alone, and of tokens: the cuda backend has the former alone. */
describe.each(TARGETS)('$name, losses of single sequences', ({ run }) => {
  const [time, width, vocab] = [5, 3, 7]
  const hidden = Float64Array.from({ length: PAIRS * time * width }, (_, i) => Math.sin(11 * i))
  const weight = logitsOf(
    'float32',
    [vocab, width],
    Float64Array.from({ length: vocab * width }, (_, i) => Math.cos(5 * i)),
  )
  const elements = Float64Array.from({ length: PAIRS * time * vocab }, (_, i) => 3 * Math.sin(17 * i))
  const labels = Int32Array.from({ length: PAIRS * time }, (_, i) =>
    i % time <= ((i / time) | 0) % 4 ? -100 : (5 * i) % vocab,
  )
  const desirable = list(() => Number(next() < 0.4))

  test.each(['kto', 'apo_zero_unpaired', 'bco'] as UnpairedLossType[])('%s', (lossType) => {
    const constants = { lossType, ...(lossType === 'kto' && { kl: 0.3 }), undesirableWeight: 1.7 }
    const options = (first: number, end: number) => ({
      ...{ ...constants, ...run, desirable: desirable.slice(first, end) },
      reference: { logProbs: whole.referenceChosen.slice(first, end) },
    })
    const alone = (first: number, end: number, normalizer: number | { sequences: number } | 'mean') => {
      const { reference, ...rest } = options(first, end)
      const sequences = { logProbs: whole.chosen.slice(first, end), referenceLogProbs: reference.logProbs }
      return unpairedPreferenceLossSync(sequences, { ...rest, normalizer })
    }
    const all = alone(0, PAIRS, 'mean')
    for (const normalizer of [PAIRS, { sequences: PAIRS }]) {
      const some = parts((first, end) => alone(first, end, normalizer))
      expectNear([sum(some.map(({ loss }) => loss))], [all.loss], 1e-13)
      expectNear(joined(some.map(({ gradLogProbs }) => gradLogProbs)), all.gradLogProbs, 1e-13)
    }
    const ofLogits = (first: number, end: number, sequences?: number) => {
      const part = elements.slice(first * time * vocab, end * time * vocab)
      return fusedUnpairedPreferenceLossSync(
        logitsOf('float32', [end - first, time, vocab], part),
        labels.slice(first * time, end * time),
        { ...options(first, end), gradient: true, ...(sequences && { normalizer: { sequences } }) },
      )
    }
    const one = ofLogits(0, PAIRS)
    const some = parts((first, end) => ofLogits(first, end, PAIRS))
    expectNear([sum(some.map(({ loss }) => loss))], [one.loss], 1e-12)
    expectNear(joined(some.map(({ gradLogits }) => values(gradLogits!))), values(one.gradLogits!), 1e-12)
    const ofHead = (first: number, end: number, gradWeight: Float32Array, sequences?: number) => {
      const part = hidden.slice(first * time * width, end * time * width)
      return fusedLinearUnpairedPreferenceLossSync(
        logitsOf('float32', [end - first, time, width], part),
        weight as typeof weight & { shape: [number, number] },
        labels.slice(first * time, end * time),
        {
          ...{ ...options(first, end), gradient: { weight: gradWeight }, accumulate: true },
          ...(sequences && { normalizer: { sequences } }),
        },
      )
    }
    const [together, apart] = [new Float32Array(vocab * width), new Float32Array(vocab * width)]
    ofHead(0, PAIRS, together)
    parts((first, end) => ofHead(first, end, apart, PAIRS))
    expectNear(apart, together, 1e-6)
  })

  if (run.backend === 'cuda') return

  test('the cross-entropy', () => {
    const options = {
      ...run,
      labelSmoothing: 0.1,
      zLoss: 0.01,
      classWeights: Float64Array.from({ length: vocab }, (_, v) => v),
    }
    const ofLogits = (first: number, end: number, tokens?: number) =>
      crossEntropySync(
        logitsOf('float32', [end - first, time, vocab], elements.slice(first * time * vocab, end * time * vocab)),
        labels.slice(first * time, end * time),
        { ...options, gradient: true, ...(tokens && { normalizer: { tokens } }) },
      )
    const one = ofLogits(0, PAIRS)
    // With class weights a mean is divided by their sum over the labels.
    const divisor = labels.reduce((total, label, i) => (i % time > 0 && label >= 0 ? total + label : total), 0)
    const some = parts((first, end) => ofLogits(first, end, divisor))
    expectNear([sum(some.map(({ loss }) => loss))], [one.loss], 1e-12)
    expectNear(joined(some.map(({ gradLogits }) => values(gradLogits!))), values(one.gradLogits!), 1e-12)
    const [together, apart] = [new Float32Array(vocab * width), new Float32Array(vocab * width)]
    const ofHead = (first: number, end: number, gradWeight: Float32Array, tokens?: number) =>
      linearCrossEntropySync(
        logitsOf('float32', [end - first, time, width], hidden.slice(first * time * width, end * time * width)),
        weight as typeof weight & { shape: [number, number] },
        labels.slice(first * time, end * time),
        {
          ...{ ...options, gradient: { weight: gradWeight }, accumulate: true },
          ...(tokens && { normalizer: { tokens } }),
        },
      )
    ofHead(0, PAIRS, together)
    parts((first, end) => ofHead(first, end, apart, divisor))
    expectNear(apart, together, 1e-6)
  })
})
