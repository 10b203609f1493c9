/**
 * Signals of the caller's, and the work they cancel.
 */

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
    signal?.addEventListener('abort', cancel, { once: true })
  } catch (error) {
    cancel()
    await running
    throw error
  }
  try {
    if (!(await running)) throw signal?.reason
  } finally {
    signal?.removeEventListener('abort', cancel)
  }
}
