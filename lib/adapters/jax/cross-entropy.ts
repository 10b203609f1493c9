/**
 * `valueAndGrad` of the cross-entropy of a model: supervised fine-tuning, and pre-training.
 */
import type { Array as JaxArray, JsTree } from '@jax-js/jax'
import { SINGLE_TOKEN_OPTIONS } from '../../call/token-loss-call.js'
import { crossEntropy, linearCrossEntropy } from '../../index.js'
import type { CrossEntropyOptions, LinearCrossEntropyOptions } from '../../options/index.js'
import type { CrossEntropy, Labels } from '../../types/index.js'
import { type LayerGradient, type LogitsGradient, optionsReader, type ProductsOption } from '../options.js'
import { type JaxHead, LAYER_OPTIONS, OF_LAYER, OF_LOGITS, ofLayer, ofLogits } from './steps.js'

/** Options of the function that {@link crossEntropyValueAndGrad} returns. */
export type CrossEntropyGradOptions = Omit<CrossEntropyOptions, LogitsGradient>

/** Options of the function that {@link linearCrossEntropyValueAndGrad} returns. */
export interface LinearCrossEntropyGradOptions
  extends Omit<LinearCrossEntropyOptions, LayerGradient | 'bias' | 'products'>,
    ProductsOption {
  /** The weight is `[width, vocab]`, as it is multiplied with. Defaults to false. */
  transposed?: boolean | undefined
}

/** What a step of fine-tuning gives. */
export interface CrossEntropyValueAndGrad<Params> {
  /** Mean loss over the active tokens. */
  loss: number
  /** The losses of the tokens, their counts, and the per-token outputs asked for. */
  metrics: Omit<CrossEntropy, 'gradLogits' | 'rowScale'>
  /** d loss / d params, a tree like `params`. The caller's to use up or to dispose of. */
  gradParams: Params
}

const logitsOptions = optionsReader(SINGLE_TOKEN_OPTIONS, OF_LOGITS)
const layerOptions = optionsReader([...SINGLE_TOKEN_OPTIONS, ...LAYER_OPTIONS], OF_LAYER)

/**
 * `valueAndGrad` of the cross-entropy of a model. What is said of `fusedPreferenceLossValueAndGrad` holds here too.
 *
 * @param apply gives the logits, as in `fusedPreferenceLossValueAndGrad`.
 * @returns a function of the parameters, a batch, its labels (logits at t predict the label at t + 1, unless `shift` is
 *   false) and the options of `crossEntropy`.
 *
 * @example
 * const step = crossEntropyValueAndGrad(apply)
 * const { loss, gradParams } = await step(tree.ref(params), inputIds, labels)
 */
export function crossEntropyValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxArray,
): (
  params: Params,
  batch: Batch,
  labels: Labels,
  options?: CrossEntropyGradOptions,
) => Promise<CrossEntropyValueAndGrad<Params>> {
  return ofLogits(apply, logitsOptions<CrossEntropyGradOptions>, (logits, labels, options, gradient) =>
    crossEntropy(logits, labels, { ...options, gradient }),
  )
}

/**
 * {@link crossEntropyValueAndGrad} of a model whose output layer is left to this package: the logits are never stored.
 *
 * @param apply as in `fusedLinearPreferenceLossValueAndGrad`.
 * @returns a function of the parameters, a batch, its labels and the options of `linearCrossEntropy`.
 */
export function linearCrossEntropyValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxHead,
): (
  params: Params,
  batch: Batch,
  labels: Labels,
  options?: LinearCrossEntropyGradOptions,
) => Promise<CrossEntropyValueAndGrad<Params>> {
  return ofLayer(
    apply,
    layerOptions<LinearCrossEntropyGradOptions>,
    ({ hidden, weight, bias }, labels, options, gradient) =>
      linearCrossEntropy(hidden, weight, labels, { ...options, bias, gradient }),
  )
}
