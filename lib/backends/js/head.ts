/**
 * The output layer in plain TypeScript: a logit is a sum in float64.
 */

import type { Head, Place } from '../../job.js'
import type { HostArray } from '../../types/index.js'
import { decodeBfloat16, decodeFloat16 } from './numbers.js'

type Read = (index: number) => number

/** Elements of a host array, exactly. */
export function reader(data: Place, dtype: string): Read {
  if (dtype === 'float32') return (index) => (data as Float32Array)[index]
  const { buffer, byteOffset, length } = data as HostArray
  const bits = new Uint16Array(buffer, byteOffset, length)
  const decode = dtype === 'float16' ? decodeFloat16 : decodeBfloat16
  return (index) => decode(bits[index])
}

/** The logit of each word for a row of hidden states. */
export function logitOf({ hidden, weight, bias }: Head): (state: Float64Array, word: number) => number {
  const width = hidden.vocab
  const weightAt = reader(weight.data, weight.dtype)
  const biasAt: Read = bias === undefined ? () => 0 : reader(bias.data, bias.dtype)
  return (state, word) => {
    let sum = 0
    let at = word * weight.rowStride
    for (let d = 0; d < width; d++, at += weight.columnStride) sum += state[d] * weightAt(at)
    return sum + biasAt(word)
  }
}
