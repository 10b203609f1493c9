/**
 * The metrics of a step, against sums computed by hand.
 */
import { describe, expect, test } from 'vitest'
import { preferenceBatches } from '../lib/data/index.js'
import { fusedPreferenceLossSync, preferenceLossSync } from '../lib/index.js'
import { type StepBatch, type StepOptions, stepMetrics } from '../lib/metrics/index.js'
import type { FusedOptions } from '../lib/options/index.js'
import type { Labels } from '../lib/types/index.js'

// Four sequences of three positions over five tokens: at each position one token has logit 3, the others 0.
const VOCAB = 5
const likely = [1, 2, 0, 3, 4, 0, 1, 1, 0, 2, 2, 0]
const labels = Int32Array.from([-100, 1, 4, 0, 3, 4, -100, 1, 3, -100, -100, 2])
const logits = () => ({
  data: Float32Array.from({ length: 12 * VOCAB }, (_, i) => (likely[Math.floor(i / VOCAB)] === i % VOCAB ? 3 : 0)),
  shape: [4, 3, VOCAB],
})
const outputs = ['tokenEntropies', 'tokenArgmax', 'tokenMeanLogits'] as const
const common: FusedOptions = { outputs, reference: { chosen: [-1, -2], rejected: [-3, -4] } }

// log-prob of the likely token and of another, and the entropy of every row
const total = Math.exp(3) + 4
const hit = 3 - Math.log(total)
const miss = -Math.log(total)
const entropy = Math.log(total) - (3 * Math.exp(3)) / total

