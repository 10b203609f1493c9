/**
 * The shaders of stage 3. What all pairs or tokens of a call share, and what makes formulas long, is in constants of the
 * code, so that a device compiles no more than the call needs; all other numbers are in buffers, which loss-inputs.ts fills.
 */
import type { Job, LossConfig, LossStage, TokenLossStage, UnpairedLossStage } from '../../job.js'
import type { LossType } from '../../types/index.js'
import { LOSSES } from '../js/losses.js'
import { DIVERGENCES, SFT_NORMALIZATIONS } from '../loss-fields.js'
import losses from './kernels/losses.wgsl'
import numbers from './kernels/numbers.wgsl'
import pairCoefficients from './kernels/pair-coefficients.wgsl'
import pairStage from './kernels/pair-stage.wgsl'
import pairSums from './kernels/pair-sums.wgsl'
import pairs from './kernels/pairs.wgsl'
import placedSlopes from './kernels/placed-slopes.wgsl'
import preferenceLoss from './kernels/preference-loss.wgsl'
import products from './kernels/products.wgsl'
import rankPairs from './kernels/rank-pairs.wgsl'
import reduce from './kernels/reduce.wgsl'
import rowState from './kernels/row-state.wgsl'
import rowValues from './kernels/row-values.wgsl'
import rows from './kernels/rows.wgsl'
import slopes from './kernels/slopes.wgsl'
import tokenDivisor from './kernels/token-divisor.wgsl'
import tokenLoss from './kernels/token-loss.wgsl'
import tokenState from './kernels/token-state.wgsl'
import tokenSums from './kernels/token-sums.wgsl'
import unpairedLosses from './kernels/unpaired-losses.wgsl'
import unpairedPreferenceLoss from './kernels/unpaired-preference-loss.wgsl'
import unpairedStage from './kernels/unpaired-stage.wgsl'
import unpairedSums from './kernels/unpaired-sums.wgsl'
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
  const given = (loss as LossStage).constants
  const { terms, fDivergence, sftNormalization, average, rewardAlpha } = given
  const types = [...new Set(terms.map((term) => term.lossType))]
  const constants = {
    WORKGROUP: LOSS_WORKGROUP,
    RANKS_AOT: types.includes('aot'),
    RANKS_AOT_UNPAIRED: types.includes('aot_unpaired'),
    DIVERGENCE: DIVERGENCES[fDivergence],
    SFT_NORMALIZATION: SFT_NORMALIZATIONS[sftNormalization],
    AVERAGE: average,
    PLAIN: policy !== undefined && tokens?.plainWeights !== undefined,
    LOG_WEIGHTS: policy?.logWeights !== undefined,
    COUNTS: tokens?.labels !== undefined,
  }
  const variant = [...types, rewardAlpha !== 0, ...Object.values(constants)].join(' ')
  const all = { ...LOSS_NUMBERS, ...constants }
  const { WORKGROUP, PLAIN, RANKS_AOT, RANKS_AOT_UNPAIRED, COUNTS } = constants
  const ranking = `rank-pairs ${RANKS_AOT} ${RANKS_AOT_UNPAIRED} ${COUNTS}`
  const ofPairs = [numbers, products, rows, pairStage, losses, pairs]
  return {
    rankPairs: RANKS_AOT || RANKS_AOT_UNPAIRED ? shader(ranking, all, [...ofPairs, rankPairs]) : undefined,
    preferenceLoss: shader(`preference-loss ${variant}`, all, [...ofPairs, formulasOf(types, given), preferenceLoss]),
    pairSums: shader('pair-sums', { WORKGROUP }, [numbers, reduce, pairStage, pairSums]),
    pairCoefficients: shader(`pair-coefficients ${PLAIN}`, { WORKGROUP, PLAIN }, [
      ...[numbers, rows, pairStage, pairCoefficients],
    ]),
  }
}

/** Rewards of losses that are not the log-ratios of sequences. */
const REWARDS: Partial<Record<LossType, string>> = {
  sigmoid_norm: 'sigmoid_norm',
  ipo: 'hinge',
  ipo_norm: 'ipo_norm',
  hinge: 'hinge',
  simpo: 'simpo',
  cpo: 'cpo',
  orpo: 'orpo',
}

