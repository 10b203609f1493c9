/**
 * The promise forms: the results of the sync forms, an event loop that stays free, and cancellation. What becomes of
 * processes and workers that end meanwhile is in promise-lifetimes.test.ts.
 */
import { afterEach, describe, expect, test, vi } from 'vitest'
import { pickBackend } from '../lib/backends/registry.js'
import { turn } from '../lib/backends/turn.js'
import {
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  linearSequenceLogProbs,
  linearSequenceLogProbsSync,
  preferenceLoss,
  preferenceLossSync,
  sequenceLogProbs,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { Job } from '../lib/job.js'
import type { FusedOptions, SequenceOptions } from '../lib/options/index.js'
import type { Logits } from '../lib/types/index.js'
import { spyOnWarnings, TESTS_GPU } from './platform.js'
import { bytes, gaussian, NATIVE, OUTPUTS, random, TARGETS } from './support.js'

/** Numbers that are quick to make and give no trivial loss. */
function ramp(length: number): Float32Array {
  const data = new Float32Array(length)
  const start = Math.min(length, 4099)
  for (let i = 0; i < start; i++) data[i] = ((i * 7919) % 4099) / 512
  for (let filled = start; filled < length; filled *= 2) data.copyWithin(filled, 0, Math.min(filled, length - filled))
  return data
}

/** Whether that is every element: as bytes, of which millions are compared in no time. */
const isFilledWith = (x: number, array: Float32Array) =>
  array[0] === x && bytes(array.subarray(1)).equals(bytes(array.subarray(0, -1)))

type Batch = { logits: Logits; labels: Int32Array; options: FusedOptions }

/** One pair of sequences. */
function batch(rows: number, vocab: number): Batch {
  const logits = { data: ramp(2 * rows * vocab), shape: [2, rows, vocab] }
  const labels = Int32Array.from({ length: 2 * rows }, (_, i) => (i * 7919) % vocab)
  return { logits, labels, options: { shift: false, reference: { chosen: [-1], rejected: [-2] } } }
}

/** The same with all rows at one place in memory, so that it stays small for any number of rows. */
function flatBatch(rows: number, vocab: number): Batch {
  const { logits, labels, options } = batch(1, vocab)
  return {
    logits: { ...logits, shape: [2, rows, vocab], strides: [0, 0, 1] },
    labels: new Int32Array(2 * rows).fill(labels[0]),
    options,
  }
}

/** A call that takes minutes, on any machine and any backend. */
function endlessBatch(): Batch {
  return flatBatch(400_000, 1_000_000)
}

/** Returns a function that gives the job of the latest call, for inspection while it runs. */
function nextJob(run: FusedOptions): () => Job {
  const backend = pickBackend(run.backend as 'cpu', undefined, run.instructionSet)
  const spy = vi.spyOn(backend, 'run')
  return () => spy.mock.lastCall?.[0] as Job
}
afterEach(() => {
  vi.restoreAllMocks()
})

/** Waits until a row of the policy has been through stage 1, or the call is over. Rows are done in order on one thread. */
async function untilDone(row: number, job: Job, running: Promise<unknown>): Promise<void> {
  let over = false
  const end = () => {
    over = true
  }
  running.then(end, end)
  const { tokenLogProbs } = job.policy as { tokenLogProbs?: Float32Array }
  while (!over && tokenLogProbs?.[row] === 0) await turn()
}

describe.each(TARGETS)('$name', ({ name, run }) => {
  const small = name === 'js' ? 300 : 3000

  test('fusedPreferenceLoss gives the bits of fusedPreferenceLossSync', async () => {
    for (const gradient of [false, true, 'in-place'] as const) {
      const make = () => {
        const { logits, labels, options } = batch(20, small)
        const reference = { logits: { data: ramp(logits.data.byteLength! / 4).reverse(), shape: logits.shape } }
        return [
          logits,
          labels,
          { ...options, reference, ...run, gradient, outputs: OUTPUTS, weighting: 'wpo' },
        ] as const
      }
      const sync = fusedPreferenceLossSync(...make())
      expect(await fusedPreferenceLoss(...make())).toEqual(sync)
      expect(sync.loss).not.toBe(0)
      expect(sync.gradLogits !== undefined).toBe(gradient !== false)
    }
  })

  test('sequenceLogProbs gives the bits of sequenceLogProbsSync, and its backward too', async () => {
    const { logits, labels } = batch(20, small)
    const options = { ...run, outputs: OUTPUTS }
    const { backward, backwardSync, ...sync } = sequenceLogProbsSync(logits, labels, options)
    const { backward: backwardLater, backwardSync: _, ...later } = await sequenceLogProbs(logits, labels, options)
    expect(later).toEqual(sync)
    const wanted = backwardSync([1, -1])
    const running = [backward([1, -1]), backwardLater([1, -1])]
    expect(running.every((promise) => promise instanceof Promise)).toBe(true)
    expect(await Promise.all(running)).toEqual([wanted, wanted])
    const given = new Float32Array(wanted.gradLogits.data.byteLength! / 4)
    const { gradLogits } = await backward([1, -1], { gradient: given })
    expect(gradLogits.data).toBe(given)
    expect(gradLogits).toEqual(wanted.gradLogits)
    const inPlace = await backward([1, -1], { gradient: 'in-place' })
    expect(inPlace.gradLogits.data).toBe(logits.data)
    expect(inPlace).toEqual(wanted)
    await expect(backward([1, -1])).rejects.toThrow('an earlier call has overwritten the logits')
  })

  test('linearSequenceLogProbs gives the bits of linearSequenceLogProbsSync, and its backward too', async () => {
    const { labels } = batch(20, 30)
    const hidden = { data: ramp(2 * 20 * 16), shape: [2, 20, 16] }
    const weight = { data: ramp(30 * 16), shape: [30, 16] }
    const options = { ...run, outputs: OUTPUTS }
    const { backward: _, backwardSync, ...sync } = linearSequenceLogProbsSync(hidden, weight, labels, options)
    const { backward, backwardSync: __, ...later } = await linearSequenceLogProbs(hidden, weight, labels, options)
    expect(later).toEqual(sync)
    const wanted = backwardSync([1, -1])
    const running = backward([1, -1])
    expect(running).toBeInstanceOf(Promise)
    expect(await running).toEqual(wanted)
    const [here, there] = [new Float32Array(30 * 16).fill(2), new Float32Array(30 * 16).fill(2)]
    const { gradWeight } = await backward([1, -1], { gradient: { weight: here }, accumulate: true })
    expect(gradWeight!.data).toBe(here)
    backwardSync([1, -1], { gradient: { weight: there }, accumulate: true })
    expect(here).toEqual(there)
    expect(await backward([1, -1], { gradient: { hidden: true } })).toEqual({ gradHidden: wanted.gradHidden })
    expect(await backward([1, -1], { gradient: {} })).toEqual({})
  })

  test('preferenceLoss gives the bits of preferenceLossSync', async () => {
    const next = random(1)
    const list = () => Array.from({ length: 50 }, () => -30 + gaussian(next))
    const pairs = { chosen: list(), rejected: list(), referenceChosen: list(), referenceRejected: list() }
    for (const lossType of ['sigmoid', 'aot', 'exo_pair'] as const) {
      const sync = preferenceLossSync(pairs, { lossType, ...run })
      expect(await preferenceLoss(pairs, { lossType, ...run })).toEqual(sync)
    }
  })

  test('many calls in flight give the results of each alone', async () => {
    const calls = Array.from({ length: 12 }, (_, i) => batch(3 + i, small))
    const wanted = calls.map(({ logits, labels, options }) =>
      fusedPreferenceLossSync(logits, labels, { ...options, ...run, gradient: true }),
    )
    const got = await Promise.all(
      calls.map(({ logits, labels, options }) =>
        fusedPreferenceLoss(logits, labels, { ...options, ...run, gradient: true }),
      ),
    )
    expect(got).toEqual(wanted)
    // A sync call may run between them.
    const running = calls.map(({ logits, labels, options }) =>
      fusedPreferenceLoss(logits, labels, { ...options, ...run }),
    )
    const { logits, labels, options } = calls[5]
    expect(fusedPreferenceLossSync(logits, labels, { ...options, ...run }).losses).toEqual(wanted[5].losses)
    for (const [i, result] of (await Promise.all(running)).entries()) expect(result.losses).toEqual(wanted[i].losses)
  })

  test('200 overlapping promises', async () => {
    const { logits, labels, options } = batch(2, 50)
    const wanted = fusedPreferenceLossSync(logits, labels, { ...options, ...run })
    const all = Array.from({ length: 200 }, (_, i) =>
      i % 3 === 0
        ? preferenceLoss({ chosen: [-i], rejected: [-1] }, { lossType: 'cpo', beta: 1, ...run }).then(
            (r) => r.margin + i - 1,
          )
        : fusedPreferenceLoss(logits, labels, { ...options, ...run }).then((r) => r.loss - wanted.loss),
    )
    expect((await Promise.all(all)).map(Math.abs)).toEqual(all.map(() => 0))
  })

  test('an error in the arguments rejects, and does not throw', async () => {
    const { logits, labels, options } = batch(2, 5)
    for (const call of [
      () => fusedPreferenceLoss(logits, labels.subarray(1), { ...options, ...run }),
      () => sequenceLogProbs(logits, labels.subarray(1), run),
      () => preferenceLoss({ chosen: [1], rejected: [] }, { lossType: 'cpo', ...run }),
    ]) {
      let promise: Promise<unknown> | undefined
      expect(() => {
        promise = call()
      }).not.toThrow()
      await expect(promise).rejects.toMatchObject({ code: 'ERR_SHAPE_MISMATCH' })
    }
  })

  test('the event loop turns while a call runs', async () => {
    const vocab = 1000
    let turns = 0
    // A call that blocks the loop lets it turn once or twice, however long the call is; other calls let it turn more
    // often the longer they are.
    for (let rows = 100; turns < 50 && rows < 30_000; rows *= 2) {
      const { logits, labels, options } = flatBatch(rows, vocab)
      const gradient = new Float32Array(2 * rows * vocab)
      let over = false
      const running = fusedPreferenceLoss(logits, labels, { ...options, threads: 1, ...run, gradient }).finally(() => {
        over = true
      })
      for (turns = 0; !over; turns++) await turn()
      await running
    }
    expect(turns).toBeGreaterThanOrEqual(50)
  })

  describe('a signal', () => {
    const reason = new Error('no longer wanted')

    test('aborted before: rejects with the reason, nothing written', async () => {
      const { logits, labels, options } = batch(4, 100)
      const before = bytes(logits.data as Float32Array).slice()
      const signal = AbortSignal.abort(reason)
      const out = new Float32Array(800).fill(5)
      for (const gradient of ['in-place', out] as const) {
        const all = { ...options, ...run, gradient, signal }
        await expect(fusedPreferenceLoss(logits, labels, all)).rejects.toBe(reason)
        expect(() => fusedPreferenceLossSync(logits, labels, all)).toThrow(reason)
      }
      await expect(sequenceLogProbs(logits, labels, { ...run, signal })).rejects.toBe(reason)
      await expect(preferenceLoss({ chosen: [1], rejected: [1] }, { lossType: 'cpo', ...run, signal })).rejects.toBe(
        reason,
      )
      expect(out.every((x) => x === 5)).toBe(true)
      expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)
    })

    test('aborted in the same turn: rejects with the reason', async () => {
      const controller = new AbortController()
      // Small on backends where a call that has begun runs to its end.
      const { logits, labels, options } = name === 'cuda' ? flatBatch(20, 5000) : endlessBatch()
      const running = fusedPreferenceLoss(logits, labels, {
        ...{ ...options, threads: 1, ...run, gradient: name === 'cuda' },
        signal: controller.signal,
      })
      controller.abort(reason)
      await expect(running).rejects.toBe(reason)
    })

    // Work enqueued on a GPU runs to its end; the signal is checked before the gradient.
    test.skipIf(name === 'cuda').each(['fusedPreferenceLoss', 'sequenceLogProbs'] as const)(
      'aborted during a %s that would take minutes: rejects',
      async (which) => {
        const { logits, labels, options } = endlessBatch()
        const job = nextJob(run)
        const controller = new AbortController()
        const { signal } = controller
        const all: SequenceOptions = { shift: false, outputs: ['tokenLogProbs'], threads: 1, ...run, signal }
        const running: Promise<unknown> =
          which === 'sequenceLogProbs'
            ? sequenceLogProbs(logits, labels, all)
            : fusedPreferenceLoss(logits, labels, { ...options, ...all })
        await untilDone(0, job(), running)
        controller.abort(reason)
        await expect(running).rejects.toBe(reason)
      },
    )

    test('aborted in mid-call: the gradient array and the logits in place are as they were', async () => {
      const onHost = name === 'cuda' && !TESTS_GPU
      const [rows, vocab] = name === 'js' ? [40, 5000] : onHost ? [40, 20_000] : [150, 100_000]
      // Two rows a slice, however fast the engine is.
      let now = 0
      if (name === 'js') vi.spyOn(performance, 'now').mockImplementation(() => (now += 5))
      const { logits, labels, options } = batch(rows, vocab)
      const before = bytes(logits.data as Float32Array).slice()
      const out = new Float32Array(2 * rows * vocab).fill(5)
      // By-products and the reference's logits make the part that can be cancelled larger.
      const reference = { logits: { data: ramp(vocab), shape: logits.shape, strides: [0, 0, 1] } }
      const call = (gradient: Float32Array | 'in-place', signal?: AbortSignal) => {
        const all = { ...options, reference, outputs: OUTPUTS, threads: 1, ...run, gradient, signal }
        return fusedPreferenceLoss(logits, labels, all)
      }
      const job = nextJob(run)
      for (const gradient of [out, 'in-place'] as const) {
        for (const part of [0, 0.1, 0.5]) {
          // This thread may have to wait until the gradient is being written; the test then tries again.
          let outcome: unknown
          for (let attempt = 0; attempt < 30 && outcome !== reason; attempt++) {
            bytes(logits.data as Float32Array).set(before)
            out.fill(5)
            const controller = new AbortController()
            const running = call(gradient, controller.signal).catch((error) => error)
            // On a GPU no progress is visible before the end.
            if (name === 'cuda') await turn()
            else await untilDone(Math.floor(part * 2 * rows), job(), running)
            controller.abort(reason)
            outcome = await running
          }
          expect(outcome).toBe(reason)
          expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)
          expect(isFilledWith(5, out)).toBe(true)
        }
      }
      // The same calls do write when they are not aborted.
      const written = new Float32Array(out.length)
      await call(written)
      expect(written.some((x) => x !== 0)).toBe(true)
      await call(out)
      expect(bytes(out).equals(bytes(written))).toBe(true)
      await call('in-place')
      expect(bytes(logits.data as Float32Array).equals(bytes(written))).toBe(true)
    })

    test('aborted afterwards: harmless, and the signal keeps no listener', async () => {
      const { logits, labels, options } = batch(4, 100)
      const controller = new AbortController()
      let listeners = 0
      const { signal } = controller
      const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)]
      signal.addEventListener = (...given: Parameters<typeof add>) => {
        listeners++
        add(...given)
      }
      signal.removeEventListener = (...given: Parameters<typeof remove>) => {
        listeners--
        remove(...given)
      }
      const result = await fusedPreferenceLoss(logits, labels, { ...options, ...run, gradient: true, signal })
      const before = bytes(result.gradLogits!.data as Float32Array).slice()
      expect(listeners).toBe(0)
      controller.abort(reason)
      await turn()
      expect(bytes(result.gradLogits!.data as Float32Array).equals(before)).toBe(true)
      expect((await fusedPreferenceLoss(logits, labels, { ...options, ...run })).losses).toEqual(result.losses)
    })

    test('one signal cancels all that wait, and only calls that have it', async () => {
      const { logits, labels, options } = batch(4, 100)
      const controller = new AbortController()
      const { signal } = controller
      const stop = new AbortController()
      // On a GPU it would run to its end.
      const long = name === 'cuda' ? flatBatch(200, 1000) : endlessBatch()
      const first = fusedPreferenceLoss(long.logits, long.labels, {
        ...{ ...long.options, threads: 1, ...run },
        signal: stop.signal,
      })
      const waiting = Array.from({ length: 20 }, (_, i) =>
        fusedPreferenceLoss(logits, labels, {
          ...options,
          ...run,
          gradient: 'in-place',
          signal: i % 2 ? signal : undefined,
        }),
      )
      // Handled from the start, so that no rejection is unhandled.
      const settled = Promise.allSettled(waiting)
      const end = first.catch((error) => error)
      controller.abort(reason)
      for (let i = 1; i < 20; i += 2) await expect(waiting[i]).rejects.toBe(reason)
      const enough = new Error('enough')
      stop.abort(enough)
      expect(await end).toBe(enough)
      for (const [i, { status }] of (await settled).entries()) expect(status).toBe(i % 2 ? 'rejected' : 'fulfilled')
    })

    test('a hundred calls on one signal: one listener, no warning, each with its own outcome', async () => {
      const { logits, labels, options } = batch(4, 100)
      const controller = new AbortController()
      const { signal } = controller
      const warnings = spyOnWarnings()
      const added = vi.spyOn(signal, 'addEventListener')
      const removed = vi.spyOn(signal, 'removeEventListener')
      const call = () => fusedPreferenceLoss(logits, labels, { ...options, ...run, signal })
      const wanted = await call()
      const all = await Promise.all(Array.from({ length: 100 }, call))
      for (const { losses } of all) expect(losses).toEqual(wanted.losses)
      expect(removed).toHaveBeenCalledTimes(added.mock.calls.length)
      expect(added.mock.calls.length).toBeLessThanOrEqual(2)
      // Some are done when the others are cancelled.
      const some = Array.from({ length: 10 }, call)
      const rest = Promise.allSettled(Array.from({ length: 100 }, call))
      await some[0]
      controller.abort(reason)
      for (const outcome of [...(await Promise.allSettled(some)), ...(await rest)]) {
        if (outcome.status === 'rejected') expect(outcome.reason).toBe(reason)
        else expect(outcome.value.losses).toEqual(wanted.losses)
      }
      await turn()
      expect(warnings).not.toHaveBeenCalled()
    })
  })
})

