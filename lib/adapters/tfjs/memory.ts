/**
 * Tensors of TensorFlow.js where their backend keeps them, and ops with gradients made from these.
 */
import * as tf from '@tensorflow/tfjs-core'
import { failure, invalidType, shapeMismatch } from '../../errors.js'
import type { Labels } from '../../types/index.js'

/** A value, and how its gradient is made. */
export interface Differentiable<T extends tf.Tensor> {
  value: T
  /** What the gradient is made from, if it can be asked for. */
  saved?: tf.Tensor[]
  /** One gradient per input. */
  gradient?: (dy: tf.Tensor) => tf.Tensor[]
}

/**
 * `tf.customGrad`, except that `saved` is left to the tape as it is, to be disposed with it; the `save` function of
 * `tf.customGrad` would have the wasm backend copy it.
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

/** The tape that is being recorded, if any. TensorFlow.js has no public way to it. */
function currentTape(): Tape | undefined {
  const engine = tf.engine()
  if (typeof engine.isTapeOn !== 'function') throw unknownTape()
  if (!engine.isTapeOn()) return undefined
  const tape = engine.state?.activeTape
  if (!Array.isArray(tape)) throw unknownTape()
  return tape
}

function unknownTape() {
  const problem = `keeps the tape of its gradients elsewhere than this adapter looks for it; 4.0 to 4.22 are known to work`
  return failure('ERR_BACKEND_UNAVAILABLE', `TensorFlow.js ${tf.version_core} ${problem}`)
}

/** Refuses anything but float32 `[..., last]` of at least two dimensions. */
export function checkRows(tensor: tf.Tensor, name: string, last: string): void {
  checkTensor(tensor, name, 'float32')
  if (tensor.rank < 2) {
    throw shapeMismatch(name, `must be [..., ${last}], of at least two dimensions; got [${tensor.shape.join(', ')}]`)
  }
}

/** Refuses anything but a tensor of that dtype that is alive. */
export function checkTensor(value: unknown, name: string, dtype: tf.DataType): asserts value is tf.Tensor {
  if (!(value instanceof tf.Tensor)) throw invalidType(name, `a tensor of dtype ${dtype}`, value)
  if (value.dtype !== dtype) throw invalidType(name, `a tensor of dtype ${dtype}`, `dtype ${value.dtype}`)
  checkAlive(value, name)
}

function checkAlive(tensor: tf.Tensor, name: string): void {
  if (tensor.isDisposed) throw failure('ERR_DISPOSED', `${name}: the tensor is disposed`)
}

/** Labels in the shape of these rows, where they have a shape. */
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

/** The elements of a tensor of any numbers. */
export function elementsOf(tensor: tf.Tensor, name: string): ArrayLike<number> {
  checkAlive(tensor, name)
  return read(tensor, name)
}

/** All dimensions before the last two as one. */
export function rowsShape({ shape }: tf.Tensor): number[] {
  return shape.length > 3 ? [tf.util.sizeFromShape(shape.slice(0, -2)), ...shape.slice(-2)] : shape
}

/** The elements as the backend gives them, unless only a promise of them can be had, as on webgpu. */
function read(tensor: tf.Tensor, name: string): Float32Array | Int32Array {
  try {
    return tensor.dataSync() as Float32Array | Int32Array
  } catch (cause) {
    const problem = `${name}: TensorFlow.js's backend '${tf.getBackend()}' keeps them where they cannot be read synchronously`
    throw Object.assign(failure('ERR_BACKEND_UNAVAILABLE', `${problem}; use 'wasm', 'cpu' or 'tensorflow'`), { cause })
  }
}

/** What the adapter uses of the wasm backend. */
interface HeapBackend extends tf.KernelBackend {
  dataIdMap: { has(dataId: object): boolean }
  typedArrayFromHeap(tensor: tf.TensorInfo): Float32Array
  makeOutput(shape: number[], dtype: 'float32'): tf.TensorInfo
}

/** What it uses of the cpu backend. */
interface ArrayBackend extends tf.KernelBackend {
  data: { has(dataId: object): boolean }
}

/** The backend, if it keeps this tensor in a heap that JavaScript sees. */
export function heapOf(tensor: tf.Tensor): HeapBackend | undefined {
  const backend = tf.backend() as Partial<HeapBackend>
  const hasHeap = typeof backend.typedArrayFromHeap === 'function' && typeof backend.makeOutput === 'function'
  return hasHeap && backend.dataIdMap?.has(tensor.dataId) ? (backend as HeapBackend) : undefined
}

/** Whether `dataSync` gives the very array that holds this tensor. */
export function isArray(tensor: tf.Tensor): boolean {
  return tf.getBackend() === 'cpu' && (tf.backend() as ArrayBackend).data.has(tensor.dataId)
}

/** The elements of a tensor, where they lie if that can be seen. The heap must not grow while they are in use. */
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
  // All of them before any is looked at: the heap may grow, and the elements seen in it be out of sight.
  const outputs = shapes.map((shape) => heap.makeOutput(shape, 'float32'))
  const tensors = outputs.map((output) => tf.engine().makeTensorFromTensorInfo(output, heap))
  fill(tensors.map((tensor) => heap.typedArrayFromHeap(tensor)))
  return tensors
}

/** That tensor times a factor. */
export function scaled(gradient: tf.Tensor, factor: number): tf.Tensor {
  return factor === 1 ? alias(gradient) : tf.mul(gradient, factor)
}

/** Another tensor on the same memory. */
export function alias(tensor: tf.Tensor): tf.Tensor {
  return tf.reshape(tensor, tensor.shape)
}
