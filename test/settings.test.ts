/**
 * A call runs on the requested number of threads and the requested instruction set, and so does its `backward`.
 * Programs use dist.
 */
import { afterEach, describe, expect, test, vi } from 'vitest'
import { pickBackend } from '../lib/backends/registry.js'
import * as fpl from '../lib/index.js'
import type { RunOptions } from '../lib/types/index.js'
import { runProgram } from './platform.js'
import { bytes, DIST, gaussian, NATIVE, random, TARGETS } from './support.js'

const next = random(5)
const list = (length: number) => Float32Array.from({ length }, () => 4 * gaussian(next))
const [batch, time, vocab, width] = [2, 6, 700, 5]
const logits = { data: list(batch * time * vocab), shape: [batch, time, vocab] }
const hidden = { data: list(batch * time * width), shape: [batch, time, width] }
const weight = { data: list(vocab * width), shape: [vocab, width] }
const labels = Int32Array.from({ length: batch * time }, () => Math.floor(vocab * next()))
const pairs = { chosen: [-1], rejected: [-2] }

afterEach(() => {
  vi.restoreAllMocks()
})

describe.each(TARGETS)('$name', ({ run }) => {
  /** Every function and its form, with the option that asks for a gradient where it has one. */
  const CALLS: Record<string, (options: RunOptions) => unknown> = {
    preferenceLossSync: (options) => fpl.preferenceLossSync(pairs, { ...options, lossType: 'cpo' }),
    preferenceLoss: (options) => fpl.preferenceLoss(pairs, { ...options, lossType: 'cpo' }),
    fusedPreferenceLossSync: (options) => fpl.fusedPreferenceLossSync(logits, labels, { ...options, lossType: 'cpo' }),
    fusedPreferenceLoss: (options) => fpl.fusedPreferenceLoss(logits, labels, { ...options, lossType: 'cpo' }),
    fusedLinearPreferenceLossSync: (options) =>
      fpl.fusedLinearPreferenceLossSync(hidden, weight, labels, { ...options, lossType: 'cpo' }),
    fusedLinearPreferenceLoss: (options) =>
      fpl.fusedLinearPreferenceLoss(hidden, weight, labels, { ...options, lossType: 'cpo' }),
    sequenceLogProbsSync: (options) => fpl.sequenceLogProbsSync(logits, labels, options),
    sequenceLogProbs: (options) => fpl.sequenceLogProbs(logits, labels, options),
    linearSequenceLogProbsSync: (options) => fpl.linearSequenceLogProbsSync(hidden, weight, labels, options),
    linearSequenceLogProbs: (options) => fpl.linearSequenceLogProbs(hidden, weight, labels, options),
  }

  test.each(Object.keys(CALLS))('%s hands its settings to the backend', async (name) => {
    const backend = pickBackend(run.backend as 'cpu', undefined, run.instructionSet)
    const spies = [vi.spyOn(backend, 'runSync'), vi.spyOn(backend, 'run')]
    const { signal } = new AbortController()
    const result = (await CALLS[name]({ ...run, threads: 3, signal })) as Partial<fpl.SequenceLogProbs>
    const settings = { threads: 3, ...(run.instructionSet && { instructionSet: run.instructionSet }) }
    const [used, unused] = name.endsWith('Sync') ? spies : [...spies].reverse()
    expect(used).toHaveBeenCalledTimes(1)
    expect(used.mock.lastCall?.[1]).toMatchObject({ ...settings, signal })
    expect(unused).not.toHaveBeenCalled()
    if (result.backward === undefined || result.backwardSync === undefined) return
    const later = { ...used.mock.lastCall?.[1], signal: undefined }
    result.backwardSync([1, -1])
    await result.backward([1, -1])
    expect(spies.map((spy) => spy.mock.calls.length)).toEqual(used === spies[0] ? [2, 1] : [1, 2])
    expect(spies.map((spy) => spy.mock.lastCall?.[1])).toEqual([later, later])
  })

  test('without threads, the backend chooses', () => {
    const spy = vi.spyOn(pickBackend(run.backend as 'cpu', undefined, run.instructionSet), 'runSync')
    fpl.preferenceLossSync(pairs, { lossType: 'cpo', ...run })
    expect(spy.mock.lastCall?.[1].threads).toBe(0)
  })
})

describe.runIf(NATIVE.length > 1)('instruction sets', () => {
  // The baseline has no fused multiply-add, so its bits differ from the others'.
  const best = NATIVE[0]?.run
  const baseline = NATIVE.find(({ run }) => run.instructionSet === 'baseline')?.run as RunOptions
  const gradients = {
    fusedPreferenceLoss: (run: RunOptions) =>
      fpl.fusedPreferenceLossSync(logits, labels, { lossType: 'cpo', ...run, gradient: true }).gradLogits!.data,
    'backward of sequenceLogProbs': (run: RunOptions) =>
      fpl.sequenceLogProbsSync(logits, labels, run).backwardSync([1, -1]).gradLogits.data,
    'backward of linearSequenceLogProbs': (run: RunOptions) =>
      fpl.linearSequenceLogProbsSync(hidden, weight, labels, run).backwardSync([1, -1]).gradHidden!.data,
  }

  test.each(Object.entries(gradients))('%s has the bits of the one it was asked for', (_, gradient) => {
    const of = (run: RunOptions) => bytes(gradient(run) as Float32Array)
    expect(of({ ...baseline, threads: 2 }).equals(of(baseline))).toBe(true)
    expect(of(baseline).equals(of(best))).toBe(false)
  })

  test.each(NATIVE)('$name: backward has the bits of the gradient of fusedPreferenceLoss', ({ run }) => {
    const fused = fpl.fusedPreferenceLossSync(logits, labels, { lossType: 'cpo', ...run, gradient: true })
    const { chosen, rejected } = fused.gradLogProbs
    const out = fpl.sequenceLogProbsSync(logits, labels, run).backwardSync([chosen[0], rejected[0]]).gradLogits
      .data as Float32Array
    expect(bytes(out).equals(bytes(fused.gradLogits!.data as Float32Array))).toBe(true)
  })
})

describe.runIf(globalThis.process?.platform === 'linux')('threads', () => {
  test('a call runs on as many as it asks for, and they end when nothing wants them', async () => {
    const code = `
      import { readdirSync } from 'node:fs'
      import * as fpl from ${JSON.stringify(DIST.href)}
      const vocab = 20_000
      const call = (more) => [
        { data: new Float32Array(vocab), shape: [2, 200, vocab], strides: [0, 0, 1] },
        new Int32Array(400),
        { shift: false, lossType: 'cpo', backend: 'cpu', ...more },
      ]
      const count = () => readdirSync('/proc/self/task').length
      fpl.getBackends()
      const before = count()
      const more = () => count() - before
      const counts = {}
      for (const threads of [1, 3, 2, 40]) {
        fpl.fusedPreferenceLossSync(...call({ threads }))
        counts[threads] = more()
      }
      // The queue has a thread of its own.
      await fpl.fusedPreferenceLoss(...call({ threads: 1 }))
      counts.later = more()
      const end = Date.now() + 50_000
      while (more() > 1 && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 100))
      counts.atLast = more()
      fpl.fusedPreferenceLossSync(...call({ threads: 3 }))
      counts.again = more()
      console.log(JSON.stringify(counts))`
    const { stdout } = await runProgram(code)
    expect(JSON.parse(stdout)).toEqual({ 1: 0, 2: 2, 3: 2, 40: 39, later: 40, atLast: 1, again: 3 })
  })
})
