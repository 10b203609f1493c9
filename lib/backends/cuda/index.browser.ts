/**
 * The cuda backend in a browser: there is none.
 */
import { failure } from '../../errors.js'
import type { LoadedCuda } from './index.js'

export type { LoadedCuda } from './index.js'

const REASON = 'browsers load no native binaries'

export function loadCuda(): LoadedCuda | { reason: string } {
  return { reason: REASON }
}

export function nextId(): number {
  throw failure('ERR_BACKEND_UNAVAILABLE', REASON)
}
