/**
 * Several copies of the package that share one addon: ES modules beside CommonJS, a cleared module cache, a test runner
 * that resets its modules, a bundle. Each copy returns the same results as alone, and no copy affects the calls of
 * another.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import type { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { loadNative } from '../lib/backends/cpu/index.js'
import * as first from '../lib/index.js'
import type { LinearSequenceLogProbs, RunOptions, SequenceLogProbs } from '../lib/types/index.js'
import { CUDA, DIST, gaussian, OUTPUTS, random, TARGETS } from './support.js'

type Package = typeof first

const load = createRequire(import.meta.url)
const COMMONJS = fileURLToPath(new URL('index.cjs', DIST))

/** A copy that has loaded its addon, which happens at its first call. */
function loaded(copy: Package): Package {
  expect(copy.getBackends().cpu.available).toBe(true)
  return copy
}

/** A separate CommonJS copy; on request with the addon loaded again, too. */
function freshCommonJs({ addonToo }: { addonToo: boolean }): Package {
  for (const path of Object.keys(load.cache)) {
    if (!path.endsWith('.node') || addonToo) delete load.cache[path]
  }
  return loaded(load(COMMONJS))
}

/** One more copy under the test runner, whose module cache is emptied. */
async function afterReset(): Promise<Package> {
  vi.resetModules()
  return loaded(await import('../lib/index.js'))
}

/** Every function, in all its forms, on data that is small enough for the arena and on data that is not. */
function resultsOf(fpl: Package, run: RunOptions, seed: number): Record<string, unknown> {
  const next = random(seed)
  const list = (length: number) => Float32Array.from({ length }, () => 3 * gaussian(next))
  const [vocab, width] = [11, 3]
  const results: Record<string, unknown> = {}
  for (const [batch, time] of [
    [2, 2],
    [6, 9],
  ]) {
    const logits = { data: list(batch * time * vocab), shape: [batch, time, vocab] }
    const hidden = { data: list(batch * time * width), shape: [batch, time, width] }
    const weight = { data: list(vocab * width), shape: [vocab, width] }
    const labels = Int32Array.from({ length: batch * time }, () => Math.floor(vocab * next()))
    const column = () => Array.from({ length: batch / 2 }, () => -5 * next())
    const reference = { chosen: column(), rejected: column() }
    const pairs = { chosen: column(), rejected: column(), referenceChosen: column(), referenceRejected: column() }
    const gradient = Array.from({ length: batch }, () => gaussian(next))
    const both = { ...run, outputs: OUTPUTS }
    const fused = { ...both, reference, weighting: 'wpo', gradient: true } as const
    const size = `[${batch}, ${time}]`
    results[`preferenceLossSync ${size}`] = fpl.preferenceLossSync(pairs, run)
    results[`fusedPreferenceLossSync ${size}`] = fpl.fusedPreferenceLossSync(logits, labels, fused)
    results[`fusedLinearPreferenceLossSync ${size}`] = fpl.fusedLinearPreferenceLossSync(hidden, weight, labels, fused)
    const sums = fpl.sequenceLogProbsSync(logits, labels, both)
    results[`sequenceLogProbsSync ${size}`] = differentiated(sums, gradient)
    const linear = fpl.linearSequenceLogProbsSync(hidden, weight, labels, both)
    results[`linearSequenceLogProbsSync ${size}`] = differentiated(linear, gradient)
    results[`preferenceLoss ${size}`] = fpl.preferenceLoss(pairs, run)
    results[`fusedPreferenceLoss ${size}`] = fpl.fusedPreferenceLoss(logits, labels, fused)
    results[`fusedLinearPreferenceLoss ${size}`] = fpl.fusedLinearPreferenceLoss(hidden, weight, labels, fused)
    results[`sequenceLogProbs ${size}`] = fpl
      .sequenceLogProbs(logits, labels, both)
      .then((later) => differentiated(later, gradient))
    results[`linearSequenceLogProbs ${size}`] = fpl
      .linearSequenceLogProbs(hidden, weight, labels, both)
      .then((later) => differentiated(later, gradient))
  }
  return results
}

