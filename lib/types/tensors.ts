/**
 * Tensors that callers pass and receive. Letters in shapes: B sequences, T positions, V vocabulary, D width.
 */

/** Element type of the logits. Arithmetic is float32 in the kernels and float64 in every sum. */
export type DType = 'float32' | 'float16' | 'bfloat16'

/**
 * `Float16Array` where the runtime has it (Node 24 and newer); typed structurally so that older type libraries compile.
 */
export interface Float16ArrayLike extends ArrayBufferView {
  readonly length: number
  readonly [Symbol.toStringTag]: 'Float16Array'
  [index: number]: number
}

/** Logits in host memory. A `Uint16Array` holds the raw bits of a 16-bit `dtype`, which is then required. */
export type HostArray = Float32Array | Uint16Array | Float16ArrayLike

/** Memory of a GPU: ours, or any object with a `ptr`, such as those of node-rapids and FFI libraries. */
export interface DeviceMemory {
  /** Device address in bytes. */
  readonly ptr: number | bigint
  /** Size in bytes. */
  readonly byteLength: number
  /** Bytes to skip after `ptr`. Defaults to 0. */
  readonly byteOffset?: number
  /** Index of the GPU. Defaults to the GPU that has the memory. */
  readonly device?: number
}

/** A tensor of logits (or of their gradient). */
export interface Logits {
  /** The elements. */
  data: HostArray | DeviceMemory
  /** `[batch, time, vocab]`, or `[tokens, vocab]` together with `sequenceOffsets`. */
  shape: readonly number[]
  /**
   * Element type. Defaults to the type that `data` implies; required for a `Uint16Array`, and 'float32' for device
   * memory.
   */
  dtype?: DType
  /** Distance between neighbours along each dimension, in elements; the last must be 1. Defaults to contiguous. */
  strides?: readonly number[]
}

/** The input of the output layer: the last hidden state of every position. */
export interface Hidden {
  /** The elements. */
  data: HostArray | DeviceMemory
  /** `[batch, time, width]`, or `[tokens, width]` together with `sequenceOffsets`. */
  shape: readonly number[]
  /**
   * Element type. Defaults to the type that `data` implies; required for a `Uint16Array`, and 'float32' for device
   * memory.
   */
  dtype?: DType
  /** Distance between neighbours along each dimension, in elements; the last must be 1. Defaults to contiguous. */
  strides?: readonly number[]
}

/** The matrix of the output layer: logits = hidden · weightᵀ + bias. */
export interface HeadWeight {
  /** The elements. */
  data: HostArray | DeviceMemory
  /** `[vocab, width]`. */
  shape: readonly number[]
  /**
   * Element type. Defaults to the type that `data` implies; required for a `Uint16Array`, and 'float32' for device
   * memory.
   */
  dtype?: DType
  /**
   * Distance between neighbours along each dimension, in elements; one must be 1. Defaults to `[width, 1]`; a kernel
   * stored as `[width, vocab]` has `[1, vocab]`.
   */
  strides?: readonly number[]
}

/** Token ids: `[B, T]` (or `[tokens]` when packed), flat. */
export type Labels = Int32Array | BigInt64Array

/** A flat array of numbers, booleans or bigints, one per label. */
export type TokenValues = ArrayLike<number> | ArrayLike<boolean> | ArrayLike<bigint>

/** A flat array of whole numbers; a `BigInt64Array` works as well as an `Int32Array`. */
export type Indices = ArrayLike<number> | ArrayLike<bigint>
