/**
 * Preference losses and the sequence log-probs as ops with gradients, from logits.
 */
import * as tf from '@tensorflow/tfjs-core'
import { PAIRED_OPTIONS } from '../../call/paired-call.js'
import { RUN_OPTIONS } from '../../call/run.js'
import { UNPAIRED_OPTIONS } from '../../call/unpaired-call.js'
import { fusedPreferenceLossSync, fusedUnpairedPreferenceLossSync, sequenceLogProbsSync } from '../../index.js'
import type { FusedOptions, FusedUnpairedOptions, SequenceOptions } from '../../options/index.js'
import { TOKEN_OPTIONS } from '../../options/token-options.js'
import type {
  FusedPreferenceLoss,
  FusedUnpairedPreferenceLoss,
  Labels,
  Logits,
  SequenceLogProbs,
} from '../../types/index.js'
import { callback, type LogitsGradient, optionsReader } from '../options.js'
import { type Forward, isInPlace, OWNED, onePass, referenceOf, twoPasses } from './passes.js'
import { checkRows, idsOf } from './tensor-access.js'
import {
  type PairTensors,
  type TensorReference,
  type TokenTensors,
  type UnpairedTensors,
  withArrays,
} from './tensor-options.js'

/** Options of {@link fusedPreferenceLoss}. */
export interface FusedPreferenceLossOptions
  extends Omit<FusedOptions, LogitsGradient | 'reference' | keyof TokenTensors | keyof PairTensors>,
    TokenTensors,
    PairTensors {
  /** As in `fusedPreferenceLoss`; log-probs and logits may be tensors. Needed unless the loss is reference-free. */
  reference?: FusedOptions['reference'] | TensorReference | { logits: tf.Tensor } | undefined
  /**
   * 'in-place': the gradient takes the memory of the logits, so that nothing of their size is allocated. The logits
   * must not be used after the loss, nor by the gradient of the op they came from (that of a matMul does not use them).
   * Ignored by backends whose memory cannot be seen from JavaScript. Defaults to memory of its own.
   */
  gradient?: 'in-place' | undefined
  /** Is given the rewards, accuracy, margin and all else that is known of the loss, at each call. */
  onResult?: ((result: Omit<FusedPreferenceLoss, 'gradLogits' | 'rowScale'>) => void) | undefined
}

/** Options of {@link fusedUnpairedPreferenceLoss}. */
export interface FusedUnpairedPreferenceLossOptions
  extends Omit<FusedUnpairedOptions, LogitsGradient | 'reference' | keyof TokenTensors | keyof UnpairedTensors>,
    Omit<TokenTensors, 'pairs'>,
    UnpairedTensors {
  /** As in `fusedUnpairedPreferenceLoss`; log-probs and logits may be tensors. Needed unless `referenceFree`. */
  reference?:
    | FusedUnpairedOptions['reference']
    | Extract<TensorReference, { logProbs: unknown }>
    | { logits: tf.Tensor }
    | undefined
  /** 'in-place': as in {@link FusedPreferenceLossOptions}. */
  gradient?: 'in-place' | undefined
  /** Is given the rewards, their means, κ and all else that is known of the loss, at each call. */
  onResult?: ((result: Omit<FusedUnpairedPreferenceLoss, 'gradLogits' | 'rowScale'>) => void) | undefined
}

/** Options of {@link sequenceLogProbs}. */
export interface SequenceLogProbsOptions extends Omit<SequenceOptions, keyof TokenTensors>, TokenTensors {
  /** 'in-place': as in {@link FusedPreferenceLossOptions}; the logits are overwritten during the backward pass. */
  gradient?: 'in-place' | undefined
  /** Is given the token counts and the per-token outputs, at each call. */
  onResult?: ((result: Omit<SequenceLogProbs, 'backward' | 'backwardSync'>) => void) | undefined
}

const preferenceOptions = optionsReader([...PAIRED_OPTIONS, 'gradient', 'onResult'], OWNED)
const unpairedOptions = optionsReader([...UNPAIRED_OPTIONS, 'gradient', 'onResult'], OWNED)
const sequenceOptions = optionsReader([...TOKEN_OPTIONS, ...RUN_OPTIONS, 'gradient', 'onResult'])

