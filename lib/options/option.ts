/**
 * How an option is declared: once, with its name, type, default, check and docstring. The types that users see, the lists
 * of names, and the checks of every call are made of the declarations.
 */
import * as check from '../check/options.js'
import type { LossType, PerEach } from '../types/index.js'

/** An option: `Value` is the type that callers pass, `Read` the type of the checked value. */
export interface Option<Value, Read = Value> {
  /** The checked value; the default if the option was not given. */
  read(value: Value | undefined): Read
  readonly byDefault: Read
  /** Whether an array has an element per label or a length of its own. Absent for options that are not arrays. */
  readonly array?: 'per label' | 'of its own length'
}

/** The options of a table, as callers pass them. */
export type Given<Table> = {
  -readonly [Name in keyof Table]?: (Table[Name] extends Option<infer Value, infer _> ? Value : never) | undefined
}

class Declared<Value, Read> implements Option<Value, Read> {
  /** Its name in errors; set by its table. */
  name = ''
  /** The losses that take it, where not all do. Here, so that all options have one shape and `read` is fast. */
  takers: readonly LossType[] | undefined = undefined

  constructor(
    readonly byDefault: Read,
    private readonly check: (value: unknown, name: string) => Read,
    readonly array: Option<Value, Read>['array'],
  ) {}

  read(value: Value | undefined): Read {
    return value === undefined ? this.byDefault : this.check(value, this.name)
  }
}

/** An option of any type. `check` gets the value, if one was given, and the name in errors. */
export function option<Value, Read = Value>(
  byDefault: Read,
  check: (value: unknown, name: string) => Read,
): Option<Value, Read> {
  return new Declared<Value, Read>(byDefault, check, undefined)
}

/** Declared options, whose names are the keys. */
export function optionTable<Table extends object>(table: Table): Table {
  for (const [name, declared] of Object.entries(table)) (declared as { name: string }).name = `options.${name}`
  return table
}

/** The names in a table. */
export function namesOf<Table extends object>(table: Table): readonly (keyof Table & string)[] {
  return Object.keys(table) as (keyof Table & string)[]
}

/** true or false. */
export function flag(byDefault: boolean): Option<boolean> {
  return option(byDefault, (value, name) => check.flag(value, name, byDefault))
}

/** A finite number. */
export function finite(byDefault: number): Option<number> {
  return option(byDefault, (value, name) => check.finite(value, name, byDefault))
}

/** A finite number > 0. */
export function positive(byDefault: number): Option<number> {
  return option(byDefault, (value, name) => check.positive(value, name, byDefault))
}

/** A finite number >= 0. */
export function notNegative(byDefault: number): Option<number> {
  return option(byDefault, (value, name) => check.notNegative(value, name, byDefault))
}

/** A number in [low, high]. */
export function between(low: number, high: number, byDefault: number): Option<number> {
  return option(byDefault, (value, name) => check.between(value, name, low, high, byDefault))
}

/** Any integer that a number holds exactly. */
export function integer(byDefault: number): Option<number> {
  return option(byDefault, (value, name) =>
    check.integer(value, name, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  )
}

/** A number in a range for all pairs or sequences, or an array with one for each, which is checked with these. */
export function perEach<Default extends number | undefined>(
  range: check.NumberRange,
  byDefault: Default,
): Option<PerEach, PerEach | Default> {
  return option<PerEach, PerEach | Default>(byDefault, (value, name) =>
    typeof value === 'object' && value !== null ? (value as ArrayLike<number>) : check.inRange(value, name, range),
  )
}

/** A constant of losses that not every loss takes. */
export function takenBy<Value, Read>(
  takers: readonly LossType[],
  constant: Option<Value, Read>,
): Option<Value, Read> & { readonly takers: readonly LossType[] } {
  return Object.assign(constant, { takers })
}

/** One of some strings. */
export function oneOf<const Value extends string>(values: readonly Value[], byDefault: NoInfer<Value>): Option<Value> {
  return option<Value>(byDefault, (value, name) => check.oneOf(value, name, values, byDefault))
}

/** A value that is checked later, where everything that its check needs is known. */
export function checkedLater<Value>(): Option<Value, Value | undefined> {
  return option<Value, Value | undefined>(undefined, (value) => value as Value)
}

/** An array of the caller's with an element per label, checked with the labels. */
export function perLabel<Value>(): Option<Value, Value | undefined> & { readonly array: 'per label' } {
  const declared = new Declared<Value, Value | undefined>(undefined, (value) => value as Value, 'per label')
  return declared as typeof declared & { readonly array: 'per label' }
}

/** An array of the caller's that has a length of its own, checked with the sequences. */
export function list<Value>(): Option<Value, Value | undefined> & { readonly array: 'of its own length' } {
  const declared = new Declared<Value, Value | undefined>(undefined, (value) => value as Value, 'of its own length')
  return declared as typeof declared & { readonly array: 'of its own length' }
}
