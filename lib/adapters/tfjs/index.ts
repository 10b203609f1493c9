/**
 * TensorFlow.js: the loss and the sequence log-probs as ops with gradients, for use inside `tf.variableGrads` and the
 * like. Logits are read, and gradients written, where the backend keeps them: nothing is copied on 'cpu' and 'wasm'.
 */
import * as tf from '@tensorflow/tfjs-core'
import { PAIRED_OPTIONS } from '../../call/paired-call.js'
import { RUN_OPTIONS } from '../../call/run.js'
import { UNPAIRED_OPTIONS } from '../../call/unpaired-call.js'
import { between, oneOf } from '../../check/options.js'
import { fusedPreferenceLossSync, fusedUnpairedPreferenceLossSync, sequenceLogProbsSync } from '../../index.js'
import type { FusedOptions, FusedUnpairedOptions, SequenceOptions } from '../../options/index.js'
import { TOKEN_OPTIONS } from '../../options/token-options.js'
import type {
  FusedPreferenceLoss,
  FusedUnpairedPreferenceLoss,
  Labels,
  Logits,
  RunOptions,
  SequenceLogProbs,
} from '../../types/index.js'
import { callback, optionsReader } from '../options.js'
import {
  alias,
  checkRows,
  type Differentiable,
  differentiable,
  fillTensors,
  heapOf,
  idsOf,
  isArray,
  rowsShape,
  scaled,
  valuesOf,
} from './memory.js'
import { type TensorReference, type TokenTensors, type UnpairedTensors, withArrays } from './tensor-options.js'

export {
  type LinearPreferenceLossOptions,
  type LinearSequenceLogProbsOptions,
  type LinearUnpairedPreferenceLossOptions,
  linearPreferenceLoss,
  linearSequenceLogProbs,
  linearUnpairedPreferenceLoss,
  type OutputLayerOptions,
} from './linear.js'
export type { TensorReference, TokenTensors, UnpairedTensors } from './tensor-options.js'

/** Options of {@link preferenceLoss}. */
export interface PreferenceLossOptions
  extends Omit<FusedOptions, 'gradient' | 'zeroInactive' | 'reference' | keyof TokenTensors>,
    TokenTensors {
  /** As in `fusedPreferenceLoss`; log-probs and logits may be tensors. Needed unless the loss is reference-free. */
  reference?: FusedOptions['reference'] | TensorReference | { logits: tf.Tensor }
  /**
   * 'in-place': the gradient takes the memory of the logits, so that nothing of their size is allocated. The logits
   * must not be used after the loss, nor by the gradient of the op they came from (that of a matMul does not use them).
   * Ignored by backends whose memory cannot be seen from JavaScript. Defaults to memory of its own.
   */
  gradient?: 'in-place'
  /** Is given the rewards, accuracy, margin and all else that is known of the loss, at each call. */
  onResult?: (result: Omit<FusedPreferenceLoss, 'gradLogits'>) => void
}

/** Options of {@link unpairedPreferenceLoss}. */
export interface UnpairedPreferenceLossOptions
  extends Omit<
      FusedUnpairedOptions,
      'gradient' | 'zeroInactive' | 'reference' | keyof TokenTensors | keyof UnpairedTensors
    >,
    Omit<TokenTensors, 'pairs'>,
    UnpairedTensors {
  /** As in `fusedUnpairedPreferenceLoss`; log-probs and logits may be tensors. Needed unless `referenceFree`. */
  reference?:
    | FusedUnpairedOptions['reference']
    | Extract<TensorReference, { logProbs: unknown }>
    | { logits: tf.Tensor }
  /** 'in-place': as in {@link PreferenceLossOptions}. */
  gradient?: 'in-place'
  /** Is given the rewards, their means, κ and all else that is known of the loss, at each call. */
  onResult?: (result: Omit<FusedUnpairedPreferenceLoss, 'gradLogits'>) => void
}

/** Options of {@link sequenceLogProbs}. */
export interface SequenceLogProbsOptions extends Omit<SequenceOptions, keyof TokenTensors>, TokenTensors {
  /** 'in-place': as in {@link PreferenceLossOptions}; the logits are overwritten during the backward pass. */
  gradient?: 'in-place'
  /** Is given the token counts and the per-token outputs, at each call. */
  onResult?: (result: Omit<SequenceLogProbs, 'backward'>) => void
}

