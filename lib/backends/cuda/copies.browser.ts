/**
 * CUDA in a browser: there is none.
 */
import { failure } from '../../errors.js'
import type { Copy } from './copies.js'

export type { Copy } from './copies.js'

export function copyToHost(): Copy {
  throw failure('ERR_BACKEND_UNAVAILABLE', 'device memory needs the cuda backend, which browsers do not have')
}

export const copyToDevice = copyToHost
