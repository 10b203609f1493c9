/**
 * How an op over logits is made of a call: in one pass, or in a forward pass and a backward pass.
 */
import * as tf from '@tensorflow/tfjs-core'
import { oneOf } from '../../check/options.js'
import type { FusedOptions, FusedUnpairedOptions } from '../../options/index.js'
import type { Logits } from '../../types/index.js'
import {
  alias,
  checkRows,
  type Differentiable,
  differentiable,
  fillTensors,
  heapOf,
  isArray,
  rowsShape,
  scaled,
  valuesOf,
} from './tensor-access.js'

/** The options of losses that the ops decide about themselves. */
export const OWNED = {
  zeroInactive: 'is not taken: the memory that the gradient gets is not zero, so that all of it has to be written',
  gradientDType: 'is not taken: gradients of TensorFlow.js have the type of their tensors, float32',
  deferredScale: 'is not taken: what TensorFlow.js is given has to be the gradient itself',
}

export function isInPlace(gradient: unknown): boolean {
  return gradient !== undefined && oneOf(gradient, 'options.gradient', ['in-place'], 'in-place') === 'in-place'
}

/** An op whose value and gradient are computed together; `run` writes the gradient where it is told to. */
export function onePass(
  logits: tf.Tensor,
  inPlace: boolean,
  run: (values: Logits<Float32Array>, out: Float32Array | 'in-place' | false) => number,
): tf.Scalar {
  return differentiable([logits], (taped) => {
    if (!taped) return { value: tf.scalar(run(logitsOf(logits), false)) }
    let value = 0
    const saved = writeGradient(logits, inPlace, (out) => {
      value = run(logitsOf(logits), out)
    })
    return { value: tf.scalar(value), saved: [saved], gradient: (dy) => [scaled(saved, dy.dataSync()[0]!)] }
  })
}

/** The result of a forward pass over values that lie where they are. */
export interface Forward<T extends tf.Tensor> {
  value(): T
  /** Writes the gradient, given that of `value`. */
  backward(dy: ArrayLike<number>, out: Float32Array | 'in-place'): void
}

/** An op whose gradient is computed in the backward pass. */
export function twoPasses<T extends tf.Tensor>(
  logits: tf.Tensor,
  inPlace: boolean,
  forward: (values: Logits<Float32Array>) => Forward<T>,
): T {
  return differentiable([logits], (): Differentiable<T> => {
    const values = logitsOf(logits)
    let result = forward(values)
    // Before anything is allocated: the heap may then grow, and the elements seen in it be out of sight.
    const saved = alias(logits)
    return {
      value: result.value(),
      saved: [saved],
      gradient: (dy) => {
        const upstream = dy.dataSync()
        const gradient = writeGradient(saved, inPlace, (out) => {
          if (values.data.length === 0) result = forward(logitsOf(saved))
          result.backward(upstream, out)
        })
        return [gradient]
      },
    }
  })
}

/** The logits, all dimensions before the last two as one. */
function logitsOf(tensor: tf.Tensor, name = 'logits'): Logits<Float32Array> {
  return { data: valuesOf(tensor, name), shape: rowsShape(tensor) }
}

/** A reference whose logits are seen where they lie, until the heap grows. */
export function referenceOf(
  reference: FusedOptions['reference'] | FusedUnpairedOptions['reference'] | { logits: tf.Tensor },
): FusedOptions['reference'] {
  if (!reference || !('logits' in reference) || !(reference.logits instanceof tf.Tensor)) {
    return reference as FusedOptions['reference']
  }
  const name = 'options.reference.logits'
  checkRows(reference.logits, name, 'vocab')
  return { ...reference, logits: logitsOf(reference.logits, name) }
}

/** A tensor of the shape of the logits, filled by `fill`, which is told to overwrite the logits if it may and should. */
function writeGradient(logits: tf.Tensor, inPlace: boolean, fill: (out: Float32Array | 'in-place') => void): tf.Tensor {
  if (inPlace && (heapOf(logits) !== undefined || isArray(logits))) {
    fill('in-place')
    return alias(logits)
  }
  return fillTensors([logits.shape], logits, ([out]) => fill(out!))[0]!
}
