/**
 * A step of a trainer: the model's forward pass is traced, the loss is computed here, and its gradient goes back in as the
 * cotangent.
 */
import { type Array as JaxArray, type JsTree, numpy, tree } from '@jax-js/jax'
import { flag } from '../../check/options.js'
import { invalidValue } from '../../errors.js'
import type { HeadGradients, HeadWeight, Hidden, Labels, Logits } from '../../types/index.js'
import { weightSizes } from '../layer.js'
import { checkArray, checkDimensions, checkFunction, checkLogits, trace } from './trace.js'

/** The options of losses of logits that a step decides about itself. */
export const OF_LOGITS = {
  gradient: 'is not taken: it goes back into jax-js, and gradParams of the result is made of it',
  zeroInactive: 'is not taken: the gradient is written over the logits, so that all of it has to be written',
  gradientDType: 'is not taken: the gradient is written over the logits, and so has their type',
  deferredScale: 'is not taken: what jax-js is given has to be the gradient itself',
}
/** Those of losses of an output layer. */
export const OF_LAYER = {
  bias: 'is not taken: it comes from apply, beside hidden and weight',
  gradient: 'is not taken: all gradients go back into jax-js, and gradParams of the result is made of them',
  accumulate: 'is not taken: jax-js adds gradients up itself',
  zeroInactive: "is not taken: all of hidden's gradient has to be written",
  gradientDType: 'is not taken: gradients of jax-js have the type of their arrays, float32',
}

/** What goes into the output layer, and the layer: logits = hidden · weightᵀ + bias. */
export interface JaxHead {
  /** float32, `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`. */
  hidden: JaxArray
  /** float32, `[vocab, width]`, or `[width, vocab]` with `transposed`. */
  weight: JaxArray
  /** float32, `[vocab]`. Defaults to none. */
  bias?: JaxArray | undefined
}

/** A step with a loss of logits, whose gradient it leaves where they are. */
export function ofLogits<
  Params extends JsTree<JaxArray>,
  Batch,
  Given extends object,
  Options extends object,
  Result extends { loss: number; gradLogits?: Logits },
>(
  apply: (params: Params, batch: Batch) => JaxArray,
  read: (given: Given | undefined) => Options,
  lossOf: (logits: Logits, labels: Labels, options: Options) => Promise<Result>,
) {
  checkFunction(apply)
  return async (params: Params, batch: Batch, labels: Labels, given?: Given) => {
    const [options, logits, pullBack] = trace(apply, params, batch, () => read(given))
    try {
      const { shape, device } = checkLogits(logits)
      // A copy, as jax-js keeps its memory to itself. It becomes the gradient; the logits are free from here on.
      const data = (await logits.data()) as Float32Array<ArrayBuffer>
      const result = await lossOf({ data, shape }, labels, options)
      delete result.gradLogits
      const [gradParams] = pullBack(numpy.array(data, { shape, device }))
      return { loss: result.loss, metrics: result, gradParams }
    } finally {
      pullBack.dispose()
    }
  }
}

/** An output layer in arrays. */
export interface Layer {
  hidden: Hidden
  weight: HeadWeight
  bias?: Float32Array
}

/** A step with a loss of an output layer. */
export function ofLayer<
  Params extends JsTree<JaxArray>,
  Batch,
  Given extends object,
  Options extends { transposed?: boolean },
  Result extends { loss: number } & HeadGradients,
>(
  apply: (params: Params, batch: Batch) => JaxHead,
  readOptions: (given: Given | undefined) => Options,
  lossOf: (layer: Layer, labels: Labels, options: Omit<Options, 'transposed'>) => Promise<Result>,
) {
  checkFunction(apply)
  return async (params: Params, batch: Batch, labels: Labels, given?: Given) => {
    const [{ across, options }, head, pullBack] = trace(apply, params, batch, () => {
      const { transposed, ...options } = readOptions(given)
      return { options, across: flag(transposed, 'options.transposed', false) }
    })
    const left = new Set(tree.leaves(head as never) as JaxArray[])
    try {
      const { hidden, weight, bias, ...others } = head
      const { shape, device } = checkArray(hidden, 'hidden')
      checkDimensions(shape, 'hidden', 'width')
      const { shape: sizes } = checkArray(weight, 'weight')
      if (bias) checkArray(bias, 'bias')
      const [extra] = Object.keys(others)
      if (extra !== undefined) {
        throw invalidValue(`${extra} of apply(params, batch)`, 'is no part of a layer { hidden, weight, bias? }')
      }
      const width = shape.at(-1)!
      const { vocab, strides } = weightSizes(sizes, across, width)
      const read = (array: JaxArray) => {
        left.delete(array)
        return array.data() as Promise<Float32Array<ArrayBuffer>>
      }
      const matrix = { data: await read(weight), shape: [vocab, width], strides }
      const layer: Layer = { hidden: { data: await read(hidden), shape }, weight: matrix }
      if (bias) layer.bias = await read(bias)
      const result = await lossOf(layer, labels, options)
      const { gradHidden, gradWeight, gradBias, ...metrics } = result
      const cotangent = {
        hidden: numpy.array(gradHidden!.data as Float32Array<ArrayBuffer>, { shape, device }),
        weight: numpy.array(gradWeight!.data as Float32Array<ArrayBuffer>, { shape: sizes, device }),
        ...(gradBias && { bias: numpy.array(gradBias as Float32Array<ArrayBuffer>, { device }) }),
      }
      const [gradParams] = pullBack(cotangent as never)
      return { loss: metrics.loss, metrics, gradParams }
    } finally {
      for (const array of left) array.dispose?.()
      pullBack.dispose()
    }
  }
}
