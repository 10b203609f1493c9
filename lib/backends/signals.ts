/**
 * The caller's abort signals, and the work they cancel.
 */

/** The work to cancel when a signal is aborted. One listener serves all calls that wait for the signal. */
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
 * Waits for work that has begun. When the work resolves to false it was cancelled, and this rejects with the signal's
 * reason. The work begins before the signal, whose code may be the caller's, is touched: the arrays are then still as
 * they were when they were checked.
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

/** The reason for the cancellation; never undefined, which would tell the caller nothing. */
function reasonOf(signal: AbortSignal | undefined): unknown {
  if (!signal?.aborted) return new Error('fused-preference-loss: a call was cancelled, but no signal is aborted')
  return signal.reason === undefined ? new DOMException('This operation was aborted', 'AbortError') : signal.reason
}
