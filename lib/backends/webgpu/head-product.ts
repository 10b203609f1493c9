/**
 * Products of matrices for the output layer.
 */
import type { Region } from './arena.js'
import { headProductShader, type Product, TILE } from './head-shaders.js'
import type { Plan } from './plan.js'
import { uniforms } from './uniforms.js'

/** A matrix of a product: where its element (0, 0) is, and how far its rows and columns are from each other. */
export interface Operand {
  part: Region
  start: number
  rowStep: number
  columnStep: number
}

/** C = A · B: C is [m, n], A [m, k], B [k, n]. */
export interface Multiplication {
  m: number
  n: number
  k: number
  a: Operand
  b: Operand
  c: Operand
  /** Rather than to add to what C holds. */
  begins: boolean
  /** Where gathered rows begin, and which is the first. */
  places: Region
  firstRow: number
  /** What the columns of C begin with: a vector from that element on. */
  bias?: { part: Region; start: number }
}

/** Adds a product. */
export function multiply(plan: Plan, product: Product, of: Multiplication): void {
  const { m, n, k, a, b, c, begins, places, firstRow, bias } = of
  const operands = [a, b, c].flatMap(({ start, rowStep, columnStep }) => [start, rowStep, columnStep, 0])
  const params = uniforms(...operands, m, n, k, Number(begins), bias?.start ?? 0, firstRow)
  const bindings = [places, c.part, a.part, b.part]
  if (bias) bindings.push(bias.part)
  plan.step(headProductShader(product), params, bindings, Math.ceil(m / TILE) * Math.ceil(n / TILE))
}
