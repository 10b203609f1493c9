/**
 * jax-js: the loss between the two halves of a vector-Jacobian product. The model's forward pass is traced by `vjp`, the
 * logits leave jax-js, loss and gradient are computed here, and the gradient goes back in as the cotangent.
 */
import { type Array as JaxArray, type JsTree, numpy, tree } from '@jax-js/jax'
import { PAIRED_OPTIONS } from '../../call/paired-call.js'
import { UNPAIRED_OPTIONS } from '../../call/unpaired-call.js'
import { flag } from '../../check/options.js'
import { invalidValue } from '../../errors.js'
import {
  fusedLinearPreferenceLoss,
  fusedLinearUnpairedPreferenceLoss,
  fusedPreferenceLoss,
  fusedUnpairedPreferenceLoss,
} from '../../index.js'
import type {
  FusedLinearOptions,
  FusedLinearUnpairedOptions,
  FusedOptions,
  FusedUnpairedOptions,
} from '../../options/index.js'
import type {
  FusedPreferenceLoss,
  FusedUnpairedPreferenceLoss,
  HeadGradients,
  HeadWeight,
  Hidden,
  Labels,
  Logits,
} from '../../types/index.js'
import { weightSizes } from '../layer.js'
import { optionsReader } from '../options.js'
import { checkArray, checkDimensions, checkFunction, checkLogits, trace } from './trace.js'

/** Options of the function that {@link fusedPreferenceLossValueAndGrad} returns. */
export type FusedGradOptions = Omit<FusedOptions, 'gradient' | 'zeroInactive'>

/** What a step gives. */
export interface PreferenceValueAndGrad<Params> {
  /** Mean loss over the pairs. */
  loss: number
  /** Rewards, accuracy, margin, log-probs and all else that is known of the loss. */
  metrics: Omit<FusedPreferenceLoss, 'gradLogits'>
  /** d loss / d params, a tree like `params`. The caller's to use up or to dispose of. */
  gradParams: Params
}

/** Options of the function that {@link fusedUnpairedPreferenceLossValueAndGrad} returns. */
export type FusedUnpairedGradOptions = Omit<FusedUnpairedOptions, 'gradient' | 'zeroInactive'>

/** What a step over sequences that stand alone gives. */
export interface UnpairedPreferenceValueAndGrad<Params> {
  /** Mean loss over the sequences. */
  loss: number
  /** Rewards, their means, κ, log-probs and all else that is known of the loss. */
  metrics: Omit<FusedUnpairedPreferenceLoss, 'gradLogits'>
  /** d loss / d params, a tree like `params`. The caller's to use up or to dispose of. */
  gradParams: Params
}

const OF_LOGITS = {
  gradient: 'is not taken: it goes back into jax-js, and gradParams of the result is made of it',
  zeroInactive: 'is not taken: the gradient is written over the logits, so that all of it has to be written',
}
const gradOptions = optionsReader(PAIRED_OPTIONS, OF_LOGITS)
const unpairedOptions = optionsReader(UNPAIRED_OPTIONS, OF_LOGITS)

/**
 * `valueAndGrad` of the preference loss of a model. As with every function of jax-js, arrays that are passed belong to
 * the callee: pass `tree.ref(params)` to use them again, and have `apply` use up what it is given.
 *
 * @param apply gives the logits, float32 `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`. It is
 *   traced, so it must not look at values; `batch` is handed through to it, whatever it is.
 * @returns a function of the parameters, a batch, its labels (`[batch, time]`, or `[tokens]`) and the options of
 *   `fusedPreferenceLoss`. It rejects with what `fusedPreferenceLoss` throws, and `ERR_DISPOSED` for parameters
 *   disposed of before; the arrays passed are used up all the same.
 *
 * @example
 * const step = fusedPreferenceLossValueAndGrad(apply)
 * const { loss, metrics, gradParams } = await step(tree.ref(params), inputIds, labels, { reference })
 */
export function fusedPreferenceLossValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxArray,
): (
  params: Params,
  batch: Batch,
  labels: Labels,
  options?: FusedGradOptions,
) => Promise<PreferenceValueAndGrad<Params>> {
  return ofLogits(apply, gradOptions<FusedGradOptions>, (logits, labels, options) =>
    fusedPreferenceLoss(logits, labels, { ...options, gradient: 'in-place' }),
  )
}

/**
 * The same for sequences that stand alone: {@link fusedPreferenceLossValueAndGrad} with the options, and the loss, of
 * `fusedUnpairedPreferenceLoss`.
 *
 * @param apply as in {@link fusedPreferenceLossValueAndGrad}.
 * @returns a function of the parameters, a batch, its labels and the options, `desirable` among them.
 *
 * @example
 * const step = fusedUnpairedPreferenceLossValueAndGrad(apply)
 * const { loss, gradParams } = await step(tree.ref(params), inputIds, labels, { desirable, reference, kl })
 */
export function fusedUnpairedPreferenceLossValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxArray,
): (
  params: Params,
  batch: Batch,
  labels: Labels,
  options: FusedUnpairedGradOptions,
) => Promise<UnpairedPreferenceValueAndGrad<Params>> {
  return ofLogits(apply, unpairedOptions<FusedUnpairedGradOptions>, (logits, labels, options) =>
    fusedUnpairedPreferenceLoss(logits, labels, { ...options, gradient: 'in-place' }),
  )
}

