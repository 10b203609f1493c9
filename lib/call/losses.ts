/**
 * Turns loss options into the constants of stage 3 and the inputs that the losses need besides the policy's log-probs.
 */

import { LOSSES } from '../backends/js/losses.js'
import { finite, optionsObject, unknownName } from '../check/options.js'
import { invalidType, invalidValue, outOfRange } from '../errors.js'
import { type LossConfig, type LossTerm, MOST_TERMS } from '../job.js'
import { type Constant, type LossOptions, lossOptions, TAKERS } from '../options/loss-options.js'
import type { LossType, Normalizer, PerEach, WeightedLoss } from '../types/index.js'
import { smoothingOf } from './per-each.js'

/** The constants, and the inputs that the caller must give; the names are those of the losses that need them. */
export interface LossPlan {
  config: LossConfig
  referenceFree: boolean
  needsReference?: LossType
  needsLengths?: LossType
  /** Whether any loss looks at lengths that are there. */
  usesLengths: boolean
  /** Whether 'sft' is among the losses. */
  hasLikelihood: boolean
}

const LOSS_TYPES = Object.keys(LOSSES) as LossType[]
/** The losses that need a target. */
const AIMED: ReadonlySet<LossType> = new Set(TAKERS.targetMargin)
const WEIGHTED_LOSS = new Set(['lossType', 'weight'])

/** Checks the loss options, but for their arrays with a value per pair. */
export function lossOf(options: LossOptions): LossPlan {
  const { lossType, labelSmoothing } = options
  const fDivergence = lossOptions.fDivergence.read(options.fDivergence)
  const average = lossOptions.averageLogProb.read(options.averageLogProb)
  const referenceFree = lossOptions.referenceFree.read(options.referenceFree)
  const terms: LossTerm[] = []
  const config: LossConfig = {
    terms,
    beta: ofAll(lossOptions.beta.read(options.beta)),
    offset: ofAll(lossOptions.offset.read(options.offset)),
    gamma: lossOptions.gamma.read(options.gamma),
    rewardShift: lossOptions.rewardShift.read(options.rewardShift),
    targetMargin: ofAll(lossOptions.targetMargin.read(options.targetMargin)),
    dpopLambda: lossOptions.dpopLambda.read(options.dpopLambda),
    discopopTau: lossOptions.discopopTau.read(options.discopopTau),
    fDivergence,
    alpha: lossOptions.alpha.read(options.alpha),
    rewardAlpha: lossOptions.rewardAlpha.read(options.rewardAlpha),
    sftNormalization: lossOptions.sftNormalization.read(options.sftNormalization),
    average,
    gradientScale: lossOptions.gradientScale.read(options.gradientScale),
  }
  lossOptions.pairWeights.read(options.pairWeights)
  if (Array.isArray(lossType)) {
    if (lossType.length === 0) throw invalidValue('options.lossType', 'must name at least one loss; got an empty list')
    if (lossType.length > MOST_TERMS) {
      throw outOfRange('options.lossType', `a list of at most ${MOST_TERMS} losses`, lossType)
    }
    for (let i = 0; i < lossType.length; i++)
      terms.push(weightedTerm(lossType[i], `options.lossType[${i}]`, labelSmoothing))
  } else {
    terms.push(termOf(lossType ?? 'sigmoid', 'options.lossType', 1, labelSmoothing))
  }
  setDivisors(config, lossOptions.normalizer.read(options.normalizer))
  const plan: LossPlan = { config, referenceFree, usesLengths: false, hasLikelihood: false }
  const diverges = fDivergence !== 'reverse_kl'
  const takesDivergence = diverges && terms.some((term) => LOSSES[term.lossType].divergence)
  for (const { lossType: type } of terms) {
    const { reference, lengths, divergence } = LOSSES[type]
    if (reference && !referenceFree) plan.needsReference ??= type
    if (needsLengths(type, config, diverges)) plan.needsLengths ??= type
    if (lengths !== 'never') plan.usesLengths = true
    if (type === 'sft') plan.hasLikelihood = true
    if (options.targetMargin === undefined && AIMED.has(type)) {
      throw invalidValue('options.targetMargin', `is needed by lossType '${type}'`)
    }
    // 'sft' has no log-ratio that a score could replace.
    if (diverges && !divergence && !(type === 'sft' && takesDivergence)) {
      const takers = LOSS_TYPES.filter((name) => LOSSES[name].divergence).join(', ')
      const problem = `'${fDivergence}' cannot go with lossType '${type}'; the losses that take it are ${takers}`
      throw invalidValue('options.fDivergence', problem)
    }
  }
  refuseUnused(options, terms)
  if (config.rewardAlpha !== 0 && !(referenceFree && !diverges)) checkRewardAlpha(terms)
  return plan
}

/** The number for all pairs; 0 where there is none, or each pair has its own. */
function ofAll(value: PerEach | undefined): number {
  return typeof value === 'number' ? value : 0
}

