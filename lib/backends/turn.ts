/** Lets waiting tasks run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === 'function') {
      setImmediate(resolve)
      return
    }
    // Browsers have none. Their timers wait for at least 4 ms, and for a second in pages that are hidden; messages do not.
    const { port1, port2 } = new MessageChannel()
    const onmessage = () => {
      port1.close()
      resolve()
    }
    Object.assign(port1, { onmessage })
    port2.postMessage(undefined)
  })
}
