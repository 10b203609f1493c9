/**
 * Checks of option objects and of single options. Every check returns the value to use: the one that was passed, or the
 * default.
 */
import { describe, invalidType, invalidValue, outOfRange } from '../errors.js'
import { optionHint, quoted, valueHint } from './suggestions.js'

/**
 * A copy of an object whose keys are all in `known`; an empty object when it is undefined. An option may be undefined
 * or absent. Every option is read once, so that the checked value is the one that is used, and none of the caller's
 * getters runs later.
 */
export function optionsObject<T extends object>(value: T | undefined, name: string, known: ReadonlySet<string>): T {
  if (value === undefined) return {} as T
  // The keys of a list are its indices, which may be too many to check.
  if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) {
    throw invalidType(name, 'an object', value)
  }
  // All own keys; for an instance of a class, the known names too, because a loop over its keys misses getters of the
  // class.
  const plain = Object.getPrototypeOf(value) === Object.prototype
  const options: Record<string, unknown> = plain ? { ...value } : {}
  for (const key in plain ? options : value) {
    if (!known.has(key)) throw invalidValue(`${name}.${key}`, `is not an option${optionHint(key, known)}`)
  }
  if (!plain) for (const key of known) options[key] = (value as Record<string, unknown>)[key]
  return options as T
}

/** One of the strings in `allowed`. */
export function oneOf<T extends string>(value: unknown, name: string, allowed: readonly T[], byDefault: T): T {
  if (value === undefined) return byDefault
  if (typeof value !== 'string') throw invalidType(name, `one of ${quoted(allowed)}`, value)
  if (!(allowed as readonly string[]).includes(value)) throw unknownName(name, value, allowed)
  return value as T
}

/** The error for a string that is not in `allowed`. */
export function unknownName(name: string, value: string, allowed: readonly string[]) {
  return invalidValue(name, `must be one of ${quoted(allowed)}; got ${describe(value)}${valueHint(value, allowed)}`)
}

/** A boolean. */
export function flag(value: unknown, name: string, byDefault: boolean): boolean {
  if (value === undefined) return byDefault
  if (typeof value !== 'boolean') throw invalidType(name, 'a boolean', value)
  return value
}

/** A range of numbers, and what errors call a number in it. */
export interface NumberRange {
  written: string
  holds(value: number): boolean
}

const { POSITIVE_INFINITY } = Number

export const FINITE: NumberRange = { written: 'a finite number', holds: Number.isFinite }
export const POSITIVE: NumberRange = {
  written: 'a finite number > 0',
  holds: (value) => value > 0 && value < POSITIVE_INFINITY,
}
export const NOT_NEGATIVE: NumberRange = {
  written: 'a finite number >= 0',
  holds: (value) => value >= 0 && value < POSITIVE_INFINITY,
}

/** A number in a range, given where an array of such numbers may stand too. */
export function inRange(value: unknown, name: string, { written, holds }: NumberRange): number {
  if (typeof value !== 'number') throw invalidType(name, `${written} or an array of such numbers`, value)
  if (!holds(value)) throw outOfRange(name, written, value)
  return value
}

/** A finite number. */
export function finite(value: unknown, name: string, byDefault: number): number {
  if (value === undefined) return byDefault
  if (typeof value !== 'number') throw invalidType(name, 'a finite number', value)
  if (!Number.isFinite(value)) throw outOfRange(name, 'a finite number', value)
  return value
}

/** A finite number > 0. */
export function positive(value: unknown, name: string, byDefault: number): number {
  if (value === undefined) return byDefault
  if (typeof value !== 'number') throw invalidType(name, 'a finite number > 0', value)
  if (!(value > 0 && value < Number.POSITIVE_INFINITY)) throw outOfRange(name, 'a finite number > 0', value)
  return value
}

/** A finite number >= 0. */
export function notNegative(value: unknown, name: string, byDefault: number): number {
  if (value === undefined) return byDefault
  if (typeof value !== 'number') throw invalidType(name, 'a finite number >= 0', value)
  if (!(value >= 0 && value < Number.POSITIVE_INFINITY)) throw outOfRange(name, 'a finite number >= 0', value)
  return value
}

/** A number in [low, high]. */
export function between(value: unknown, name: string, low: number, high: number, byDefault: number): number {
  if (value === undefined) return byDefault
  if (typeof value !== 'number') throw invalidType(name, `a number in [${low}, ${high}]`, value)
  if (!(value >= low && value <= high)) throw outOfRange(name, `a number in [${low}, ${high}]`, value)
  return value
}

/** An integer in [low, high]. */
export function integer(value: unknown, name: string, low: number, high: number): number {
  if (typeof value !== 'number') throw invalidType(name, `an integer in [${low}, ${high}]`, value)
  if (!Number.isInteger(value) || value < low || value > high) {
    throw outOfRange(name, `an integer in [${low}, ${high}]`, value)
  }
  return value
}
