/**
 * Reads and writes one row of logits at a time, between any of the three element types and float64.
 */

import type { Rows } from '../../job.js'
import type { DType, HostArray } from '../../types/index.js'
import { decodeBfloat16, decodeFloat16, encodeBfloat16, encodeFloat16 } from './numbers.js'

/** Reads row `row` (counted through batch and time) into the first `vocab` elements of `into`, exactly. */
export function readRow(rows: Rows, row: number, into: Float64Array): void {
  const { vocab, dtype } = rows
  const start = rowStart(rows, row)
  if (dtype === 'float32') {
    const data = rows.data as Float32Array
    for (let i = 0; i < vocab; i++) into[i] = data[start + i]
    return
  }
  const data = bitsOf(rows)
  const decode = dtype === 'float16' ? decodeFloat16 : decodeBfloat16
  for (let i = 0; i < vocab; i++) into[i] = decode(data[start + i])
}

/** Writes the first `vocab` elements of `values`, rounded to float32 and then, for a 16-bit type, to that type. */
export function writeRow(rows: Rows, row: number, values: Float64Array): void {
  const { vocab, dtype } = rows
  const start = rowStart(rows, row)
  if (dtype === 'float32') {
    const data = rows.data as Float32Array
    for (let i = 0; i < vocab; i++) data[start + i] = values[i]
    return
  }
  const data = bitsOf(rows)
  const encode = dtype === 'float16' ? encodeFloat16 : encodeBfloat16
  for (let i = 0; i < vocab; i++) data[start + i] = encode(values[i])
}

/** Sets a row to +0, whose bits are 0 in every element type. */
export function clearRow(rows: Rows, row: number): void {
  const data = rows.dtype === 'float32' ? (rows.data as Float32Array) : bitsOf(rows)
  const start = rowStart(rows, row)
  data.fill(0, start, start + rows.vocab)
}

function rowStart(rows: Rows, row: number): number {
  return Math.floor(row / rows.time) * rows.batchStride + (row % rows.time) * rows.timeStride
}

/** A Float16Array is accessed through its bits too, so that the runtime's own rounding plays no part. */
function bitsOf(rows: Pick<Rows, 'data'>): Uint16Array {
  const data = rows.data as HostArray
  return data instanceof Uint16Array ? data : new Uint16Array(data.buffer, data.byteOffset, data.length)
}

/** Access to the elements of an array that results are written to. */
export interface Elements {
  /** Writes a number, or adds it to the one that is there; rounded once. */
  put(index: number, value: number, add: boolean): void
  clear(start: number, end: number): void
}

/** The elements of an array of host memory. */
export function elementsOf(data: Rows['data'], dtype: DType): Elements {
  if (dtype === 'float32') {
    const values = data as Float32Array
    return {
      put(index, value, add) {
        values[index] = add ? values[index] + value : value
      },
      clear: (start, end) => values.fill(0, start, end),
    }
  }
  const bits = bitsOf({ data })
  const [decode, encode] = dtype === 'float16' ? [decodeFloat16, encodeFloat16] : [decodeBfloat16, encodeBfloat16]
  return {
    put(index, value, add) {
      bits[index] = encode(add ? decode(bits[index]) + value : value)
    },
    clear: (start, end) => bits.fill(0, start, end),
  }
}
