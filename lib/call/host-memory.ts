/**
 * Results that are written to arrays of the host's.
 */
import { isDeviceMemory } from '../backends/device-memory.js'
import { checkNoOverlap, checkView, elements, type View, viewKind, watch } from '../check/arrays.js'
import { invalidType, outOfRange, shapeMismatch } from '../errors.js'
import type { DType, HostArray } from '../types/index.js'
import { type Memory, type Output, reasonOf, type Written } from './memory.js'

/** Memory of the host's. */
export const hostMemory: Memory = {
  output(value, wanted, others) {
    const { name, dtype, length, besides, like, dtypeLike = like, source } = wanted
    if (value === true) return allocated(wanted)
    if (isDeviceMemory(value)) throw invalidType(name, `in host memory, as ${like}`, value)
    const kind = viewKind(value)
    const arrays = dtype === 'float32' ? 'a Float32Array' : 'a Uint16Array of its bits, or a Float16Array for float16'
    if (kind === undefined) throw invalidType(name, `${besides} or ${arrays}`, value)
    const fits =
      dtype === 'float32'
        ? kind === 'Float32Array'
        : kind === 'Uint16Array' || (kind === 'Float16Array' && dtype === 'float16')
    if (!fits)
      throw invalidType(name, source ? `${arrays}, as ${dtypeLike} ${dtype}` : `${besides} or ${arrays}`, value)
    checkView(value as View, name)
    const memory = elements(value as HostArray)
    const isSource = source !== undefined && isSame(memory, source.memory as typeof memory)
    if (source && !isSource) checkNoOverlap(name, memory, [[`part of ${source.name}`, source.memory]])
    checkNoOverlap(name, memory, others)
    if (!isSource && memory.length !== length) {
      throw shapeMismatch(name, `must have ${length} elements${reasonOf(wanted)}; got ${memory.length}`)
    }
    return { data: value as HostArray, memory, isZero: false, isSource, watched: [watch(name, memory)] }
  },
}

function isSame(a: Float32Array | Uint16Array, b: Float32Array | Uint16Array): boolean {
  return a.buffer === b.buffer && a.byteOffset === b.byteOffset && a.byteLength === b.byteLength
}

function allocated({ name, dtype, length, source }: Output): Written {
  let data: HostArray
  try {
    data = newArray(dtype, length, source?.data)
  } catch {
    const wanted = source ? "an array or 'in-place'" : 'an array'
    throw outOfRange(name, `${wanted} where memory is short`, `no memory for ${length} elements`)
  }
  return { data, memory: elements(data), isZero: true, isSource: false, watched: [] }
}

/** A new array; a Float16Array where it goes with one. */
function newArray(dtype: DType, length: number, beside: unknown): HostArray {
  if (dtype === 'float32') return new Float32Array(length)
  if (dtype === 'bfloat16' || viewKind(beside) !== 'Float16Array') return new Uint16Array(length)
  const { Float16Array } = globalThis as unknown as { Float16Array: new (length: number) => HostArray }
  return new Float16Array(length)
}
