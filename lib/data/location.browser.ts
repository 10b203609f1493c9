/**
 * What a string or a URL stands for in a browser: the response of a server.
 */
import { fetchResponse } from './fetch-response.js'
import type * as node from './location.js'

export const nameOf: typeof node.nameOf = String

export const open: typeof node.open = fetchResponse
