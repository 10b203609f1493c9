/**
 * Golden cases of the output layer with the products of each BLAS of this machine, and of one without any: within the
 * bounds that hold for our own products.
 */
import { vi } from 'vitest'

vi.mock('./support.js', async (original) => {
  const actual = await original<typeof import('./support.js')>()
  const { BLASES, products, standIn } = await import('./blas.js')
  const all = [{ name: 'a stand-in', path: standIn('BFLOAT16') }, ...BLASES]
  return { ...actual, ALL_TARGETS: all.map(products) }
})

await import('./linear-golden.test.js')
await import('./fused-head.test.js')