/** The formulas of a call, by the names under which others use them: no other is compiled. */
function formulasOf(types: readonly LossType[], { fDivergence, rewardAlpha, average }: LossConfig): string {
  // Of means, IPO is one of its own.
  const names = types.map((type) => (type === 'ipo' && average ? 'ipo_norm' : type))
  const ofLogProbs = 'policy: TwoFloat, reference: TwoFloat, length: TwoFloat, k: LossConstants'
  return [
    formula('score', 'x: TwoFloat, k: LossConstants', 'Term', fDivergence),
    formula('alphaReward', 'x: Term, k: LossConstants', 'Term', rewardAlpha === 0 ? 'plain' : 'power'),
    formula('reward', ofLogProbs, 'TwoFloat', REWARDS[names[0]] ?? 'plain'),
    'fn evaluate(lossType: u32, p: Pair, k: LossConstants) -> LossValue {',
    'switch lossType {',
    ...names.map((name, i) => `case ${types[i].toUpperCase()}: { return loss_${name}(p, k); }`),
    ...['default: { return LossValue(); }', '}', '}'],
  ].join('\n')
}

/** A function that is one of several: `kind_name`. */
function formula(kind: string, parameters: string, result: string, name: string): string {
  const given = parameters.replace(/: \w+/g, '')
  return `fn ${kind}(${parameters}) -> ${result} { return ${kind}_${name}(${given}); }`
}

/** The shaders of a job with a loss of single sequences. */
export interface UnpairedShaders {
  /** One thread for each sequence. Bindings: stage, inputs, logProbs, results, coefficients. */
  unpairedPreferenceLoss: Shader
  /** One workgroup. Bindings: stage, inputs, logProbs, results, summary. */
  unpairedSums: Shader
}

export function unpairedShaders({ unpairedLoss }: Job): UnpairedShaders {
  const { lossType } = unpairedLoss as UnpairedLossStage
  const constants = { WORKGROUP: LOSS_WORKGROUP }
  const evaluate = [
    'fn evaluate(x: TwoFloat, y: TwoFloat, k: UnpairedLossConstants) -> Term {',
    ...[`return unpaired_${lossType}(x, y, k);`, '}'],
  ].join('\n')
  return {
    unpairedPreferenceLoss: shader(`unpaired-preference-loss ${lossType}`, constants, [
      ...[numbers, products, rows, unpairedStage, unpairedLosses, evaluate, unpairedPreferenceLoss],
    ]),
    unpairedSums: shader('unpaired-sums', constants, [numbers, reduce, unpairedStage, unpairedSums]),
  }
}

/** The shaders of a job with a loss of single tokens. */
export interface TokenLossShaders {
  /** One workgroup; where the divisor is not known. Bindings: sumParams, targets, classWeights, divisor. */
  tokenDivisor?: Shader
  /**
   * One thread for each row. Bindings: params, targets, weights, classWeights, states, divisor, losses, slopes.
   */
  tokenLoss: Shader
  /** One workgroup. Bindings: sumParams, losses, divisor, summary. */
  tokenSums: Shader
}

export function tokenLossShaders({ tokenLoss: stage, tokens, gradient, headGradient }: Job): TokenLossShaders {
  const { labelSmoothing, zLoss, dft, classWeights, weightsOfLabels, divisor } = stage as TokenLossStage
  const constants = {
    WORKGROUP: LOSS_WORKGROUP,
    SMOOTHS: labelSmoothing !== 0,
    HAS_Z_LOSS: zLoss !== 0,
    DFT: dft,
    WEIGHS: tokens?.weights !== undefined,
    CLASSES: weightsOfLabels !== undefined,
    SMOOTHED_CLASSES: classWeights !== undefined,
    HAS_SLOPES: (gradient ?? headGradient) !== undefined,
  }
  const variant = Object.values(constants).join(' ')
  const { WORKGROUP } = constants
  return {
    tokenDivisor:
      divisor === 0 ? shader(`token-divisor ${variant}`, constants, [numbers, reduce, tokenDivisor]) : undefined,
    tokenLoss: shader(`token-loss ${variant}`, constants, [
      ...[numbers, products, rows, rowState, tokenState, slopes, rowValues, placedSlopes, tokenLoss],
    ]),
    tokenSums: shader('token-sums', { WORKGROUP }, [numbers, reduce, tokenSums]),
  }
}
