/**
 * The modules of stage 3. What all pairs or tokens of a call share, and what makes formulas long, is in constants of the
 * code, so that a device compiles no more than the call needs; all other numbers are in buffers, which loss-constants.ts
 * fills.
 */
import type { Job, LossStage, TokenLossStage, UnpairedLossStage } from '../../job.js'
import type { LossType, UnpairedLossType } from '../../types/index.js'
import { DIVERGENCES, SFT_NORMALIZATIONS } from '../job-fields.js'
import { LOSSES } from '../js/losses.js'
import { UNPAIRED_LOSSES } from '../js/unpaired-losses.js'
import losses from './kernels/losses.wgsl'
import numbers from './kernels/numbers.wgsl'
import preferenceLoss from './kernels/preference-loss.wgsl'
import reduce from './kernels/reduce.wgsl'

/** Invocations of a workgroup of stage 3. */
export const LOSS_WORKGROUP = 64

export const LOSS_TYPES = Object.keys(LOSSES) as LossType[]
export const UNPAIRED_LOSS_TYPES = Object.keys(UNPAIRED_LOSSES) as UnpairedLossType[]

/** The module of a job with a loss of pairs. */
export function preferenceLossModule({ loss, policy, tokens }: Job): string {
  const { constants } = loss as LossStage
  const { terms, fDivergence, sftNormalization, average, rewardAlpha } = constants
  const types = new Set(terms.map((term) => term.lossType))
  const header = constantsOf({
    WORKGROUP: LOSS_WORKGROUP,
    ...Object.fromEntries(LOSS_TYPES.map((type, number) => [type.toUpperCase(), number])),
    FIRST_LOSS: LOSS_TYPES.indexOf(terms[0].lossType),
    RANKS_AOT: types.has('aot'),
    RANKS_AOT_UNPAIRED: types.has('aot_unpaired'),
    DIVERGENCE: DIVERGENCES[fDivergence],
    SFT_NORMALIZATION: SFT_NORMALIZATIONS[sftNormalization],
    AVERAGE: average,
    ALPHA_REWARD: rewardAlpha !== 0,
    PLAIN: policy !== undefined && tokens?.plainWeights !== undefined,
    LOG_WEIGHTS: policy?.logWeights !== undefined,
    COUNTS: tokens?.labels !== undefined,
  })
  const cases = [...types].map((type) => `case ${type.toUpperCase()}: { return loss_${type}(p, k); }`)
  const evaluate = [
    'fn evaluate(lossType: u32, p: Pair, k: LossConstants) -> LossValue {',
    ...['switch lossType {', ...cases, 'default: { return LossValue(); }', '}', '}'],
  ]
  return [header, numbers, reduce, losses, ...evaluate, preferenceLoss].join('\n')
}

/** Declarations of constants. */
function constantsOf(values: Record<string, number | boolean>): string {
  const lines = Object.entries(values).map(
    ([name, value]) => `const ${name} = ${typeof value === 'number' ? `${value}u` : value};`,
  )
  return lines.join('\n')
}
