/**
 * The response of a server.
 */
import { invalidValue } from '../errors.js'

/**
 * Fetches a URL, in browsers relative to the page.
 * @throws TypeError `ERR_INVALID_ARG_VALUE`, with the error of `fetch` as `cause`.
 */
export async function fetchResponse(url: string | URL, name: string): Promise<Response> {
  try {
    const response = await fetch(url)
    // Nobody reads it, and unread it would keep the connection open.
    if (!response.ok) await response.body?.cancel()
    return response
  } catch (cause) {
    throw Object.assign(invalidValue(name, `cannot be fetched (${(cause as Error).message})`), { cause })
  }
}
