/**
 * The shaders of stage 3. What all pairs or tokens of a call share, and what makes formulas long, is in constants of the
 * code, so that a device compiles no more than the call needs; all other numbers are in buffers, which loss-inputs.ts fills.
 */
import type { Job, LossStage } from '../../job.js'
import type { LossType } from '../../types/index.js'
import { DIVERGENCES, SFT_NORMALIZATIONS } from '../job-fields.js'
import { LOSSES } from '../js/losses.js'
import losses from './kernels/losses.wgsl'
import numbers from './kernels/numbers.wgsl'
import pairCoefficients from './kernels/pair-coefficients.wgsl'
import pairStage from './kernels/pair-stage.wgsl'
import pairSums from './kernels/pair-sums.wgsl'
import pairs from './kernels/pairs.wgsl'
import preferenceLoss from './kernels/preference-loss.wgsl'
import products from './kernels/products.wgsl'
import rankPairs from './kernels/rank-pairs.wgsl'
import reduce from './kernels/reduce.wgsl'
import rows from './kernels/rows.wgsl'
import { type Shader, shader } from './shader.js'

/** Threads of the workgroups of stage 3. */
export const LOSS_WORKGROUP = 64

export const LOSS_TYPES = Object.keys(LOSSES) as LossType[]

/** Their numbers, by their names in capitals. */
const LOSS_NUMBERS = Object.fromEntries(LOSS_TYPES.map((type, number) => [type.toUpperCase(), number]))

/** The shaders of a job with a loss of pairs, in the order in which they run. */
export interface PairShaders {
  /** One thread for each pair; where a term sorts the batch. Bindings: stage, pairs, logProbs, sequences, ranks. */
  rankPairs?: Shader
  /** One thread for each pair. Bindings: stage, pairs, logProbs, sequences, ranks, results. */
  preferenceLoss: Shader
  /** One workgroup. Bindings: stage, results, summary. */
  pairSums: Shader
  /** One thread for each sequence; where a gradient follows. Bindings: stage, uses, results, coefficients. */
  pairCoefficients: Shader
}

export function pairShaders({ loss, policy, tokens }: Job): PairShaders {
  const { terms, fDivergence, sftNormalization, average, rewardAlpha } = (loss as LossStage).constants
  const types = [...new Set(terms.map((term) => term.lossType))]
  const constants = {
    WORKGROUP: LOSS_WORKGROUP,
    FIRST_LOSS: LOSS_NUMBERS[terms[0].lossType.toUpperCase()],
    RANKS_AOT: types.includes('aot'),
    RANKS_AOT_UNPAIRED: types.includes('aot_unpaired'),
    DIVERGENCE: DIVERGENCES[fDivergence],
    SFT_NORMALIZATION: SFT_NORMALIZATIONS[sftNormalization],
    AVERAGE: average,
    ALPHA_REWARD: rewardAlpha !== 0,
    PLAIN: policy !== undefined && tokens?.plainWeights !== undefined,
    LOG_WEIGHTS: policy?.logWeights !== undefined,
    COUNTS: tokens?.labels !== undefined,
  }
  const variant = [...types, ...Object.values(constants)].join(' ')
  const all = { ...LOSS_NUMBERS, ...constants }
  const { WORKGROUP, PLAIN, RANKS_AOT, RANKS_AOT_UNPAIRED } = constants
  const ofPairs = [numbers, products, rows, pairStage, losses, pairs]
  return {
    rankPairs:
      RANKS_AOT || RANKS_AOT_UNPAIRED ? shader(`rank-pairs ${variant}`, all, [...ofPairs, rankPairs]) : undefined,
    preferenceLoss: shader(`preference-loss ${variant}`, all, [...ofPairs, evaluateOf(types), preferenceLoss]),
    pairSums: shader('pair-sums', { WORKGROUP }, [numbers, reduce, pairStage, pairSums]),
    pairCoefficients: shader(`pair-coefficients ${PLAIN}`, { WORKGROUP, PLAIN }, [
      ...[numbers, rows, pairStage, pairCoefficients],
    ]),
  }
}

/** The choice among the losses of a call. */
function evaluateOf(types: readonly LossType[]): string {
  const cases = types.map((type) => `case ${type.toUpperCase()}: { return loss_${type}(p, k); }`)
  return [
    'fn evaluate(lossType: u32, p: Pair, k: LossConstants) -> LossValue {',
    ...['switch lossType {', ...cases, 'default: { return LossValue(); }', '}', '}'],
  ].join('\n')
}
