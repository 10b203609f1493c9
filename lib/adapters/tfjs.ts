/**
 * TensorFlow.js: the loss and the sequence log-probs as ops with gradients, for use inside `tf.variableGrads` and the
 * like. Logits are read, and gradients written, where the backend keeps them: nothing is copied on 'cpu' and 'wasm'.
 */
import * as tf from '@tensorflow/tfjs-core'
import { invalidType } from '../errors.js'
import { fusedPreferenceLossSync, sequenceLogProbsSync } from '../index.js'
import type { FusedOptions, FusedPreferenceLoss, Labels, Logits, SequenceLogProbs, SequenceOptions } from '../types.js'

/** Options of {@link preferenceLoss}. */
export interface PreferenceLossOptions extends Omit<FusedOptions, 'gradient'> {
  /**
   * 'in-place': the gradient takes the memory of the logits, so that nothing of their size is allocated. The logits
   * must not be used after the loss, nor by the gradient of the op they came from (that of a matMul does not use them).
   * Ignored by backends whose memory cannot be seen from JavaScript. Defaults to memory of its own.
   */
  gradient?: 'in-place'
  /** Is given the rewards, accuracy, margin and all else that is known of the loss, at each call. */
  onResult?: (result: Omit<FusedPreferenceLoss, 'gradLogits'>) => void
}

/** Options of {@link sequenceLogProbs}. */
export interface SequenceLogProbsOptions extends SequenceOptions {
  /** 'in-place': as in {@link PreferenceLossOptions}; the logits are overwritten during the backward pass. */
  gradient?: 'in-place'
  /** Is given the token counts and the per-token outputs, at each call. */
  onResult?: (result: Omit<SequenceLogProbs, 'backward'>) => void
}

/**
 * The mean preference loss of a batch of sequences as a scalar tensor. Inside a gradient function, loss and gradient
 * are computed together, at once; outside of one, the loss alone.
 *
 * @param logits float32, `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`.
 * @param labels token ids, or an int32 tensor of them, `[batch, time]` (`[tokens]`).
 * @param options those of `fusedPreferenceLoss`, and `onResult`.
 */
export function preferenceLoss(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options: PreferenceLossOptions = {},
): tf.Scalar {
  checkLogits(logits)
  const { gradient, onResult, ...loss } = options
  const ids = idsOf(labels)
  const run = (out: FusedOptions['gradient']): FusedPreferenceLoss => {
    const result = fusedPreferenceLossSync(logitsOf(logits), ids, { ...loss, gradient: out })
    delete result.gradLogits
    onResult?.(result)
    return result
  }
  return differentiable(logits, (taped) => {
    if (!taped) return { value: tf.scalar(run(false).loss) }
    let value = 0
    const saved = writeGradient(logits, gradient === 'in-place', (out) => {
      value = run(out).loss
    })
    return { value: tf.scalar(value), saved, gradient: (dy) => scaled(saved, dy.dataSync()[0]!) }
  })
}

/**
 * Log-probs of whole sequences as a tensor `[batch]`, to build losses from. The gradient is computed in the backward
 * pass.
 *
 * @param logits float32, `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`.
 * @param labels token ids, or an int32 tensor of them, `[batch, time]` (`[tokens]`).
 * @param options those of `sequenceLogProbs`, and `onResult`.
 */
export function sequenceLogProbs(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options: SequenceLogProbsOptions = {},
): tf.Tensor1D {
  checkLogits(logits)
  const { gradient, onResult, ...tokens } = options
  const ids = idsOf(labels)
  const run = (values: Logits) => sequenceLogProbsSync(values, ids, tokens)
  return differentiable(logits, () => {
    const values = logitsOf(logits)
    let result = run(values)
    onResult?.(result)
    const saved = alias(logits)
    return {
      value: tf.tensor1d(Float32Array.from(result.logProbs)),
      saved,
      gradient: (dy) => {
        const upstream = dy.dataSync()
        return writeGradient(saved, gradient === 'in-place', (out) => {
          // Elements seen in a heap are out of sight once it has grown, as it does when memory for `out` is taken.
          if ((values.data as Float32Array).length === 0) result = run(logitsOf(saved))
          result.backward(upstream, { out })
        })
      },
    }
  })
}

