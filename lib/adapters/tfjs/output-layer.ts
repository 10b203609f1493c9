/**
 * How an op over an output layer is made of a call: in one pass, or in a forward pass and a backward pass.
 */
import * as tf from '@tensorflow/tfjs-core'
import { HEAD_OPTIONS } from '../../call/head-runner.js'
import { flag } from '../../check/options.js'
import type { GpuBuffer, HeadGradientRequest, HeadGradients, HeadWeight, Hidden } from '../../types/index.js'
import { weightSizes } from '../layer.js'
import type { ProductsOption } from '../options.js'
import {
  alias,
  checkRows,
  checkTensor,
  type Differentiable,
  differentiable,
  fillTensors,
  rowsShape,
  scaled,
  valuesOf,
} from './tensor-access.js'

/** The output layer, as all its ops take it. */
export interface OutputLayerOptions extends ProductsOption {
  /** `[vocab]`. Defaults to none. */
  bias?: tf.Tensor | undefined
  /** The weight is `[width, vocab]`, as the kernel of `tf.layers.dense` is. Defaults to false. */
  transposed?: boolean | undefined
  /** Weight and bias get no gradient, which saves a third of the backward pass. Defaults to false. */
  frozen?: boolean | undefined
}

/** The names of the options that all its ops share. */
export const LAYER_OPTIONS = [...HEAD_OPTIONS, 'transposed', 'frozen', 'onResult'] as const

/** The same of those from hidden states to gradients in one call. */
export const ONE_PASS_OPTIONS = [...LAYER_OPTIONS, 'logitsBudget'] as const

/** The options of losses that the ops decide about themselves. */
export const OWNED = {
  gradient: 'is not taken: TensorFlow.js is given the gradients it asks for, none of weight and bias with frozen',
  accumulate: 'is not taken: TensorFlow.js adds gradients up itself',
  zeroInactive: 'is not taken: the memory that the gradients get is not zero, so that all of it has to be written',
  gradientDType: 'is not taken: gradients of TensorFlow.js have the type of their tensors, float32',
  gradientPrecision: 'is not taken: tensors of TensorFlow.js are float32, and so are their gradients',
}

/** The elements of a tensor where they lie. */
export type LayerData = Float32Array | GpuBuffer

/** The arrays of a layer; views of a heap until it grows. */
export interface Layer<Data extends LayerData = Float32Array> {
  data: Hidden
  weight: HeadWeight
  bias?: Data
}

/** The tensors of a head that have been checked. */
export interface Head {
  /** Those that get gradients. */
  inputs: tf.Tensor[]
  /** All of them. */
  tensors: tf.Tensor[]
  /** The layer, of whose tensors `dataOf` gives the elements. */
  layer<Data extends LayerData>(dataOf: (tensor: tf.Tensor, name: string) => Data): Layer<Data>
  /** Tensors with the gradients of the inputs, written by `write`. */
  fill(write: (request: HeadGradientRequest) => void): tf.Tensor[]
  /** The same head of other tensors on the same memory. */
  aliased(): Head
}

/** The names of a layer's tensors in errors. */
const ARGUMENTS = { hidden: 'hidden', weight: 'weight', bias: 'options.bias' }

/** Checks the tensors of a head. */
export function headOf(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  bias: tf.Tensor | undefined,
  transposed: boolean | undefined,
  frozen: boolean | undefined,
  names = ARGUMENTS,
): Head {
  checkRows(hidden, names.hidden, 'width')
  checkTensor(weight, names.weight, 'float32')
  const across = flag(transposed, 'options.transposed', false)
  if (bias !== undefined) checkTensor(bias, names.bias, 'float32')
  const width = hidden.shape.at(-1)!
  const { vocab, strides } = weightSizes(weight.shape, across, width)
  const fixed = flag(frozen, 'options.frozen', false)
  const tensors = [hidden, weight, ...(bias ? [bias] : [])]
  const inputs = fixed ? [hidden] : tensors
  return {
    inputs,
    tensors,
    layer: (dataOf) => ({
      data: { data: dataOf(hidden, names.hidden), shape: rowsShape(hidden) },
      weight: { data: dataOf(weight, names.weight), shape: [vocab, width], strides },
      ...(bias && { bias: dataOf(bias, names.bias) }),
    }),
    fill: (write) =>
      fillTensors(
        inputs.map((input) => input.shape),
        hidden,
        ([forHidden, forWeight, forBias]) => {
          write({ hidden: forHidden!, ...(forWeight && { weight: forWeight }), ...(forBias && { bias: forBias }) })
        },
      ),
    aliased: () => headOf(alias(hidden), alias(weight), bias && alias(bias), across, fixed, names),
  }
}

/** An op whose value and gradients are computed together; `run` writes the gradients it is asked for. */
export function onePass(head: Head, run: (layer: Layer, gradient?: HeadGradientRequest) => number): tf.Scalar {
  return differentiable(head.inputs, (taped) => {
    if (!taped) return { value: tf.scalar(run(head.layer(valuesOf))) }
    let value = 0
    const saved = head.fill((gradient) => {
      value = run(head.layer(valuesOf), gradient)
    })
    const gradient = (dy: tf.Tensor) => {
      const factor = dy.dataSync()[0]!
      return saved.map((tensor) => scaled(tensor, factor))
    }
    return { value: tf.scalar(value), saved, gradient }
  })
}

/** The result of a forward pass over a layer that lies where it is. */
export interface LayerForward<T extends tf.Tensor> {
  value(): T
  /** Writes the gradients, given that of `value`. */
  backward(dy: Float32Array, request: HeadGradientRequest): void
}

/** An op whose gradients are computed in the backward pass. */
export function twoPasses<T extends tf.Tensor>(head: Head, forward: (layer: Layer) => LayerForward<T>): T {
  return differentiable(head.inputs, (): Differentiable<T> => {
    const layer = head.layer(valuesOf)
    let result = forward(layer)
    // Before anything is allocated: the heap may then grow, and the elements seen in it be out of sight.
    const saved = head.aliased()
    return {
      value: result.value(),
      saved: saved.tensors,
      gradient: (dy) => {
        const upstream = dy.dataSync() as Float32Array
        return saved.fill((request) => {
          if ((layer.data.data as Float32Array).length === 0) result = forward(saved.layer(valuesOf))
          result.backward(upstream, request)
        })
      },
    }
  })
}

/** A result without its gradients, which TensorFlow.js has. */
export function withoutGradients<Result extends HeadGradients>(result: Result): Result {
  delete result.gradHidden
  delete result.gradWeight
  delete result.gradBias
  return result
}
