/**
 * GPU arguments of callers, checked and turned into addresses: memory (any object with a `ptr`) and streams.
 */

import { invalidType, invalidValue, outOfRange } from '../../errors.js'
import type { DeviceMemory, RunOptions } from '../../types/index.js'
import { cudaCall, MEMORY } from './calls.js'
import { loadCuda } from './index.js'

/** A range of device memory. */
export interface CudaRange {
  kind: 'cuda'
  /** Its address. */
  place: bigint
  byteLength: number
  /** Index of the GPU. */
  device: number
  /** Bytes of an element, where the memory knows. */
  elementSize?: number | undefined
}

/** Of memory whose elements are known: the bytes of one. */
export const ELEMENT_SIZE = Symbol.for('fused-preference-loss.elementSize')

/** The names of options that are a stream alone, and a device alone. */
export const STREAM_OPTION: ReadonlySet<string> = new Set(['stream'])
export const DEVICE_OPTION: ReadonlySet<string> = new Set(['device'])

/** Whether this is memory of CUDA's rather than an array. */
export function isCudaMemory(value: unknown): value is DeviceMemory {
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && 'ptr' in value
}

/** The largest index of a GPU. */
export const LARGEST_INDEX = 1023

/**
 * Checks device memory for elements of that many bytes, and asks the CUDA runtime whether it is device memory and on
 * which device. Reads each property once.
 */
export function cudaRange(memory: DeviceMemory, name: string, elementSize: number): CudaRange {
  const { ptr, byteLength, byteOffset = 0, device } = memory
  const size = (memory as { [ELEMENT_SIZE]?: number })[ELEMENT_SIZE]
  if (typeof ptr !== 'bigint' && typeof ptr !== 'number') throw invalidType(`${name}.ptr`, 'a number or a bigint', ptr)
  if (typeof ptr === 'number' && !Number.isSafeInteger(ptr)) throw outOfRange(`${name}.ptr`, 'an address', ptr)
  if (ptr <= 0 || ptr > Number.MAX_SAFE_INTEGER) throw outOfRange(`${name}.ptr`, 'an address', ptr)
  checkBytes(byteLength, `${name}.byteLength`)
  checkBytes(byteOffset, `${name}.byteOffset`)
  if (device !== undefined && !(Number.isInteger(device) && device >= 0 && device <= LARGEST_INDEX)) {
    throw outOfRange(`${name}.device`, `an integer in [0, ${LARGEST_INDEX}]`, device)
  }
  const address = BigInt(ptr) + BigInt(byteOffset)
  if (address % BigInt(elementSize) !== 0n) {
    throw invalidValue(`${name}.ptr`, `and its byteOffset must be a multiple of the element size, ${elementSize}`)
  }
  return {
    kind: 'cuda',
    place: address,
    byteLength,
    device: deviceAt(address, byteLength, name, device),
    elementSize: size,
  }
}

// This only checks that the end is device memory: the runtime does not say whether all of it is one allocation.
function deviceAt(address: bigint, byteLength: number, name: string, said: number | undefined): number {
  const cuda = loadCuda()
  if ('reason' in cuda || byteLength === 0) return said ?? 0
  const { first, last, device } = cudaCall(() => cuda.functions.memoryAt(Number(address), byteLength))
  if (first === MEMORY.host) {
    throw invalidValue(`${name}.ptr`, `must be an address of device memory; got 0x${address.toString(16)}`)
  }
  if (first === MEMORY.onDevice && said !== undefined && said !== device) {
    throw invalidValue(`${name}.device`, `is ${said}, but the memory is on device ${device}`)
  }
  if (last === MEMORY.host) {
    throw invalidValue(`${name}.byteLength`, `is ${byteLength}, but the device memory at ${name}.ptr ends before that`)
  }
  return first === MEMORY.onDevice ? device : (said ?? 0)
}

/** Whether two ranges of device memory share any byte. */
export function cudaRangesOverlap(a: CudaRange, b: CudaRange): boolean {
  return a.device === b.device && a.place < b.place + BigInt(b.byteLength) && b.place < a.place + BigInt(a.byteLength)
}

/** The address of a stream, which must be of that device where both are known. */
export function streamOf(stream: NonNullable<RunOptions['stream']>, device?: number): bigint {
  const isObject = typeof stream === 'object' && stream !== null
  const address = isObject ? stream.handle : stream
  const valid = typeof address === 'bigint' || Number.isSafeInteger(address)
  if (!valid) throw invalidType('options.stream', 'a Stream, or the address of one as a number or a bigint', stream)
  if (address < 0) throw outOfRange('options.stream', 'the address of a stream', address)
  const own = isObject ? (stream as { device?: unknown }).device : undefined
  if (device !== undefined && own !== undefined && own !== device) {
    throw invalidValue('options.stream', `is on device ${own}, but the memory is on device ${device}`)
  }
  return BigInt(address)
}

function checkBytes(value: unknown, name: string): asserts value is number {
  if (typeof value !== 'number') throw invalidType(name, 'a number of bytes', value)
  if (!Number.isSafeInteger(value) || value < 0) throw outOfRange(name, 'a number of bytes', value)
}