/** The numbers of a result, and its gradients. */
function differentiated(
  { backward: _, backwardSync, ...sums }: SequenceLogProbs | LinearSequenceLogProbs,
  gradient: number[],
) {
  return { ...sums, ...(backwardSync as (gradient: number[]) => object)(gradient) }
}

/** The promises of a record, kept; functions left out. */
async function settled(results: Record<string, unknown>): Promise<Record<string, unknown>> {
  return Object.fromEntries(
    await Promise.all(Object.entries(results).map(async ([name, given]) => [name, await given])),
  )
}

describe.each(TARGETS)('$name', ({ run }) => {
  afterEach(() => {
    vi.resetModules()
  })

  test('all copies give the bits of one alone, taking turns', async () => {
    // The results alone: from the modules that this file imports, before any other copy has made a call.
    const wanted = [1, 2].map((seed) => settled(resultsOf(first, run, seed)))
    const alone = await Promise.all(wanted)
    expect((alone[0]['preferenceLossSync [2, 2]'] as { loss: number }).loss).not.toBe(0)
    expect(alone[0]).not.toEqual(alone[1])

    const copies = [
      loaded((await import(DIST.href)) as Package),
      loaded(load(COMMONJS) as Package),
      freshCommonJs({ addonToo: false }),
      await afterReset(),
      // This copy comes last, because later copies would share its addon instead of the first one's.
      freshCommonJs({ addonToo: true }),
    ]
    expect(new Set([first, ...copies].map((copy) => copy.preferenceLossSync)).size).toBe(copies.length + 1)
    for (const copy of copies) {
      const [one, other] = [first, copy].map((each) => resultsOf(each, run, 1))
      // Calls of other copies while those run.
      const [later, again] = [copy, first].map((each) => resultsOf(each, run, 2))
      expect(await settled(one)).toEqual(alone[0])
      expect(await settled(other)).toEqual(alone[0])
      expect(await settled(later)).toEqual(alone[1])
      expect(await settled(again)).toEqual(alone[1])
    }
  })
})

describe('copies that have just been loaded: none cancels the calls of another', () => {
  const SCRIPT = new URL('copies/cancel.mjs', import.meta.url)

  // AddressSanitizer says so of stacks that it does not know, where it is preloaded.
  const REMARK = /^==\d+==WARNING: ASan is ignoring requested .*\n.*\n.*\n/

  async function outcomeOf(
    of: { stdout: Readable | null; stderr: Readable | null },
    exit: Promise<unknown[]>,
  ): Promise<unknown[]> {
    const [output, errors] = await Promise.all([of.stdout, of.stderr].map((stream) => text(stream as Readable)))
    return [output, errors.replace(REMARK, ''), (await exit)[0]]
  }
  const WANTED = ['6 copies, 30 calls of each: as they should\n', '', 0]

  test('in a process', async () => {
    const child = fork(SCRIPT, { silent: true })
    expect(await outcomeOf(child, once(child, 'exit'))).toEqual(WANTED)
  })

  test('in a worker thread', async () => {
    const worker = new Worker(SCRIPT, { stdout: true, stderr: true })
    expect(await outcomeOf(worker, once(worker, 'exit'))).toEqual(WANTED)
  })
})

test.runIf(CUDA.length > 0)('a second CUDA library is refused, the one that is open is not', () => {
  const native = loadNative()
  const { path } = first.getBackends().cuda
  if ('reason' in native) throw new Error(native.reason)
  expect(native.addon.cuda.open(path as string)).toBe(undefined)
  expect(native.addon.cuda.open('/another/library.so')).toBe(
    `${path} is open already, and /another/library.so cannot be opened beside it`,
  )
})
