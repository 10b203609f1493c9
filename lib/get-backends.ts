/**
 * `getBackends`: what this machine has.
 */
import { loadNative } from './backends/native.js'
import { NO_CUDA } from './backends/registry.js'
import type { Backends } from './types.js'

/** The backends of this machine, and why a missing one is missing. Never throws and never prints. */
export function getBackends(): Backends {
  const native = loadNative()
  return {
    cpu: 'reason' in native ? { available: false, reason: native.reason } : { available: true, ...native.info },
    cuda: { available: false, reason: NO_CUDA },
    js: { available: true },
  }
}
