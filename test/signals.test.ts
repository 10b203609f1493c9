/**
 * Signals and the work they cancel; the work ends when the test ends it.
 */
import { expect, test, vi } from 'vitest'
import { untilAborted } from '../lib/backends/signals.js'
import { turn } from '../lib/backends/turn.js'

/** Work that waits for `signal`, is done when `end` is called, and when it is cancelled. */
function work(signal?: AbortSignal) {
  let end: (finished: boolean) => void = () => {}
  const running = new Promise<boolean>((resolve) => {
    end = resolve
  })
  const cancel = vi.fn(() => end(false))
  return { outcome: untilAborted(signal, running, cancel).catch((error) => error), cancel, end }
}

const reason = new Error('no longer wanted')

test('all work that waits for a signal is cancelled with its reason, and no other', async () => {
  const [controller, other] = [new AbortController(), new AbortController()]
  const waiting = Array.from({ length: 20 }, () => work(controller.signal))
  const beside = [work(other.signal), work()]
  for (const one of waiting.slice(0, 19)) {
    one.end(true)
    expect(await one.outcome).toBe(undefined)
  }
  controller.abort(reason)
  expect(await waiting[19].outcome).toBe(reason)
  for (const one of waiting.slice(0, 19)) expect(one.cancel).not.toHaveBeenCalled()
  for (const one of beside) {
    expect(one.cancel).not.toHaveBeenCalled()
    one.end(true)
    expect(await one.outcome).toBe(undefined)
  }
})

test('a signal has one listener while work waits for it, and then none', async () => {
  const { signal } = new AbortController()
  const added = vi.spyOn(signal, 'addEventListener')
  const removed = vi.spyOn(signal, 'removeEventListener')
  for (const round of [1, 2]) {
    const waiting = Array.from({ length: 20 }, () => work(signal))
    expect(added).toHaveBeenCalledTimes(round)
    for (const [i, one] of waiting.entries()) {
      expect(removed).toHaveBeenCalledTimes(round - 1)
      one.end(i !== 3)
      await one.outcome
    }
    expect(removed).toHaveBeenCalledTimes(round)
    expect(removed.mock.lastCall).toEqual(['abort', added.mock.lastCall?.[1]])
  }
})

test('a signal that is aborted again cancels what came in between', async () => {
  const signal = Object.assign(new EventTarget(), { aborted: true, reason }) as unknown as AbortSignal
  const first = work(signal)
  signal.dispatchEvent(new Event('abort'))
  // The first has been cancelled, but its waiters have not been told yet.
  const second = work(signal)
  signal.dispatchEvent(new Event('abort'))
  expect(first.cancel).toHaveBeenCalledTimes(1)
  expect(second.cancel).toHaveBeenCalledTimes(1)
  expect([await first.outcome, await second.outcome]).toEqual([reason, reason])
})

test('a signal that takes no listener: the work is cancelled and waited for', async () => {
  const signal = new Proxy(new AbortController().signal, {
    get(_, key) {
      if (key === 'addEventListener') throw reason
    },
  })
  const one = work(signal)
  await turn()
  expect(one.cancel).toHaveBeenCalledTimes(1)
  expect(await one.outcome).toBe(reason)
})

test('work that was cancelled without an aborted signal is an error that says so', async () => {
  for (const signal of [undefined, new AbortController().signal]) {
    const one = work(signal)
    one.end(false)
    expect(await one.outcome).toEqual(
      new Error('fused-preference-loss: a call was cancelled, but no signal is aborted'),
    )
  }
})

test('a signal that was aborted without a reason gives an AbortError', async () => {
  const signal = Object.assign(new EventTarget(), { aborted: true }) as unknown as AbortSignal
  const one = work(signal)
  signal.dispatchEvent(new Event('abort'))
  expect(await one.outcome).toMatchObject({ name: 'AbortError' })
})
