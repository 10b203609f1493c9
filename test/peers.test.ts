/**
 * Every backend and instruction set against the losses of TRL, whose names most of ours are: values of its DPOTrainer,
 * CPOTrainer and KTOTrainer, run in float64, under the options that mean the same here. Its `ipo` is our `ipo_norm`; CPO's losses
 * are of policies alone, and its AlphaPO is `rewardAlpha`, or the alpha divergence of these.
 */
import { describe, expect, test } from 'vitest'
import { preferenceLossSync, unpairedPreferenceLossSync } from '../lib/index.js'
import type { PreferenceOptions, UnpairedPreferenceOptions } from '../lib/options/index.js'
import type { PairLogProbs, PreferenceLoss, UnpairedSequences } from '../lib/types/index.js'
import { goldenCases, TARGETS } from './support.js'

type Pairs = Record<keyof PairLogProbs, number[]>

interface Expected extends Pick<PreferenceLoss, 'loss'> {
  losses: number[]
  gradient: { chosen: number[]; rejected: number[] }
  chosenRewards?: number[]
  rejectedRewards?: number[]
}

interface Case {
  name: string
  options: PreferenceOptions
  pairs: Pairs
  expected: Expected
}

interface UnpairedCase {
  name: string
  options: UnpairedPreferenceOptions
  sequences: UnpairedSequences
  expected: { loss: number; losses: number[]; gradient: number[]; kl: number }
}

const CASES = await goldenCases<Case>('peers')
const UNPAIRED = await goldenCases<UnpairedCase>('peers-unpaired')

/** TRL holds the ε of exo_pair in float32. */
const boundOf = ({ options }: Case) => (options.lossType === 'exo_pair' ? 1e-6 : 1e-9)

function expectNear(values: ArrayLike<number>, wanted: readonly number[], bound: number): void {
  expect(values).toHaveLength(wanted.length)
  for (const [i, value] of wanted.entries()) {
    expect(Math.abs(values[i] - value)).toBeLessThanOrEqual(bound * Math.max(1, Math.abs(value)))
  }
}

function compare(got: PreferenceLoss, { loss, losses, gradient, ...rewards }: Expected, bound: number): void {
  const near = (values: ArrayLike<number>, wanted: readonly number[]) => expectNear(values, wanted, bound)
  near([got.loss], [loss])
  near(got.losses, losses)
  near(got.gradLogProbs.chosen, gradient.chosen)
  near(got.gradLogProbs.rejected, gradient.rejected)
  if (rewards.chosenRewards) near(got.chosenRewards, rewards.chosenRewards)
  if (rewards.rejectedRewards) near(got.rejectedRewards, rewards.rejectedRewards)
}

describe.each(TARGETS)('$name', ({ run }) => {
  test.each(CASES)('$name', (peer) => {
    compare(preferenceLossSync(peer.pairs, { ...peer.options, ...run }), peer.expected, boundOf(peer))
  })

  test.each(UNPAIRED)('$name', ({ sequences, options, expected }) => {
    const got = unpairedPreferenceLossSync(sequences, { ...options, ...run })
    expectNear([got.loss, got.kl], [expected.loss, expected.kl], 1e-9)
    expectNear(got.losses, expected.losses, 1e-9)
    expectNear(got.gradLogProbs, expected.gradient, 1e-11) // they are small
  })

  test.each(CASES.filter(({ options }) => options.lossType === 'ipo_norm'))('$name, as ipo on means', (peer) => {
    const { chosenTokenCounts, rejectedTokenCounts } = peer.pairs
    const over = (values: number[], lengths: number[]) => values.map((value, i) => value / lengths[i])
    const times = (values: number[], lengths: number[]) => values.map((value, i) => value * lengths[i])
    const means = {
      ...peer.pairs,
      chosen: over(peer.pairs.chosen, chosenTokenCounts),
      rejected: over(peer.pairs.rejected, rejectedTokenCounts),
      referenceChosen: over(peer.pairs.referenceChosen, chosenTokenCounts),
      referenceRejected: over(peer.pairs.referenceRejected, rejectedTokenCounts),
    }
    const { chosen, rejected } = peer.expected.gradient
    const gradient = { chosen: times(chosen, chosenTokenCounts), rejected: times(rejected, rejectedTokenCounts) }
    const options: PreferenceOptions = { ...peer.options, lossType: 'ipo', averageLogProb: true }
    compare(preferenceLossSync(means, { ...options, ...run }), { ...peer.expected, gradient }, boundOf(peer))
  })
})

test('the cases are of every loss that both have', () => {
  const types = new Set(CASES.map(({ options }) => options.lossType))
  expect(types.size).toBe(17)
  expect(CASES).toHaveLength(53)
  expect(CASES.filter(({ options }) => options.rewardAlpha !== undefined)).toHaveLength(8)
  expect(new Set(UNPAIRED.map(({ options }) => options.lossType))).toEqual(new Set(['kto', 'apo_zero_unpaired']))
  expect(UNPAIRED).toHaveLength(6)
})
