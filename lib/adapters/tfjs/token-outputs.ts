/**
 * Log-probs of single tokens, and what else is known of each, as ops with gradients: losses such as GRPO's are then
 * written in operations of TensorFlow.js, which differentiates them.
 */
import * as tf from '@tensorflow/tfjs-core'
import { linearSequenceLogProbsSync, sequenceLogProbsSync } from '../../index.js'
import type { TokenOutput } from '../../options/index.js'
import { tokenOptions } from '../../options/token-options.js'
import type { Labels, ResultGradients, SequenceLogProbs, TokenOutputs } from '../../types/index.js'
import { callback, optionsReader } from '../options.js'
import {
  type DifferentiableOutput,
  differentiableOutputs,
  outputShape,
  TOKEN_OUTPUT_OPTIONS,
  type TokenOutputOptions,
} from '../token-outputs.js'
import { headOf, LAYER_OPTIONS, type OutputLayerOptions, twoPasses as twoPassesOfLayer } from './output-layer.js'
import { isInPlace, twoPasses } from './passes.js'
import { checkRows, idsOf } from './tensor-access.js'
import { type TokenTensors, withArrays } from './tensor-options.js'

interface SingleTokens
  extends Omit<TokenOutputOptions, 'mask' | 'sequenceOffsets' | 'outputs'>,
    Pick<TokenTensors, 'mask' | 'sequenceOffsets'> {}

/** Options of {@link tokenLogProbs}. */
export interface TokenLogProbsOptions extends SingleTokens {
  /** 'in-place': as in `FusedPreferenceLossOptions`; the logits are overwritten during the backward pass. */
  gradient?: 'in-place' | undefined
  /** Per-token results that `onResult` is given besides. Defaults to none. */
  outputs?: readonly TokenOutput[] | undefined
  /** Is given the sums, the token counts and the per-token outputs, at each call. */
  onResult?: ((result: Omit<SequenceLogProbs, 'backward' | 'backwardSync'>) => void) | undefined
}

/** Options of {@link tokenOutputs}. */
export interface TokenOutputsOptions<Name extends DifferentiableOutput = DifferentiableOutput>
  extends Omit<TokenLogProbsOptions, 'outputs'> {
  /** The per-token results to return. */
  outputs: readonly Name[]
}

/** Options of {@link linearTokenLogProbs}. */
export interface LinearTokenLogProbsOptions extends SingleTokens, OutputLayerOptions {
  /** As in {@link TokenLogProbsOptions}. Defaults to none. */
  outputs?: readonly TokenOutput[] | undefined
  /** As in {@link TokenLogProbsOptions}. */
  onResult?: ((result: Omit<SequenceLogProbs, 'backward' | 'backwardSync'>) => void) | undefined
}

/** Options of {@link linearTokenOutputs}. */
export interface LinearTokenOutputsOptions<Name extends DifferentiableOutput = DifferentiableOutput>
  extends Omit<LinearTokenLogProbsOptions, 'outputs'> {
  /** The per-token results to return. */
  outputs: readonly Name[]
}

const logitsOptions = optionsReader([...TOKEN_OUTPUT_OPTIONS, 'gradient', 'onResult'])
const layerOptions = optionsReader([...TOKEN_OUTPUT_OPTIONS, ...LAYER_OPTIONS])

/**
 * The log-prob of each label as a tensor, `[batch, time - 1]` (`[batch, time]` without `shift`, `[tokens]` with
 * `sequenceOffsets`), to build losses from; 0 where inactive. The gradient is computed in the backward pass, in one sweep.
 *
 * @param logits as in `fusedPreferenceLoss`.
 * @param labels as in `fusedPreferenceLoss`.
 * @param options those of `sequenceLogProbs` that are about single tokens, and `onResult`.
 * @throws as `sequenceLogProbs` does.
 */
export function tokenLogProbs(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: TokenLogProbsOptions,
): tf.Tensor {
  checkRows(logits, 'logits', 'vocab')
  return tf.squeeze(ofLogits(logits, labels, logitsOptions(options), ['tokenLogProbs']), [0])
}

/**
 * Several results of each token as tensors of the shape of {@link tokenLogProbs}, by their names; each has a gradient, and
 * all gradients together take one sweep.
 *
 * @param logits as in `fusedPreferenceLoss`.
 * @param labels as in `fusedPreferenceLoss`.
 * @param options those of {@link tokenLogProbs}; `outputs` is required.
 * @throws as `sequenceLogProbs` does.
 */
export function tokenOutputs<Name extends DifferentiableOutput>(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options: TokenOutputsOptions<Name>,
): Record<Name, tf.Tensor> {
  checkRows(logits, 'logits', 'vocab')
  const given = logitsOptions(options)
  const names = differentiableOutputs(given.outputs)
  return byName(ofLogits(logits, labels, given, names), names)
}

