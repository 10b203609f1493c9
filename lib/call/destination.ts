/**
 * The destination of a gradient with respect to logits: the caller's array, a new one, or the logits themselves.
 */
import { type NamedArray, viewKind, type Watched } from '../check/arrays.js'
import { oneOf } from '../check/options.js'
import { invalidValue } from '../errors.js'
import type { Rows } from '../job.js'
import type { DType, TypedLogits } from '../types/index.js'
import { ELEMENT_SIZES } from './memory.js'
import { DTYPES, type Tensor } from './tensor.js'

/** The options of a gradient with respect to logits. */
export const LOGITS_GRADIENT_OPTIONS = ['gradient', 'zeroInactive', 'gradientDType', 'deferredScale'] as const

const DTYPE_OPTION = 'options.gradientDType'

/** Where a gradient goes. */
export interface Destination {
  /** The elements that the backends write; the logits' own elements when they are overwritten. */
  rows: Rows
  /** They are the logits' own. */
  overwrites: boolean
  /** Inactive rows stay as they are. */
  skipInactive: boolean
  /** The tensor that the caller gets. */
  gradient: TypedLogits
  /** The caller's array, which is used in place. */
  watched: readonly Watched[]
}

/**
 * Checks the destination of a gradient with respect to `logits`: true for a new array, 'in-place' or the array of the
 * logits itself to overwrite them, or another array, which must not share memory with any of `callers`. `wanted`: its
 * dtype, that of the logits unless it is given.
 */
export function destinationOf(
  value: unknown,
  name: string,
  zeroInactive: boolean,
  logits: Tensor,
  callers: readonly NamedArray[],
  wanted: unknown,
): Destination {
  const { rows, shape, strides, data } = logits
  const { batch, time, vocab } = rows
  const dtype = oneOf(wanted, DTYPE_OPTION, DTYPES, rows.dtype)
  if (value === 'in-place') refuseOtherElements(logits, dtype)
  const output = {
    name,
    dtype,
    length: batch * time * vocab,
    besides: "true, 'in-place'",
    like: 'the logits are',
    dtypeLike: wanted === undefined ? 'the logits are' : `${DTYPE_OPTION} is`,
    shape,
    source: { name: 'logits.data', data, memory: rows.data },
  }
  const written = logits.memory.output(value === 'in-place' ? data : value, output, callers)
  const skipInactive = !zeroInactive || written.isZero
  const gradient: TypedLogits = { data: written.data, shape: shape.slice(), dtype }
  if (!written.isSource) {
    const { memory } = written
    const contiguous = { data: memory, dtype, batch, time, vocab, batchStride: time * vocab, timeStride: vocab }
    return { rows: contiguous, overwrites: false, skipInactive, gradient, watched: written.watched }
  }
  if (strides !== undefined) {
    if (rowsOverlap(rows)) {
      throw invalidValue(name, `cannot overwrite the logits: with strides [${strides.join(', ')}] their rows overlap`)
    }
    gradient.strides = strides.slice()
  }
  return { rows: { ...rows, dtype }, overwrites: true, skipInactive, gradient, watched: [] }
}

/** Refuses a dtype whose elements cannot take the place of the logits' own. */
function refuseOtherElements({ rows, data }: Tensor, dtype: DType): void {
  const kind = viewKind(data)
  if (ELEMENT_SIZES[dtype] === ELEMENT_SIZES[rows.dtype] && (dtype === rows.dtype || kind !== 'Float16Array')) return
  const problem = `is '${dtype}', which cannot take the place of logits of ${rows.dtype}`
  throw invalidValue(DTYPE_OPTION, kind === 'Float16Array' ? `${problem} in a Float16Array` : problem)
}

// Rows of one dimension must fit between neighbours of the other.
function rowsOverlap({ batch, time, vocab, batchStride, timeStride }: Rows): boolean {
  if (batch === 1) return time > 1 && timeStride < vocab
  if (time === 1) return batchStride < vocab
  return timeStride <= batchStride
    ? timeStride < vocab || batchStride < (time - 1) * timeStride + vocab
    : batchStride < vocab || timeStride < (batch - 1) * batchStride + vocab
}