interface Differentiable<T extends tf.Tensor> {
  value: T
  /** What the gradient is made from, if it can be asked for. */
  saved?: tf.Tensor
  gradient?: (dy: tf.Tensor) => tf.Tensor
}

/**
 * `tf.customGrad`, except that `saved` is left to the tape as it is, to be disposed with it; the `save` function of
 * `tf.customGrad` would have the wasm backend copy it.
 */
function differentiable<T extends tf.Tensor>(logits: tf.Tensor, op: (taped: boolean) => Differentiable<T>): T {
  const engine = tf.engine()
  const taped = engine.isTapeOn()
  let saved: tf.Tensor | undefined
  const value = tf.customGrad(() => {
    const { value, saved: tensor, gradient } = op(taped)
    if (taped && tensor) saved = tf.keep(tensor)
    return { value, gradFunc: (dy: tf.Tensor) => gradient!(dy) }
  })(logits) as T
  if (saved) {
    const node = engine.state.activeTape.at(-1)!
    node.saved = [...(node.saved ?? []), saved]
  }
  return value
}

function checkLogits(logits: tf.Tensor): void {
  if (!(logits instanceof tf.Tensor) || logits.dtype !== 'float32') {
    throw invalidType('logits', 'a tensor of dtype float32', logits)
  }
}

function idsOf(labels: Labels | tf.Tensor): Labels {
  return labels instanceof tf.Tensor ? (labels.dataSync() as Int32Array) : labels
}

function logitsOf(tensor: tf.Tensor): Logits {
  return { data: valuesOf(tensor), shape: tensor.shape }
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
function heapOf(tensor: tf.Tensor): HeapBackend | undefined {
  const backend = tf.backend() as Partial<HeapBackend>
  const hasHeap = typeof backend.typedArrayFromHeap === 'function' && typeof backend.makeOutput === 'function'
  return hasHeap && backend.dataIdMap?.has(tensor.dataId) ? (backend as HeapBackend) : undefined
}

/** Whether `dataSync` gives the very array that holds this tensor. */
function isArray(tensor: tf.Tensor): boolean {
  return tf.getBackend() === 'cpu' && (tf.backend() as ArrayBackend).data.has(tensor.dataId)
}

/** The elements of a tensor, where they lie if that can be seen. The heap must not grow while they are in use. */
function valuesOf(tensor: tf.Tensor): Float32Array {
  return heapOf(tensor)?.typedArrayFromHeap(tensor) ?? (tensor.dataSync() as Float32Array)
}

/** A tensor of the shape of the logits, filled by `fill`, which is told to overwrite the logits if it may and should. */
function writeGradient(logits: tf.Tensor, inPlace: boolean, fill: (out: Float32Array | 'in-place') => void): tf.Tensor {
  const heap = heapOf(logits)
  if (inPlace && (heap !== undefined || isArray(logits))) {
    fill('in-place')
    return alias(logits)
  }
  if (heap === undefined) {
    const values = new Float32Array(logits.size)
    fill(values)
    return tf.tensor(values, logits.shape)
  }
  const tensor = tf.engine().makeTensorFromTensorInfo(heap.makeOutput(logits.shape, 'float32'), heap)
  fill(heap.typedArrayFromHeap(tensor))
  return tensor
}

function scaled(gradient: tf.Tensor, factor: number): tf.Tensor {
  return factor === 1 ? alias(gradient) : tf.mul(gradient, factor)
}

/** Another tensor on the same memory. */
function alias(tensor: tf.Tensor): tf.Tensor {
  return tf.reshape(tensor, tensor.shape)
}
