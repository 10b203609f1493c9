/**
 * The constants of the losses: the table of the losses that take each constant agrees with the formulas, and a constant
 * without an effect is refused.
 */
import { describe, expect, test } from 'vitest'
import type { Constants, PairBatch } from '../lib/backends/js/formulas.js'
import { LOSSES } from '../lib/backends/js/losses.js'
import { preferenceLossSync } from '../lib/index.js'
import { lossOptions, TAKERS } from '../lib/options/loss-options.js'
import { LOSS_TYPES, neededBy } from './support.js'

const BATCH: PairBatch = {
  chosen: Float64Array.of(-9, -12, -7),
  rejected: Float64Array.of(-8, -15, -11),
  referenceChosen: Float64Array.of(-10, -13, -6),
  referenceRejected: Float64Array.of(-8.5, -12, -12),
  chosenTokenCounts: Float64Array.of(3, 5, 4),
  rejectedTokenCounts: Float64Array.of(4, 6, 2),
}
const CONSTANTS: Constants = {
  beta: 0.3,
  offset: 0,
  gamma: 0.5,
  rewardShift: 0,
  targetMargin: 0.7,
  dpopLambda: 50,
  discopopTau: 0.05,
  fDivergence: 'reverse_kl',
  alpha: 0.5,
  rewardAlpha: 0,
  sftNormalization: 'tokens',
  average: false,
  labelSmoothing: 0.1,
} as Constants
/** The default of each, which a loss that does not take the constant accepts. */
const DEFAULTS = {
  labelSmoothing: lossOptions.labelSmoothing.byDefault,
  offset: lossOptions.offset.byDefault,
  gamma: lossOptions.gamma.byDefault,
  rewardShift: lossOptions.rewardShift.byDefault,
  targetMargin: lossOptions.targetMargin.byDefault,
  dpopLambda: lossOptions.dpopLambda.byDefault,
  discopopTau: lossOptions.discopopTau.byDefault,
  alpha: lossOptions.alpha.byDefault,
  rewardAlpha: lossOptions.rewardAlpha.byDefault,
  sftNormalization: lossOptions.sftNormalization.byDefault,
}
const OTHER = {
  labelSmoothing: 0.2,
  offset: 0.3,
  gamma: 0.9,
  rewardShift: 0.4,
  targetMargin: -0.3,
  dpopLambda: 3,
  discopopTau: 0.3,
  rewardAlpha: 0.25,
  sftNormalization: 'sequences',
} as const

describe.each(Object.keys(TAKERS) as (keyof typeof TAKERS)[])('%s', (name) => {
  test.each(LOSS_TYPES)('of %s', (lossType) => {
    const values = (constants: Constants) => LOSSES[lossType].formula(BATCH, constants).map(({ value }) => value)
    const changes = values({ ...CONSTANTS, [name]: OTHER[name] }).some((value, i) => value !== values(CONSTANTS)[i])
    expect(changes, 'the formula uses it').toBe(TAKERS[name].includes(lossType))

    const referenceFree = name === 'rewardAlpha'
    const call = (value: unknown) => () => {
      const given = { lossType, referenceFree, ...neededBy(lossType), [name]: value }
      return preferenceLossSync({ ...BATCH, chosen: BATCH.chosen, rejected: BATCH.rejected }, given)
    }
    if (changes) expect(call(OTHER[name])).not.toThrow()
    else expect(call(OTHER[name])).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }))
    if (name === 'targetMargin' && changes) expect(call(undefined)).toThrow("'rpo_")
    else if (lossType !== 'exo_pair' || name !== 'labelSmoothing') expect(call(DEFAULTS[name])).not.toThrow()
  })
})

test('a default is what a call without it uses', () => {
  for (const lossType of LOSS_TYPES) {
    const call = (constants: object) =>
      preferenceLossSync({ ...BATCH }, { lossType, ...neededBy(lossType), ...constants })
    const { labelSmoothing, targetMargin: _, ...others } = DEFAULTS
    expect(call(lossType === 'exo_pair' ? others : { labelSmoothing, ...others })).toEqual(call({}))
  }
  const alpha = (given: object) => preferenceLossSync({ ...BATCH }, { fDivergence: 'alpha', ...given })
  expect(alpha({ alpha: DEFAULTS.alpha })).toEqual(alpha({}))
  expect(alpha({ alpha: 0.7 }).loss).not.toBe(alpha({}).loss)
})