/** Options of {@link sparseSoftmaxCrossEntropy}. */
export interface CrossEntropyOptions extends RunOptions {
  /** Positions with this label do not count. Defaults to -100. */
  ignoreIndex?: number
  /** Share ε of the target that is spread evenly over the vocabulary, in [0, 1]. Defaults to 0. */
  labelSmoothing?: number
  /** 'in-place': as in {@link PreferenceLossOptions}; the logits are overwritten during the backward pass. */
  gradient?: 'in-place'
}

const OWNED = {
  zeroInactive: 'is not taken: the memory that the gradient gets is not zero, so that all of it has to be written',
}
const preferenceOptions = optionsReader([...PAIRED_OPTIONS, 'gradient', 'onResult'], OWNED)
const unpairedOptions = optionsReader([...UNPAIRED_OPTIONS, 'gradient', 'onResult'], OWNED)
const sequenceOptions = optionsReader([...TOKEN_OPTIONS, ...RUN_OPTIONS, 'gradient', 'onResult'])
const crossEntropyOptions = optionsReader([...RUN_OPTIONS, 'ignoreIndex', 'labelSmoothing', 'gradient'])

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
export function preferenceLoss(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: PreferenceLossOptions,
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
 * @param logits as in {@link preferenceLoss}.
 * @param labels as in {@link preferenceLoss}.
 * @param options those of `fusedUnpairedPreferenceLoss` but `zeroInactive`, and `onResult`.
 * @throws what `fusedUnpairedPreferenceLoss` throws, and as {@link preferenceLoss} does.
 */
export function unpairedPreferenceLoss(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options: UnpairedPreferenceLossOptions,
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
 * @param logits as in {@link preferenceLoss}.
 * @param labels as in {@link preferenceLoss}.
 * @param options those of `sequenceLogProbs`, and `onResult`.
 * @throws as {@link preferenceLoss} does.
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
    const { backward, ...result } = sequenceLogProbsSync(values, ids, tokens)
    return {
      value: () => {
        told?.(result)
        return tf.tensor1d(Float32Array.from(result.logProbs))
      },
      backward: (dy, out) => backward(dy, { out }),
    }
  }
  return twoPasses(logits, inPlace, forward)
}

/**
 * Mean cross-entropy of the labels under softmax(logits), as a scalar tensor: the mean over the rows that count, 0
 * when none does. Neither one-hot labels nor log-probs are made; the gradient is computed in the backward pass. Label
 * smoothing is that of `tf.losses.softmaxCrossEntropy` and of PyTorch: (1 - ε) CE + ε mean over the vocabulary of
 * -log p.
 *
 * @param logits float32, `[..., vocab]`, of at least two dimensions.
 * @param labels token ids, or an int32 tensor of them in the shape of the logits without the last dimension.
 * @throws as {@link preferenceLoss} does.
 */
export function sparseSoftmaxCrossEntropy(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: CrossEntropyOptions,
): tf.Scalar {
  checkRows(logits, 'logits', 'vocab')
  const { gradient, labelSmoothing, ignoreIndex = -100, ...run } = crossEntropyOptions(options)
  const inPlace = isInPlace(gradient)
  const smoothing = between(labelSmoothing, 'options.labelSmoothing', 0, 1, 0)
  const ids = idsOf(labels, logits, 'the logits')
  const tokens: SequenceOptions = { ...run, ignoreIndex, shift: false, outputs: smoothing > 0 ? ['logSumExp'] : [] }
  const forward = ({ data, shape }: Logits): Forward<tf.Scalar> => {
    const values = data as Float32Array
    const vocab = shape[shape.length - 1]!
    const [batch, time] = shape.length > 2 ? shape : [1, shape[0]!]
    const result = sequenceLogProbsSync({ data, shape: [batch!, time!, vocab] }, ids, tokens)
    const count = Math.max(1, sum(result.tokenCounts))
    const active = (row: number) => Number(ids[row]) !== ignoreIndex
    let loss = 0
    loss -= (1 - smoothing) * sum(result.logProbs)
    for (let row = 0; smoothing > 0 && row < ids.length; row++) {
      if (!active(row)) continue
      const logits = sum(values.subarray(row * vocab, (row + 1) * vocab))
      loss -= smoothing * (logits / vocab - result.logSumExp![row]!)
    }
    return {
      value: () => tf.scalar(loss / count),
      backward: (dy, out) => {
        const factor = dy[0]! / count
        // That of the unsmoothed loss, softmax - onehot: what smoothing moves is added in the rows that count.
        const target = result.backward(new Float64Array(batch!).fill(-factor), { out }).data as Float32Array
        for (let row = 0; smoothing > 0 && row < ids.length; row++) {
          if (!active(row)) continue
          target[row * vocab + Number(ids[row])]! += smoothing * factor
          const share = (smoothing * factor) / vocab
          for (let i = row * vocab; i < (row + 1) * vocab; i++) target[i]! -= share
        }
      },
    }
  }
  return twoPasses(logits, inPlace, forward)
}

