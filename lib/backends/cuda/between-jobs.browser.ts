/**
 * CUDA in a browser: there is none.
 */
import { failure } from '../../errors.js'
import type { Wait } from '../../job.js'

export function noHolds() {
  return { add(_things: readonly unknown[]): void {}, letGo(_isForgotten: boolean): void {} }
}

export function copyToHost(): Wait {
  throw failure('ERR_BACKEND_UNAVAILABLE', 'device memory needs the cuda backend, which browsers do not have')
}

export const copyToDevice = copyToHost
