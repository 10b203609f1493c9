/**
 * `getBackends`: what this machine has.
 */
import { loadCuda } from './backends/cuda.js'
import { loadNative } from './backends/native.js'
import type { Backends } from './types.js'

/** The backends of this machine, and why a missing one is missing. Never throws and never prints. */
export function getBackends(): Backends {
  const native = loadNative()
  const cuda = loadCuda()
  return {
    cpu: 'reason' in native ? { available: false, reason: native.reason } : { available: true, ...native.info },
    cuda: 'reason' in cuda ? { available: false, reason: cuda.reason } : { available: true, ...cuda.info() },
    js: { available: true },
  }
}
