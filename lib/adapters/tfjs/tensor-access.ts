/**
 * Access to tensors in the memory of their TensorFlow.js backend, and ops with gradients on top of it.
 */
import * as tf from '@tensorflow/tfjs-core'
import { failure, invalidType, shapeMismatch } from '../../errors.js'
import type { Labels } from '../../types/index.js'

/** A value, and the function that makes its gradient. */
export interface Differentiable<T extends tf.Tensor> {
  value: T
  /** The tensors from which the gradient is made, if one can be asked for. */
  saved?: tf.Tensor[]
  /** One gradient per input. */
  gradient?: (dy: tf.Tensor) => tf.Tensor[]
}

/**
 * `tf.customGrad`, except that the tape takes `saved` without a copy and disposes of it; the `save` function of
 * `tf.customGrad` would make the wasm backend copy it.
 */
export function differentiable<T extends tf.Tensor>(inputs: tf.Tensor[], op: (taped: boolean) => Differentiable<T>): T {
  const tape = currentTape()
  const taped = tape !== undefined
  let kept: tf.Tensor[] = []
  const value = tf.customGrad(() => {
    const { value, saved = [], gradient } = op(taped)
    if (taped) kept = saved.map((tensor) => tf.keep(tensor))
    return { value, gradFunc: (dy: tf.Tensor) => gradient!(dy) }
  })(...inputs) as T
  if (kept.length > 0) {
    const node = tape?.at(-1)
    if (!node?.outputs?.includes(value)) {
      tf.dispose(kept)
      throw unknownTape()
    }
    node.saved = [...(node.saved ?? []), ...kept]
  }
  return value
}

type Tape = ReturnType<typeof tf.engine>['state']['activeTape']

/** The tape that is being recorded, if any. TensorFlow.js has no public API for it. */
function currentTape(): Tape | undefined {
  const engine = tf.engine()
  if (typeof engine.isTapeOn !== 'function') throw unknownTape()
  if (!engine.isTapeOn()) return undefined
  const tape = engine.state?.activeTape
  if (!Array.isArray(tape)) throw unknownTape()
  return tape
}

export function unknownTape() {
  const problem = `does not keep its gradient tape where this adapter looks for it; versions 4.0 to 4.22 are known to work`
  return failure('ERR_BACKEND_UNAVAILABLE', `TensorFlow.js ${tf.version_core} ${problem}`)
}

/** Refuses anything but float32 `[..., last]` of at least two dimensions. */
export function checkRows(tensor: tf.Tensor, name: string, last: string): void {
  checkTensor(tensor, name, 'float32')
  if (tensor.rank < 2) {
    throw shapeMismatch(name, `must be [..., ${last}], of at least two dimensions; got [${tensor.shape.join(', ')}]`)
  }
}

/** Refuses anything but a tensor of that dtype that has not been disposed of. */
export function checkTensor(value: unknown, name: string, dtype: tf.DataType): asserts value is tf.Tensor {
  if (!(value instanceof tf.Tensor)) throw invalidType(name, `a tensor of dtype ${dtype}`, value)
  if (value.dtype !== dtype) throw invalidType(name, `a tensor of dtype ${dtype}`, `dtype ${value.dtype}`)
  checkAlive(value, name)
}

function checkAlive(tensor: tf.Tensor, name: string): void {
  if (tensor.isDisposed) throw failure('ERR_DISPOSED', `${name}: the tensor has been disposed of`)
}

/** Checks labels against the shape of these rows, when they are a tensor. */
export function idsOf(labels: Labels | tf.Tensor, rows: tf.Tensor, name: string): Labels {
  if (!(labels instanceof tf.Tensor)) return labels
  checkTensor(labels, 'labels', 'int32')
  checkShape(labels, 'labels', rows, name)
  return read(labels, 'labels') as Int32Array
}

