/**
 * TensorFlow.js: the output layer and what follows it as one op with gradients for hidden states, weight and bias. The
 * logits are never stored.
 */
import * as tf from '@tensorflow/tfjs-core'
import { PAIRED_OPTIONS } from '../../call/paired-call.js'
import { RUN_OPTIONS } from '../../call/run.js'
import { UNPAIRED_OPTIONS } from '../../call/unpaired-call.js'
import { invalidType } from '../../errors.js'
import {
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLossSync,
  linearSequenceLogProbsSync,
} from '../../index.js'
import type { FusedLinearOptions, FusedLinearUnpairedOptions, LinearSequenceOptions } from '../../options/index.js'
import { TOKEN_OPTIONS } from '../../options/token-options.js'
import type {
  FusedLinearPreferenceLoss,
  FusedLinearUnpairedPreferenceLoss,
  Labels,
  LinearSequenceLogProbs,
} from '../../types/index.js'
import { callback, type LayerGradient, optionsReader } from '../options.js'
import {
  headOf,
  LAYER_OPTIONS,
  type LayerForward,
  ONE_PASS_OPTIONS,
  type OutputLayerOptions,
  OWNED,
  onePass,
  twoPasses,
  withoutGradients,
} from './output-layer.js'
import { idsOf } from './tensor-access.js'
import {
  type PairTensors,
  type TensorReference,
  type TokenTensors,
  type UnpairedTensors,
  withArrays,
} from './tensor-options.js'

type Replaced = 'bias' | 'products' | LayerGradient | 'reference' | keyof TokenTensors

/** Options of {@link fusedLinearPreferenceLoss}. */
export interface FusedLinearPreferenceLossOptions
  extends Omit<FusedLinearOptions, Replaced | keyof PairTensors>,
    TokenTensors,
    PairTensors,
    OutputLayerOptions {
  /** As in `fusedLinearPreferenceLoss`; log-probs may be tensors. Needed unless the loss is reference-free. */
  reference?: FusedLinearOptions['reference'] | TensorReference | undefined
  /** Is given the rewards, accuracy, margin and all else that is known of the loss, at each call. */
  onResult?: ((result: Omit<FusedLinearPreferenceLoss, 'gradHidden' | 'gradWeight' | 'gradBias'>) => void) | undefined
}

/** Options of {@link fusedLinearUnpairedPreferenceLoss}. */
export interface FusedLinearUnpairedPreferenceLossOptions
  extends Omit<FusedLinearUnpairedOptions, Replaced | keyof UnpairedTensors>,
    Omit<TokenTensors, 'pairs'>,
    UnpairedTensors,
    OutputLayerOptions {
  /** As in `fusedLinearUnpairedPreferenceLoss`; log-probs may be tensors. Needed unless `referenceFree`. */
  reference?: FusedLinearUnpairedOptions['reference'] | Extract<TensorReference, { logProbs: unknown }> | undefined
  /** Is given the rewards, their means, κ and all else that is known of the loss, at each call. */
  onResult?:
    | ((result: Omit<FusedLinearUnpairedPreferenceLoss, 'gradHidden' | 'gradWeight' | 'gradBias'>) => void)
    | undefined
}

/** Options of {@link linearSequenceLogProbs}. */
export interface LinearSequenceLogProbsOptions
  extends Omit<LinearSequenceOptions, 'bias' | 'products' | keyof TokenTensors>,
    TokenTensors,
    OutputLayerOptions {
  /** Is given the token counts and the per-token outputs, at each call. */
  onResult?: ((result: Omit<LinearSequenceLogProbs, 'backward' | 'backwardSync'>) => void) | undefined
}

const preferenceOptions = optionsReader([...PAIRED_OPTIONS, ...ONE_PASS_OPTIONS], OWNED)
const unpairedOptions = optionsReader([...UNPAIRED_OPTIONS, ...ONE_PASS_OPTIONS], OWNED)
const sequenceOptions = optionsReader([...TOKEN_OPTIONS, ...RUN_OPTIONS, ...LAYER_OPTIONS])

/**
 * The mean preference loss of a batch of sequences as a scalar tensor, from what goes into the model's output layer.
 * Inside a gradient function, loss and gradients are computed together, at once; outside of one, the loss alone.
 *
 * @param hidden float32, `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`. Of more dimensions, all
 *   before the last two count as batch.
 * @param weight float32, `[vocab, width]`, as an embedding that is tied to it; `transposed`: `[width, vocab]`.
 * @param labels token ids, or an int32 tensor of them in the shape of hidden without the last dimension.
 * @param options those of `fusedLinearPreferenceLoss`, and of the layer.
 * @throws what `fusedLinearPreferenceLoss` throws; `ERR_DISPOSED` for a disposed tensor; `ERR_BACKEND_UNAVAILABLE`
 *   where TensorFlow.js keeps tensors in memory that cannot be read synchronously.
 */