/** A step with a loss of logits, whose gradient it leaves where they are. */
function ofLogits<
  Params extends JsTree<JaxArray>,
  Batch,
  Options extends object,
  Result extends { loss: number; gradLogits?: Logits },
>(
  apply: (params: Params, batch: Batch) => JaxArray,
  read: (options: Options | undefined) => Options,
  lossOf: (logits: Logits, labels: Labels, options: Options) => Promise<Result>,
) {
  checkFunction(apply)
  return async (params: Params, batch: Batch, labels: Labels, given?: Options) => {
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

/** What goes into the output layer, and the layer: logits = hidden · weightᵀ + bias. */
export interface JaxHead {
  /** float32, `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`. */
  hidden: JaxArray
  /** float32, `[vocab, width]`, or `[width, vocab]` with `transposed`. */
  weight: JaxArray
  /** float32, `[vocab]`. Defaults to none. */
  bias?: JaxArray | undefined
}

/** Options of the function that {@link fusedLinearPreferenceLossValueAndGrad} returns. */
export interface FusedLinearGradOptions
  extends Omit<FusedLinearOptions, 'gradient' | 'zeroInactive' | 'accumulate' | 'bias'> {
  /** The weight is `[width, vocab]`, as it is multiplied with. Defaults to false. */
  transposed?: boolean | undefined
}

/** Options of the function that {@link fusedLinearUnpairedPreferenceLossValueAndGrad} returns. */
export interface FusedLinearUnpairedGradOptions
  extends Omit<FusedLinearUnpairedOptions, 'gradient' | 'zeroInactive' | 'accumulate' | 'bias'> {
  /** The weight is `[width, vocab]`, as it is multiplied with. Defaults to false. */
  transposed?: boolean | undefined
}

const OF_LAYER = {
  bias: 'is not taken: it comes from apply, beside hidden and weight',
  gradient: 'is not taken: all gradients go back into jax-js, and gradParams of the result is made of them',
  accumulate: 'is not taken: jax-js adds gradients up itself',
  zeroInactive: "is not taken: all of hidden's gradient has to be written",
}
const linearOptions = optionsReader([...PAIRED_OPTIONS, 'transposed'], OF_LAYER)
const linearUnpairedOptions = optionsReader([...UNPAIRED_OPTIONS, 'transposed'], OF_LAYER)

/**
 * `valueAndGrad` of the preference loss of a model whose output layer is left to this package: the logits are never
 * stored, and neither are they copied out of jax-js. What is said of {@link fusedPreferenceLossValueAndGrad} holds here too.
 *
 * @param apply gives what goes into the output layer, and the layer's parameters, which may be tied to others.
 * @returns a function of the parameters, a batch, its labels and the options of `fusedLinearPreferenceLoss`.
 *
 * @example
 * const step = fusedLinearPreferenceLossValueAndGrad((params, ids) => ({ hidden: trunk(tree.ref(params), ids), weight: params.table }))
 */
export function fusedLinearPreferenceLossValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxHead,
): (
  params: Params,
  batch: Batch,
  labels: Labels,
  options?: FusedLinearGradOptions,
) => Promise<PreferenceValueAndGrad<Params>> {
  return ofLayer(apply, linearOptions<FusedLinearGradOptions>, (layer, labels, options) =>
    fusedLinearPreferenceLoss(layer.hidden, layer.weight, labels, { ...options, bias: layer.bias, gradient: true }),
  )
}

/**
 * The same for sequences that stand alone: {@link fusedLinearPreferenceLossValueAndGrad} with the options, and the loss, of
 * `fusedLinearUnpairedPreferenceLoss`.
 *
 * @param apply as in {@link fusedLinearPreferenceLossValueAndGrad}.
 * @returns a function of the parameters, a batch, its labels and the options, `desirable` among them.
 */
export function fusedLinearUnpairedPreferenceLossValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxHead,
): (
  params: Params,
  batch: Batch,
  labels: Labels,
  options: FusedLinearUnpairedGradOptions,
) => Promise<UnpairedPreferenceValueAndGrad<Params>> {
  return ofLayer(apply, linearUnpairedOptions<FusedLinearUnpairedGradOptions>, (layer, labels, options) => {
    const given = { ...options, bias: layer.bias, gradient: true }
    return fusedLinearUnpairedPreferenceLoss(layer.hidden, layer.weight, labels, given)
  })
}

/** An output layer in arrays. */
interface Layer {
  hidden: Hidden
  weight: HeadWeight
  bias?: Float32Array
}

/** A step with a loss of an output layer. */
function ofLayer<
  Params extends JsTree<JaxArray>,
  Batch,
  Options extends { transposed?: boolean },
  Result extends { loss: number } & HeadGradients,
>(
  apply: (params: Params, batch: Batch) => JaxHead,
  readOptions: (options: Options | undefined) => Options,
  lossOf: (layer: Layer, labels: Labels, options: Omit<Options, 'transposed'>) => Promise<Result>,
) {
  checkFunction(apply)
  return async (params: Params, batch: Batch, labels: Labels, given?: Options) => {
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
