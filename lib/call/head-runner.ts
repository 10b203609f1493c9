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

const PRODUCTS = ['own', 'blas', 'amx', 'tf32'] as const

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
  const owner = products === 'tf32' ? 'cuda' : 'cpu'
  if (backend.name !== owner || !backend.openProducts) {
    throw invalidValue(
      'options.products',
      `'${products}' is of the ${owner} backend; this call runs on '${backend.name}'`,
    )
  }
  const heads = reference ? [head, reference] : [head]
  if (products === 'amx') checkBFloat16(heads)
  if (products === 'tf32') checkFloat32(heads)
  const largest = Math.max(rows.vocab, head.weight.rowStride, head.weight.columnStride)
  if (products === 'blas' && largest > LARGEST) {
    throw outOfRange('options.products', `'own' where a size or a stride of weight is above ${LARGEST}`, largest)
  }
  settings.products = backend.openProducts(products)
  return runner
}

const typesOf = ({ hidden, weight }: Head) => `hidden is ${hidden.dtype}, weight is ${weight.dtype}`

function checkBFloat16(heads: readonly Head[]): void {
  const other = heads.find(({ hidden, weight }) => hidden.dtype !== 'bfloat16' || weight.dtype !== 'bfloat16')
  if (!other) return
  const what = `'amx' multiplies hidden states and weights of bfloat16; here ${typesOf(other)}`
  throw invalidValue('options.products', what)
}

/** Factors of two types are both converted to float32. */
function checkFloat32(heads: readonly Head[]): void {
  const other = heads.find(({ hidden, weight }) => hidden.dtype !== 'float32' && hidden.dtype === weight.dtype)
  if (!other) return
  throw invalidValue('options.products', `'tf32' multiplies factors of float32; here ${typesOf(other)}`)
}
