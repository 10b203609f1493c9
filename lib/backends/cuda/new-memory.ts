/**
 * New memory of a GPU for a result.
 */
import { DeviceBuffer } from './buffer.js'

export function newCudaMemory(byteLength: number, device: number): DeviceBuffer {
  return new DeviceBuffer(byteLength, { device })
}
