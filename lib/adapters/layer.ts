/**
 * The weight of an output layer in the two layouts that adapters take: `[vocab, width]` and `[width, vocab]`.
 */
import { shapeMismatch } from '../errors.js'

/**
 * Vocabulary and width of a weight.
 *
 * @param shape `[vocab, width]`, or `[width, vocab]` when `transposed`.
 * @param width the size of the last dimension of hidden.
 * @throws RangeError `ERR_SHAPE_MISMATCH`.
 */
export function weightSizes(
  shape: readonly number[],
  transposed: boolean,
  width: number,
): { vocab: number; strides: [number, number] } {
  const wanted = transposed ? `[${width}, vocab]` : `[vocab, ${width}]`
  const got = `[${shape.join(', ')}]`
  const [rows, columns] = shape as [number, number]
  if (shape.length !== 2) throw shapeMismatch('weight', `must be ${wanted}; got ${got}`)
  if ((transposed ? rows : columns) !== width) {
    const isOther = (transposed ? columns : rows) === width
    const hint = isOther ? `, which needs transposed: ${!transposed}` : ''
    throw shapeMismatch('weight', `must be ${wanted}, as hidden has ${width} features; got ${got}${hint}`)
  }
  return transposed ? { vocab: columns, strides: [1, columns] } : { vocab: rows, strides: [columns, 1] }
}
