/**
 * Arrays of other libraries, by the fields of DLPack's `DLTensor`: they go in and out without a copy.
 */
import { cudaRange, ELEMENT_SIZE, isCudaMemory, STREAM_OPTION, streamOf } from '../backends/cuda/addresses.js'
import { Event, waitForEvent } from '../backends/cuda/stream.js'
import { integer, optionsObject } from '../check/options.js'
import { describe, invalidType, invalidValue, shapeMismatch } from '../errors.js'
import type { DeviceMemory, DType, RunOptions, TypedLogits } from '../types/index.js'

/**
 * An array in the memory of a GPU. The fields are DLPack's (`DLTensor` of dlpack.h, version 1), and with them the stream that
 * Python passes beside it.
 */
export interface DLTensor {
  /** Device address. */
  data: number | bigint
  /** `device_type` 2 is CUDA, 13 its managed memory; `device_id` is the index of the GPU. */
  device: { device_type: number; device_id: number }
  /** `code`: 0 int, 1 uint, 2 float, 4 bfloat, 6 bool. */
  dtype: { code: number; bits: number; lanes: number }
  shape: readonly (number | bigint)[]
  /** In elements. Defaults to contiguous. */
  strides?: readonly (number | bigint)[] | null | undefined
  /** Bytes from `data` to the first element. Defaults to 0. */
  byte_offset?: number | bigint | undefined
  /** The stream whose work so far has to end before the array is read. Defaults to none. */
  stream?: RunOptions['stream'] | null
}

/** Names of the elements that arrays have here. */
export type ElementType = DType | 'float64' | 'int32' | 'int64' | 'uint8'

/** An array in the memory of a GPU: logits, a gradient, or a result of a prepared call. */
export interface DeviceArray {
  data: DeviceMemory
  shape: readonly number[]
  dtype: ElementType
  /** In elements. Defaults to contiguous. */
  strides?: readonly number[] | undefined
}

/** The stream on which an array is used. */
export interface StreamOption {
  /** Defaults to the default stream. */
  stream?: RunOptions['stream'] | undefined
}

const TYPES: Record<ElementType, { code: number; bits: number; lanes: 1 }> = {
  float32: { code: 2, bits: 32, lanes: 1 },
  float16: { code: 2, bits: 16, lanes: 1 },
  bfloat16: { code: 4, bits: 16, lanes: 1 },
  float64: { code: 2, bits: 64, lanes: 1 },
  int32: { code: 0, bits: 32, lanes: 1 },
  int64: { code: 0, bits: 64, lanes: 1 },
  uint8: { code: 1, bits: 8, lanes: 1 },
}
const ELEMENTS = Object.keys(TYPES) as ElementType[]
const CUDA_DEVICE = 2
const CUDA_MANAGED = 13
const BOOL = 6

/**
 * Logits, hidden states, a weight or a destination of a gradient from the array of another library. That library's memory is
 * used in place and must stay allocated as long as a call needs it; `array` stays referenced as long as the result.
 *
 * @param array elements of float32, float16 or bfloat16. What comes after on `stream` waits for `array.stream`, on the GPU.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`, `ERR_SHAPE_MISMATCH`
 *   (strides of another number of dimensions); Error `ERR_CUDA`, `ERR_BACKEND_UNAVAILABLE` (CUDA cannot be used, and
 *   `array.stream` is to be waited for)
 */
export function fromDLTensor(array: DLTensor, options?: StreamOption): TypedLogits<DeviceMemory> {
  const { data, shape, dtype, strides } = read(array, ['float32', 'float16', 'bfloat16'], options)
  const tensor: TypedLogits<DeviceMemory> = { data, shape, dtype: dtype as DType }
  if (strides) tensor.strides = strides
  return tensor
}

/**
 * Labels (int32, int64) or a mask (uint8, bool) from the array of another library, which must be contiguous; otherwise as
 * {@link fromDLTensor}. A call with another number of positions refuses them (`ERR_SHAPE_MISMATCH`).
 */
export function labelsFromDLTensor(array: DLTensor, options?: StreamOption): DeviceMemory {
  return contiguous(read(array, ['int32', 'int64', 'uint8'], options))
}

/**
 * Log-probs of sequences (float64, float32) from the array of another library, which must be contiguous; otherwise as
 * {@link fromDLTensor}.
 */
export function logProbsFromDLTensor(array: DLTensor, options?: StreamOption): DeviceMemory {
  return contiguous(read(array, ['float64', 'float32'], options))
}

function contiguous({ data, shape, strides }: DeviceArray): DeviceMemory {
  const isContiguous =
    strides === undefined || shape.every((size, i) => size === 1 || strides[i] === product(shape, i + 1))
  if (!isContiguous) throw invalidValue('array.strides', 'must be those of a contiguous array')
  return data
}

/**
 * The description of an array for another library, which may use it on another stream once that has waited for `stream`.
 * The memory stays alive as long as `owner`, the object that was given.
 *
 * @param array logits, a gradient, or `{ data: prepared.buffers.losses, shape: [pairs], dtype: 'float64' }`
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_SHAPE_MISMATCH`; Error `ERR_DISPOSED`
 */
