/**
 * A step of a trainer: the model's forward pass is traced, the loss is computed here, and its gradient goes back in as the
 * cotangent.
 */
import { type Array as JaxArray, type JsTree, tree } from '@jax-js/jax'
import { flag } from '../../check/options.js'
import { invalidValue } from '../../errors.js'
import type { HeadGradients, HeadWeight, Hidden, Labels, Logits, RunOptions, TensorData } from '../../types/index.js'
import { weightSizes } from '../layer.js'
import { type Lent, lend, runOptionsOf, staysOnGpu } from './memory.js'
import { checkArray, checkDimensions, checkFunction, checkLogits, trace } from './trace.js'

/** The options of losses of logits that a step decides about itself. */
export const OF_LOGITS = {
  gradient: 'is not taken: it goes back into jax-js, and gradParams of the result is made of it',
  zeroInactive: 'is not taken: the gradient is written over the logits, so that all of it has to be written',
  gradientDType: 'is not taken: the gradient is written over the logits, and so has their type',
  deferredScale: 'is not taken: what jax-js is given has to be the gradient itself',
}
/** The options of a step from hidden states to gradients, besides those of its loss. */
export const LAYER_OPTIONS = ['products', 'logitsBudget', 'transposed'] as const

/** Those of losses of an output layer. */
export const OF_LAYER = {
  bias: 'is not taken: it comes from apply, beside hidden and weight',
  gradient: 'is not taken: all gradients go back into jax-js, and gradParams of the result is made of them',
  accumulate: 'is not taken: jax-js adds gradients up itself',
  zeroInactive: "is not taken: all of hidden's gradient has to be written",
  gradientDType: 'is not taken: gradients of jax-js have the type of their arrays, float32',
  gradientPrecision: 'is not taken: arrays of jax-js are float32, and so are their gradients',
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

/** Where the gradient of logits goes: into their copy, or into a buffer. */
export type GradientPlace = 'in-place' | TensorData

/** A step with a loss of logits, whose gradient it leaves where it is told to. */
export function ofLogits<
  Params extends JsTree<JaxArray>,
  Batch,
  Given extends object,
  Options extends Pick<RunOptions, 'backend'>,
  Result extends { loss: number; gradLogits?: Logits },
>(
  apply: (params: Params, batch: Batch) => JaxArray,
  read: (given: Given | undefined) => Options,
  lossOf: (logits: Logits, labels: Labels, options: Options, gradient: GradientPlace) => Promise<Result>,
) {
  checkFunction(apply)
  return async (params: Params, batch: Batch, labels: Labels, given?: Given) => {
    const [options, logits, pullBack] = trace(apply, params, batch, () => read(given))
    let lent: Lent | undefined
    try {
      const { shape, device } = checkLogits(logits)
      const onGpu = staysOnGpu(device, options)
      lent = await lend(logits, onGpu)
      const { data, out } = lent
      const all = { ...options, ...runOptionsOf(onGpu) }
      const result = await lossOf({ data, shape }, labels, all, out === true ? 'in-place' : out)
      delete result.gradLogits
      const [gradParams] = pullBack(lent.gradient(data))
      return { loss: result.loss, metrics: result, gradParams }
    } finally {
      lent?.release()
      pullBack.dispose()
    }
  }
}

/** An output layer in arrays or buffers. */
export interface Layer {
  hidden: Hidden
  weight: HeadWeight
  bias?: TensorData
}

/** What to ask of a call for the gradients of a layer: new arrays, or the buffers to write. */
export type LayerGradients = true | { hidden: TensorData; weight: TensorData; bias?: TensorData }

/** A step with a loss of an output layer. */
export function ofLayer<
  Params extends JsTree<JaxArray>,
  Batch,
  Given extends object,
  Options extends { transposed?: boolean } & Pick<RunOptions, 'backend'>,
  Result extends { loss: number } & HeadGradients,
>(
  apply: (params: Params, batch: Batch) => JaxHead,
  readOptions: (given: Given | undefined) => Options,
  lossOf: (
    layer: Layer,
    labels: Labels,
    options: Omit<Options, 'transposed'>,
    gradient: LayerGradients,
  ) => Promise<Result>,
) {
  checkFunction(apply)
  return async (params: Params, batch: Batch, labels: Labels, given?: Given) => {
    const [{ across, options }, head, pullBack] = trace(apply, params, batch, () => {
      const { transposed, ...options } = readOptions(given)
      return { options, across: flag(transposed, 'options.transposed', false) }
    })
    const left = new Set(tree.leaves(head as never) as JaxArray[])
    const all: Lent[] = []
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
      const onGpu = staysOnGpu(device, options)
      const take = async (array: JaxArray) => {
        left.delete(array)
        const lent = await lend(array, onGpu)
        all.push(lent)
        return lent
      }
      const ofWeight = await take(weight)
      const ofHidden = await take(hidden)
      const ofBias = bias && (await take(bias))
      const layer: Layer = {
        hidden: { data: ofHidden.data, shape },
        weight: { data: ofWeight.data, shape: [vocab, width], strides },
        ...(ofBias && { bias: ofBias.data }),
      }
      const gradient: LayerGradients =
        ofHidden.out === true || ofWeight.out === true
          ? true
          : { hidden: ofHidden.out, weight: ofWeight.out, ...(ofBias && { bias: ofBias.out as TensorData }) }
      const result = await lossOf(layer, labels, { ...options, ...runOptionsOf(onGpu) }, gradient)
      const { gradHidden, gradWeight, gradBias, ...metrics } = result
      const cotangent = {
        hidden: ofHidden.gradient(gradHidden!.data),
        weight: ofWeight.gradient(gradWeight!.data),
        ...(ofBias && { bias: ofBias.gradient(gradBias!) }),
      }
      const [gradParams] = pullBack(cotangent as never)
      return { loss: metrics.loss, metrics, gradParams }
    } finally {
      for (const array of left) array.dispose?.()
      for (const lent of all) lent.release()
      pullBack.dispose()
    }
  }
}
