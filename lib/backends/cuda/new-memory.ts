/**
 * New memory of a GPU for a result.
 */
import type { DeviceMemory } from '../../types/index.js'
import { DeviceBuffer } from './buffer.js'

export function newCudaMemory(byteLength: number, device: number): DeviceMemory {
  return new DeviceBuffer(byteLength, { device })
}
