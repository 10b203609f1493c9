/**
 * The metrics of a step, against sums made by hand, and the file they are kept in.
 */
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { fusedPreferenceLossSync } from '../lib/index.js'
import { appendMetrics, type StepOptions, stepMetrics } from '../lib/metrics.js'
import type { FusedOptions, Labels } from '../lib/types.js'

const folder = mkdtempSync(join(tmpdir(), 'fused-preference-loss-metrics-'))
afterAll(() => rmSync(folder, { recursive: true }))

// Four sequences of three positions over five tokens: at each position one token has logit 3, the others 0.
const VOCAB = 5
const likely = [1, 2, 0, 3, 4, 0, 1, 1, 0, 2, 2, 0]
const labels = Int32Array.from([-100, 1, 4, 0, 3, 4, -100, 1, 3, -100, -100, 2])
const logits = () => ({
  data: Float32Array.from({ length: 12 * VOCAB }, (_, i) => (likely[Math.floor(i / VOCAB)] === i % VOCAB ? 3 : 0)),
  shape: [4, 3, VOCAB],
})
const outputs = ['tokenEntropies', 'tokenArgmax'] as const
const common: FusedOptions = { outputs, reference: { chosen: [-1, -2], rejected: [-3, -4] } }

// log-prob of the likely token and of another, and the entropy of every row
const total = Math.exp(3) + 4
const hit = 3 - Math.log(total)
const miss = -Math.log(total)
const entropy = Math.log(total) - (3 * Math.exp(3)) / total

describe('stepMetrics', () => {
  test('every metric, by hand', () => {
    const result = fusedPreferenceLossSync(logits(), labels, common)
    const metrics = stepMetrics(result, { step: 7, ms: 2, bytes: 3e6, labels })
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

  test('token accuracy in every layout', () => {
    const unshifted = Int32Array.of(-100, 2, 4, 0, 4, -100, 1, -100, 0, 2, -100, 0)
    // Of the labels of the chosen sequences, those that are the likely token.
    const cases: [string, FusedOptions, Partial<StepOptions>, Labels, number][] = [
      ['64-bit labels', {}, {}, BigInt64Array.from(labels, BigInt), 3 / 4],
      ['pairs', { pairs: [2, 0, 2, 1] }, { pairs: [2, 0, 2, 1] }, labels, 1 / 2],
      ['one pair of four', { pairs: [3, 0], reference: { chosen: [0], rejected: [0] } }, { pairs: [3, 0] }, labels, 1],
      ['without a shift', { shift: false }, { shift: false }, unshifted, 2 / 4],
      ['masked', { mask: [0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1] }, {}, labels, 1],
      ['another ignored label', { ignoreIndex: 4 }, {}, labels.map((label) => (label === -100 ? 4 : label)), 2 / 2],
    ]
    for (const [name, options, layout, ids, wanted] of cases) {
      const result = fusedPreferenceLossSync(logits(), ids, { ...common, ...options })
      const { mean_token_accuracy } = stepMetrics(result, { step: 0, labels: ids, ...layout })
      expect([name, mean_token_accuracy]).toEqual([name, wanted])
    }
    for (const [ids, shift, wanted] of [
      [labels, true, 3 / 4],
      [unshifted, false, 2 / 4],
    ] as const) {
      const sequenceOffsets = [0, 3, 6, 9, 12]
      const packed = { ...logits(), shape: [12, VOCAB] }
      const result = fusedPreferenceLossSync(packed, ids, { ...common, sequenceOffsets, shift })
      expect(stepMetrics(result, { step: 0, labels: ids, sequenceOffsets, shift }).mean_token_accuracy).toBe(wanted)
    }
  })

  test('what was not asked for is not there', () => {
    const result = fusedPreferenceLossSync(logits(), labels, { ...common, outputs: [] })
    const metrics = stepMetrics(result, { step: 0, bytes: 10, labels })
    for (const name of ['entropy', 'mean_token_accuracy', 'ms', 'GB/s']) expect(metrics).not.toHaveProperty([name])
  })

  test.each<[string, object | undefined, string]>([
    ['no step', {}, 'ERR_INVALID_ARG_TYPE'],
    ['no options', undefined, 'ERR_INVALID_ARG_TYPE'],
    ['an unknown option', { step: 0, time: 5 }, 'ERR_INVALID_ARG_VALUE'],
    ['no time at all', { step: 0, ms: 0 }, 'ERR_OUT_OF_RANGE'],
    ['labels of another shape', { step: 0, labels: labels.subarray(1) }, 'ERR_SHAPE_MISMATCH'],
    ['labels of a call with a shift', { step: 0, labels, shift: false }, 'ERR_SHAPE_MISMATCH'],
  ])('%s is refused', (_, options, code) => {
    const result = fusedPreferenceLossSync(logits(), labels, common)
    expect(() => stepMetrics(result, options as StepOptions)).toThrow(expect.objectContaining({ code }))
  })
})

describe('appendMetrics', () => {
  const lines = (file: string) => readFileSync(file, 'utf8').split('\n')

  test('a line per call, in files old and new', () => {
    const file = join(folder, 'run.jsonl')
    const result = fusedPreferenceLossSync(logits(), labels, common)
    const metrics = stepMetrics(result, { step: 1 })
    appendMetrics(file, metrics)
    appendMetrics(pathToFileURL(file), { ...metrics, step: 2, learning_rate: 1e-6, note: 'warm-up\n' })
    const [first, second, end] = lines(file)
    expect(JSON.parse(first)).toEqual(metrics)
    expect(JSON.parse(second)).toEqual({ ...metrics, step: 2, learning_rate: 1e-6, note: 'warm-up\n' })
    expect(end).toBe('')
  })

  test('a line cut off by the end of an earlier run stays apart', () => {
    const file = join(folder, 'cut.jsonl')
    appendFileSync(file, '{"step":1}\n{"st')
    appendMetrics(file, { step: 2 })
    expect(lines(file)).toEqual(['{"step":1}', '{"st', '{"step":2}', ''])
  })

  test('numbers that JSON has no word for are kept', () => {
    const file = join(folder, 'nan.jsonl')
    appendMetrics(file, { step: 1, loss: Number.NaN, entropy: Number.POSITIVE_INFINITY })
    expect(lines(file)[0]).toBe('{"step":1,"loss":"NaN","entropy":"Infinity"}')
  })

  test('what cannot be kept is refused, and nothing written', () => {
    const file = join(folder, 'refused.jsonl')
    appendMetrics(file, { step: 1 })
    for (const bad of [undefined, [1], { losses: [1, 2] }, { loss: 1n }]) {
      expect(() => appendMetrics(file, bad as Record<string, unknown>)).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^ERR_INVALID_ARG/) }),
      )
    }
    expect(lines(file)).toEqual(['{"step":1}', ''])
  })
})
