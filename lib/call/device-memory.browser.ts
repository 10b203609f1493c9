/**
 * Device memory in a browser: there is none.
 */
import { failure } from '../errors.js'
import type { Memory } from './memory.js'

export function memoryOfDevice(): Memory {
  throw failure('ERR_BACKEND_UNAVAILABLE', 'device memory needs the cuda backend, which browsers do not have')
}
