/**
 * What a string or a URL stands for: a file, or with http: and https: the response of a server. In browsers, where it
 * is always a response, location.browser.ts takes the place of this file.
 */
import { createReadStream } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { fetchResponse } from './fetch-response.js'

/** What errors call it. */
export function nameOf(location: string | URL): string {
  return location instanceof URL && location.protocol === 'file:' ? fileURLToPath(location) : String(location)
}

/** Its content: a stream of the file, or the response. */
export function open(location: string | URL, name: string): AsyncIterable<Uint8Array> | Promise<Response> {
  return /^https?:\/\//i.test(String(location)) ? fetchResponse(location, name) : createReadStream(location)
}