function needsLengths(type: LossType, { average, sftNormalization }: LossConfig, diverges: boolean): boolean {
  const { lengths, divergence } = LOSSES[type]
  if (type === 'sft' && sftNormalization !== 'tokens') return average === (sftNormalization === 'sum')
  if (lengths === 'sums') return !average || (divergence && diverges)
  return lengths === 'always' || (lengths === 'means' && average && diverges)
}

/** AlphaPO's reward is of log-probs: of log-ratios, and of their scores, it is not defined. */
function checkRewardAlpha(terms: readonly LossTerm[]): void {
  const other = terms.find(({ lossType }) => TAKERS.rewardAlpha.includes(lossType) && LOSSES[lossType].reference)
  if (other === undefined) return
  const problem = `is of the policy's log-probs: lossType '${other.lossType}' takes it with referenceFree`
  throw invalidValue('options.rewardAlpha', `${problem}, and with no other fDivergence than 'reverse_kl'`)
}

/** The divisors of sums, unless they are this batch's own counts. */
function setDivisors(config: LossConfig, normalizer: Normalizer): void {
  if (normalizer === 'mean') return
  const name = 'options.normalizer'
  const types = config.terms.map((term) => term.lossType)
  const ofTokens = config.sftNormalization === 'tokens' ? 'sft' : undefined
  const sorting = types.find((type) => type.startsWith('aot'))
  if (sorting !== undefined) {
    const problem = `must be 'mean' for lossType '${sorting}', which sorts the whole batch: its parts have other losses`
    throw invalidValue(name, `${problem}; globalPreferenceLoss sorts the pairs of several processes`)
  }
  const pair = types.find((type) => type !== ofTokens)
  const hasTokens = types.some((type) => type === ofTokens)
  if (normalizer === 'sum') {
    config.pairDivisor = config.tokenDivisor = 1
  } else if (typeof normalizer === 'number') {
    if (hasTokens && pair !== undefined) {
      const problem = `must be { pairs, tokens }: '${pair}' is a sum over pairs and 'sft' one over tokens; got a number`
      throw invalidValue(name, problem)
    }
    config[hasTokens ? 'tokenDivisor' : 'pairDivisor'] = normalizer
  } else {
    const { pairs, tokens } = normalizer
    if (pairs === undefined && pair !== undefined)
      throw invalidValue(`${name}.pairs`, `is needed by lossType '${pair}'`)
    if (tokens === undefined && hasTokens) throw invalidValue(`${name}.tokens`, "is needed by lossType 'sft'")
    if (pairs !== undefined) config.pairDivisor = pairs
    if (tokens !== undefined) config.tokenDivisor = tokens
  }
}

function weightedTerm(value: unknown, name: string, labelSmoothing: unknown): LossTerm {
  if (typeof value !== 'object' || value === null) throw invalidType(name, 'an object { lossType, weight? }', value)
  const { lossType, weight } = optionsObject(value as WeightedLoss, name, WEIGHTED_LOSS)
  return termOf(lossType, `${name}.lossType`, finite(weight, `${name}.weight`, 1), labelSmoothing)
}

function termOf(lossType: unknown, name: string, weight: number, labelSmoothing: unknown): LossTerm {
  if (typeof lossType !== 'string') throw invalidType(name, 'the name of a loss', lossType)
  if (!Object.hasOwn(LOSSES, lossType)) throw unknownName(name, lossType, LOSS_TYPES)
  const type = lossType as LossType
  return { lossType: type, weight, labelSmoothing: labelSmoothingOf(labelSmoothing, type) }
}

function labelSmoothingOf(value: unknown, lossType: LossType): number {
  // That of single pairs takes its place.
  if (value === undefined || (typeof value === 'object' && value !== null))
    return LOSSES[lossType].defaultLabelSmoothing
  const name = 'options.labelSmoothing'
  const { written, holds } = smoothingOf(lossType)
  if (typeof value !== 'number') throw invalidType(name, 'a number in [0, 1] or an array of such numbers', value)
  if (!holds(value)) throw outOfRange(name, written, value)
  return value
}

/** Refuses constants (already checked) that no loss takes, unless they have their default values. */
function refuseUnused(options: LossOptions, losses: readonly LossTerm[]): void {
  for (const given in options) {
    if (!Object.hasOwn(TAKERS, given)) continue
    const name = given as Constant
    const takers = TAKERS[name]
    const value = options[name]
    if (value === undefined || value === lossOptions[name].byDefault) continue
    if (losses.some(({ lossType }) => takers.includes(lossType))) continue
    const types = [...new Set(losses.map(({ lossType }) => `'${lossType}'`))].join(', ')
    const problem = `is not used by lossType ${types}; the losses that take it: ${takers.join(', ')}`
    throw invalidValue(`options.${name}`, problem)
  }
  const { alpha, fDivergence } = options
  if (alpha !== undefined && alpha !== lossOptions.alpha.byDefault && fDivergence !== 'alpha') {
    const problem = `is used by fDivergence 'alpha' alone; got ${alpha} with '${fDivergence ?? 'reverse_kl'}'`
    throw invalidValue('options.alpha', problem)
  }
}
