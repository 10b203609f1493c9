/**
 * The cross-entropy of integer labels as ops with gradients, from logits and from what goes into the output layer.
 */
import type * as tf from '@tensorflow/tfjs-core'
import { RUN_OPTIONS } from '../../call/run.js'
import { SINGLE_TOKEN_OPTIONS } from '../../call/token-loss-call.js'
import { crossEntropySync, linearCrossEntropySync } from '../../index.js'
import type {
  CrossEntropyOptions as CoreOptions,
  LinearCrossEntropyOptions as LinearCoreOptions,
} from '../../options/index.js'
import type { CrossEntropy, Labels, LinearCrossEntropy, RunOptions } from '../../types/index.js'
import { callback, type LayerGradient, type LogitsGradient, optionsReader } from '../options.js'
import {
  headOf,
  OWNED as OF_LAYER,
  ONE_PASS_OPTIONS,
  type OutputLayerOptions,
  onePass as onePassOfLayer,
  withoutGradients,
} from './output-layer.js'
import { isInPlace, OWNED, onePass } from './passes.js'
import { checkRows, idsOf } from './tensor-access.js'
import { type ClassTensors, type TokenTensors, withArrays } from './tensor-options.js'

type Replaced = keyof TokenTensors | keyof ClassTensors

/** Options of {@link crossEntropy}. */
export interface CrossEntropyOptions
  extends Omit<CoreOptions, LogitsGradient | Replaced>,
    Omit<TokenTensors, 'pairs'>,
    ClassTensors {
  /** 'in-place': as in `FusedPreferenceLossOptions`. */
  gradient?: 'in-place' | undefined
  /** Is given the losses and the per-token outputs, at each call. */
  onResult?: ((result: Omit<CrossEntropy, 'gradLogits' | 'rowScale'>) => void) | undefined
}

/** Options of {@link linearCrossEntropy}. */
export interface LinearCrossEntropyOptions
  extends Omit<LinearCoreOptions, LayerGradient | Replaced | 'bias' | 'products'>,
    Omit<TokenTensors, 'pairs'>,
    ClassTensors,
    OutputLayerOptions {
  /** Is given the losses and the per-token outputs, at each call. */
  onResult?: ((result: Omit<LinearCrossEntropy, 'gradHidden' | 'gradWeight' | 'gradBias'>) => void) | undefined
}

/** Options of {@link sparseSoftmaxCrossEntropy}. */
export interface SparseSoftmaxCrossEntropyOptions extends RunOptions {
  /** Positions with this label do not count. Defaults to -100. */
  ignoreIndex?: number | undefined
  /** Share ε of the target that is spread evenly over the vocabulary, in [0, 1]. Defaults to 0. */
  labelSmoothing?: number | undefined
  /** 'in-place': as in `FusedPreferenceLossOptions`. */
  gradient?: 'in-place' | undefined
}

const entropyOptions = optionsReader([...SINGLE_TOKEN_OPTIONS, 'gradient', 'onResult'], OWNED)
const linearOptions = optionsReader([...SINGLE_TOKEN_OPTIONS, ...ONE_PASS_OPTIONS], OF_LAYER)
const sparseOptions = optionsReader([...RUN_OPTIONS, 'ignoreIndex', 'labelSmoothing', 'gradient'])

/**
 * The mean cross-entropy of a batch of tokens as a scalar tensor: the loss of pre-training and of supervised fine-tuning.
 * Neither one-hot labels nor log-probs are made. Inside a gradient function, loss and gradient are computed together, at
 * once; outside of one, the loss alone.
 *
 * @param logits as in `fusedPreferenceLoss`.
 * @param labels as in `fusedPreferenceLoss`; logits at t predict the label at t + 1, unless `shift` is false.
 * @param options those of `crossEntropy` of the main module but `zeroInactive`, and `onResult`.
 * @throws what `crossEntropy` throws, and as `fusedPreferenceLoss` does.
 */
export function crossEntropy(logits: tf.Tensor, labels: Labels | tf.Tensor, options?: CrossEntropyOptions): tf.Scalar {
  checkRows(logits, 'logits', 'vocab')
  return ofLogits(logits, labels, entropyOptions(options))
}

/**
 * The mean cross-entropy of the label of each row under softmax(logits), as a scalar tensor, under the name that
 * TensorFlow gives it: {@link crossEntropy} without a shift, for logits of any rank.
 *
 * @param logits float32, `[..., vocab]`, of at least two dimensions.
 * @param labels token ids, or an int32 tensor of them in the shape of the logits without the last dimension.
 * @throws as {@link crossEntropy} does.
 */
export function sparseSoftmaxCrossEntropy(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: SparseSoftmaxCrossEntropyOptions,
): tf.Scalar {
  checkRows(logits, 'logits', 'vocab')
  return ofLogits(logits, labels, { ...sparseOptions(options), shift: false }, logits.rank === 2)
}

/** `isBatch`: logits of two dimensions are one sequence rather than packed ones. */
function ofLogits(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  { gradient, onResult, ...given }: CrossEntropyOptions,
  isBatch = false,
): tf.Scalar {
  const inPlace = isInPlace(gradient)
  const told = callback(onResult, 'options.onResult')
  const ids = idsOf(labels, logits, 'the logits')
  const loss = withArrays(given, logits, 'the logits')
  return onePass(logits, inPlace, ({ data, shape }, out) => {
    const values = { data, shape: isBatch ? [1, ...shape] : shape }
    const result = crossEntropySync(values, ids, { ...loss, gradient: out })
    delete result.gradLogits
    told?.(result)
    return result.loss
  })
}

/**
 * {@link crossEntropy} from what goes into the model's output layer: the logits are never stored.
 *
 * @param hidden as in `fusedLinearPreferenceLoss`.
 * @param weight as in `fusedLinearPreferenceLoss`.
 * @param labels as in {@link crossEntropy}.
 * @param options those of `linearCrossEntropy` of the main module, and of the layer.
 * @throws what `linearCrossEntropy` throws, and as `fusedLinearPreferenceLoss` does.
 */
export function linearCrossEntropy(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: LinearCrossEntropyOptions,
): tf.Scalar {
  const { bias, transposed, frozen, onResult, ...given } = linearOptions(options)
  const told = callback(onResult, 'options.onResult')
  const head = headOf(hidden, weight, bias, transposed, frozen)
  const ids = idsOf(labels, hidden, 'hidden')
  const loss = withArrays(given, hidden, 'hidden')
  return onePassOfLayer(head, ({ data, weight: matrix, bias: values }, gradient) => {
    const result = linearCrossEntropySync(data, matrix, ids, { ...loss, bias: values, gradient })
    told?.(withoutGradients(result))
    return result.loss
  })
}