describe('stepMetrics', () => {
  test('every metric, by hand', () => {
    const result = fusedPreferenceLossSync(logits(), labels, common)
    const metrics = stepMetrics(result, { labels }, { step: 7, ms: 2, bytes: 3e6 })
    // Predicted: 1 hit and 4 missed; 3 and 4 hit | 1 hit and 3 missed; 2 hit.
    const chosen = [hit + miss, 2 * hit]
    const rejected = [hit + miss, hit]
    const rewards = [0.1 * (chosen[0] + 1), 0.1 * (chosen[1] + 2), 0.1 * (rejected[0] + 3), 0.1 * (rejected[1] + 4)]
    const expected = {
      step: 7,
      loss: result.loss,
      'rewards/chosen': (rewards[0] + rewards[1]) / 2,
      'rewards/rejected': (rewards[2] + rewards[3]) / 2,
      'rewards/accuracies': 0,
      'rewards/margins': (rewards[0] + rewards[1] - rewards[2] - rewards[3]) / 2,
      'logps/chosen': (chosen[0] + chosen[1]) / 2,
      'logps/rejected': (rejected[0] + rejected[1]) / 2,
      'logits/chosen': 3 / VOCAB,
      'logits/rejected': 3 / VOCAB,
      entropy,
      mean_token_accuracy: 3 / 4,
      ms: 2,
      'GB/s': 1.5,
    }
    expect(Object.keys(metrics)).toEqual(Object.keys(expected))
    for (const [name, value] of Object.entries(expected)) {
      expect([name, metrics[name as keyof typeof metrics]]).toEqual([name, expect.closeTo(value, 6)])
    }
  })

  test('every metric, as TRL has it', () => {
    // The values that the logging code of TRL 1.16's DPOTrainer gives in float64 for this batch of three pairs.
    const trl = {
      loss: 0.6990080163553477,
      'rewards/chosen': -0.07093025828030468,
      'rewards/rejected': -0.08397172361920517,
      'rewards/accuracies': 2 / 3,
      'rewards/margins': 0.013041465338900484,
      'logps/chosen': -5.709302582803047,
      'logps/rejected': -5.839717236192051,
      'logits/chosen': -0.1078125,
      'logits/rejected': -0.04375,
      entropy: 1.186851169673653,
      mean_token_accuracy: 0.25,
      num_tokens: 1025,
    }
    const N = -100
    const batch = {
      labels: Int32Array.of(
        ...[N, N, 0, 3, 2],
        ...[N, 1, 4, N, N],
        ...[N, N, 2, 0, 1],
        ...[N, N, 1, 1, N],
        ...[N, 3, 0, N, N],
        ...[N, 4, 2, 3, 0],
      ),
      sequenceLengths: [5, 3, 5, 4, 3, 5],
    }
    const data = Float32Array.from({ length: 6 * 5 * VOCAB }, (_, i) => (((i * 7919 + 13) % 64) - 32) / 16)
    const reference = { chosen: [-5, -4, -6], rejected: [-3, -5, -7] }
    const result = fusedPreferenceLossSync({ data, shape: [6, 5, VOCAB] }, batch.labels, { outputs, reference })
    const metrics = stepMetrics(result, batch, { step: 3, tokensBefore: 1000 })
    expect(Object.keys(metrics)).toEqual(['step', ...Object.keys(trl)])
    for (const [name, value] of Object.entries(trl)) {
      expect([name, metrics[name as keyof typeof metrics]]).toEqual([name, expect.closeTo(value, 6)])
    }
  })

  test('without an active token entropy and accuracy are 0, as in TRL', () => {
    const none = new Int32Array(12).fill(-100)
    const result = fusedPreferenceLossSync(logits(), none, common)
    expect(stepMetrics(result, { labels: none }, { step: 0 })).toMatchObject({
      'logits/chosen': 0,
      'logits/rejected': 0,
      entropy: 0,
      mean_token_accuracy: 0,
    })
    // Nor do tokens of the rejected sequences compensate for tokens of a chosen one.
    const rejectedOnly = labels.map((label, i) => (i < 6 ? -100 : label))
    const some = fusedPreferenceLossSync(logits(), rejectedOnly, common)
    const metrics = stepMetrics(some, { labels: rejectedOnly }, { step: 0 })
    expect([metrics.mean_token_accuracy, metrics['logits/chosen']]).toEqual([0, 0])
    expect(metrics['logits/rejected']).toBeCloseTo(3 / VOCAB, 6)
    expect(metrics.entropy).toBeCloseTo(entropy, 6)
  })

  test('a label that is ignored is no token, whatever its number', () => {
    for (const ignoreIndex of [-1, -100, 0]) {
      // Predicted in the chosen sequences: 1 missed and 1 ignored; 1 hit and 1 ignored.
      const N = ignoreIndex
      const ids = Int32Array.of(N, 2, N, 4, 3, N, N, 1, 3, N, N, 2)
      const result = fusedPreferenceLossSync(logits(), ids, { ...common, ignoreIndex })
      const { mean_token_accuracy } = stepMetrics(result, { labels: ids }, { step: 0 })
      expect([ignoreIndex, mean_token_accuracy]).toEqual([ignoreIndex, 1 / 2])
    }
  })

  test('a batch of preferenceBatches is all that is needed', async () => {
    const tokenizer = (text: string) => Array.from(text, Number)
    const records = [
      { prompt: '1', chosen: '24', rejected: '3' },
      { prompt: '23', chosen: '1', rejected: '44' },
    ]
    for (const layout of ['padded', 'packed'] as const) {
      let seen = 7
      for await (const batch of preferenceBatches(records, { tokenizer, batchSize: 2, layout, ignoreIndex: -1 })) {
        const size = batch.inputIds.length
        // The next token is likely where it is even.
        const next = Array.from({ length: size }, (_, i) =>
          (batch.inputIds[i + 1] ?? 0) % 2 === 0 ? (batch.inputIds[i + 1] ?? 0) : 0,
        )
        const data = Float32Array.from({ length: size * VOCAB }, (_, i) =>
          Number(next[Math.floor(i / VOCAB)] === i % VOCAB),
        )
        const { labels, sequenceOffsets } = batch
        const options = { ...common, ignoreIndex: -1, sequenceOffsets }
        const result = fusedPreferenceLossSync({ data, shape: [...batch.shape, VOCAB] }, labels, options)
        const metrics = stepMetrics(result, batch, { step: 0, tokensBefore: seen })
        expect(metrics).toMatchObject({ mean_token_accuracy: 2 / 3, num_tokens: 7 + 3 + 3 + 2 + 4 })
        expect(stepMetrics(result, batch, { step: 0 }).num_tokens).toBe(3 + 3 + 2 + 4)
        seen = metrics.num_tokens!
      }
    }
  })

  test('pairs, offsets and shift are the result’s: forgetting them changes nothing', () => {
    const cases: FusedOptions[] = [
      { pairs: [2, 0, 3, 1] },
      { pairs: [0, 1, 2, 3] },
      { shift: false },
      { sequenceOffsets: [0, 2, 6, 9, 12], pairs: [1, 0, 3, 2] },
      { sequenceOffsets: [0, 3, 6, 9, 12], shift: false },
    ]
    const unshifted = Int32Array.of(-100, 2, 4, 0, 4, -100, 1, -100, 0, 2, -100, 0)
    for (const options of cases) {
      const ids = options.shift === false ? unshifted : labels
      const tensor = { ...logits(), shape: options.sequenceOffsets ? [12, VOCAB] : [4, 3, VOCAB] }
      const result = fusedPreferenceLossSync(tensor, ids, { ...common, ...options })
      const { pairs, sequenceOffsets } = options
      const told = stepMetrics(result, { labels: ids, pairs, sequenceOffsets }, { step: 0 })
      expect(told.mean_token_accuracy).toBeGreaterThan(0)
      // A copy of the result has it all, too.
      const { losses: _, ...kept } = result
      expect(stepMetrics(kept as typeof result, { labels: ids }, { step: 0 })).toEqual(told)
      const mistakes: Partial<StepBatch>[] = [
        { pairs: pairs ? [0, 2, 1, 3] : [1, 3, 0, 2] },
        { pairs: [0, 2] },
        { sequenceOffsets: [0, 4, 6, 9, 12] },
        { sequenceOffsets: [0, 12] },
      ]
      for (const mistake of mistakes) {
        const call = () => stepMetrics(result, { labels: ids, ...mistake }, { step: 0 })
        expect(call, JSON.stringify(mistake)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE_MISMATCH' }))
      }
    }
  })

  test('token accuracy in every layout', () => {
    const unshifted = Int32Array.of(-100, 2, 4, 0, 4, -100, 1, -100, 0, 2, -100, 0)
    // The labels of the chosen sequences that are the likely token.
    const cases: [string, FusedOptions, Partial<StepBatch>, Labels, number][] = [
      ['64-bit labels', {}, {}, BigInt64Array.from(labels, BigInt), 3 / 4],
      ['pairs', { pairs: [2, 0, 2, 1] }, { pairs: [2, 0, 2, 1] }, labels, 1 / 2],
      [
        'a chosen sequence of two pairs counts once',
        { pairs: [0, 1, 0, 2, 3, 1], reference: { chosen: [0, 0, 0], rejected: [0, 0, 0] } },
        {},
        labels,
        2 / 3,
      ],
      ['one pair of four', { pairs: [3, 0], reference: { chosen: [0], rejected: [0] } }, { pairs: [3, 0] }, labels, 1],
      ['without a shift', { shift: false }, {}, unshifted, 2 / 4],
      ['masked', { mask: [0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1] }, {}, labels, 1],
      ['another ignored label', { ignoreIndex: 4 }, {}, labels.map((label) => (label === -100 ? 4 : label)), 2 / 2],
    ]
    for (const [name, options, layout, ids, wanted] of cases) {
      const result = fusedPreferenceLossSync(logits(), ids, { ...common, ...options })
      const { mean_token_accuracy } = stepMetrics(result, { labels: ids, ...layout }, { step: 0 })
      expect([name, mean_token_accuracy]).toEqual([name, wanted])
    }
    for (const [ids, shift, wanted] of [
      [labels, true, 3 / 4],
      [unshifted, false, 2 / 4],
    ] as const) {
      const sequenceOffsets = [0, 3, 6, 9, 12]
      const packed = { ...logits(), shape: [12, VOCAB] }
      const result = fusedPreferenceLossSync(packed, ids, { ...common, sequenceOffsets, shift })
      const metrics = stepMetrics(result, { labels: ids, sequenceOffsets }, { step: 0 })
      expect(metrics.mean_token_accuracy).toBe(wanted)
      expect(metrics['logits/chosen']).toBeCloseTo(3 / VOCAB, 6)
    }
  })

  test('what was not asked for is not there', () => {
    const result = fusedPreferenceLossSync(logits(), labels, { ...common, outputs: [] })
    const metrics = stepMetrics(result, { labels }, { step: 0, bytes: 10 })
    const absent = ['logits/chosen', 'logits/rejected', 'entropy', 'mean_token_accuracy', 'num_tokens', 'ms', 'GB/s']
    for (const name of absent) expect(metrics).not.toHaveProperty([name])
  })

  test('a step that took no time is no error, and has no speed', () => {
    const result = fusedPreferenceLossSync(logits(), labels, common)
    const metrics = stepMetrics(result, { labels }, { step: 0, ms: 0, bytes: 10 })
    expect(metrics.ms).toBe(0)
    expect(metrics).not.toHaveProperty(['GB/s'])
  })

  test('what is no result is refused by its name', async () => {
    const result = fusedPreferenceLossSync(logits(), labels, common)
    const [chosen, rejected] = [[-1], [-2]]
    const cases: [unknown, RegExp][] = [
      [undefined, /^result must be the result of fusedPreferenceLoss; got undefined/],
      [null, /^result must be .*; got null/],
      [Promise.resolve(result), /^result must be .*, awaited; got an instance of Promise/],
      [{ loss: 1 }, /^result\.accuracy must be a number.*; got undefined/],
      [preferenceLossSync({ chosen, rejected }, { lossType: 'cpo' }), /^result\.chosenLogProbs must be an array/],
      [{ ...result, chosenRewards: undefined }, /^result\.chosenRewards must be an array/],
      [{ ...result, rejectedRewards: 3 }, /^result\.rejectedRewards must be an array/],
      [{ ...result, rejectedLogProbs: null }, /^result\.rejectedLogProbs must be an array/],
      [{ ...result, tokenCounts: undefined }, /^result\.tokenCounts must be an array/],
      [{ ...result, loss: '1' }, /^result\.loss must be a number/],
      [{ ...result, margin: undefined }, /^result\.margin must be a number/],
      [{ ...result, layout: undefined }, /^result\.layout must be an object/],
    ]
    for (const [bad, message] of cases) {
      const wanted = expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE', message: expect.stringMatching(message) })
      expect(() => stepMetrics(bad as typeof result, { labels }, { step: 0 })).toThrow(wanted)
    }
  })

  test.each<[string, object | undefined, string]>([
    ['no step', {}, 'ERR_INVALID_ARG_TYPE'],
    ['no options', undefined, 'ERR_INVALID_ARG_TYPE'],
    ['an unknown option', { step: 0, time: 5 }, 'ERR_INVALID_ARG_VALUE'],
    ['time that runs backwards', { step: 0, ms: -1 }, 'ERR_OUT_OF_RANGE'],
    ['time that is no number', { step: 0, ms: Number.NaN }, 'ERR_OUT_OF_RANGE'],
    ['fewer bytes than none', { step: 0, bytes: -1 }, 'ERR_OUT_OF_RANGE'],
    ['bytes in words', { step: 0, bytes: '3 MB' }, 'ERR_INVALID_ARG_TYPE'],
    ['options that the batch and the result have', { step: 0, labels }, 'ERR_INVALID_ARG_VALUE'],
    ['tokens before, of a batch without lengths', { step: 0, tokensBefore: 0 }, 'ERR_INVALID_ARG_VALUE'],
  ])('%s is refused', (_, options, code) => {
    const result = fusedPreferenceLossSync(logits(), labels, common)
    expect(() => stepMetrics(result, { labels }, options as StepOptions)).toThrow(expect.objectContaining({ code }))
  })

  test.each<[string, object | null | undefined, string, number?]>([
    ['no batch', undefined, 'ERR_INVALID_ARG_TYPE'],
    ['null', null, 'ERR_INVALID_ARG_TYPE'],
    ['a batch without labels', {}, 'ERR_INVALID_ARG_TYPE'],
    ['less than no token before', { labels, sequenceLengths: [3] }, 'ERR_OUT_OF_RANGE', -1],
    ['lengths that are a number', { labels, sequenceLengths: 3 }, 'ERR_INVALID_ARG_TYPE'],
    ['labels of another batch', { labels: new Int32Array(12).fill(-100) }, 'ERR_INVALID_ARG_VALUE'],
    ['labels elsewhere', { labels: { ptr: 1, byteLength: 48 } }, 'ERR_INVALID_ARG_TYPE'],
    ['labels of another shape', { labels: labels.subarray(1) }, 'ERR_SHAPE_MISMATCH'],
  ])('%s is refused', (_, batch, code, tokensBefore) => {
    const result = fusedPreferenceLossSync(logits(), labels, common)
    const call = () => stepMetrics(result, batch as StepBatch, { step: 0, tokensBefore })
    expect(call).toThrow(expect.objectContaining({ code }))
  })

  test('mean logits are means over the active tokens of the chosen and of the rejected sequences', () => {
    const data = Float32Array.from({ length: 12 * VOCAB }, (_, i) => Math.floor(i / VOCAB) ** 2)
    const mean = (rows: number[]) => rows.reduce((sum, row) => sum + row ** 2, 0) / rows.length
    // Rows that predict a token: 0, 1 | 3, 4 | 6, 7 | 10.
    for (const [options, chosen, rejected] of [
      [{}, [0, 1, 3, 4], [6, 7, 10]],
      [{ pairs: [2, 1, 3, 0] }, [6, 7, 10], [0, 1, 3, 4]],
      [{ pairs: [0, 1, 0, 3] }, [0, 1], [3, 4, 10]],
      [{ sequenceOffsets: [0, 3, 6, 9, 12] }, [0, 1, 3, 4], [6, 7, 10]],
    ] as [FusedOptions, number[], number[]][]) {
      const shape = options.sequenceOffsets ? [12, VOCAB] : [4, 3, VOCAB]
      const result = fusedPreferenceLossSync({ data, shape }, labels, { ...common, ...options })
      const metrics = stepMetrics(result, { labels }, { step: 0 })
      expect(metrics['logits/chosen']).toBeCloseTo(mean(chosen), 4)
      expect(metrics['logits/rejected']).toBeCloseTo(mean(rejected), 4)
    }
  })
})