export function toDLTensor(array: DeviceArray, options?: StreamOption): DLTensor & { owner: DeviceMemory } {
  const { stream } = optionsObject(options, 'options', STREAM_OPTION)
  if (typeof array !== 'object' || array === null) throw invalidType('array', 'an object { data, shape, dtype }', array)
  const { data, dtype } = array
  if (!isCudaMemory(data)) throw invalidType('array.data', 'device memory', data)
  if (!ELEMENTS.includes(dtype)) {
    throw invalidValue('array.dtype', `must be one of ${ELEMENTS.join(', ')}; got ${describe(dtype)}`)
  }
  const shape = sizes(array.shape, 'array.shape')
  const strides = array.strides && sizes(array.strides, 'array.strides', shape.length)
  const { place, device, byteLength } = cudaRange(data, 'array.data', bytesOf(dtype))
  const bytes = extent(shape, strides) * bytesOf(dtype)
  if (bytes > byteLength) {
    throw shapeMismatch('array.data', `must have ${bytes} bytes for shape [${shape.join(', ')}]; got ${byteLength}`)
  }
  return {
    data: place,
    device: { device_type: isManaged(data) ? CUDA_MANAGED : CUDA_DEVICE, device_id: device },
    dtype: { ...TYPES[dtype] },
    shape,
    strides: strides ?? shape.map((_, i) => product(shape, i + 1)),
    byte_offset: 0,
    stream: streamOf(stream ?? 0, device),
    owner: data,
  }
}

/** Whether this is the memory of an array that has come in as managed memory. */
function isManaged(data: DeviceMemory & { owner?: Partial<DLTensor> }): boolean {
  return data.owner?.device?.device_type === CUDA_MANAGED
}

function read(array: DLTensor, elements: readonly ElementType[], options: StreamOption | undefined): DeviceArray {
  const { stream } = optionsObject(options, 'options', STREAM_OPTION)
  if (typeof array !== 'object' || array === null)
    throw invalidType('array', 'an object with the fields of a DLTensor', array)
  const { device_type: type, device_id: id } = Object(array.device) as Partial<DLTensor['device']>
  if (type !== CUDA_DEVICE && type !== CUDA_MANAGED) {
    throw invalidValue(
      'array.device.device_type',
      `must be ${CUDA_DEVICE} or ${CUDA_MANAGED}, memory of CUDA; got ${describe(type)}`,
    )
  }
  const { code, bits, lanes } = Object(array.dtype) as Partial<DLTensor['dtype']>
  const dtype = elements.find((name) => {
    const known = TYPES[name]
    return bits === known.bits && lanes === 1 && (code === known.code || (name === 'uint8' && code === BOOL))
  })
  if (dtype === undefined) {
    const got = `code ${describe(code)}, ${describe(bits)} bits, ${describe(lanes)} lanes`
    throw invalidValue('array.dtype', `must be one of ${elements.join(', ')}; got ${got}`)
  }
  if (typeof array.data !== 'bigint' && typeof array.data !== 'number') {
    throw invalidType('array.data', 'a number or a bigint', array.data)
  }
  const shape = sizes(array.shape, 'array.shape')
  const strides = array.strides ? sizes(array.strides, 'array.strides', shape.length) : undefined
  const byteOffset = Number(array.byte_offset ?? 0)
  const size = bytesOf(dtype)
  const byteLength = extent(shape, strides) * size
  const data = { ptr: array.data, byteLength, byteOffset, device: id, owner: array, [ELEMENT_SIZE]: size }
  const { device } = cudaRange(data, 'array', size)
  if (array.stream !== undefined && array.stream !== null) follow(stream ?? 0, array.stream, device)
  return { data, shape, dtype, strides }
}

/** What comes after on `stream` waits for what has been enqueued on `other`. */
function follow(
  stream: NonNullable<RunOptions['stream']>,
  other: NonNullable<RunOptions['stream']>,
  device: number,
): void {
  if (streamOf(stream, device) === streamOf(other, device)) return
  const event = new Event({ device })
  try {
    event.record(other)
    waitForEvent(stream, event)
  } finally {
    event.dispose()
  }
}

function sizes(value: unknown, name: string, length?: number): number[] {
  if (!Array.isArray(value)) throw invalidType(name, 'an array of numbers', value)
  if (length !== undefined && value.length !== length) {
    throw shapeMismatch(name, `must have ${length} entries, as the shape has; got ${value.length}`)
  }
  return value.map((size, i) =>
    integer(typeof size === 'bigint' ? Number(size) : size, `${name}[${i}]`, 0, Number.MAX_SAFE_INTEGER),
  )
}

const bytesOf = (dtype: ElementType) => TYPES[dtype].bits / 8
const product = (shape: readonly number[], from: number) => shape.slice(from).reduce((a, b) => a * b, 1)

/** Elements from the first to the last. */
function extent(shape: readonly number[], strides: readonly number[] | undefined): number {
  if (shape.includes(0)) return 0
  return strides ? strides.reduce((sum, stride, i) => sum + (shape[i] - 1) * stride, 1) : product(shape, 0)
}