/**
 * {@link tokenLogProbs} from what goes into the model's output layer: the logits are never stored.
 *
 * @param hidden as in `fusedLinearPreferenceLoss`.
 * @param weight as in `fusedLinearPreferenceLoss`.
 * @param labels as in `fusedLinearPreferenceLoss`.
 * @param options those of {@link tokenLogProbs}, and of the layer.
 * @throws as `linearSequenceLogProbs` does.
 */
export function linearTokenLogProbs(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: LinearTokenLogProbsOptions,
): tf.Tensor {
  return tf.squeeze(ofLayer(hidden, weight, labels, layerOptions(options), ['tokenLogProbs']), [0])
}

/**
 * {@link tokenOutputs} from what goes into the model's output layer: the logits are never stored.
 *
 * @param hidden as in `fusedLinearPreferenceLoss`.
 * @param weight as in `fusedLinearPreferenceLoss`.
 * @param labels as in `fusedLinearPreferenceLoss`.
 * @param options those of {@link tokenOutputs}, and of the layer.
 * @throws as `linearSequenceLogProbs` does.
 */
export function linearTokenOutputs<Name extends DifferentiableOutput>(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  options: LinearTokenOutputsOptions<Name>,
): Record<Name, tf.Tensor> {
  const given = layerOptions(options)
  const names = differentiableOutputs(given.outputs)
  return byName(ofLayer(hidden, weight, labels, given, names), names)
}

/** The results of these names, one behind the other in a new first dimension: an op has one value. */
function ofLogits(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  { gradient, onResult, outputs, ...given }: TokenLogProbsOptions,
  names: readonly DifferentiableOutput[],
): tf.Tensor {
  const inPlace = isInPlace(gradient)
  const told = callback(onResult, 'options.onResult')
  const ids = idsOf(labels, logits, 'the logits')
  const tokens = {
    ...withArrays(given, logits, 'the logits'),
    outputs: [...tokenOptions.outputs.read(outputs), ...names],
  }
  return twoPasses(logits, inPlace, (values) => {
    const { backward: _, backwardSync, ...result } = sequenceLogProbsSync(values, ids, tokens)
    return {
      value: () => {
        told?.(result)
        return stacked(result, names, values.shape)
      },
      backward: (dy, gradient) => backwardSync(derivativesOf(dy as Float32Array, names), { gradient }),
    }
  })
}

/** The same from an output layer. */
function ofLayer(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  { bias, transposed, frozen, onResult, outputs, ...given }: LinearTokenLogProbsOptions,
  names: readonly DifferentiableOutput[],
): tf.Tensor {
  const told = callback(onResult, 'options.onResult')
  const head = headOf(hidden, weight, bias, transposed, frozen)
  const ids = idsOf(labels, hidden, 'hidden')
  const tokens = { ...withArrays(given, hidden, 'hidden'), outputs: [...tokenOptions.outputs.read(outputs), ...names] }
  return twoPassesOfLayer(head, ({ data, weight: matrix, bias: values }) => {
    const {
      backward: _,
      backwardSync,
      ...result
    } = linearSequenceLogProbsSync(data, matrix, ids, { ...tokens, bias: values })
    return {
      value: () => {
        told?.(result)
        return stacked(result, names, data.shape)
      },
      backward: (dy, gradient) => backwardSync(derivativesOf(dy, names), { gradient }),
    }
  })
}

/** `[K, …]` the K results of these names. */
function stacked(result: TokenOutputs, names: readonly DifferentiableOutput[], rows: readonly number[]): tf.Tensor {
  const { length } = result[names[0]!]!
  const all = new Float32Array(names.length * length)
  for (const [k, name] of names.entries()) all.set(result[name]!, k * length)
  return tf.tensor(all, [names.length, ...outputShape(rows, length)])
}

/** The derivatives with respect to each result, given those with respect to all of them. */
function derivativesOf(dy: Float32Array, names: readonly DifferentiableOutput[]): ResultGradients {
  const length = dy.length / names.length
  return Object.fromEntries(names.map((name, k) => [name, dy.subarray(k * length, (k + 1) * length)]))
}

function byName<Name extends string>(all: tf.Tensor, names: readonly Name[]): Record<Name, tf.Tensor> {
  // The gradient of TensorFlow.js's unstack fails where there is one tensor.
  const each = names.length === 1 ? [tf.squeeze(all, [0])] : tf.unstack(all)
  return Object.fromEntries(names.map((name, k) => [name, each[k]])) as Record<Name, tf.Tensor>
}
