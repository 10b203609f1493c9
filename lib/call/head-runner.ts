/**
 * The backend of a call with an output layer, and whose products it takes there.
 */
import type { NamedArray, Watched } from '../check/arrays.js'
import { oneOf } from '../check/options.js'
import { invalidValue, outOfRange } from '../errors.js'
import type { HeadOptions, RunOptions } from '../types/index.js'
import type { HeadSource } from './head.js'
import { type Runner, runnerOf } from './run.js'

/** The names of {@link HeadOptions}. */
export const HEAD_OPTIONS = ['bias', 'products'] as const

const PRODUCTS = ['own', 'blas'] as const

/** The largest size that the integers of every library hold, rounded up to a whole cache line. */
const LARGEST = 2 ** 31 - 16

/** {@link runnerOf}, with the library of BLAS that the options ask for. */
export function headRunner(
  options: RunOptions & HeadOptions,
  { range, rows, head }: HeadSource,
  arrays: () => readonly NamedArray[],
  watched: readonly Watched[],
): Runner {
  const products = oneOf(options.products, 'options.products', PRODUCTS, 'own')
  const runner = runnerOf(options, range, arrays, watched)
  if (products === 'own') return runner
  const { backend, settings } = runner
  if (!backend.openBlas) {
    throw invalidValue('options.products', `'blas' is of the cpu backend; this call runs on '${backend.name}'`)
  }
  const largest = Math.max(rows.vocab, head.weight.rowStride, head.weight.columnStride)
  if (largest > LARGEST) {
    throw outOfRange('options.products', `'own' where a size or a stride of weight is above ${LARGEST}`, largest)
  }
  settings.blas = backend.openBlas()
  return runner
}