/**
 * The mean preference loss of a batch of sequences as a scalar tensor. Inside a gradient function, loss and gradient
 * are computed together, at once; outside of one, the loss alone.
 *
 * @param logits float32, `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`. Of more dimensions, all
 *   before the last two count as batch: `tf.stack([chosen, rejected])` has the layout that is wanted.
 * @param labels token ids, or an int32 tensor of them in the shape of the logits without the last dimension.
 * @param options those of `fusedPreferenceLoss` but `zeroInactive`, and `onResult`. Of what may be a tensor there, no
 *   gradient is computed.
 * @throws what `fusedPreferenceLoss` throws; `ERR_DISPOSED` for a disposed tensor; `ERR_BACKEND_UNAVAILABLE` where
 *   TensorFlow.js keeps the logits in memory that cannot be read synchronously.
 */
export function fusedPreferenceLoss(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: FusedPreferenceLossOptions,
): tf.Scalar {
  checkRows(logits, 'logits', 'vocab')
  const { gradient, onResult, ...given } = preferenceOptions(options)
  const inPlace = isInPlace(gradient)
  const told = callback(onResult, 'options.onResult')
  const ids = idsOf(labels, logits, 'the logits')
  const loss = withArrays(given, logits, 'the logits')
  return onePass(logits, inPlace, (values, out) => {
    const reference = referenceOf(loss.reference)
    const result = fusedPreferenceLossSync(values, ids, { ...loss, reference, gradient: out })
    delete result.gradLogits
    told?.(result)
    return result.loss
  })
}

/**
 * The same for sequences that stand alone: the mean of the losses of `fusedUnpairedPreferenceLoss` as a scalar tensor.
 *
 * @param logits as in {@link fusedPreferenceLoss}.
 * @param labels as in {@link fusedPreferenceLoss}.
 * @param options those of `fusedUnpairedPreferenceLoss` but `zeroInactive`, and `onResult`.
 * @throws what `fusedUnpairedPreferenceLoss` throws, and as {@link fusedPreferenceLoss} does.
 */
export function fusedUnpairedPreferenceLoss(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options: FusedUnpairedPreferenceLossOptions,
): tf.Scalar {
  checkRows(logits, 'logits', 'vocab')
  const { gradient, onResult, ...given } = unpairedOptions(options)
  const inPlace = isInPlace(gradient)
  const told = callback(onResult, 'options.onResult')
  const ids = idsOf(labels, logits, 'the logits')
  const loss = withArrays(given, logits, 'the logits')
  return onePass(logits, inPlace, (values, out) => {
    const reference = referenceOf(loss.reference) as FusedUnpairedOptions['reference']
    const result = fusedUnpairedPreferenceLossSync(values, ids, { ...loss, reference, gradient: out })
    delete result.gradLogits
    told?.(result)
    return result.loss
  })
}

/**
 * Log-probs of whole sequences as a tensor `[batch]`, to build losses from. The gradient is computed in the backward
 * pass.
 *
 * @param logits as in {@link fusedPreferenceLoss}.
 * @param labels as in {@link fusedPreferenceLoss}.
 * @param options those of `sequenceLogProbs`, and `onResult`.
 * @throws as {@link fusedPreferenceLoss} does.
 */
export function sequenceLogProbs(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: SequenceLogProbsOptions,
): tf.Tensor1D {
  checkRows(logits, 'logits', 'vocab')
  const { gradient, onResult, ...given } = sequenceOptions(options)
  const inPlace = isInPlace(gradient)
  const told = callback(onResult, 'options.onResult')
  const ids = idsOf(labels, logits, 'the logits')
  const tokens = withArrays(given, logits, 'the logits')
  const forward = (values: Logits): Forward<tf.Tensor1D> => {
    const { backward: _, backwardSync, ...result } = sequenceLogProbsSync(values, ids, tokens)
    return {
      value: () => {
        told?.(result)
        return tf.tensor1d(Float32Array.from(result.logProbs))
      },
      backward: (dy, gradient) => backwardSync(dy, { gradient }),
    }
  }
  return twoPasses(logits, inPlace, forward)
}
