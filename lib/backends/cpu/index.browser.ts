/**
 * The cpu backend in a browser: there is none.
 */
import type { Native } from './index.js'

export type { Native, NativeInfo } from './index.js'

const MISSING = { reason: 'browsers load no native binaries', isExpected: true }

export function loadNative(): Native {
  return MISSING
}

export function findAddon(): { reason: string } {
  return MISSING
}
