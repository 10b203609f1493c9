/**
 * Arrays that callers pass: which kind they are, copies of the small ones, and a watch over the large ones that are
 * used where they lie.
 */
import { invalidType, invalidValue, outOfRange, shapeMismatch } from './errors.js'

/** A typed array of any kind. */
export type View = ArrayBufferView & { readonly length: number }

/** `'Float32Array'` and the like, whichever realm the array is from; undefined for anything but a typed array. */
export function viewKind(value: unknown): string | undefined {
  return ArrayBuffer.isView(value)
    ? ((value as unknown as Record<symbol, unknown>)[Symbol.toStringTag] as string)
    : undefined
}

/**
 * Refuses views whose memory is gone or can change its size. Shared memory is allowed: what another thread writes
 * during a call may or may not be seen by it, and nothing worse.
 */
export function checkView(view: ArrayBufferView, name: string): void {
  const buffer = view.buffer as ArrayBufferLike & { resizable?: boolean; growable?: boolean }
  if (buffer.resizable === true || buffer.growable === true) {
    throw invalidValue(name, 'is a view of a resizable buffer; its length could change during the call')
  }
  if (view.byteLength === 0 && isDetached(buffer)) {
    throw invalidValue(name, 'is detached: its buffer was transferred elsewhere')
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

/** Refuses whatever has no elements to index. */
export function checkArrayLike(value: unknown, name: string, wanted: string): asserts value is ArrayLike<unknown> {
  if (typeof value !== 'object' || value === null || !Number.isSafeInteger((value as { length?: unknown }).length)) {
    throw invalidType(name, wanted, value)
  }
  if (ArrayBuffer.isView(value)) checkView(value, name)
}

/** A copy in float64. `length` is checked when given, and `sizes` says in the error where it comes from. */
export function numbers(value: unknown, name: string, length?: number, sizes = ''): Float64Array {
  checkArrayLike(value, name, 'an array of numbers')
  if (length !== undefined && value.length !== length) {
    throw shapeMismatch(name, `must have length ${length}${sizes}; got ${value.length}`)
  }
  const copy = new Float64Array(value.length)
  for (let i = 0; i < copy.length; i++) {
    const element = value[i]
    if (typeof element !== 'number') throw invalidType(`${name}[${i}]`, 'a number', element)
    copy[i] = element
  }
  return copy
}

/** A copy of integers in [0, high]. */
export function indices(value: unknown, name: string, wanted: string, high: number): Int32Array {
  checkArrayLike(value, name, wanted)
  const copy = new Int32Array(value.length)
  for (let i = 0; i < copy.length; i++) {
    const element = value[i]
    if (typeof element !== 'number' || (element | 0) !== element || element < 0 || element > high) {
      throw typeof element === 'number'
        ? outOfRange(`${name}[${i}]`, `an integer in [0, ${high}]`, element)
        : invalidType(`${name}[${i}]`, `an integer in [0, ${high}]`, element)
    }
    copy[i] = element
  }
  return copy
}

/** An array of the caller's, by the name it has in error messages. */
export type NamedArray = readonly [name: string, value: unknown]

/** Refuses a destination that shares memory with any of the arrays. */
export function checkNoOverlap(name: string, destination: ArrayBufferView, arrays: readonly NamedArray[]): void {
  for (const [otherName, other] of arrays) {
    if (ArrayBuffer.isView(other) && overlap(destination, other)) {
      throw invalidValue(name, `would overwrite ${otherName}: they share memory`)
    }
  }
}

function overlap(a: ArrayBufferView, b: ArrayBufferView): boolean {
  return (
    a.buffer === b.buffer && a.byteOffset < b.byteOffset + b.byteLength && b.byteOffset < a.byteOffset + a.byteLength
  )
}

/** A caller's array in use by a call that may be running elsewhere. */
export interface Watched {
  name: string
  view: ArrayBufferView
  byteLength: number
}

/** Notes the size of an array, for {@link checkUnchanged}. */
export function watch(name: string, view: ArrayBufferView): Watched {
  return { name, view, byteLength: view.byteLength }
}

/** Refuses arrays that were detached or resized since they were checked. */
export function checkUnchanged(watched: readonly Watched[]): void {
  for (const { name, view, byteLength } of watched) {
    if (view.byteLength !== byteLength) {
      const size = `it had ${byteLength} bytes at the call and has ${view.byteLength} now`
      throw invalidValue(name, `was detached or resized while the call was using it: ${size}`)
    }
  }
}
