/**
 * jax-js: the loss between the two halves of a vector-Jacobian product. The model's forward pass is traced by `vjp`, the
 * logits leave jax-js, loss and gradient are computed here, and the gradient goes back in as the cotangent.
 */
import type { Array as JaxArray, JsTree } from '@jax-js/jax'
import { PAIRED_OPTIONS } from '../../call/paired-call.js'
import { UNPAIRED_OPTIONS } from '../../call/unpaired-call.js'
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
import type { FusedPreferenceLoss, FusedUnpairedPreferenceLoss, Labels } from '../../types/index.js'
import { type LayerGradient, type LogitsGradient, optionsReader, type ProductsOption } from '../options.js'
import { type JaxHead, LAYER_OPTIONS, OF_LAYER, OF_LOGITS, ofLayer, ofLogits } from './steps.js'

export type { DifferentiableOutput } from '../token-outputs.js'
export {
  type CrossEntropyGradOptions,
  type CrossEntropyValueAndGrad,
  crossEntropyValueAndGrad,
  type LinearCrossEntropyGradOptions,
  linearCrossEntropyValueAndGrad,
} from './cross-entropy.js'
export type { JaxHead } from './steps.js'
export {
  type LinearTokenLossGradOptions,
  linearTokenLossValueAndGrad,
  type TokenLoss,
  type TokenLossGradOptions,
  type TokenLossValueAndGrad,
  tokenLossValueAndGrad,
} from './token-loss.js'

/** Options of the function that {@link fusedPreferenceLossValueAndGrad} returns. */
export type FusedGradOptions = Omit<FusedOptions, LogitsGradient>

/** What a step gives. */
export interface PreferenceValueAndGrad<Params> {
  /** Mean loss over the pairs. */
  loss: number
  /** Rewards, accuracy, margin, log-probs and all else that is known of the loss. */
  metrics: Omit<FusedPreferenceLoss, 'gradLogits' | 'rowScale'>
  /** d loss / d params, a tree like `params`. The caller's to use up or to dispose of. */
  gradParams: Params
}

/** Options of the function that {@link fusedUnpairedPreferenceLossValueAndGrad} returns. */
export type FusedUnpairedGradOptions = Omit<FusedUnpairedOptions, LogitsGradient>

/** What a step over sequences that stand alone gives. */
export interface UnpairedPreferenceValueAndGrad<Params> {
  /** Mean loss over the sequences. */
  loss: number
  /** Rewards, their means, κ, log-probs and all else that is known of the loss. */
  metrics: Omit<FusedUnpairedPreferenceLoss, 'gradLogits' | 'rowScale'>
  /** d loss / d params, a tree like `params`. The caller's to use up or to dispose of. */
  gradParams: Params
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
  return ofLogits(apply, gradOptions<FusedGradOptions>, (logits, labels, options, gradient) =>
    fusedPreferenceLoss(logits, labels, { ...options, gradient }),
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
  return ofLogits(apply, unpairedOptions<FusedUnpairedGradOptions>, (logits, labels, options, gradient) =>
    fusedUnpairedPreferenceLoss(logits, labels, { ...options, gradient }),
  )
}

/** Options of the function that {@link fusedLinearPreferenceLossValueAndGrad} returns. */
export interface FusedLinearGradOptions
  extends Omit<FusedLinearOptions, LayerGradient | 'bias' | 'products'>,
    ProductsOption {
  /** The weight is `[width, vocab]`, as it is multiplied with. Defaults to false. */
  transposed?: boolean | undefined
}

/** Options of the function that {@link fusedLinearUnpairedPreferenceLossValueAndGrad} returns. */
export interface FusedLinearUnpairedGradOptions
  extends Omit<FusedLinearUnpairedOptions, LayerGradient | 'bias' | 'products'>,
    ProductsOption {
  /** The weight is `[width, vocab]`, as it is multiplied with. Defaults to false. */
  transposed?: boolean | undefined
}

const linearOptions = optionsReader([...PAIRED_OPTIONS, ...LAYER_OPTIONS], OF_LAYER)
const linearUnpairedOptions = optionsReader([...UNPAIRED_OPTIONS, ...LAYER_OPTIONS], OF_LAYER)

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
  return ofLayer(apply, linearOptions<FusedLinearGradOptions>, (layer, labels, options, gradient) =>
    fusedLinearPreferenceLoss(layer.hidden, layer.weight, labels, { ...options, bias: layer.bias, gradient }),
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
  return ofLayer(apply, linearUnpairedOptions<FusedLinearUnpairedGradOptions>, (layer, labels, options, gradient) => {
    const given = { ...options, bias: layer.bias, gradient }
    return fusedLinearUnpairedPreferenceLoss(layer.hidden, layer.weight, labels, given)
  })
}
