/**
 * Rewards agree with the loss: for every loss, the margin of a pair is positive exactly where the loss is below that of
 * the pair with its sequences exchanged, and a loss of one difference is a function of that of the rewards.
 */
import { describe, expect, test } from 'vitest'
import { LOSSES } from '../lib/backends/js/losses.js'
import { fusedPreferenceLossSync, preferenceLossSync } from '../lib/index.js'
import type { LossOptions } from '../lib/options/index.js'
import { TAKERS } from '../lib/options/loss-options.js'
import type { FDivergence, LossType, PairLogProbs } from '../lib/types/index.js'
import { LOSS_TYPES, logitsOf, neededBy, random, TARGETS } from './support.js'

const PAIRS = 40
const next = random(2024)
const list = (of: () => number) => Array.from({ length: PAIRS }, of)
const lengths = () => list(() => 1 + Math.floor(30 * next()))
const pairs = {
  chosen: list(() => -30 * next() - 0.5),
  rejected: list(() => -30 * next() - 0.5),
  referenceChosen: list(() => -30 * next() - 0.5),
  referenceRejected: list(() => -30 * next() - 0.5),
  chosenTokenCounts: lengths(),
  rejectedTokenCounts: lengths(),
}
const exchanged = {
  chosen: pairs.rejected,
  rejected: pairs.chosen,
  referenceChosen: pairs.referenceRejected,
  referenceRejected: pairs.referenceChosen,
  chosenTokenCounts: pairs.rejectedTokenCounts,
  rejectedTokenCounts: pairs.chosenTokenCounts,
}
/** Of log-ratios up to ±30, no loss is then the same for a pair and its exchange to the last bit. */
const beta = 0.2

/** Losses of pairs: not 'sft', which knows of no rejected sequence, and one by one, as the sorted ones are of a batch. */
const OF_PAIRS = LOSS_TYPES.filter((lossType) => lossType !== 'sft' && !lossType.startsWith('aot'))

/** The options under which a loss has other formulas. */
function variants(lossType: LossType): LossOptions[] {
  // At a small τ, discopop falls from z = 0 towards both sides.
  const found: LossOptions[] = lossType === 'discopop' ? [{ discopopTau: 2 }] : [{}, { referenceFree: true }]
  if (TAKERS.rewardAlpha.includes(lossType)) {
    for (const rewardAlpha of [0.25, -0.3]) found.push({ rewardAlpha, referenceFree: true })
  }
  if (LOSSES[lossType].divergence) {
    for (const fDivergence of ['forward_kl', 'js', 'alpha'] satisfies FDivergence[]) {
      found.push({ ...found[0], fDivergence, beta: 0.01 })
    }
  }
  return found.flatMap((options) => [options, { ...options, averageLogProb: true }])
}

/** Means of the sums. */
function averaged(of: typeof pairs): typeof pairs {
  const over = (values: number[], by: number[]) => values.map((value, i) => value / by[i])
  return {
    ...of,
    chosen: over(of.chosen, of.chosenTokenCounts),
    rejected: over(of.rejected, of.rejectedTokenCounts),
    referenceChosen: over(of.referenceChosen, of.chosenTokenCounts),
    referenceRejected: over(of.referenceRejected, of.rejectedTokenCounts),
  }
}

