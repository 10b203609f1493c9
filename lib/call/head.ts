/**
 * The output layer as the linear functions take it: hidden states, weight and bias turned into one checked head. Nothing
 * is copied.
 */

import { type DeviceRange, deviceRange, isDeviceMemory } from '../backends/device-memory.js'
import { checkView, elements, type View, viewKind, viewLength, watch } from '../check/arrays.js'
import { integer } from '../check/options.js'
import { describeList, invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { Head, Matrix, Rows } from '../job.js'
import type { DType, HeadWeight, HostArray, TensorData } from '../types/index.js'
import { ELEMENT_SIZES } from './memory.js'
import { elementType, LARGEST_SIZE, type LogitsSource, type Tensor, tensorOf } from './tensor.js'

/** A head that has been checked. */
export interface HeadSource extends LogitsSource {
  head: Head
  hidden: Tensor
}

const NO_LOGITS = new Float32Array(0)

/**
 * Checks hidden states `[batch, time, width]` (packed: `[tokens, width]`), a weight `[vocab, width]` and a bias
 * `[vocab]`; `prefix` goes before their names in errors.
 */
export function headOf(
  hidden: unknown,
  weight: unknown,
  bias: unknown,
  packed: boolean,
  gpuDevice: unknown,
  prefix = '',
  biasName = 'options.bias',
): HeadSource {
  const rows = tensorOf(hidden, `${prefix}hidden`, packed, gpuDevice, 'width')
  const matrix = weightOf(weight, `${prefix}weight`, gpuDevice)
  const { batch, time, vocab: width } = rows.rows
  if (matrix.width !== width) {
    const wanted = `must be [vocab, ${width}], as hidden has ${width} features`
    const stored = matrix.vocab === width ? `; one stored as [${width}, vocab] has strides [1, vocab] besides` : ''
    throw shapeMismatch(`${prefix}weight.shape`, `${wanted}; got [${matrix.vocab}, ${matrix.width}]${stored}`)
  }
  if (rows.range?.device !== matrix.range?.device) {
    throw invalidValue(`${prefix}weight.data`, 'must be where hidden.data is: in host memory, or on the same device')
  }
  const { vocab } = matrix
  if (batch * time * vocab > Number.MAX_SAFE_INTEGER) {
    throw outOfRange(`${prefix}weight.shape`, 'at most 2^53 - 1 logits in all', batch * time * vocab)
  }
  const head: Head = { hidden: rows.rows, weight: matrix.matrix }
  if (bias !== undefined) {
    head.bias = biasOf(bias, biasName, vocab, matrix.matrix.dtype, rows.range)
  }
  const watched = [...rows.watched]
  for (const [name, data] of [
    [`${prefix}weight.data`, head.weight.data],
    [biasName, head.bias?.data],
  ] as const) {
    if (data !== undefined && !rows.range) watched.push(watch(name, data as View))
  }
  return {
    rows: { data: NO_LOGITS, dtype: 'float32', batch, time, vocab, batchStride: time * vocab, timeStride: vocab },
    head,
    hidden: rows,
    range: rows.range,
    memory: rows.memory,
    arrays: [...rows.arrays, [`${prefix}weight.data`, matrix.data], [biasName, bias]],
    watched,
  }
}

interface CheckedWeight {
  data: TensorData
  vocab: number
  width: number
  matrix: Matrix
  range?: DeviceRange
}

function weightOf(value: unknown, name: string, gpuDevice: unknown): CheckedWeight {
  if (typeof value !== 'object' || value === null) {
    throw invalidType(name, 'an object { data, shape, dtype?, strides? }', value)
  }
  const { data, shape, dtype, strides } = value as Partial<HeadWeight>
  const element = elementType(data, `${name}.data`, dtype, `${name}.dtype`)
  if (!Array.isArray(shape)) throw invalidType(`${name}.shape`, 'an array of sizes', shape)
  if (shape.length !== 2) {
    throw shapeMismatch(`${name}.shape`, `must be [vocab, width]; got ${describeList(shape)}`)
  }
  const vocab = integer(shape[0], `${name}.shape[0]`, 1, LARGEST_SIZE)
  const width = integer(shape[1], `${name}.shape[1]`, 1, LARGEST_SIZE)
  if (vocab * width > Number.MAX_SAFE_INTEGER) {
    throw outOfRange(`${name}.shape`, 'at most 2^53 - 1 elements in all', vocab * width)
  }
  const steps = strides === undefined ? undefined : weightStrides(strides, `${name}.strides`, vocab, width)
  // Only now, when no more of the caller's code can run, which may have taken the memory away.
  if (!isDeviceMemory(data)) checkView(data as View, `${name}.data`)
  const size = ELEMENT_SIZES[element]
  const range = isDeviceMemory(data) ? deviceRange(data, `${name}.data`, size, gpuDevice) : undefined
  const view = range ? range.place : elements(data as HostArray)
  const available = range ? Math.floor(range.byteLength / size) : viewLength(view as View)
  const [rowStride, columnStride] = steps ?? [width, 1]
  if (steps === undefined) {
    // A buffer on the device may have room to spare.
    if (range ? available < vocab * width : available !== vocab * width) {
      const problem = `has ${available} elements, but shape [${vocab}, ${width}] needs ${vocab * width}`
      throw shapeMismatch(`${name}.data`, problem)
    }
  } else {
    const end = (vocab - 1) * rowStride + (width - 1) * columnStride + 1
    if (end > available) {
      const wanted = `such that shape [${vocab}, ${width}] stays in the ${available} elements of data`
      throw outOfRange(`${name}.strides`, wanted, `[${rowStride}, ${columnStride}], which reaches element ${end - 1}`)
    }
  }
  const matrix: Matrix = { data: view, dtype: element, rowStride, columnStride }
  return { data: data as TensorData, vocab, width, matrix, range }
}

function weightStrides(strides: unknown, name: string, vocab: number, width: number): [number, number] {
  if (!Array.isArray(strides)) throw invalidType(name, 'an array of distances in elements', strides)
  if (strides.length !== 2) throw shapeMismatch(name, `must have one entry per dimension, 2; got ${strides.length}`)
  const row = integer(strides[0], `${name}[0]`, 1, Number.MAX_SAFE_INTEGER)
  const column = integer(strides[1], `${name}[1]`, 1, Number.MAX_SAFE_INTEGER)
  if (!(column === 1 && row >= width) && !(row === 1 && column >= vocab)) {
    const problem = `must be [at least ${width}, 1] or [1, at least ${vocab}]; got [${row}, ${column}]`
    throw invalidValue(name, problem)
  }
  return [row, column]
}

function biasOf(value: unknown, name: string, vocab: number, weightType: DType, range?: DeviceRange) {
  if (range) {
    if (!isDeviceMemory(value)) throw invalidType(name, 'device memory, as hidden and weight are', value)
    const size = ELEMENT_SIZES[weightType]
    const { place, byteLength, device } = deviceRange(value, name, size, range.device)
    if (device !== range.device) throw invalidValue(name, `is on device ${device}, and hidden on ${range.device}`)
    if (byteLength < vocab * size) {
      throw shapeMismatch(
        name,
        `must have ${vocab * size} bytes, one ${weightType} per row of weight; got ${byteLength}`,
      )
    }
    return { data: place, dtype: weightType }
  }
  if (isDeviceMemory(value)) throw invalidType(name, 'in host memory, as hidden and weight are', value)
  const kind = viewKind(value)
  const bits = weightType === 'float32' ? undefined : weightType
  if (kind !== 'Float32Array' && kind !== 'Float16Array' && !(kind === 'Uint16Array' && bits)) {
    const wanted = `a Float32Array, a Float16Array${bits ? ` or a Uint16Array of ${bits} bits` : ''}`
    throw invalidType(name, wanted, value)
  }
  checkView(value as View, name)
  const view = elements(value as HostArray)
  if (view.length !== vocab) {
    throw shapeMismatch(name, `must have ${vocab} elements, one per row of weight; got ${view.length}`)
  }
  const dtype: DType = kind === 'Float32Array' ? 'float32' : kind === 'Float16Array' ? 'float16' : (bits as DType)
  return { data: view, dtype }
}

/** Checks that the sizes of a head's logits equal these. */
export function checkSameLogits(rows: Rows, wanted: Rows, name: string): void {
  if (rows.batch === wanted.batch && rows.time === wanted.time && rows.vocab === wanted.vocab) return
  const written = ({ batch, time, vocab }: Rows) => `[${batch}, ${time}, ${vocab}]`
  throw shapeMismatch(
    name,
    `must give logits of shape ${written(wanted)}, as hidden and weight do; got ${written(rows)}`,
  )
}