function isInPlace(gradient: unknown): boolean {
  return gradient !== undefined && oneOf(gradient, 'options.gradient', ['in-place'], 'in-place') === 'in-place'
}

function sum(values: ArrayLike<number>): number {
  let total = 0
  for (let i = 0; i < values.length; i++) total += values[i]!
  return total
}

/** An op whose value and gradient are computed together; `run` writes the gradient where it is told to. */
function onePass(
  logits: tf.Tensor,
  inPlace: boolean,
  run: (values: Logits, out: Float32Array | 'in-place' | false) => number,
): tf.Scalar {
  return differentiable([logits], (taped) => {
    if (!taped) return { value: tf.scalar(run(logitsOf(logits), false)) }
    let value = 0
    const saved = writeGradient(logits, inPlace, (out) => {
      value = run(logitsOf(logits), out)
    })
    return { value: tf.scalar(value), saved: [saved], gradient: (dy) => [scaled(saved, dy.dataSync()[0]!)] }
  })
}

/** The result of a forward pass over values that lie where they are. */
interface Forward<T extends tf.Tensor> {
  value(): T
  /** Writes the gradient, given that of `value`. */
  backward(dy: ArrayLike<number>, out: Float32Array | 'in-place'): void
}

/** An op whose gradient is computed in the backward pass. */
function twoPasses<T extends tf.Tensor>(
  logits: tf.Tensor,
  inPlace: boolean,
  forward: (values: Logits) => Forward<T>,
): T {
  return differentiable([logits], (): Differentiable<T> => {
    const values = logitsOf(logits)
    let result = forward(values)
    // Before anything is allocated: the heap may then grow, and the elements seen in it be out of sight.
    const saved = alias(logits)
    return {
      value: result.value(),
      saved: [saved],
      gradient: (dy) => {
        const upstream = dy.dataSync()
        const gradient = writeGradient(saved, inPlace, (out) => {
          if ((values.data as Float32Array).length === 0) result = forward(logitsOf(saved))
          result.backward(upstream, out)
        })
        return [gradient]
      },
    }
  })
}

/** The logits, all dimensions before the last two as one. */
function logitsOf(tensor: tf.Tensor, name = 'logits'): Logits {
  return { data: valuesOf(tensor, name), shape: rowsShape(tensor) }
}

/** A reference whose logits are seen where they lie, until the heap grows. */
function referenceOf(
  reference: FusedOptions['reference'] | FusedUnpairedOptions['reference'] | { logits: tf.Tensor },
): FusedOptions['reference'] {
  if (!reference || !('logits' in reference) || !(reference.logits instanceof tf.Tensor)) {
    return reference as FusedOptions['reference']
  }
  const name = 'options.reference.logits'
  checkRows(reference.logits, name, 'vocab')
  return { ...reference, logits: logitsOf(reference.logits, name) }
}

/** A tensor of the shape of the logits, filled by `fill`, which is told to overwrite the logits if it may and should. */
function writeGradient(logits: tf.Tensor, inPlace: boolean, fill: (out: Float32Array | 'in-place') => void): tf.Tensor {
  if (inPlace && (heapOf(logits) !== undefined || isArray(logits))) {
    fill('in-place')
    return alias(logits)
  }
  return fillTensors([logits.shape], logits, ([out]) => fill(out!))[0]!
}