/** Refuses a tensor that does not have the shape of the labels of these rows. */
export function checkShape(tensor: tf.Tensor, name: string, rows: tf.Tensor, rowsName: string): void {
  const wanted = rows.shape.slice(0, -1)
  if (tf.util.arraysEqual(tensor.shape, wanted)) return
  const problem = `must have the shape of ${rowsName} without the last dimension, [${wanted.join(', ')}]`
  throw shapeMismatch(name, `${problem}; got [${tensor.shape.join(', ')}]`)
}

/** The elements of a numeric tensor. */
export function elementsOf(tensor: tf.Tensor, name: string): ArrayLike<number> {
  checkAlive(tensor, name)
  return read(tensor, name)
}

/** Merges all dimensions before the last two. */
export function rowsShape({ shape }: tf.Tensor): number[] {
  return shape.length > 3 ? [tf.util.sizeFromShape(shape.slice(0, -2)), ...shape.slice(-2)] : shape
}

/** The elements as the backend returns them; refused where it can only return a promise, as on webgpu. */
function read(tensor: tf.Tensor, name: string): Float32Array | Int32Array {
  try {
    return tensor.dataSync() as Float32Array | Int32Array
  } catch (cause) {
    const problem = `${name}: TensorFlow.js's backend '${tf.getBackend()}' keeps it where it cannot be read synchronously`
    throw Object.assign(failure('ERR_BACKEND_UNAVAILABLE', `${problem}; use 'wasm', 'cpu' or 'tensorflow'`), { cause })
  }
}

/** The parts of the wasm backend that the adapter uses. */
interface HeapBackend extends tf.KernelBackend {
  dataIdMap: { has(dataId: object): boolean }
  typedArrayFromHeap(tensor: tf.TensorInfo): Float32Array
  makeOutput(shape: number[], dtype: 'float32'): tf.TensorInfo
}

/** The parts of the cpu backend that the adapter uses. */
interface ArrayBackend extends tf.KernelBackend {
  data: { has(dataId: object): boolean }
}

/** The backend, if it keeps this tensor in a heap that JavaScript can access. */
export function heapOf(tensor: tf.Tensor): HeapBackend | undefined {
  const backend = tf.backend() as Partial<HeapBackend>
  const hasHeap = typeof backend.typedArrayFromHeap === 'function' && typeof backend.makeOutput === 'function'
  return hasHeap && backend.dataIdMap?.has(tensor.dataId) ? (backend as HeapBackend) : undefined
}

/** Whether `dataSync` returns the array that holds this tensor rather than a copy. */
export function isArray(tensor: tf.Tensor): boolean {
  return tf.getBackend() === 'cpu' && (tf.backend() as ArrayBackend).data.has(tensor.dataId)
}

/**
 * The elements of a tensor, as a view where JavaScript can access them. The heap must not grow while the view is used.
 */
export function valuesOf(tensor: tf.Tensor, name: string): Float32Array {
  return heapOf(tensor)?.typedArrayFromHeap(tensor) ?? (read(tensor, name) as Float32Array)
}

/** New tensors where `like` is, filled by `fill`. */
export function fillTensors(shapes: number[][], like: tf.Tensor, fill: (views: Float32Array[]) => void): tf.Tensor[] {
  const heap = heapOf(like)
  if (heap === undefined) {
    const arrays = shapes.map((shape) => new Float32Array(tf.util.sizeFromShape(shape)))
    fill(arrays)
    return arrays.map((values, i) => tf.tensor(values, shapes[i]))
  }
  // Allocate all of them before viewing any: an allocation may grow the heap, which invalidates views of it.
  const outputs = shapes.map((shape) => heap.makeOutput(shape, 'float32'))
  const tensors = outputs.map((output) => tf.engine().makeTensorFromTensorInfo(output, heap))
  fill(tensors.map((tensor) => heap.typedArrayFromHeap(tensor)))
  return tensors
}

/** A tensor times a factor. */
export function scaled(gradient: tf.Tensor, factor: number): tf.Tensor {
  return factor === 1 ? alias(gradient) : tf.mul(gradient, factor)
}

/** Another tensor on the same memory. */
export function alias(tensor: tf.Tensor): tf.Tensor {
  return tf.reshape(tensor, tensor.shape)
}
