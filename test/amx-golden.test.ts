/**
 * Golden cases of bfloat16 output layers with the products of AMX, where this machine has it: within the bounds that hold
 * for our own products.
 */
import { test, vi } from 'vitest'
import { AMX, AMX_PROBLEM } from './amx.js'

vi.mock('./support.js', async (original) => {
  const actual = await original<typeof import('./support.js')>()
  return { ...actual, ALL_TARGETS: AMX }
})

if (AMX_PROBLEM === undefined) await import('./linear-golden.test.js')
else test.skip(AMX_PROBLEM, () => {})
