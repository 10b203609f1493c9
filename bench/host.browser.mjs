/**
 * How a contender hears from its parent: in a browser it is a worker of a page of its own (browser/page.html).
 */
import { loadWasm } from 'fused-preference-loss'

const scope = /** @type {any} */ (globalThis)
const [pid, name] = scope.name.split(' ')

/** The peer to run. */
export const peerName = name

/** The page's process, whose memory is watched. */
export const ownProcess = Number(pid)

/** A page does not know its processor time. */
export const processorSeconds = () => Number.NaN

/**
 * Answers the page's messages, one at a time.
 * @param {(message: any) => Promise<object>} answer
 */
export async function serve(answer) {
  try {
    await loadWasm()
    scope.addEventListener('message', async (/** @type {any} */ { data }) => scope.postMessage(await answer(data)))
    scope.postMessage({})
  } catch (error) {
    scope.postMessage({ failure: /** @type {Error} */ (error).message })
  }
}
