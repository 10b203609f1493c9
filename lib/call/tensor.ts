/**
 * Logits turned into checked rows. Nothing is copied.
 */

import { type DeviceRange, deviceRange, isDeviceMemory } from '../backends/device-memory.js'
import {
  checkView,
  elements,
  type NamedArray,
  type View,
  viewKind,
  viewLength,
  type Watched,
  watch,
} from '../check/arrays.js'
import { integer, oneOf } from '../check/options.js'
import { describeList, invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { Head, Rows } from '../job.js'
import type { DType, HostArray, Logits, TensorData } from '../types/index.js'
import { memoryOfDevice } from './device-memory.js'
import { hostMemory } from './host-memory.js'
import { ELEMENT_SIZES, type Memory } from './memory.js'

/** The source of logits: an array, or an output layer. */
export interface LogitsSource {
  /** The tensors for the backends: separate views of the caller's memory. */
  rows: Rows
  head?: Head
  /** Where device memory lies. */
  range?: DeviceRange
  memory: Memory
  /** The caller's arrays in it. */
  arrays: readonly NamedArray[]
  /** Those in host memory, which a call uses in place. */
  watched: readonly Watched[]
}

/** Rows in one array, and what the caller passed. */
export interface Tensor extends LogitsSource {
  data: TensorData
  shape: number[]
  strides?: number[]
}

// The backends count rows, but not elements, in 32-bit integers.
export const LARGEST_SIZE = 2 ** 31 - 1
export const DTYPES: readonly DType[] = ['float32', 'float16', 'bfloat16']

/**
 * Checks rows of logits, or of the tensor that `last` names; `packed` tells whether they must be `[tokens, vocab]`
 * rather than `[batch, time, vocab]`. `gpuDevice`: the option of that name.
 */
export function tensorOf(value: unknown, name: string, packed: boolean, gpuDevice: unknown, last = 'vocab'): Tensor {
  if (typeof value !== 'object' || value === null) {
    throw invalidType(name, 'an object { data, shape, dtype?, strides? }', value)
  }
  const { data, shape, dtype, strides } = value as Partial<Logits>
  const dataName = `${name}.data`
  const element = elementType(data, dataName, dtype, `${name}.dtype`)
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
  // Only now, when no more of the caller's code can run, which may have taken the memory away.
  if (!isDeviceMemory(data)) checkView(data as View, dataName)
  const range = isDeviceMemory(data) ? deviceRange(data, dataName, ELEMENT_SIZES[element], gpuDevice) : undefined
  const view = range ? range.place : elements(data as HostArray)
  const available = range ? Math.floor(range.byteLength / ELEMENT_SIZES[element]) : viewLength(view as View)
  let timeStride = vocab
  let batchStride = time * vocab
  if (steps === undefined) {
    const needed = batch * time * vocab
    // A buffer on the device may have room to spare.
    if (range ? available < needed : available !== needed) {
      const problem = `has ${available} elements, but shape [${sizes.join(', ')}] needs ${needed}`
      throw shapeMismatch(dataName, problem)
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
  return {
    rows,
    range,
    memory: range ? memoryOfDevice(range) : hostMemory,
    data: data as TensorData,
    shape: sizes,
    strides: steps,
    arrays: [[dataName, data]],
    watched: range ? [] : [watch(dataName, view as View)],
  }
}

/** The element type of data: the declared one or the one that its array implies. */
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
