/**
 * Options that may be tensors: read when the op is called, and constants for its gradient.
 */
import * as tf from '@tensorflow/tfjs-core'
import { invalidType } from '../../errors.js'
import { TOKEN_ARRAYS, type TokenOptions, tokenOptions } from '../../options/token-options.js'
import { checkShape, elementsOf } from './memory.js'

/** Token options that may be tensors as well. */
export interface TokenTensors {
  /** As in `fusedPreferenceLoss`, or a tensor in the shape of the labels: positions where it is 0 are inactive. */
  mask?: TokenOptions['mask'] | tf.Tensor
  /** As in `fusedPreferenceLoss`, or a tensor in the shape of the labels. */
  tokenWeights?: TokenOptions['tokenWeights'] | tf.Tensor
  /** As in `fusedPreferenceLoss`, or a tensor `[2 P]`. */
  pairs?: TokenOptions['pairs'] | tf.Tensor
  /** As in `fusedPreferenceLoss`, or a tensor `[S + 1]`. */
  sequenceOffsets?: TokenOptions['sequenceOffsets'] | tf.Tensor
}

/**
 * Log-probs under the reference: of the pairs, `[P]` each, or of all sequences, `[B]`. A float32 tensor has rounded them: before the first update,
 * where the policy is the reference, its rewards are then not 0 but some 1e-6 of either sign.
 */
export type TensorReference =
  | { chosen: ArrayLike<number> | tf.Tensor; rejected: ArrayLike<number> | tf.Tensor }
  | { logProbs: ArrayLike<number> | tf.Tensor }

/** Options of an op with arrays in place of the tensors. */
type WithArrays<T> = Omit<T, keyof TokenTensors | 'reference'> &
  Pick<TokenOptions, keyof TokenTensors> &
  ('reference' extends keyof T ? { reference?: Exclude<T['reference' & keyof T], TensorReference> } : object)

// Of each array that core takes.
const TENSORS: readonly (keyof TokenTensors)[] = TOKEN_ARRAYS
const LOG_PROBS = ['chosen', 'rejected', 'logProbs'] as const

/**
 * The elements of tensors among the options in place of them.
 *
 * @param rows what the labels belong to: their shape is its shape without the last dimension.
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
