/**
 * Which losses take which constants: one that none of a call's losses takes would do nothing, and is refused.
 */
import { invalidValue } from '../errors.js'
import type { LossOptions, LossType } from '../types/index.js'

/** Constants that not every loss takes. */
type Constant = 'labelSmoothing' | 'gamma' | 'rewardShift' | 'discopopTau'

/** The losses that take each; `beta` is in the rewards of all. */
export const TAKERS: Readonly<Record<Constant, readonly LossType[]>> = {
  labelSmoothing: ['sigmoid', 'robust', 'exo_pair', 'aot', 'aot_unpaired', 'simpo', 'cpo'],
  gamma: ['simpo'],
  rewardShift: ['bco_pair'],
  discopopTau: ['discopop'],
}

/** What each is when it is not given: as good as nothing to a loss that does not take it. */
export const DEFAULTS = { labelSmoothing: 0, gamma: 0.5, rewardShift: 0, discopopTau: 0.05, alpha: 0.5 } as const

/** Refuses constants, checked before, that are neither taken by one of the losses nor what they are by default. */
export function refuseUnused(
  { labelSmoothing, gamma, rewardShift, discopopTau, alpha, fDivergence }: LossOptions,
  losses: readonly { lossType: LossType }[],
): void {
  if (isSet(labelSmoothing, DEFAULTS.labelSmoothing)) refuse('labelSmoothing', TAKERS.labelSmoothing, losses)
  if (isSet(gamma, DEFAULTS.gamma)) refuse('gamma', TAKERS.gamma, losses)
  if (isSet(rewardShift, DEFAULTS.rewardShift)) refuse('rewardShift', TAKERS.rewardShift, losses)
  if (isSet(discopopTau, DEFAULTS.discopopTau)) refuse('discopopTau', TAKERS.discopopTau, losses)
  if (isSet(alpha, DEFAULTS.alpha) && fDivergence !== 'alpha') {
    throw invalidValue(
      'options.alpha',
      `is used by fDivergence 'alpha' alone; got ${alpha} with '${fDivergence ?? 'reverse_kl'}'`,
    )
  }
}

function isSet(value: number | undefined, byDefault: number): boolean {
  return value !== undefined && value !== byDefault
}

function refuse(name: Constant, takers: readonly LossType[], losses: readonly { lossType: LossType }[]): void {
  for (let i = 0; i < losses.length; i++) if (takers.includes(losses[i].lossType)) return
  const types = [...new Set(losses.map(({ lossType }) => `'${lossType}'`))].join(', ')
  const problem = `is not used by lossType ${types}; the losses that take it: ${takers.join(', ')}`
  throw invalidValue(`options.${name}`, problem)
}
