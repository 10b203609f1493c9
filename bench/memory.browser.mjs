/**
 * The memory that a page's process holds: the server of browser/server.mjs, which is on the same machine, looks at it.
 */

/**
 * Starts watching a process.
 * @param {number} pid
 * @returns {Promise<() => Promise<number | undefined>>} the most bytes by which its memory has since exceeded the memory
 *   at the start; undefined where the system does not report it.
 */
export async function watchPeak(pid) {
  await fetch(`/memory/watch?${pid}`)
  return async () => {
    const response = await fetch(`/memory/peak?${pid}`)
    return /** @type {any} */ (await response.json()).bytes
  }
}
