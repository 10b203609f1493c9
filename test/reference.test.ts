/**
 * References in the forms that callers have: the whole result of `sequenceLogProbs`, and warnings about values that are
 * probably unintended.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { DeviceBuffer } from '../lib/cuda/index.js'
import {
  fusedLinearPreferenceLossSync,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  linearSequenceLogProbsSync,
  preferenceLoss,
  preferenceLossSync,
  sequenceLogProbs,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { FusedOptions, TokenOptions } from '../lib/options/index.js'
import type { Logits } from '../lib/types/index.js'
import { spyOnWarnings } from './platform.js'
import { CUDA, gaussian, OUTPUTS, random, TARGETS } from './support.js'

const [batch, time, vocab, width] = [4, 14, 11, 3]

function logitsOf(seed: number): Logits {
  const next = random(seed)
  return {
    data: Float32Array.from({ length: batch * time * vocab }, () => gaussian(next)),
    shape: [batch, time, vocab],
  }
}

const policy = logitsOf(1)
const model = logitsOf(2)
const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 9 === 5 ? -100 : (7 * i) % vocab))
const none = new Int32Array(batch * time).fill(-100)
const hidden = { data: (policy.data as Float32Array).slice(0, batch * time * width), shape: [batch, time, width] }
const weight = { data: (model.data as Float32Array).slice(0, vocab * width), shape: [vocab, width] }

describe.each(TARGETS)('$name', ({ run }) => {
  test.each([
    ['halves', {}],
    ['pairs', { pairs: [3, 0, 1, 2, 3, 1] }],
    ['64-bit pairs', { pairs: BigInt64Array.of(2n, 0n) }],
    ['means', { averageLogProb: true }],
    ['outputs', { outputs: OUTPUTS }],
    ['LD-DPO', { ldAlpha: 0.5 }],
  ] as [string, TokenOptions][])('the result of sequenceLogProbs is a reference: %s', async (_, options) => {
    const all = { ...options, ...run, gradient: true } as FusedOptions
    const wanted = fusedPreferenceLossSync(policy, labels, { ...all, reference: { logits: model } })
    const sums = sequenceLogProbsSync(model, labels, { ...options, ...run })
    expect(fusedPreferenceLossSync(policy, labels, { ...all, reference: sums })).toEqual(wanted)
    const awaited = await sequenceLogProbs(model, labels, { ...options, ...run })
    expect(await fusedPreferenceLoss(policy, labels, { ...all, reference: awaited })).toEqual(wanted)
    const { logProbs, tokenCounts } = sums
    expect(fusedPreferenceLossSync(policy, labels, { ...all, reference: { logProbs } })).toEqual(wanted)
    const wide = { logProbs: Array.from(logProbs), tokenCounts: BigInt64Array.from(tokenCounts, BigInt) }
    expect(fusedPreferenceLossSync(policy, labels, { ...all, reference: wide })).toEqual(wanted)
  })

  test('also of the output layer', () => {
    const other = { hidden: { ...hidden, data: hidden.data.map((x) => -x) }, weight }
    const options = { ...run, gradient: true, pairs: [2, 1, 0, 3] } as const
    const wanted = fusedLinearPreferenceLossSync(hidden, weight, labels, { ...options, reference: other })
    const { pairs, gradient, ...plain } = options
    const reference = linearSequenceLogProbsSync(other.hidden, weight, labels, plain)
    expect(fusedLinearPreferenceLossSync(hidden, weight, labels, { ...options, reference })).toEqual(wanted)
    expect(() =>
      fusedLinearPreferenceLossSync(hidden, weight, labels, { ...options, reference: { logProbs: [1] } }),
    ).toThrow(/^options\.reference\.logProbs must have length 4/)
  })

  test('a gradient may not overwrite it', () => {
    const buffer = new ArrayBuffer(4 * batch * time * vocab)
    const [gradient, logProbs] = [new Float32Array(buffer), new Float64Array(buffer, 8, 4).fill(-20)]
    const options = { ...run, reference: { logProbs }, gradient }
    expect(() => fusedPreferenceLossSync(policy, labels, options)).toThrow(
      'options.gradient would overwrite options.reference.logProbs: they share memory',
    )
    expect([...logProbs]).toEqual([-20, -20, -20, -20])
  })

  test('NaN is that of a sequence without tokens, where emptySequence says so', () => {
    const some = labels.slice()
    some.fill(-100, 2 * time, 3 * time)
    const options = { ...run, emptySequence: 'nan' } as const
    const reference = sequenceLogProbsSync(model, some, options)
    expect(reference.logProbs[2]).toBeNaN()
    const { losses } = fusedPreferenceLossSync(policy, some, { ...options, reference })
    expect([...losses].map(Number.isNaN)).toEqual([true, false])
    expect([...fusedPreferenceLossSync(policy, some, { ...options, reference: { logits: model } }).losses]).toEqual([
      ...losses,
    ])
    const [chosen, rejected] = [
      [Number.NaN, -1],
      [-2, -2],
    ]
    const pairs = { chosen, rejected, referenceChosen: chosen, referenceRejected: rejected }
    expect(preferenceLossSync(pairs, run).losses[0]).toBeNaN()
  })
})

describe('warnings', () => {
  const warned = Symbol.for('fused-preference-loss.warnings')
  const warn = spyOnWarnings()
  beforeEach(() => {
    warn.mockClear()
    Reflect.deleteProperty(globalThis, warned)
  })
  afterEach(() => Reflect.deleteProperty(globalThis, warned))

  const codes = () => warn.mock.calls.map(([, options]) => (options as { code: string }).code)
  const message = () => String(warn.mock.calls[0]?.[0])
  const POSITIVE = 'FUSED_PREFERENCE_LOSS_POSITIVE_REFERENCE'
  const ZERO = 'FUSED_PREFERENCE_LOSS_ZERO_REFERENCE'
  const MEANS = 'FUSED_PREFERENCE_LOSS_AVERAGED_REFERENCE'
  const EMPTY = 'FUSED_PREFERENCE_LOSS_NO_ACTIVE_TOKENS'
  const run = { backend: 'js' } as const
  const sums = sequenceLogProbsSync(model, labels, run)
  const pairsOf = (referenceChosen: number[], referenceRejected = [-15, -16]) => ({
    chosen: [-10, -20],
    rejected: [-11, -12],
    referenceChosen,
    referenceRejected,
  })

  test('none of what is right', async () => {
    preferenceLossSync(pairsOf([-10, Number.NEGATIVE_INFINITY]), run)
    await preferenceLoss({ ...pairsOf([-10, -9]), chosenTokenCounts: [9, 10], rejectedTokenCounts: [9, 10] }, run)
    // What rounding leaves, and zeros among others.
    preferenceLossSync(pairsOf([1e-4, 0], [0, -1]), run)
    preferenceLossSync(pairsOf([0, 0], [-1, -2]), run)
    preferenceLossSync(pairsOf([-1, 0], [0, 0]), run)
    preferenceLossSync(pairsOf([0, 0], [0, 1e-4]), run)
    for (const reference of [
      sums,
      { chosen: sums.logProbs.slice(0, 2), rejected: sums.logProbs.slice(2) },
      { logits: model },
    ]) {
      fusedPreferenceLossSync(policy, labels, { ...run, reference })
      fusedPreferenceLossSync(policy, labels, { ...run, reference, gradient: true, lossType: 'sigmoid_norm' })
    }
    const averageLogProb = true
    const reference = sequenceLogProbsSync(model, labels, { ...run, averageLogProb })
    fusedPreferenceLossSync(policy, labels, { ...run, averageLogProb, reference })
    // There is no warning about a reference that no loss uses.
    fusedPreferenceLossSync(policy, labels, { ...run, lossType: 'simpo', reference: { logProbs: [1, 0, 0, 0] } })
    fusedPreferenceLossSync(policy, labels, { ...run, referenceFree: true, reference: { logProbs: [0, 0, 0, 0] } })
    preferenceLossSync(pairsOf([0, 0], [0, 0]), { ...run, lossType: 'cpo' })
    expect(codes()).toEqual([])
  })

  test('of log-probs above 0, once', () => {
    preferenceLossSync(pairsOf([-10, 20]), run)
    expect(codes()).toEqual([POSITIVE])
    expect(message()).toMatch(/^logProbs\.referenceChosen\[1\] is 20, and log-probs of sequences are at most 0/)
    preferenceLossSync(pairsOf([10, 20]), run)
    fusedPreferenceLossSync(policy, labels, { ...run, reference: { logProbs: [-1, -1, 3, -1] } })
    expect(codes()).toEqual([POSITIVE])
    Reflect.deleteProperty(globalThis, warned)
    fusedPreferenceLossSync(policy, labels, { ...run, reference: { logProbs: [-1, -1, 3, -1] } })
    expect(codes()).toEqual([POSITIVE, POSITIVE])
    expect(String(warn.mock.calls[1][0])).toMatch(/^options\.reference\.logProbs\[2\] is 3,/)
  })

  test('of the rejected as of the chosen', () => {
    preferenceLossSync(pairsOf([-1, -2], [-3, Number.POSITIVE_INFINITY]), run)
    expect(message()).toMatch(/^logProbs\.referenceRejected\[1\] is Infinity/)
    Reflect.deleteProperty(globalThis, warned)
    fusedPreferenceLossSync(policy, labels, { ...run, reference: { chosen: [-1, -1], rejected: [0.5, -1] } })
    expect(String(warn.mock.calls[1][0])).toMatch(/^options\.reference\.rejected\[0\] is 0\.5/)
  })

  test('of zeros throughout', () => {
    fusedPreferenceLossSync(policy, labels, { ...run, reference: { chosen: [0, 0], rejected: [0, -0] } })
    expect(codes()).toEqual([ZERO])
    expect(message()).toMatch(/options\.reference\.chosen\[0\] and all others .* set referenceFree/)
    preferenceLossSync(pairsOf([0, 0], [0, 0]), run)
    expect(codes()).toEqual([ZERO])
  })

  test.each([
    ['means, where the policy has sums', false],
    ['sums, where the policy has means', true],
  ])('of %s', (_, averageLogProb) => {
    const reference = sequenceLogProbsSync(model, labels, { ...run, averageLogProb: !averageLogProb })
    fusedPreferenceLossSync(policy, labels, { ...run, averageLogProb, reference: { logProbs: reference.logProbs } })
    expect(codes()).toEqual([MEANS])
    expect(message()).toMatch(
      averageLogProb
        ? /^options\.reference looks like sums, where the policy's log-probs are means over tokens/
        : /^options\.reference looks like means over tokens, where the policy's log-probs are sums/,
    )
    fusedPreferenceLossSync(policy, labels, { ...run, averageLogProb, reference })
    expect(codes()).toEqual([MEANS])
  })

  test('of means, by the lengths that preferenceLoss has', async () => {
    const lengths = { chosenTokenCounts: [10, 20], rejectedTokenCounts: [11, 3] }
    // The last one is too short to tell.
    const given = { ...pairsOf([-1.1, -0.9], [-0.8, -12]), ...lengths }
    await preferenceLoss(given, run)
    expect(codes()).toEqual([MEANS])
    expect(message()).toMatch(/^logProbs\.referenceChosen looks like means over tokens/)
    Reflect.deleteProperty(globalThis, warned)
    warn.mockClear()
    const plain = (changed: object, options = {}) =>
      preferenceLossSync({ ...given, ...changed }, { ...run, ...options })
    plain({}, { lossType: 'cpo' })
    plain({}, { referenceFree: true })
    plain({ referenceChosen: [-1.1, -20] })
    plain({ referenceRejected: [-11, -12] })
    plain({ referenceChosen: [-0.4, -0.9] })
    plain({ referenceChosen: [-2.1, -0.9] })
    plain({
      chosenTokenCounts: [7, 7],
      rejectedTokenCounts: [7, 7],
      referenceChosen: [-1.4, -2.8],
      referenceRejected: [-1.6, -1.7],
    })
    plain({ chosen: [Number.NaN, -20] })
    expect(codes()).toEqual([])
    plain({ referenceChosen: [-2, -0.5] })
    expect(codes()).toEqual([MEANS])
  })

  test('of a call without any token that counts', async () => {
    const calls = [
      () => sequenceLogProbsSync(policy, none, run),
      () => fusedPreferenceLossSync(policy, none, { ...run, lossType: 'cpo' }),
      () => linearSequenceLogProbsSync(hidden, weight, none, run),
      () => sequenceLogProbsSync(policy, labels, { ...run, mask: new Uint8Array(batch * time) }),
    ]
    for (const call of calls) {
      warn.mockClear()
      Reflect.deleteProperty(globalThis, warned)
      call()
      expect(codes()).toEqual([EMPTY])
      expect(message()).toMatch(/^no token of the call counts: every label is ignored or masked, or the first/)
      call()
      expect(codes()).toEqual([EMPTY])
    }
    Reflect.deleteProperty(globalThis, warned)
    warn.mockClear()
    for (const emptySequence of ['zero', 'nan'] as const) sequenceLogProbsSync(policy, none, { ...run, emptySequence })
    const one = none.slice()
    one[batch * time - 1] = 3
    sequenceLogProbsSync(policy, one, run)
    expect(codes()).toEqual([])
    sequenceLogProbsSync(policy, none, { ...run, shift: false })
    expect(message()).toMatch(/every label is ignored or masked\. Log-probs and gradients are 0/)
  })

  test.each(CUDA)('of such a call whose labels are device memory', () => {
    const there = { ...policy, data: DeviceBuffer.from(policy.data as Float32Array) }
    sequenceLogProbsSync(there, DeviceBuffer.from(labels))
    expect(codes()).toEqual([])
    const empty = DeviceBuffer.from(none)
    for (const emptySequence of ['zero', 'nan'] as const) sequenceLogProbsSync(there, empty, { emptySequence })
    expect(codes()).toEqual([])
    sequenceLogProbsSync(there, empty)
    expect(codes()).toEqual([EMPTY])
    // Nor are counts and empty sequences known beforehand there.
    const reference = { logProbs: [-1, Number.NaN, -1, -2], tokenCounts: [9, 9, 9, 9] }
    const all = { reference, emptySequence: 'nan', gradient: true } as const
    expect(fusedPreferenceLossSync(there, DeviceBuffer.from(labels), all).losses[1]).toBeNaN()
    expect(() => fusedPreferenceLossSync(there, labels, all)).toThrow(/tokenCounts\[0\] is 9, where 12 tokens count/)
  })

  test('whatever else was warned of', () => {
    sequenceLogProbsSync(policy, none, run)
    preferenceLossSync(pairsOf([-10, 20]), run)
    expect(codes()).toEqual([EMPTY, POSITIVE])
  })
})
