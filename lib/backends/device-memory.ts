/**
 * Memory of a GPU, whichever interface it belongs to: the one place that tells them apart for the layers above.
 */
import type { DeviceData, GpuDevice } from '../types/index.js'
import { type CudaRange, cudaRange, cudaRangesOverlap, isCudaMemory } from './cuda/addresses.js'
import { newCudaMemory } from './cuda/new-memory.js'
import {
  checkStillUsable,
  gpuRange,
  gpuRangesOverlap,
  isGpuMemory,
  newGpuBuffer,
  type WebGpuRange,
} from './webgpu/memory.js'

/** A checked range of device memory: `place` is what backends see of it. */
export type DeviceRange = CudaRange | WebGpuRange

/** Whether this is memory of a GPU rather than an array. */
export function isDeviceMemory(value: unknown): value is DeviceData {
  return isCudaMemory(value) || isGpuMemory(value)
}

/** Checks device memory for elements of that many bytes. `device`: the option gpuDevice, which GPUBuffers need. */
export function deviceRange(memory: DeviceData, name: string, elementSize: number, device: unknown): DeviceRange {
  return isCudaMemory(memory) ? cudaRange(memory, name, elementSize) : gpuRange(memory, name, elementSize, device)
}

/** Whether two ranges share any byte. */
export function rangesOverlap(a: DeviceRange, b: DeviceRange): boolean {
  if (a.kind === 'cuda') return b.kind === 'cuda' && cudaRangesOverlap(a, b)
  return b.kind === 'webgpu' && gpuRangesOverlap(a, b)
}

/** Whether two ranges begin at the same byte. */
export function beginTogether(a: DeviceRange, b: DeviceRange): boolean {
  if (a.kind === 'cuda') return a.place === b.place
  return b.kind === 'webgpu' && a.place.buffer === b.place.buffer && a.place.byteOffset === b.place.byteOffset
}

/** The GPUDevice of a range; undefined where there is none. */
export function gpuDeviceOf(range: DeviceRange | undefined): GpuDevice | undefined {
  return range?.kind === 'webgpu' ? range.device : undefined
}

/** Checks once more, for a later call on the same arrays, that their memory is still there. */
export function checkStillThere(arrays: readonly (readonly [name: string, value: unknown])[]): void {
  for (const [name, value] of arrays) {
    if (isCudaMemory(value)) cudaRange(value, name, 1)
    else if (isGpuMemory(value)) checkStillUsable(value, name)
  }
}

/** New memory beside a range; a GPU does not clear what CUDA allocates. */
export function newMemoryBeside(range: DeviceRange, byteLength: number): DeviceData {
  return range.kind === 'cuda' ? newCudaMemory(byteLength, range.device) : newGpuBuffer(byteLength, range.device)
}
