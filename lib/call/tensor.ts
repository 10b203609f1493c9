/**
 * Logits, and the destination of their gradient, turned into checked rows. Nothing is copied.
 */

import { DeviceBuffer } from '../backends/cuda/buffer.js'
import { type DeviceRange, deviceRange, isDeviceMemory, rangesOverlap } from '../backends/cuda/memory.js'
import {
  checkNoOverlap,
  checkView,
  type NamedArray,
  type View,
  viewAs,
  viewKind,
  viewLength,
  type Watched,
  watch,
} from '../check/arrays.js'
import { flag, integer, oneOf } from '../check/options.js'
import { describeList, invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { Rows } from '../job.js'
import type { DeviceMemory, DType, HostArray, Logits } from '../types/index.js'

/** What the caller passed, and the rows the backends see, which have a view of their own of the same memory. */
export interface Tensor {
  rows: Rows
  data: HostArray | DeviceMemory
  shape: number[]
  strides?: number[]
  /** Where device memory lies. */
  range?: DeviceRange
}

// Rows are counted in 32-bit integers by the backends; elements are not.
export const LARGEST_SIZE = 2 ** 31 - 1
const DTYPES: readonly DType[] = ['float32', 'float16', 'bfloat16']
export const ELEMENT_SIZES: Record<DType, number> = { float32: 4, float16: 2, bfloat16: 2 }

/**
 * Checks rows of logits, or of what `last` says; `packed` tells whether they must be `[tokens, vocab]` rather than
 * `[batch, time, vocab]`.
 */
export function tensorOf(value: unknown, name: string, packed: boolean, last = 'vocab'): Tensor {
  if (typeof value !== 'object' || value === null) {
    throw invalidType(name, 'an object { data, shape, dtype?, strides? }', value)
  }
  const { data, shape, dtype, strides } = value as Partial<Logits>
  const element = elementType(data, `${name}.data`, dtype, `${name}.dtype`)
  const sizes = sizesOf(shape, `${name}.shape`, packed, last)
  const batch = packed ? 1 : sizes[0]
  const time = packed ? sizes[0] : sizes[1]
  const vocab = sizes[sizes.length - 1]
  if (batch * time > LARGEST_SIZE) {
    throw outOfRange(`${name}.shape`, `at most ${LARGEST_SIZE} rows in all`, batch * time)
  }
  if (batch * time * vocab > Number.MAX_SAFE_INTEGER) {
    throw outOfRange(`${name}.shape`, 'at most 2^53 - 1 elements in all', batch * time * vocab)
  }
  const steps = strides === undefined ? undefined : stridesOf(strides, `${name}.strides`, sizes.length)
  // Only now, when nothing of the caller's runs any more that could take the memory away. It may have done so.
  if (!isDeviceMemory(data)) checkView(data as View, `${name}.data`)
  const range = isDeviceMemory(data) ? deviceRange(data, `${name}.data`, ELEMENT_SIZES[element]) : undefined
  const view = range ? range.address : elements(data as HostArray)
  const available = range ? Math.floor(range.byteLength / ELEMENT_SIZES[element]) : viewLength(view)
  let timeStride = vocab
  let batchStride = time * vocab
  if (steps === undefined) {
    const needed = batch * time * vocab
    // A buffer on the device may have room to spare.
    if (range ? available < needed : available !== needed) {
      const problem = `has ${available} elements, but shape [${sizes.join(', ')}] needs ${needed}`
      throw shapeMismatch(`${name}.data`, problem)
    }
  } else {
    timeStride = steps[steps.length - 2]
    batchStride = packed ? 0 : steps[0]
    const end = (batch - 1) * batchStride + (time - 1) * timeStride + vocab
    if (end > available) {
      const wanted = `such that shape [${sizes.join(', ')}] stays in the ${available} elements of data`
      throw outOfRange(`${name}.strides`, wanted, `[${steps.join(', ')}], which reaches element ${end - 1}`)
    }
  }
  const rows = { data: view, dtype: element, batch, time, vocab, batchStride, timeStride }
  const tensor: Tensor = { rows, data: data as HostArray | DeviceMemory, shape: sizes, strides: steps }
  if (range) tensor.range = range
  return tensor
}

/** A watch over the tensor's memory, where it is the host's. */
export function watchTensor(name: string, { rows }: Tensor): Watched[] {
  return typeof rows.data === 'bigint' ? [] : [watch(name, rows.data)]
}

/**
 * Checks the destination of a gradient with respect to `logits`: true for a new array, 'in-place' or the very array of
 * the logits to overwrite them, or another array, which may share memory with none of `callers`.
 */
export function destinationOf(value: unknown, name: string, logits: Tensor, callers: readonly NamedArray[]): Tensor {
  const { rows, shape } = logits
  const length = rows.batch * rows.time * rows.vocab
  if (logits.range) return deviceDestination(value, name, logits, callers)
  if (value === true) {
    const made = allocate(logits, length, name)
    return contiguous(made, elements(made), rows, shape)
  }
  if (value === 'in-place') return inPlace(logits.data as HostArray, name, logits, callers)
  if (isDeviceMemory(value)) throw invalidType(name, 'in host memory, as the logits are', value)
  const kind = viewKind(value)
  const wanted =
    rows.dtype === 'float32' ? 'a Float32Array' : 'a Uint16Array of its bits, or a Float16Array for float16'
  if (kind === undefined) throw invalidType(name, `true, 'in-place' or ${wanted}`, value)
  if (
    rows.dtype === 'float32'
      ? kind !== 'Float32Array'
      : kind !== 'Uint16Array' && !(kind === 'Float16Array' && rows.dtype === 'float16')
  ) {
    throw invalidType(name, `${wanted}, as the logits are ${rows.dtype}`, value)
  }
  checkView(value as View, name)
  const view = elements(value as HostArray)
  const source = rows.data as Float32Array | Uint16Array
  if (view.buffer === source.buffer && view.byteOffset === source.byteOffset && view.length === source.length) {
    return inPlace(value as HostArray, name, logits, callers)
  }
  checkNoOverlap(name, view, [['part of logits.data', source], ...callers])
  if (view.length !== length) {
    throw shapeMismatch(name, `must have ${length} elements, as shape [${shape.join(', ')}] has; got ${view.length}`)
  }
  return contiguous(value as HostArray, view, rows, shape)
}

// The same in device memory, which a new buffer does not find zero.
function deviceDestination(value: unknown, name: string, logits: Tensor, callers: readonly NamedArray[]): Tensor {
  const { rows, shape, strides } = logits
  const source = logits.range as DeviceRange
  const size = ELEMENT_SIZES[rows.dtype]
  const byteLength = rows.batch * rows.time * rows.vocab * size
  if (value === true) {
    const buffer = new DeviceBuffer(byteLength, { device: source.device })
    const range = deviceRange(buffer, name, size)
    return { ...contiguous(buffer, range.address, rows, shape), range }
  }
  if (value !== 'in-place' && !isDeviceMemory(value)) {
    throw invalidType(name, "true, 'in-place' or device memory, as the logits are", value)
  }
  const range = value === 'in-place' ? source : deviceRange(value, name, size)
  for (const [otherName, other] of callers) {
    if (isDeviceMemory(other) && rangesOverlap(range, deviceRange(other, otherName, 1))) {
      throw invalidValue(name, `would overwrite ${otherName}: they share memory`)
    }
  }
  if (range.address === source.address) {
    refuseOverlappingRows(logits, name)
    return { rows, data: logits.data, shape, strides, range: source }
  }
  if (range.device !== source.device) {
    throw invalidValue(name, `is on device ${range.device}, and the logits on device ${source.device}`)
  }
  if (rangesOverlap(range, source)) throw invalidValue(name, 'would overwrite part of logits.data: they share memory')
  if (range.byteLength < byteLength) {
    throw shapeMismatch(name, `has ${range.byteLength} bytes, but shape [${shape.join(', ')}] needs ${byteLength}`)
  }
  return { ...contiguous(value as DeviceMemory, range.address, rows, shape), range }
}

/** Whether inactive rows of the destination stay as they are: as asked, and in a new array, which is zero. */
export function skipsInactive(zeroInactive: unknown, destination: unknown, { range }: Tensor): boolean {
  return !flag(zeroInactive, 'options.zeroInactive', true) || (destination === true && range === undefined)
}

/** The gradient as the caller gets it. */
export function logitsOf({ data, rows, shape, strides }: Tensor): Logits {
  const logits: Logits = { data, shape: shape.slice(), dtype: rows.dtype }
  if (strides !== undefined) logits.strides = strides.slice()
  return logits
}

/** The element type of data, as it is said or implied. */
export function elementType(data: unknown, name: string, dtype: unknown, dtypeName: string): DType {
  if (isDeviceMemory(data)) return oneOf(dtype, dtypeName, DTYPES, 'float32')
  const kind = viewKind(data)
  if (kind !== 'Float32Array' && kind !== 'Uint16Array' && kind !== 'Float16Array') {
    throw invalidType(name, 'a Float32Array, a Float16Array or a Uint16Array', data)
  }
  checkView(data as View, name)
  if (kind === 'Uint16Array') {
    if (dtype === undefined) throw invalidType(dtypeName, "'float16' or 'bfloat16', as data is a Uint16Array", dtype)
    const given = oneOf(dtype, dtypeName, DTYPES, 'float16')
    if (given === 'float32') throw invalidValue(dtypeName, "must be 'float16' or 'bfloat16', as data is a Uint16Array")
    return given
  }
  const implied = kind === 'Float32Array' ? 'float32' : 'float16'
  if (oneOf(dtype, dtypeName, DTYPES, implied) !== implied) {
    throw invalidValue(dtypeName, `must be '${implied}', as data is a ${kind}; got '${dtype}'`)
  }
  return implied
}

function sizesOf(shape: unknown, name: string, packed: boolean, last: string): number[] {
  if (!Array.isArray(shape)) throw invalidType(name, 'an array of sizes', shape)
  const length = packed ? 2 : 3
  if (shape.length !== length) {
    const wanted = packed
      ? `must be [tokens, ${last}], as options.sequenceOffsets is given`
      : `must be [batch, time, ${last}], or [tokens, ${last}] together with options.sequenceOffsets`
    throw shapeMismatch(name, `${wanted}; got ${describeList(shape)}`)
  }
  const sizes: number[] = []
  for (let i = 0; i < length; i++) sizes.push(integer(shape[i], `${name}[${i}]`, 1, LARGEST_SIZE))
  return sizes
}

function stridesOf(strides: unknown, name: string, length: number): number[] {
  if (!Array.isArray(strides)) throw invalidType(name, 'an array of distances in elements', strides)
  if (strides.length !== length) {
    throw shapeMismatch(name, `must have one entry per dimension, ${length}; got ${strides.length}`)
  }
  const steps: number[] = []
  for (let i = 0; i < length; i++) steps.push(integer(strides[i], `${name}[${i}]`, 0, Number.MAX_SAFE_INTEGER))
  if (steps[length - 1] !== 1) {
    throw invalidValue(name, `must end in 1 (the elements of a row are neighbours); got ${steps[length - 1]}`)
  }
  return steps
}

/**
 * A view of our own, whose length is what it says. Float16Arrays go by their bits: older versions of Node-API do not
 * know the type.
 */
export function elements(view: HostArray): Float32Array | Uint16Array {
  const length = viewLength(view)
  return viewKind(view) === 'Float32Array' ? viewAs(Float32Array, view, length) : viewAs(Uint16Array, view, length)
}

function allocate({ data }: Tensor, length: number, name: string): HostArray {
  try {
    const kind = viewKind(data)
    if (kind === 'Float32Array') return new Float32Array(length)
    if (kind === 'Uint16Array') return new Uint16Array(length)
    const { Float16Array } = globalThis as unknown as { Float16Array: new (length: number) => HostArray }
    return new Float16Array(length)
  } catch {
    throw outOfRange(name, "an array or 'in-place' where memory is short", `no memory for ${length} elements`)
  }
}

function contiguous(
  data: HostArray | DeviceMemory,
  memory: Rows['data'],
  { dtype, batch, time, vocab }: Rows,
  shape: number[],
): Tensor {
  const rows = { data: memory, dtype, batch, time, vocab, batchStride: time * vocab, timeStride: vocab }
  return { rows, data, shape }
}

function inPlace(data: HostArray, name: string, logits: Tensor, callers: readonly NamedArray[]): Tensor {
  const { rows, shape, strides } = logits
  refuseOverlappingRows(logits, name)
  checkNoOverlap(name, rows.data as Float32Array | Uint16Array, callers)
  return { rows, data, shape, strides }
}

function refuseOverlappingRows({ rows, strides }: Tensor, name: string): void {
  if (strides !== undefined && rowsOverlap(rows)) {
    throw invalidValue(name, `cannot overwrite the logits: with strides [${strides.join(', ')}] their rows overlap`)
  }
}

// Rows of one dimension must fit between neighbours of the other.
function rowsOverlap({ batch, time, vocab, batchStride, timeStride }: Rows): boolean {
  if (batch === 1) return time > 1 && timeStride < vocab
  if (time === 1) return batchStride < vocab
  return timeStride <= batchStride
    ? timeStride < vocab || batchStride < (time - 1) * timeStride + vocab
    : batchStride < vocab || timeStride < (batch - 1) * batchStride + vocab
}
