/**
 * The destination of a gradient with respect to logits: the caller's array, a new one, or the logits themselves.
 */
import { DeviceBuffer } from '../backends/cuda/buffer.js'
import { type DeviceRange, deviceRange, isDeviceMemory, rangesOverlap } from '../backends/cuda/memory.js'
import {
  checkNoOverlap,
  checkView,
  elements,
  type NamedArray,
  type View,
  viewKind,
  type Watched,
  watch,
} from '../check/arrays.js'
import { invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { Rows } from '../job.js'
import type { DeviceMemory, HostArray, Logits } from '../types/index.js'
import { ELEMENT_SIZES, type Tensor } from './tensor.js'

/** Where a gradient goes. */
export interface Destination {
  /** What the backends write to; those of the logits when these are overwritten. */
  rows: Rows
  /** Inactive rows stay as they are. */
  skipInactive: boolean
  /** What the caller gets. */
  gradient: Logits
  /** The caller's array, which is used where it lies. */
  watched: readonly Watched[]
}

/**
 * Checks the destination of a gradient with respect to `logits`: true for a new array, 'in-place' or the very array of
 * the logits to overwrite them, or another array, which may share memory with none of `callers`.
 */
export function destinationOf(
  value: unknown,
  name: string,
  zeroInactive: boolean,
  logits: Tensor,
  callers: readonly NamedArray[],
): Destination {
  return logits.range
    ? onDevice(value, name, zeroInactive, logits, logits.range, callers)
    : onHost(value, name, zeroInactive, logits, callers)
}

function onHost(
  value: unknown,
  name: string,
  zeroInactive: boolean,
  logits: Tensor,
  callers: readonly NamedArray[],
): Destination {
  const { rows, shape } = logits
  const { dtype } = rows
  const length = rows.batch * rows.time * rows.vocab
  const source = rows.data as Float32Array | Uint16Array
  if (value === true) {
    const made = allocate(logits.data, length, name)
    return { ...contiguous(made, elements(made), logits), skipInactive: true, watched: [] } // it is zero
  }
  if (value !== 'in-place') {
    if (isDeviceMemory(value)) throw invalidType(name, 'in host memory, as the logits are', value)
    const kind = viewKind(value)
    const wanted = dtype === 'float32' ? 'a Float32Array' : 'a Uint16Array of its bits, or a Float16Array for float16'
    if (kind === undefined) throw invalidType(name, `true, 'in-place' or ${wanted}`, value)
    const fits =
      dtype === 'float32'
        ? kind === 'Float32Array'
        : kind === 'Uint16Array' || (kind === 'Float16Array' && dtype === 'float16')
    if (!fits) throw invalidType(name, `${wanted}, as the logits are ${dtype}`, value)
    checkView(value as View, name)
    const view = elements(value as HostArray)
    if (view.buffer !== source.buffer || view.byteOffset !== source.byteOffset || view.length !== source.length) {
      checkNoOverlap(name, view, [['part of logits.data', source], ...callers])
      if (view.length !== length) {
        const wanted = `must have ${length} elements, as shape [${shape.join(', ')}] has`
        throw shapeMismatch(name, `${wanted}; got ${view.length}`)
      }
      const watched = [watch(name, view)]
      return { ...contiguous(value as HostArray, view, logits), skipInactive: !zeroInactive, watched }
    }
  }
  const data = value === 'in-place' ? logits.data : (value as HostArray)
  const place = inPlace(data, name, logits)
  checkNoOverlap(name, source, callers)
  return { ...place, skipInactive: !zeroInactive, watched: [] }
}

function onDevice(
  value: unknown,
  name: string,
  zeroInactive: boolean,
  logits: Tensor,
  source: DeviceRange,
  callers: readonly NamedArray[],
): Destination {
  const { rows, shape } = logits
  const rest = { skipInactive: !zeroInactive, watched: [] }
  const size = ELEMENT_SIZES[rows.dtype]
  const byteLength = rows.batch * rows.time * rows.vocab * size
  if (value === true) {
    const buffer = new DeviceBuffer(byteLength, { device: source.device }) // it is not zero
    return { ...contiguous(buffer, deviceRange(buffer, name, size).address, logits), ...rest }
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
  if (range.address === source.address) return { ...inPlace(logits.data, name, logits), ...rest }
  if (range.device !== source.device) {
    throw invalidValue(name, `is on device ${range.device}, and the logits on device ${source.device}`)
  }
  if (rangesOverlap(range, source)) throw invalidValue(name, 'would overwrite part of logits.data: they share memory')
  if (range.byteLength < byteLength) {
    throw shapeMismatch(name, `has ${range.byteLength} bytes, but shape [${shape.join(', ')}] needs ${byteLength}`)
  }
  return { ...contiguous(value as DeviceMemory, range.address, logits), ...rest }
}

function allocate(like: Tensor['data'], length: number, name: string): HostArray {
  try {
    const kind = viewKind(like)
    if (kind === 'Float32Array') return new Float32Array(length)
    if (kind === 'Uint16Array') return new Uint16Array(length)
    const { Float16Array } = globalThis as unknown as { Float16Array: new (length: number) => HostArray }
    return new Float16Array(length)
  } catch {
    throw outOfRange(name, "an array or 'in-place' where memory is short", `no memory for ${length} elements`)
  }
}

type Place = Pick<Destination, 'rows' | 'gradient'>

/** Rows without gaps in an array of their own. */
function contiguous(data: Tensor['data'], memory: Rows['data'], { rows: like, shape }: Tensor): Place {
  const { dtype, batch, time, vocab } = like
  const rows = { data: memory, dtype, batch, time, vocab, batchStride: time * vocab, timeStride: vocab }
  return { rows, gradient: { data, shape: shape.slice(), dtype } }
}

/** The rows of the logits, unless a row is part of another. */
function inPlace(data: Tensor['data'], name: string, { rows, shape, strides }: Tensor): Place {
  const gradient: Logits = { data, shape: shape.slice(), dtype: rows.dtype }
  if (strides === undefined) return { rows, gradient }
  gradient.strides = strides.slice()
  if (!rowsOverlap(rows)) return { rows, gradient }
  throw invalidValue(name, `cannot overwrite the logits: with strides [${strides.join(', ')}] their rows overlap`)
}

// Rows of one dimension must fit between neighbours of the other.
function rowsOverlap({ batch, time, vocab, batchStride, timeStride }: Rows): boolean {
  if (batch === 1) return time > 1 && timeStride < vocab
  if (time === 1) return batchStride < vocab
  return timeStride <= batchStride
    ? timeStride < vocab || batchStride < (time - 1) * timeStride + vocab
    : batchStride < vocab || timeStride < (batch - 1) * batchStride + vocab
}