describe.each(TARGETS)('$name', ({ run }) => {
  test.each(OF_PAIRS)('%s is below that of the exchanged pair where the margin is positive', (lossType) => {
    for (const options of variants(lossType)) {
      const given = options.averageLogProb ? averaged(pairs) : pairs
      const other = options.averageLogProb ? averaged(exchanged) : exchanged
      const all = { beta, ...options, ...neededBy(lossType), lossType, ...run }
      const got = preferenceLossSync(given, all)
      const wanted = preferenceLossSync(other, all)
      let positive = 0
      for (let i = 0; i < PAIRS; i++) {
        const margin = got.chosenRewards[i] - got.rejectedRewards[i]
        if (margin > 0) positive++
        expect([i, margin > 0], JSON.stringify(options)).toEqual([i, got.losses[i] < wanted.losses[i]])
      }
      expect(positive).toBeGreaterThan(5)
      expect(positive).toBeLessThan(PAIRS - 5)
      expect(got.accuracy).toBe(positive / PAIRS)
    }
  })

  test.each(['aot', 'aot_unpaired'] as const)('%s of a single pair is, too', (lossType) => {
    for (let i = 0; i < PAIRS; i++) {
      const one = (of: typeof pairs) =>
        Object.fromEntries(Object.entries(of).map(([name, values]) => [name, [values[i]]])) as unknown as PairLogProbs
      const [got, other] = [pairs, exchanged].map((of) => preferenceLossSync(one(of), { beta, lossType, ...run }))
      expect(got.accuracy === 1).toBe(got.loss < other.loss)
    }
  })

  test('a logistic loss is one of the margin of its rewards', () => {
    const losses: [LossType, LossOptions][] = [
      ['sigmoid', {}],
      ['sigmoid_norm', {}],
      ['sigmoid_norm', { fDivergence: 'js' }],
      ['cpo', {}],
      ['cpo', { rewardAlpha: 0.1 }],
      ['simpo', { gamma: 0 }],
      ['simpo', { gamma: 0, rewardAlpha: 0.25 }],
    ]
    for (const [lossType, options] of losses) {
      const got = preferenceLossSync(pairs, { lossType, beta, ...options, ...run })
      for (let i = 0; i < PAIRS; i++) {
        const margin = got.chosenRewards[i] - got.rejectedRewards[i]
        expect(got.losses[i]).toBeCloseTo(Math.max(0, -margin) + Math.log1p(Math.exp(-Math.abs(margin))), 10)
      }
    }
  })

  test('a longer completion that is likelier per token wins under losses of means', () => {
    // The chosen sum is the smaller one, its mean the larger.
    const one = { chosen: [-20], rejected: [-12], chosenTokenCounts: [20], rejectedTokenCounts: [6] }
    const even = { referenceChosen: [0], referenceRejected: [0] }
    for (const lossType of ['orpo', 'simpo', 'sigmoid_norm', 'ipo_norm'] as const) {
      const got = preferenceLossSync({ ...one, ...even }, { lossType, beta: 0.5, referenceFree: true, ...run })
      expect(got.accuracy).toBe(1)
      expect(got.chosenRewards[0]).toBe(0.5 * -1)
      expect(got.rejectedRewards[0]).toBe(0.5 * -2)
    }
    expect(preferenceLossSync({ ...one, ...even }, { referenceFree: true, ...run }).accuracy).toBe(0)
  })

  test('losses without a reference have rewards without one', () => {
    for (const lossType of ['cpo', 'simpo', 'orpo'] as const) {
      const { referenceChosen: _, referenceRejected: __, ...alone } = pairs
      const got = preferenceLossSync(pairs, { lossType, ...run })
      const wanted = preferenceLossSync(alone, { lossType, ...run })
      expect(got.chosenRewards).toEqual(wanted.chosenRewards)
      expect([got.accuracy, got.margin]).toEqual([wanted.accuracy, wanted.margin])
    }
  })

  test('β of each pair is in its rewards, an offset and a penalty are not', () => {
    const betas = list(() => 0.05 + next())
    const plain = preferenceLossSync(pairs, { beta: 1, ...run })
    const got = preferenceLossSync(pairs, { beta: betas, offset: 3, ...run })
    const penalised = preferenceLossSync(pairs, { beta: betas, lossType: 'dpop', ...run })
    for (const { chosenRewards, rejectedRewards } of [got, penalised]) {
      expect(Array.from(chosenRewards)).toEqual(betas.map((b, i) => b * plain.chosenRewards[i]))
      expect(Array.from(rejectedRewards)).toEqual(betas.map((b, i) => b * plain.rejectedRewards[i]))
    }
  })

  test('the fused call has the same, by its own token counts', () => {
    const [time, vocab] = [5, 7]
    const logits = logitsOf(
      'float32',
      [4, time, vocab],
      Float64Array.from({ length: 4 * time * vocab }, () => 2 * next()),
    )
    const labels = Int32Array.from({ length: 4 * time }, (_, i) => (i % 9 === 3 || i > 16 ? -100 : (3 * i) % vocab))
    for (const lossType of LOSS_TYPES) {
      const reference = { chosen: [-6, -7], rejected: [-5, -4] }
      const options = { lossType, ...neededBy(lossType), ...run }
      const fused = fusedPreferenceLossSync(logits, labels, { ...options, reference })
      const wanted = preferenceLossSync(
        {
          chosen: fused.chosenLogProbs,
          rejected: fused.rejectedLogProbs,
          referenceChosen: reference.chosen,
          referenceRejected: reference.rejected,
          chosenTokenCounts: fused.tokenCounts.subarray(0, 2),
          rejectedTokenCounts: fused.tokenCounts.subarray(2),
        },
        options,
      )
      expect(fused.chosenRewards, lossType).toEqual(wanted.chosenRewards)
      expect(fused.rejectedRewards).toEqual(wanted.rejectedRewards)
      expect([fused.accuracy, fused.margin]).toEqual([wanted.accuracy, wanted.margin])
    }
  })
})
