/**
 * The options of losses of single sequences turned into the constants of stage 3.
 */
import { UNPAIRED_LOSSES } from '../backends/js/unpaired-losses.js'
import { lengthOf, type NamedArray, numbers } from '../check/arrays.js'
import { FINITE, POSITIVE } from '../check/options.js'
import { invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { UnpairedLossConfig, UnpairedLossStage } from '../job.js'
import { type UnpairedLossOptions, unpairedLossOptions } from '../options/unpaired-options.js'
import type { UnpairedLossType, UnpairedNormalizer } from '../types/index.js'
import { each, weightsOf } from './per-each.js'

/** The constants, but for the divisor: undefined where it is the number of sequences. */
export interface UnpairedLossPlan {
  constants: Omit<UnpairedLossConfig, 'divisor'>
  divisor?: number
  referenceFree: boolean
}

const LOSS_TYPES = Object.keys(UNPAIRED_LOSSES) as UnpairedLossType[]

/** Checks the options, but for `desirable` and the arrays with a value per sequence. */
export function unpairedLossOf(options: Partial<UnpairedLossOptions>): UnpairedLossPlan {
  const lossType = unpairedLossOptions.lossType.read(options.lossType)
  const referenceFree = unpairedLossOptions.referenceFree.read(options.referenceFree)
  const normalizer = unpairedLossOptions.normalizer.read(options.normalizer)
  const beta = unpairedLossOptions.beta.read(options.beta)
  unpairedLossOptions.sequenceWeights.read(options.sequenceWeights)
  const constants = {
    lossType,
    beta: typeof beta === 'number' ? beta : 0, // each sequence has its own
    desirableWeight: unpairedLossOptions.desirableWeight.read(options.desirableWeight),
    undesirableWeight: unpairedLossOptions.undesirableWeight.read(options.undesirableWeight),
    kl: klOf(options, lossType, referenceFree),
    rewardShift: unpairedLossOptions.rewardShift.read(options.rewardShift),
    gradientScale: unpairedLossOptions.gradientScale.read(options.gradientScale),
  }
  if (constants.rewardShift !== 0) refuseUnused('rewardShift', 'rewardShift', lossType)
  if (options.targets !== undefined) refuseUnused('targets', 'targets', lossType)
  else if (UNPAIRED_LOSSES[lossType].targets) {
    throw invalidValue('options.targets', `are needed by lossType '${lossType}'`)
  }
  return { constants, divisor: divisorOf(normalizer), referenceFree }
}

/** κ: given, or the mean of mismatched log-ratios, and at least 0. */
function klOf(options: Partial<UnpairedLossOptions>, lossType: UnpairedLossType, referenceFree: boolean): number {
  const { klLogProbs, referenceKlLogProbs } = options
  const kl = unpairedLossOptions.kl.read(options.kl)
  if (klLogProbs !== undefined) refuseUnused('klLogProbs', 'kl', lossType)
  if (referenceKlLogProbs !== undefined) refuseUnused('referenceKlLogProbs', 'kl', lossType)
  if (kl) refuseUnused('kl', 'kl', lossType)
  if (!UNPAIRED_LOSSES[lossType].kl) return 0
  if (klLogProbs === undefined && referenceKlLogProbs === undefined) {
    if (kl !== undefined) return Math.max(0, kl)
    const both = `and options.referenceKlLogProbs, of mismatched completions, are needed by lossType '${lossType}'`
    throw invalidValue('options.klLogProbs', `${both}; or their mean difference, options.kl`)
  }
  if (kl !== undefined) {
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
  name: 'klLogProbs' | 'referenceKlLogProbs' | 'kl' | 'rewardShift' | 'targets',
  constant: 'kl' | 'rewardShift' | 'targets',
  lossType: UnpairedLossType,
): void {
  if (UNPAIRED_LOSSES[lossType][constant]) return
  const takers = LOSS_TYPES.filter((type) => UNPAIRED_LOSSES[type][constant]).join(', ')
  throw invalidValue(`options.${name}`, `is not used by lossType '${lossType}'; the losses that take it: ${takers}`)
}

function divisorOf(normalizer: UnpairedNormalizer): number | undefined {
  if (normalizer === 'mean') return undefined
  if (normalizer === 'sum') return 1
  return typeof normalizer === 'number' ? normalizer : normalizer.sequences
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

/** Gives stage 3 the values of single sequences. The options have been read by `unpairedLossOf`. */
export function addSequenceValues(stage: UnpairedLossStage, options: Partial<UnpairedLossOptions>): void {
  const { beta, sequenceWeights, targets } = options
  const size = stage.desirable.length
  if (typeof beta === 'object') stage.betas = each(beta, 'options.beta', size, 'sequence', POSITIVE)
  if (targets !== undefined) stage.targets = each(targets, 'options.targets', size, 'sequence', FINITE)
  if (sequenceWeights !== undefined) {
    stage.weights = weightsOf(sequenceWeights, 'options.sequenceWeights', size, 'sequence')
  }
}

/** The caller's arrays among the options. */
export function unpairedArrays(options: Partial<UnpairedLossOptions>): NamedArray[] {
  return [
    ['options.beta', options.beta],
    ['options.sequenceWeights', options.sequenceWeights],
    ['options.targets', options.targets],
    ['options.desirable', options.desirable],
    ['options.klLogProbs', options.klLogProbs],
    ['options.referenceKlLogProbs', options.referenceKlLogProbs],
  ]
}