export function fusedLinearPreferenceLoss(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: FusedLinearPreferenceLossOptions,
): tf.Scalar {
  const { bias, transposed, frozen, onResult, ...given } = preferenceOptions(options)
  const told = callback(onResult, 'options.onResult')
  const head = headOf(hidden, weight, bias, transposed, frozen)
  const ids = idsOf(labels, hidden, 'hidden')
  const loss = withArrays(given, hidden, 'hidden')
  refuseTensors(loss.reference)
  return onePass(head, ({ data, weight: matrix, bias: values }, gradient) => {
    const result = fusedLinearPreferenceLossSync(data, matrix, ids, { ...loss, bias: values, gradient })
    told?.(withoutGradients(result))
    return result.loss
  })
}

/**
 * The same for sequences that stand alone: the mean of the losses of `fusedLinearUnpairedPreferenceLoss` as a scalar
 * tensor.
 *
 * @param hidden as in {@link fusedLinearPreferenceLoss}.
 * @param weight as in {@link fusedLinearPreferenceLoss}.
 * @param labels as in {@link fusedLinearPreferenceLoss}.
 * @param options those of `fusedLinearUnpairedPreferenceLoss`, and of the layer.
 * @throws what `fusedLinearUnpairedPreferenceLoss` throws, and as {@link fusedLinearPreferenceLoss} does.
 */
export function fusedLinearUnpairedPreferenceLoss(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  options: FusedLinearUnpairedPreferenceLossOptions,
): tf.Scalar {
  const { bias, transposed, frozen, onResult, ...given } = unpairedOptions(options)
  const told = callback(onResult, 'options.onResult')
  const head = headOf(hidden, weight, bias, transposed, frozen)
  const ids = idsOf(labels, hidden, 'hidden')
  const loss = withArrays(given, hidden, 'hidden')
  refuseTensors(loss.reference)
  return onePass(head, ({ data, weight: matrix, bias: values }, gradient) => {
    const result = fusedLinearUnpairedPreferenceLossSync(data, matrix, ids, { ...loss, bias: values, gradient })
    told?.(withoutGradients(result))
    return result.loss
  })
}

/**
 * Log-probs of whole sequences as a tensor `[batch]`, from what goes into the model's output layer, to build losses
 * from. The gradients are computed in the backward pass.
 *
 * @param hidden as in {@link fusedLinearPreferenceLoss}.
 * @param weight as in {@link fusedLinearPreferenceLoss}.
 * @param labels as in {@link fusedLinearPreferenceLoss}.
 * @param options those of `linearSequenceLogProbs`, and of the layer.
 * @throws as {@link fusedLinearPreferenceLoss} does.
 */
export function linearSequenceLogProbs(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: LinearSequenceLogProbsOptions,
): tf.Tensor1D {
  const { bias, transposed, frozen, onResult, ...given } = sequenceOptions(options)
  const told = callback(onResult, 'options.onResult')
  const head = headOf(hidden, weight, bias, transposed, frozen)
  const ids = idsOf(labels, hidden, 'hidden')
  const tokens = withArrays(given, hidden, 'hidden')
  return twoPasses(head, ({ data, weight: matrix, bias: values }): LayerForward<tf.Tensor1D> => {
    const {
      backward: _,
      backwardSync,
      ...result
    } = linearSequenceLogProbsSync(data, matrix, ids, { ...tokens, bias: values })
    return {
      value: () => {
        told?.(result)
        return tf.tensor1d(Float32Array.from(result.logProbs))
      },
      backward: (dy, gradient) => backwardSync(dy, { gradient }),
    }
  })
}

/** Refuses the layer of a reference as tensors: which of them is transposed could not be said. */
function refuseTensors(reference: object | undefined): void {
  for (const name of ['hidden', 'weight', 'bias'] as const) {
    const part = (reference as Partial<Record<typeof name, unknown>> | undefined)?.[name]
    if (!(part instanceof tf.Tensor)) continue
    const wanted = name === 'bias' ? 'an array' : '{ data, shape }'
    throw invalidType(`options.reference.${name}`, `${wanted}; a tensor has its data in .dataSync()`, part)
  }
}
