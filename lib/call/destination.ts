/**
 * The destination of a gradient with respect to logits: the caller's array, a new one, or the logits themselves.
 */
import type { NamedArray, Watched } from '../check/arrays.js'
import { invalidValue } from '../errors.js'
import type { Rows } from '../job.js'
import type { Logits } from '../types/index.js'
import type { Tensor } from './tensor.js'

/** Where a gradient goes. */
export interface Destination {
  /** The elements that the backends write; the logits' own elements when they are overwritten. */
  rows: Rows
  /** Inactive rows stay as they are. */
  skipInactive: boolean
  /** The tensor that the caller gets. */
  gradient: Logits
  /** The caller's array, which is used in place. */
  watched: readonly Watched[]
}

/**
 * Checks the destination of a gradient with respect to `logits`: true for a new array, 'in-place' or the array of the
 * logits itself to overwrite them, or another array, which must not share memory with any of `callers`.
 */
export function destinationOf(
  value: unknown,
  name: string,
  zeroInactive: boolean,
  logits: Tensor,
  callers: readonly NamedArray[],
): Destination {
  const { rows, shape, strides, data } = logits
  const { batch, time, vocab, dtype } = rows
  const output = {
    name,
    dtype,
    length: batch * time * vocab,
    besides: "true, 'in-place'",
    like: 'the logits are',
    shape,
    source: { name: 'logits.data', data, memory: rows.data },
  }
  const written = logits.memory.output(value === 'in-place' ? data : value, output, callers)
  const skipInactive = !zeroInactive || written.isZero
  const gradient: Logits = { data: written.data, shape: shape.slice(), dtype }
  if (!written.isSource) {
    const { memory } = written
    const contiguous = { data: memory, dtype, batch, time, vocab, batchStride: time * vocab, timeStride: vocab }
    return { rows: contiguous, skipInactive, gradient, watched: written.watched }
  }
  if (strides !== undefined) {
    if (rowsOverlap(rows)) {
      throw invalidValue(name, `cannot overwrite the logits: with strides [${strides.join(', ')}] their rows overlap`)
    }
    gradient.strides = strides.slice()
  }
  return { rows, skipInactive, gradient, watched: [] }
}

// Rows of one dimension must fit between neighbours of the other.
function rowsOverlap({ batch, time, vocab, batchStride, timeStride }: Rows): boolean {
  if (batch === 1) return time > 1 && timeStride < vocab
  if (time === 1) return batchStride < vocab
  return timeStride <= batchStride
    ? timeStride < vocab || batchStride < (time - 1) * timeStride + vocab
    : batchStride < vocab || timeStride < (batch - 1) * batchStride + vocab
}
