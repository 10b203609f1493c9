/**
 * The logits of the golden cases, made from a seed: the twin of `generate_bits` in generate.py, equal to the last bit.
 */
import type { DType, Logits } from '../../lib/types/index.js'
import { decode, encode, storage } from '../support.js'

/** Describes logits; see generate.py. */
export interface LogitsSpec {
  dtype: DType
  shape: number[]
  strides?: number[]
  seed: number
  /** Elements of the storage, including those between the rows. */
  length: number
  std: number
  mean: number
  /** One element in so many is -inf. */
  holes?: number
  /** Elements of the storage that have a value of their own. */
  set?: [index: number, value: number][]
  /** Of all bits. */
  checksum: number
}

const GOLDEN = 0x9e3779b9

/** Scrambles a 32-bit word. */
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
  return x ^ (x >>> 16)
}

/** The logits. The elements between their rows are NaN. */
export function logitsOf(spec: LogitsSpec): Logits {
  const { dtype, shape, strides } = spec
  const data = generate(spec)
  const sum = checksum(data)
  if (sum !== spec.checksum) throw new Error(`the logits have checksum ${sum}, and ${spec.checksum} when generated`)
  if (strides === undefined) return { data, shape, dtype }
  poison(data, spec, strides)
  return { data, shape, dtype, strides }
}

function generate({ dtype, seed, length, std, mean, holes, set }: LogitsSpec): Float32Array | Uint16Array {
  const data = storage(dtype, length)
  const key = mix(seed)
  const scale = std * (Math.sqrt(3) / 65536)
  const rounded = encode[dtype]
  for (let i = 0; i < length; i++) {
    const first = mix(Math.imul(i, GOLDEN) + key)
    const second = mix(first ^ 0x85ebca6b)
    const total = (first & 0xffff) + (first >>> 16) + (second & 0xffff) + (second >>> 16) - 131070
    const hole = holes !== undefined && (first >>> 0) % holes === 0
    data[i] = rounded(hole ? Number.NEGATIVE_INFINITY : mean + total * scale)
  }
  for (const [index, value] of set ?? []) data[index] = rounded(value)
  return data
}

function checksum(data: Float32Array | Uint16Array): number {
  const words = data instanceof Float32Array ? new Uint32Array(data.buffer) : data
  let sum = 0
  for (let i = 0; i < words.length; i++) sum = (sum + mix((words[i] + Math.imul(i, GOLDEN)) | 0)) | 0
  return sum >>> 0
}

function poison(data: Float32Array | Uint16Array, { dtype, shape }: LogitsSpec, strides: number[]): void {
  const nan = encode[dtype](Number.NaN)
  const [time, vocab] = shape.slice(-2)
  const [batchStride, timeStride] = shape.length === 3 ? strides : [data.length, strides[0]]
  for (let i = 0; i < data.length; i++) {
    const place = i % batchStride
    if (place >= time * timeStride || place % timeStride >= vocab) data[i] = nan
  }
}

/** The element of a contiguous tensor. */
export function element({ data, dtype }: Logits, index: number): number {
  return decode[dtype!]((data as Float32Array | Uint16Array)[index])
}
