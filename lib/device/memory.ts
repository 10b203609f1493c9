/**
 * What callers pass of a GPU: memory, any object with a `ptr`, and streams; checked and turned into addresses.
 */
import { invalidType, invalidValue, outOfRange } from '../errors.js'
import type { DeviceMemory, RunOptions } from '../types.js'

/** Where device memory lies. */
export interface DeviceRange {
  address: bigint
  byteLength: number
  device: number
}

/** Whether this is device memory rather than an array. */
export function isDeviceMemory(value: unknown): value is DeviceMemory {
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && 'ptr' in value
}

const LARGEST_INDEX = 1023

/** Checks device memory for elements of that many bytes. Reads each property once. */
export function deviceRange(memory: DeviceMemory, name: string, elementSize: number): DeviceRange {
  const { ptr, byteLength, byteOffset = 0, device = 0 } = memory
  if (typeof ptr !== 'bigint' && typeof ptr !== 'number') throw invalidType(`${name}.ptr`, 'a number or a bigint', ptr)
  if (typeof ptr === 'number' && !Number.isSafeInteger(ptr)) throw outOfRange(`${name}.ptr`, 'an address', ptr)
  if (ptr <= 0) throw outOfRange(`${name}.ptr`, 'an address', ptr)
  checkBytes(byteLength, `${name}.byteLength`)
  checkBytes(byteOffset, `${name}.byteOffset`)
  if (!Number.isInteger(device) || device < 0 || device > LARGEST_INDEX) {
    throw outOfRange(`${name}.device`, `an integer in [0, ${LARGEST_INDEX}]`, device)
  }
  const address = BigInt(ptr) + BigInt(byteOffset)
  if (address % BigInt(elementSize) !== 0n) {
    throw invalidValue(`${name}.ptr`, `and its byteOffset must be a multiple of the element size, ${elementSize}`)
  }
  return { address, byteLength, device }
}

/** Whether two stretches of device memory share any byte. */
export function rangesOverlap(a: DeviceRange, b: DeviceRange): boolean {
  return (
    a.device === b.device &&
    a.address < b.address + BigInt(b.byteLength) &&
    b.address < a.address + BigInt(a.byteLength)
  )
}

/** The address of a stream. */
export function streamOf(stream: NonNullable<RunOptions['stream']>): bigint {
  const address = typeof stream === 'object' && stream !== null ? stream.handle : stream
  const valid = typeof address === 'bigint' || Number.isSafeInteger(address)
  if (!valid) throw invalidType('options.stream', 'a Stream, or the address of one as a number or a bigint', stream)
  if (address < 0) throw outOfRange('options.stream', 'the address of a stream', address)
  return BigInt(address)
}

function checkBytes(value: unknown, name: string): asserts value is number {
  if (typeof value !== 'number') throw invalidType(name, 'a number of bytes', value)
  if (!Number.isSafeInteger(value) || value < 0) throw outOfRange(name, 'a number of bytes', value)
}
