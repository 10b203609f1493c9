/**
 * CUDA in a browser: there is none.
 */
import { failure } from '../../errors.js'
import type { DeviceMemory } from '../../types/index.js'

export function newCudaMemory(_byteLength: number, _device: number): DeviceMemory {
  throw failure('ERR_BACKEND_UNAVAILABLE', 'device memory needs the cuda backend, which browsers do not have')
}
