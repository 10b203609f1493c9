/**
 * The backend of a call with an output layer, and whose products it takes there.
 */
import type { NamedArray, Watched } from '../check/arrays.js'
import { oneOf } from '../check/options.js'
import { invalidValue, outOfRange } from '../errors.js'
import type { Head } from '../job.js'
import type { HeadOptions, RunOptions } from '../types/index.js'
import type { HeadSource } from './head.js'
import { type Runner, runnerOf } from './run.js'

/** The names of {@link HeadOptions}. */
export const HEAD_OPTIONS = ['bias', 'products'] as const

const PRODUCTS = ['own', 'blas', 'amx'] as const

/** The largest size that the integers of every library hold, rounded up to a whole cache line. */
const LARGEST = 2 ** 31 - 16

/** {@link runnerOf}, with the products that the options ask for. `reference`: the output layer of another model, if any. */
export function headRunner(
  options: RunOptions & HeadOptions,
  { range, rows, head }: HeadSource,
  arrays: () => readonly NamedArray[],
  watched: readonly Watched[],
  reference?: Head,
): Runner {
  const products = oneOf(options.products, 'options.products', PRODUCTS, 'own')
  const runner = runnerOf(options, range, arrays, watched)
  if (products === 'own') return runner
  const { backend, settings } = runner
  if (!backend.openProducts) {
    throw invalidValue('options.products', `'${products}' is of the cpu backend; this call runs on '${backend.name}'`)
  }
  if (products === 'amx') checkBFloat16(reference ? [head, reference] : [head])
  const largest = Math.max(rows.vocab, head.weight.rowStride, head.weight.columnStride)
  if (products === 'blas' && largest > LARGEST) {
    throw outOfRange('options.products', `'own' where a size or a stride of weight is above ${LARGEST}`, largest)
  }
  settings.products = backend.openProducts(products)
  return runner
}

function checkBFloat16(heads: readonly Head[]): void {
  for (const { hidden, weight } of heads) {
    if (hidden.dtype === 'bfloat16' && weight.dtype === 'bfloat16') continue
    const got = `hidden is ${hidden.dtype}, weight is ${weight.dtype}`
    throw invalidValue('options.products', `'amx' multiplies hidden states and weights of bfloat16; here ${got}`)
  }
}
