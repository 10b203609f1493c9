/**
 * Golden cases, cut for two to four ranks, evenly and unevenly: all losses and by-products, of logits and of output
 * layers. What holds for one process holds for these, and every rank has the same bits.
 */
import { vi } from 'vitest'

vi.mock('../lib/index.js', async (original) => {
  const actual = await original<Record<string, () => unknown>>()
  const { cutFunctions } = await import('./sharded.js')
  const cuts = [
    { ranks: 2, even: true, segments: 'exact', copies: false },
    { ranks: 3, even: false, segments: 'exact', copies: true },
    { ranks: 4, even: false, segments: 'merged', copies: false },
    { ranks: 4, even: true, segments: 'exact', copies: true },
    { ranks: 2, even: false, segments: 'merged', copies: true },
  ] as const
  return { ...actual, ...cutFunctions(actual, cuts) }
})

vi.mock('./support.js', async (original) => {
  const actual = await original<typeof import('./support.js')>()
  // Instruction sets differ in kernels, which know nothing of ranks.
  const targets = [...actual.NATIVE.slice(0, 1), ...actual.CUDA, ...actual.WASM, actual.JS]
  return {
    ...actual,
    TARGETS: targets,
    ALL_TARGETS: targets,
    goldenCases: actual.someGoldenCases(3),
  }
})

await import('./golden.test.js')
await import('./linear-golden.test.js')
