/**
 * How an option is declared: once, with its name, type, default, check and docstring. The types that users see, the lists
 * of names, and the checks of every call are made of the declarations.
 */
import * as check from '../check/options.js'

/** An option: `Value` is what callers pass, `Read` what is made of it. */
export interface Option<Value, Read = Value> {
  /** What came, checked; the default where nothing came. */
  read(value: Value | undefined): Read
  /** Of an array: whether it has an element per label, or a length of its own. Absent for any other option. */
  readonly array?: 'per label' | 'of its own length'
}

/** The options of a table, as callers pass them. */
export type Given<Table> = {
  -readonly [Name in keyof Table]?: Table[Name] extends Option<infer Value, infer _> ? Value : never
}

/** An option with these properties. Its name comes from the table it stands in. */
export function option<Value, Read, More extends object = object>(
  checked: (value: unknown, name: string) => Read,
  more?: More,
): Option<Value, Read> & More {
  const made = { name: '', read: (value: unknown) => checked(value, made.name), ...more }
  return made as unknown as Option<Value, Read> & More
}

/** Declared options, whose names are the keys. */
export function optionTable<Table extends Readonly<Record<string, object>>>(table: Table): Table {
  for (const name of Object.keys(table)) (table[name] as { name: string }).name = `options.${name}`
  return table
}

/** The names in a table. */
export function namesOf<Table extends object>(table: Table): readonly (keyof Table & string)[] {
  return Object.keys(table) as (keyof Table & string)[]
}

/** true or false. */
export function flag(byDefault: boolean) {
  return option<boolean, boolean>((value, name) => check.flag(value, name, byDefault))
}

/** A finite number. */
export function finite(byDefault: number) {
  return option<number, number>((value, name) => check.finite(value, name, byDefault))
}

/** A finite number > 0. */
export function positive(byDefault: number) {
  return option<number, number>((value, name) => check.positive(value, name, byDefault))
}

/** A number in [low, high]. */
export function between(low: number, high: number, byDefault: number) {
  return option<number, number>((value, name) => check.between(value, name, low, high, byDefault))
}

/** Any integer that a number holds exactly. */
export function integer(byDefault: number) {
  return option<number, number>((value, name) =>
    value === undefined ? byDefault : check.integer(value, name, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  )
}

/** One of some strings. */
export function oneOf<Value extends string>(values: readonly Value[], byDefault: Value) {
  return option<Value, Value>((value, name) => check.oneOf(value, name, values, byDefault))
}

/** A value whose check needs more than itself; it stands where the rest is known. */
export function checkedLater<Value>() {
  return option<Value, Value | undefined>((value) => value as Value | undefined)
}

/** An array of the caller's with an element per label, checked with the labels. */
export function perLabel<Value>() {
  return option<Value, Value | undefined, { array: 'per label' }>((value) => value as Value, { array: 'per label' })
}

/** An array of the caller's that has a length of its own, checked with the sequences. */
export function list<Value>() {
  return option<Value, Value | undefined, { array: 'of its own length' }>((value) => value as Value, {
    array: 'of its own length',
  })
}
