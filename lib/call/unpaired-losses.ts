/**
 * The options of losses of single sequences turned into the constants of stage 3.
 */
import { UNPAIRED_LOSSES } from '../backends/js/unpaired-losses.js'
import { lengthOf, type NamedArray, numbers } from '../check/arrays.js'
import { finite, flag, notNegative, oneOf, optionsObject, positive, unknownName } from '../check/options.js'
import { invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { UnpairedLossConfig, UnpairedLossStage } from '../job.js'
import type { UnpairedLossOptions, UnpairedLossType } from '../types/index.js'

/** The names of {@link UnpairedLossOptions}. */
export const UNPAIRED_LOSS_OPTIONS = [
  'desirable',
  'lossType',
  'beta',
  'desirableWeight',
  'undesirableWeight',
  'klLogProbs',
  'referenceKlLogProbs',
  'kl',
  'rewardShift',
  'referenceFree',
  'normalizer',
] as const

/** The constants, but for the divisor: undefined where it is the number of sequences. */
export interface UnpairedLossPlan {
  constants: Omit<UnpairedLossConfig, 'divisor'>
  divisor?: number
  referenceFree: boolean
}

const LOSS_TYPES = Object.keys(UNPAIRED_LOSSES) as UnpairedLossType[]
const DIVISORS = new Set(['sequences'])

/** Checks the options, but for `desirable`. */
export function unpairedLossOf(options: Partial<UnpairedLossOptions>): UnpairedLossPlan {
  const lossType = oneOf(options.lossType, 'options.lossType', LOSS_TYPES, 'kto')
  const referenceFree = flag(options.referenceFree, 'options.referenceFree', false)
  const constants = {
    lossType,
    beta: positive(options.beta, 'options.beta', 0.1),
    desirableWeight: notNegative(options.desirableWeight, 'options.desirableWeight', 1),
    undesirableWeight: notNegative(options.undesirableWeight, 'options.undesirableWeight', 1),
    kl: klOf(options, lossType, referenceFree),
    rewardShift: finite(options.rewardShift, 'options.rewardShift', 0),
  }
  if (constants.rewardShift !== 0) refuseUnused('rewardShift', 'rewardShift', lossType)
  return { constants, divisor: divisorOf(options.normalizer), referenceFree }
}

/** κ: given, or the mean of mismatched log-ratios, and at least 0. */
function klOf(options: Partial<UnpairedLossOptions>, lossType: UnpairedLossType, referenceFree: boolean): number {
  const { klLogProbs, referenceKlLogProbs } = options
  const kl = finite(options.kl, 'options.kl', 0)
  if (klLogProbs !== undefined) refuseUnused('klLogProbs', 'kl', lossType)
  if (referenceKlLogProbs !== undefined) refuseUnused('referenceKlLogProbs', 'kl', lossType)
  if (kl !== 0) refuseUnused('kl', 'kl', lossType)
  if (!UNPAIRED_LOSSES[lossType].kl) return 0
  if (klLogProbs === undefined && referenceKlLogProbs === undefined) {
    if (options.kl !== undefined) return Math.max(0, kl)
    const both = `and options.referenceKlLogProbs, of mismatched completions, are needed by lossType '${lossType}'`
    throw invalidValue('options.klLogProbs', `${both}; or their mean difference, options.kl`)
  }
  if (options.kl !== undefined) {
    throw invalidValue(
      'options.kl',
      'is what options.klLogProbs and referenceKlLogProbs come to: give one or the other',
    )
  }
  const policy = finiteNumbers(klLogProbs, 'options.klLogProbs')
  const size = policy.length
  if (size === 0) throw shapeMismatch('options.klLogProbs', 'must have at least one element; got 0')
  const sizes = ', that of options.klLogProbs'
  const reference = referenceFree
    ? new Float64Array(size)
    : finiteNumbers(referenceKlLogProbs, 'options.referenceKlLogProbs', size, sizes)
  let sum = 0
  for (let i = 0; i < size; i++) sum += policy[i] - reference[i]
  return Math.max(0, sum / size)
}

function finiteNumbers(value: unknown, name: string, length?: number, sizes?: string): Float64Array {
  const copy = numbers(value, name, length, sizes)
  const bad = copy.findIndex((element) => !Number.isFinite(element))
  if (bad >= 0) throw outOfRange(`${name}[${bad}]`, 'a finite number', copy[bad])
  return copy
}

function refuseUnused(
  name: 'klLogProbs' | 'referenceKlLogProbs' | 'kl' | 'rewardShift',
  constant: 'kl' | 'rewardShift',
  lossType: UnpairedLossType,
): void {
  if (UNPAIRED_LOSSES[lossType][constant]) return
  const takers = LOSS_TYPES.filter((type) => UNPAIRED_LOSSES[type][constant]).join(', ')
  throw invalidValue(`options.${name}`, `is not used by lossType '${lossType}'; the losses that take it: ${takers}`)
}

function divisorOf(normalizer: unknown): number | undefined {
  const name = 'options.normalizer'
  if (normalizer === undefined || normalizer === 'mean') return undefined
  if (normalizer === 'sum') return 1
  if (typeof normalizer === 'number') return positive(normalizer, name, 1)
  if (typeof normalizer === 'string') throw unknownName(name, normalizer, ['mean', 'sum'])
  if (typeof normalizer !== 'object' || normalizer === null) {
    throw invalidType(name, "'mean', 'sum', a number > 0 or an object { sequences }", normalizer)
  }
  const { sequences } = optionsObject(normalizer as { sequences?: number }, name, DIVISORS)
  if (sequences === undefined) throw invalidType(`${name}.sequences`, 'a finite number > 0', sequences)
  return positive(sequences, `${name}.sequences`, 1)
}

/** `[B]` 1 for a sequence that is desirable, 0 for one that is not. */
export function desirableOf(value: unknown, sequences: number): Int32Array {
  const name = 'options.desirable'
  const wanted = 'true, false, 1 or 0'
  const length = lengthOf(value, name, `an array of ${wanted}, one per sequence`)
  if (length !== sequences) throw shapeMismatch(name, `must have length ${sequences}, one per sequence; got ${length}`)
  const flags = new Int32Array(length)
  for (let s = 0; s < length; s++) {
    const element = (value as ArrayLike<unknown>)[s]
    if (typeof element !== 'boolean' && typeof element !== 'number') throw invalidType(`${name}[${s}]`, wanted, element)
    if (typeof element === 'number' && element !== 0 && element !== 1)
      throw outOfRange(`${name}[${s}]`, wanted, element)
    flags[s] = Number(element)
  }
  return flags
}

/** The caller's arrays among the options. */
export function unpairedArrays(options: Partial<UnpairedLossOptions>): NamedArray[] {
  return [
    ['options.desirable', options.desirable],
    ['options.klLogProbs', options.klLogProbs],
    ['options.referenceKlLogProbs', options.referenceKlLogProbs],
  ]
}

/** Stage 3 for sequences of which these are desirable. */
export function unpairedLossStage({ constants, divisor }: UnpairedLossPlan, desirable: Int32Array): UnpairedLossStage {
  const size = desirable.length
  return {
    ...constants,
    divisor: divisor ?? size,
    desirable,
    losses: new Float64Array(size),
    rewards: new Float64Array(size),
    gradient: new Float64Array(size),
    summary: new Float64Array(5),
  }
}
