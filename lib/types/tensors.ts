/**
 * Tensors that callers pass and receive. Letters in shapes: B sequences, T positions, V vocabulary, D width.
 */

import type { GpuMemory } from './webgpu.js'

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

/** Memory of a GPU, by CUDA: ours, or any object with a `ptr`, such as those of node-rapids and FFI libraries. */
export interface DeviceMemory {
  /** Device address in bytes. */
  readonly ptr: number | bigint
  /** Size in bytes. */
  readonly byteLength: number
  /** Bytes to skip after `ptr`. Defaults to 0. */
  readonly byteOffset?: number | undefined
  /** Index of the GPU. Defaults to the GPU that has the memory. */
  readonly device?: number | undefined
}

/** Memory of a GPU: CUDA's or WebGPU's. */
export type DeviceData = DeviceMemory | GpuMemory

/** The elements of a tensor. */
export type TensorData = HostArray | DeviceData

/** A tensor whose element type is given: a gradient, say. */
export interface TypedLogits<Data extends TensorData = TensorData> {
  /** The elements. */
  data: Data
  /** `[batch, time, vocab]`, or `[tokens, vocab]` together with `sequenceOffsets`; of a weight, `[vocab, width]`. */
  shape: readonly number[]
  /**
   * Element type. Of `Logits`, defaults to the type that `data` implies; required for a `Uint16Array`, and 'float32' for
   * the memory of a GPU.
   */
  dtype: DType
  /**
   * Distance between neighbours along each dimension, in elements; the last must be 1, of a weight one of the two. Defaults
   * to contiguous.
   */
  strides?: readonly number[] | undefined
}

/** A tensor whose element type is that which its elements imply. */
interface ImpliedLogits<Data extends TensorData> extends Omit<TypedLogits<Data>, 'dtype'> {
  dtype?: DType | undefined
}

/**
 * A tensor of logits (or of their gradient). `dtype` may be left out unless the elements are a `Uint16Array`; in device
 * memory it is then 'float32'.
 */
export type Logits<Data extends TensorData = TensorData> = [Data] extends [Uint16Array]
  ? TypedLogits<Data>
  : TypedLogits<Data> | ImpliedLogits<Exclude<Data, Uint16Array>>

/** The input of the output layer, the last hidden state of every position: `[batch, time, width]`, or `[tokens, width]`. */
export type Hidden<Data extends TensorData = TensorData> = Logits<Data>

/**
 * The matrix of the output layer, `[vocab, width]`: logits = hidden · weightᵀ + bias. One of its strides must be 1: they are
 * `[width, 1]` unless they are given, and `[1, vocab]` for a kernel that is stored as `[width, vocab]`.
 */
export type HeadWeight<Data extends TensorData = TensorData> = Logits<Data>

/** Token ids: `[B, T]` (or `[tokens]` when packed), flat. */
export type Labels = Int32Array | BigInt64Array

/** A flat array of numbers, booleans or bigints, one per label. */
export type TokenValues = ArrayLike<number> | ArrayLike<boolean> | ArrayLike<bigint>

/** A flat array of whole numbers; a `BigInt64Array` works as well as an `Int32Array`. */
export type Indices = ArrayLike<number> | ArrayLike<bigint>

/**
 * Log-probs of sequences: any array of numbers; or memory of CUDA on the GPU of what they go with, float64 or float32 by its
 * size, which is read there each time that a call runs. Where nothing else tells their number, they are float64, unless
 * `logProbsFromDLTensor` has made the memory. What is in device memory is not checked: NaN makes NaN.
 */
export type LogProbValues = ArrayLike<number> | DeviceMemory