describe.each(NATIVE)('$name', ({ run }) => {
  test('a queued call that is cancelled does not wait for the one that runs', async () => {
    const long = endlessBatch()
    const { logits, labels, options } = batch(4, 100)
    const before = bytes(logits.data as Float32Array).slice()
    const [stop, controller] = [new AbortController(), new AbortController()]
    const job = nextJob(run)
    let done = false
    const running = fusedPreferenceLoss(long.logits, long.labels, {
      ...{ ...long.options, ...run, threads: 1, outputs: ['tokenLogProbs'] },
      signal: stop.signal,
    }).catch(() => {
      done = true
    })
    await untilDone(0, job(), running)
    const queued = fusedPreferenceLoss(logits, labels, {
      ...{ ...options, ...run, gradient: 'in-place' },
      signal: controller.signal,
    })
    const reason = new Error('no longer wanted')
    controller.abort(reason)
    await expect(queued).rejects.toBe(reason)
    expect(done).toBe(false)
    stop.abort()
    await running
    expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)
  })

  test('aborted in the midst of many pairs, more than a cache holds: no pair has been written', async () => {
    const [batches, rows, vocab] = [16, 10, 900_000]
    const data = ramp(vocab + 2000 * batches)
    const logits = { data, shape: [batches, rows, vocab], strides: [1999, 13, 1] }
    const labels = new Int32Array(batches * rows).fill(7)
    const options: FusedOptions = { shift: false, lossType: 'cpo', outputs: OUTPUTS, threads: 1, ...run }
    const out = new Float32Array(batches * rows * vocab)
    const reason = new Error('no longer wanted')
    const job = nextJob(run)
    let outcome: unknown
    for (let attempt = 0; attempt < 10 && outcome !== reason; attempt++) {
      if (attempt > 0) out.fill(0)
      const controller = new AbortController()
      const call = fusedPreferenceLoss(logits, labels, { ...options, gradient: out, signal: controller.signal })
      const running = call.catch((error) => error)
      await untilDone(batches * 3, job(), running)
      controller.abort(reason)
      outcome = await running
    }
    expect(outcome).toBe(reason)
    expect(isFilledWith(0, out)).toBe(true)
  })
})

test('an array detached while a call uses it is an error, not a crash', async () => {
  for (const { run } of TARGETS) {
    const { logits, labels, options } = batch(40, 2000)
    const running = fusedPreferenceLoss(logits, labels, { ...options, ...run, gradient: true })
    const buffer = (logits.data as Float32Array).buffer as ArrayBuffer
    structuredClone(buffer, { transfer: [buffer] })
    await expect(running).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_VALUE' })
  }
})
