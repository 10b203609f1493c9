/**
 * Golden cases of the cuda backend, cut for two to four ranks whose communicator is NCCL's: what is exchanged stays on the
 * GPU, which the host plays. What holds for one process holds for these, and every rank has the same bits.
 */
import { afterAll, vi } from 'vitest'
import { TESTS_GPU } from './platform.js'

process.env.FPL_HOST_DEVICES = '4'

vi.mock('../lib/index.js', async (original) => {
  const actual = await original<Record<string, () => unknown>>()
  const { cutFunctions } = await import('./sharded.js')
  const { NcclWorkers } = await import('./nccl-workers.js')
  const cuts = [
    { ranks: 2, even: true, segments: 'exact', copies: false },
    { ranks: 3, even: false, segments: 'exact', copies: true },
    { ranks: 4, even: false, segments: 'merged', copies: false },
  ] as const
  const workers = new NcclWorkers()
  afterAll(() => workers.end())
  const functions = Object.keys(actual).map((name) => [name, workers.function(name)])
  return { ...actual, ...cutFunctions(Object.fromEntries(functions), cuts) }
})

vi.mock('./support.js', async (original) => {
  const actual = await original<typeof import('./support.js')>()
  const targets = process.platform === 'linux' && !TESTS_GPU ? actual.CUDA : []
  return {
    ...actual,
    TARGETS: targets,
    ALL_TARGETS: targets,
    goldenCases: actual.someGoldenCases(12),
  }
})

await import('./golden.test.js')
await import('./linear-golden.test.js')
