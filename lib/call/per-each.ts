/**
 * Options that are a number for all pairs or sequences or, as here, an array with one for each.
 */
import { LOSSES } from '../backends/js/losses.js'
import { type NamedArray, numbers } from '../check/arrays.js'
import { FINITE, NOT_NEGATIVE, type NumberRange, POSITIVE } from '../check/options.js'
import { outOfRange } from '../errors.js'
import type { LossStage, LossTerm, PairConstants } from '../job.js'
import type { LossOptions } from '../options/loss-options.js'
import type { LossType, PerEach } from '../types/index.js'

/** A checked copy of one number per pair or sequence. */
export function each(
  value: ArrayLike<number>,
  name: string,
  size: number,
  one: 'pair' | 'sequence',
  range: NumberRange,
): Float64Array {
  const copy = numbers(value, name, size, `, one per ${one}`)
  for (let i = 0; i < size; i++) {
    if (!range.holds(copy[i])) throw outOfRange(`${name}[${i}]`, range.written, copy[i])
  }
  return copy
}

/** Factors as an array, unless all are 1. */
export function weightsOf(
  value: PerEach,
  name: string,
  size: number,
  one: 'pair' | 'sequence',
): Float64Array | undefined {
  if (value === 1) return undefined
  return typeof value === 'number' ? new Float64Array(size).fill(value) : each(value, name, size, one, NOT_NEGATIVE)
}

/** Gives stage 3 the constants and weights of single pairs. The options have been read by `lossOf`. */
export function addPairConstants(stage: LossStage, options: LossOptions): void {
  const { beta, labelSmoothing, offset, targetMargin, pairWeights } = options
  if (typeof beta === 'object') add(stage, 'beta', beta, POSITIVE)
  if (typeof labelSmoothing === 'object')
    add(stage, 'labelSmoothing', labelSmoothing, smoothingRange(stage.constants.terms))
  if (typeof offset === 'object') add(stage, 'offset', offset, FINITE)
  if (typeof targetMargin === 'object') add(stage, 'targetMargin', targetMargin, FINITE)
  if (pairWeights !== undefined) {
    stage.pairWeights = weightsOf(pairWeights, 'options.pairWeights', stage.chosen.length, 'pair')
  }
}

function add(stage: LossStage, name: keyof PairConstants, value: ArrayLike<number>, range: NumberRange): void {
  stage.pairConstants ??= {}
  stage.pairConstants[name] = each(value, `options.${name}`, stage.chosen.length, 'pair', range)
}

/** The ε that every loss of a sum takes. */
function smoothingRange(terms: readonly LossTerm[]): NumberRange {
  const ranges = terms.map(({ lossType }) => smoothingOf(lossType))
  return {
    written: ranges.map(({ written }) => written).join(', '),
    holds: (value) => ranges.every(({ holds }) => holds(value)),
  }
}

/** The ε that a loss takes. */
export function smoothingOf(lossType: LossType): NumberRange {
  const range = LOSSES[lossType].labelSmoothing
  const written = range === 'half' ? '[0, 0.5)' : range === 'open' ? '(0, 1)' : '[0, 1]'
  return {
    written: `in ${written} for lossType '${lossType}'`,
    holds: (value) =>
      range === 'half'
        ? value >= 0 && value < 0.5
        : range === 'open'
          ? value > 0 && value < 1
          : value >= 0 && value <= 1,
  }
}

/** The caller's arrays among the options. */
export function pairArrays({ beta, labelSmoothing, offset, targetMargin, pairWeights }: LossOptions): NamedArray[] {
  const arrays: NamedArray[] = []
  if (typeof beta === 'object') arrays.push(['options.beta', beta])
  if (typeof labelSmoothing === 'object') arrays.push(['options.labelSmoothing', labelSmoothing])
  if (typeof offset === 'object') arrays.push(['options.offset', offset])
  if (typeof targetMargin === 'object') arrays.push(['options.targetMargin', targetMargin])
  if (typeof pairWeights === 'object') arrays.push(['options.pairWeights', pairWeights])
  return arrays
}
