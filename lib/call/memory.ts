/**
 * Where the arrays of a call live. Memory of another kind joins by implementing {@link Memory}.
 */
import type { NamedArray, Watched } from '../check/arrays.js'
import type { Place, Rows } from '../job.js'
import type { DType, TensorData } from '../types/index.js'

/** Bytes of an element. */
export const ELEMENT_SIZES: Record<DType, number> = { float32: 4, float16: 2, bfloat16: 2 }

/** Where the tensors of a call live, and how what is written beside them is checked and made. */
export interface Memory {
  /**
   * The memory for a result: a new array for true, else the caller's, which must not share memory with any of `others`
   * but may be the array of `wanted.source`.
   */
  output(value: unknown, wanted: Output, others: readonly NamedArray[]): Written
}

/** The requirements on an output. */
export interface Output {
  /** In errors. */
  name: string
  dtype: DType
  length: number
  /** The other values that the caller may give instead of an array, in errors. */
  besides: string
  /** What its memory goes with, and a verb, in errors: 'the logits are'. */
  like: string
  /** What its dtype goes with, likewise; `like` when absent. */
  dtypeLike?: string
  /** Where the length comes from, in errors. */
  shape?: readonly number[]
  /** The tensor, of elements of the same size, that may be overwritten as a whole, but not in part. */
  source?: { name: string; data: TensorData; memory: Rows['data'] }
}

/** Where its length comes from, as errors tell it. */
export function reasonOf({ shape }: Output): string {
  return shape === undefined ? '' : `, as shape [${shape.join(', ')}] has`
}

/** Memory that a result is written to. */
export interface Written {
  /** The array that the caller gets. */
  data: TensorData
  /** The same as backends see it. */
  memory: Place
  /** It is new, and all zeros. */
  isZero: boolean
  /** It is that of the source. */
  isSource: boolean
  /** The caller's array in host memory. */
  watched: readonly Watched[]
}
