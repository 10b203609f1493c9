/**
 * Signals of the caller's, and the work they cancel.
 */

/** What is to be cancelled when a signal is aborted. One listener serves all calls that wait for the signal. */
const waiting = new WeakMap<AbortSignal, { cancels: Set<() => void>; listener: () => void }>()

function listen(signal: AbortSignal, cancel: () => void): void {
  const known = waiting.get(signal)
  if (known) {
    known.cancels.add(cancel)
    return
  }
  const cancels = new Set([cancel])
  const listener = () => {
    waiting.delete(signal)
    for (const each of cancels) each()
  }
  signal.addEventListener('abort', listener, { once: true })
  waiting.set(signal, { cancels, listener })
}

function unlisten(signal: AbortSignal, cancel: () => void): void {
  const known = waiting.get(signal)
  if (!known?.cancels.delete(cancel) || known.cancels.size > 0) return
  waiting.delete(signal)
  signal.removeEventListener('abort', known.listener)
}

/**
 * Waits for work that has begun and gives false when it was cancelled; rejects then with the signal's reason. The work is
 * begun before the signal, which may be the caller's code, is touched: the arrays are still as they were checked.
 */
export async function untilAborted(
  signal: AbortSignal | undefined,
  running: Promise<boolean>,
  cancel: () => void,
): Promise<void> {
  try {
    if (signal) listen(signal, cancel)
  } catch (error) {
    cancel()
    await running
    throw error
  }
  try {
    if (!(await running)) throw reasonOf(signal)
  } finally {
    if (signal) unlisten(signal, cancel)
  }
}

/** Why the work was cancelled; never undefined, which nobody could make anything of. */
function reasonOf(signal: AbortSignal | undefined): unknown {
  if (!signal?.aborted) return new Error('fused-preference-loss: a call was cancelled that no signal has aborted')
  return signal.reason === undefined ? new DOMException('This operation was aborted', 'AbortError') : signal.reason
}
