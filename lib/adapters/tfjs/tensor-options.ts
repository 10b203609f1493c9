/**
 * Options that may be tensors. They are read when the op is called, and its gradient treats them as constants.
 */
import * as tf from '@tensorflow/tfjs-core'
import { invalidType } from '../../errors.js'
import type { LossOptions } from '../../options/loss-options.js'
import type { TokenLossOptions } from '../../options/token-loss-options.js'
import { TOKEN_ARRAYS, type TokenOptions, tokenOptions } from '../../options/token-options.js'
import type { UnpairedLossOptions } from '../../options/unpaired-options.js'
import { checkShape, elementsOf } from './tensor-access.js'

/** Token options that may be tensors as well. */
export interface TokenTensors {
  /** As in `fusedPreferenceLoss`, or a tensor in the shape of the labels: positions where it is 0 are inactive. */
  mask?: TokenOptions['mask'] | tf.Tensor | undefined
  /** As in `fusedPreferenceLoss`, or a tensor in the shape of the labels. */
  tokenWeights?: TokenOptions['tokenWeights'] | tf.Tensor | undefined
  /** As in `fusedPreferenceLoss`, or a tensor `[2 P]`. */
  pairs?: TokenOptions['pairs'] | tf.Tensor | undefined
  /** As in `fusedPreferenceLoss`, or a tensor `[S + 1]`. */
  sequenceOffsets?: TokenOptions['sequenceOffsets'] | tf.Tensor | undefined
}

/** Loss options with a value for each pair that may be tensors as well. */
export interface PairTensors {
  /** As in `fusedPreferenceLoss`, or a tensor `[P]`. */
  beta?: LossOptions['beta'] | tf.Tensor
  /** As in `fusedPreferenceLoss`, or a tensor `[P]`. */
  labelSmoothing?: LossOptions['labelSmoothing'] | tf.Tensor
  /** As in `fusedPreferenceLoss`, or a tensor `[P]`. */
  offset?: LossOptions['offset'] | tf.Tensor
  /** As in `fusedPreferenceLoss`, or a tensor `[P]`. */
  targetMargin?: LossOptions['targetMargin'] | tf.Tensor
  /** As in `fusedPreferenceLoss`, or a tensor `[P]`. */
  pairWeights?: LossOptions['pairWeights'] | tf.Tensor
}

/** Options of unpaired losses that may be tensors as well. */
export interface UnpairedTensors {
  /** As in `fusedUnpairedPreferenceLoss`, or a tensor `[B]`. */
  beta?: UnpairedLossOptions['beta'] | tf.Tensor | undefined
  /** As in `fusedUnpairedPreferenceLoss`, or a tensor `[B]`. */
  sequenceWeights?: UnpairedLossOptions['sequenceWeights'] | tf.Tensor | undefined
  /** As in `fusedUnpairedPreferenceLoss`, or a tensor `[B]`. */
  targets?: UnpairedLossOptions['targets'] | tf.Tensor | undefined
  /** As in `fusedUnpairedPreferenceLoss`, or a tensor `[B]`. */
  desirable: UnpairedLossOptions['desirable'] | tf.Tensor
  /** As in `fusedUnpairedPreferenceLoss`, or a tensor. */
  klLogProbs?: UnpairedLossOptions['klLogProbs'] | tf.Tensor | undefined
  /** As in `fusedUnpairedPreferenceLoss`, or a tensor. */
  referenceKlLogProbs?: UnpairedLossOptions['referenceKlLogProbs'] | tf.Tensor | undefined
}

/** Options of the cross-entropy that may be tensors as well. */
export interface ClassTensors {
  /** As in `crossEntropy` of the main module, or a tensor `[vocab]`. */
  classWeights?: TokenLossOptions['classWeights'] | tf.Tensor
}

/**
 * Log-probs under the reference: of the pairs, `[P]` each, or of all sequences, `[B]`. A float32 tensor holds them
 * rounded: before the first update, when the policy equals the reference, the rewards are then about ±1e-6 instead of
 * 0.
 */
export type TensorReference =
  | { chosen: ArrayLike<number> | tf.Tensor; rejected: ArrayLike<number> | tf.Tensor }
  | { logProbs: ArrayLike<number> | tf.Tensor }

/** Options of an op with arrays in place of the tensors. */
type WithArrays<T> = Omit<
  T,
  | keyof TokenTensors
  | keyof UnpairedTensors
  | keyof ClassTensors
  | ('pairWeights' extends keyof T ? keyof PairTensors : never)
  | 'reference'
> &
  Pick<TokenOptions, keyof TokenTensors> &
  ('desirable' extends keyof T ? Pick<UnpairedLossOptions, keyof UnpairedTensors> : object) &
  ('pairWeights' extends keyof T ? Pick<LossOptions, keyof PairTensors> : object) &
  ('classWeights' extends keyof T ? Pick<TokenLossOptions, keyof ClassTensors> : object) &
  ('reference' extends keyof T ? { reference?: Exclude<T['reference' & keyof T], TensorReference> } : object)

// The tensor form of each array that core takes.
const TENSORS: readonly (keyof TokenTensors)[] = TOKEN_ARRAYS
const OF_LOSSES: readonly (keyof PairTensors | keyof UnpairedTensors | keyof ClassTensors)[] = [
  ...(['beta', 'labelSmoothing', 'offset', 'targetMargin', 'pairWeights'] as const),
  ...(['desirable', 'klLogProbs', 'referenceKlLogProbs', 'sequenceWeights', 'targets'] as const),
  'classWeights',
]
const LOG_PROBS = ['chosen', 'rejected', 'logProbs'] as const

/**
 * Replaces the tensors among the options by their elements.
 *
 * @param rows the tensor that the labels belong to: their shape is its shape without the last dimension.
 * @param name of `rows` in errors.
 */
export function withArrays<T extends TokenTensors & { reference?: object }>(
  options: T,
  rows: tf.Tensor,
  name: string,
): WithArrays<T> {
  const read = { ...options } as Record<string, unknown>
  for (const option of TENSORS) {
    const value = read[option]
    if (!(value instanceof tf.Tensor)) continue
    if (tokenOptions[option].array === 'per label') checkShape(value, `options.${option}`, rows, name)
    read[option] = elementsOf(value, `options.${option}`)
  }
  for (const option of OF_LOSSES) {
    const value = read[option]
    if (value instanceof tf.Tensor) read[option] = elementsOf(value, `options.${option}`)
  }
  if (read.reference !== undefined) read.reference = referenceOf(read.reference)
  return read as WithArrays<T>
}

/** A reference whose log-probs are arrays. */
function referenceOf(reference: unknown): unknown {
  if (reference instanceof tf.Tensor) {
    const wanted = '{ chosen, rejected }, arrays or tensors; onResult of sequenceLogProbs gives them in float64'
    throw invalidType('options.reference', wanted, reference)
  }
  if (typeof reference !== 'object' || reference === null) return reference
  const tensors: Record<string, unknown> = {}
  for (const name of LOG_PROBS) {
    const value = (reference as Record<string, unknown>)[name]
    if (value instanceof tf.Tensor) tensors[name] = elementsOf(value, `options.reference.${name}`)
  }
  return Object.keys(tensors).length === 0 ? reference : { ...reference, ...tensors }
}
