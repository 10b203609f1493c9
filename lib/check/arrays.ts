/**
 * Arrays that callers pass: their kinds, copies of the small ones, and a watch over the large ones that are used in
 * place.
 */
import { invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { HostArray } from '../types/index.js'

/** A typed array of any kind. */
export type View = ArrayBufferView & { readonly length: number }

// The engine itself is asked about a view and its memory: a subclass or a property of the caller's may give other
// answers, and native code would then read outside the array.
function engineGetter<T>(prototype: object, name: PropertyKey): (of: unknown) => T {
  const get = Object.getOwnPropertyDescriptor(prototype, name)?.get
  return (of) => get?.call(of)
}
const typedArray = Object.getPrototypeOf(Uint8Array.prototype)
const viewBuffer = engineGetter<ArrayBufferLike>(typedArray, 'buffer')
const viewByteOffset = engineGetter<number>(typedArray, 'byteOffset')
const viewByteLength = engineGetter<number>(typedArray, 'byteLength')
const isResizable = engineGetter<boolean | undefined>(ArrayBuffer.prototype, 'resizable')
const isGrowable =
  typeof SharedArrayBuffer === 'undefined'
    ? () => false
    : engineGetter<boolean | undefined>(SharedArrayBuffer.prototype, 'growable')

/** `'Float32Array'` and the like, for arrays of any realm; undefined for anything but a typed array. */
export const viewKind = engineGetter<string | undefined>(typedArray, Symbol.toStringTag)

/** Elements of a typed array. */
export const viewLength = engineGetter<number>(typedArray, 'length')

/** Another view of the memory of a typed array. */
export function viewAs<T>(
  View: new (buffer: ArrayBufferLike, byteOffset: number, length: number) => T,
  view: View,
  length: number,
): T {
  return new View(viewBuffer(view), viewByteOffset(view), length)
}

/**
 * A view of our own, whose length can be trusted. Float16Arrays become views of their bits: older versions of Node-API
 * do not know the type.
 */
export function elements(view: HostArray): Float32Array | Uint16Array {
  const length = viewLength(view)
  return viewKind(view) === 'Float32Array' ? viewAs(Float32Array, view, length) : viewAs(Uint16Array, view, length)
}

/**
 * Refuses views whose memory is gone or can change its size. Shared memory is allowed: a call may or may not see what
 * another thread writes meanwhile, and nothing worse can happen.
 */
export function checkView(view: View, name: string): void {
  const buffer = viewBuffer(view)
  if (changesSize(buffer)) {
    throw invalidValue(name, 'is a view of a resizable buffer; its length could change during the call')
  }
  if (viewByteLength(view) === 0 && isDetached(buffer)) {
    throw invalidValue(name, 'is detached: its buffer was transferred elsewhere')
  }
}

function changesSize(buffer: ArrayBufferLike): boolean {
  try {
    return isResizable(buffer) === true
  } catch {
    return isGrowable(buffer) === true // shared memory
  }
}

// ArrayBuffer.prototype.detached is newer than Node 20.
function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    new Uint8Array(buffer)
    return false
  } catch {
    return true
  }
}

/** The most elements of an array that is copied. */
const LONGEST = 2 ** 31 - 1

/** The length of an array, read once; refuses values that have no elements. */
export function lengthOf(value: unknown, name: string, wanted: string): number {
  if (typeof value !== 'object' || value === null) throw invalidType(name, wanted, value)
  const isView = viewKind(value) !== undefined
  const length = isView ? viewLength(value) : (value as { length?: unknown }).length
  if (!Number.isSafeInteger(length)) throw invalidType(name, wanted, value)
  if ((length as number) < 0 || (length as number) > LONGEST) {
    throw outOfRange(`${name}.length`, `an integer in [0, ${LONGEST}]`, length)
  }
  if (isView) checkView(value as View, name)
  return length as number
}

/** A copy in float64. `length` is checked when given; `sizes` tells in the error where the length comes from. */
export function numbers(value: unknown, name: string, length?: number, sizes = ''): Float64Array {
  const copy = new Float64Array(checkedLength(value, name, 'an array of numbers', length, sizes))
  for (let i = 0; i < copy.length; i++) {
    const element = (value as ArrayLike<unknown>)[i]
    if (typeof element !== 'number') throw invalidType(`${name}[${i}]`, 'a number', element)
    copy[i] = element
  }
  return copy
}

function checkedLength(
  value: unknown,
  name: string,
  wanted: string,
  length: number | undefined,
  sizes: string,
): number {
  const given = lengthOf(value, name, wanted)
  if (length !== undefined && given !== length) {
    throw shapeMismatch(name, `must have length ${length}${sizes}; got ${given}`)
  }
  return given
}

/** A copy in float64 of token counts, which may be bigints. */
export function tokenNumbers(value: unknown, name: string, length: number, sizes: string): Float64Array {
  const wanted = 'a number of tokens'
  const copy = new Float64Array(checkedLength(value, name, 'an array of numbers of tokens', length, sizes))
  for (let i = 0; i < copy.length; i++) {
    const given = (value as ArrayLike<unknown>)[i]
    const element = typeof given === 'bigint' ? Number(given) : given
    if (typeof element !== 'number') throw invalidType(`${name}[${i}]`, wanted, given)
    if (!Number.isSafeInteger(element) || element < 0) throw outOfRange(`${name}[${i}]`, wanted, given)
    copy[i] = element
  }
  return copy
}

/** A copy of integers in [0, high], given as numbers or as bigints. */
export function indices(value: unknown, name: string, wanted: string, high: number): Int32Array {
  const copy = new Int32Array(lengthOf(value, name, wanted))
  for (let i = 0; i < copy.length; i++) {
    const given = (value as ArrayLike<unknown>)[i]
    const element = typeof given === 'bigint' ? Number(given) : given
    if (typeof element !== 'number' || (element | 0) !== element || element < 0 || element > high) {
      throw typeof element === 'number'
        ? outOfRange(`${name}[${i}]`, `an integer in [0, ${high}]`, given)
        : invalidType(`${name}[${i}]`, `an integer in [0, ${high}]`, given)
    }
    copy[i] = element
  }
  return copy
}

/** An array of the caller's, with its name in error messages. */
export type NamedArray = readonly [name: string, value: unknown]

/** Refuses a destination that shares memory with any of the arrays. */
export function checkNoOverlap(name: string, destination: View, arrays: readonly NamedArray[]): void {
  const buffer = viewBuffer(destination)
  const start = viewByteOffset(destination)
  const end = start + viewByteLength(destination)
  for (let i = 0; i < arrays.length; i++) {
    const other = arrays[i][1]
    if (viewKind(other) === undefined || viewBuffer(other) !== buffer) continue
    const otherStart = viewByteOffset(other)
    if (start < otherStart + viewByteLength(other) && otherStart < end) {
      throw invalidValue(name, `would overwrite ${arrays[i][0]}: they share memory`)
    }
  }
}

/** A caller's array in use by a call that may be running elsewhere. */
export interface Watched {
  name: string
  view: View
  byteLength: number
}

/** Records the size of an array, for {@link checkUnchanged}. */
export function watch(name: string, view: View): Watched {
  return { name, view, byteLength: viewByteLength(view) }
}

/** Refuses arrays that were detached or resized since they were checked. */
export function checkUnchanged(watched: readonly Watched[]): void {
  for (const { name, view, byteLength } of watched) {
    const now = viewByteLength(view)
    if (now !== byteLength) {
      const size = `it had ${byteLength} bytes at the call and has ${now} now`
      throw invalidValue(name, `was detached or resized while the call was using it: ${size}`)
    }
  }
}
