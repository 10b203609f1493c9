/**
 * Memory of a WebGPU device, as callers pass it: checked as far as it can be before the device looks at it.
 */
import { invalidType, invalidValue, outOfRange } from '../../errors.js'
import type { GpuSlice } from '../../job.js'
import type { GpuBuffer, GpuDevice, GpuMemory } from '../../types/index.js'
import { USAGE } from './constants.js'

/** A range of a buffer of the caller's device. */
export interface WebGpuRange {
  kind: 'webgpu'
  place: GpuSlice
  byteLength: number
  device: GpuDevice
}

/** Whether this is a GPUBuffer, or part of one, rather than an array. */
export function isGpuMemory(value: unknown): value is GpuMemory {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return false
  return isGpuBuffer(value) || ('buffer' in value && isGpuBuffer(value.buffer))
}

// By shape: there are several implementations in Node.js, and none has to be in the global scope.
function isGpuBuffer(value: unknown): value is GpuBuffer {
  return typeof value === 'object' && value !== null && 'mapState' in value && 'usage' in value && 'size' in value
}

/** Whether this runtime has an implementation of WebGPU. */
export function hasWebGpu(): boolean {
  const { navigator } = globalThis as { navigator?: { gpu?: unknown } }
  return typeof navigator?.gpu === 'object' && navigator.gpu !== null
}

/** Checks the option of that name. */
export function gpuDevice(value: unknown): GpuDevice {
  const { queue, limits, createBuffer } = (typeof value === 'object' && value !== null ? value : {}) as GpuDevice
  if (typeof createBuffer === 'function' && typeof queue === 'object' && typeof limits === 'object') {
    return value as GpuDevice
  }
  throw invalidType('options.gpuDevice', 'the GPUDevice of the buffers', value)
}

/**
 * Checks memory for elements of that many bytes. Whether the buffer is of this device and has not been destroyed is only
 * known when it is used. Reads each property once.
 */
export function gpuRange(memory: GpuMemory, name: string, elementSize: number, device: unknown): WebGpuRange {
  const [buffer, given] = isGpuBuffer(memory) ? [memory, {}] : [memory.buffer, memory]
  const { byteOffset = 0, byteLength = buffer.size - byteOffset } = given as Exclude<GpuMemory, GpuBuffer>
  const { size } = buffer
  checkBytes(byteOffset, `${name}.byteOffset`, size)
  checkBytes(byteLength, `${name}.byteLength`, size - byteOffset)
  if (byteOffset % elementSize !== 0) {
    throw invalidValue(
      `${name}.byteOffset`,
      `must be a multiple of the element size, ${elementSize}; got ${byteOffset}`,
    )
  }
  checkUsable(buffer, name)
  return { kind: 'webgpu', place: { buffer, byteOffset, byteLength }, byteLength, device: gpuDevice(device) }
}

/** Refuses a buffer that shaders cannot use now. */
export function checkUsable({ usage, mapState }: GpuBuffer, name: string): void {
  if ((usage & USAGE.STORAGE) === 0) throw invalidValue(name, 'must be a buffer with GPUBufferUsage.STORAGE')
  if (mapState !== 'unmapped') throw invalidValue(name, `must not be mapped; its mapState is '${mapState}'`)
}

/** Checks once more, for a later call, that the memory can still be used. */
export function checkStillUsable(memory: GpuMemory, name: string): void {
  checkUsable(isGpuBuffer(memory) ? memory : memory.buffer, name)
}

/** Whether two ranges share any byte. */
export function gpuRangesOverlap({ place: a }: WebGpuRange, { place: b }: WebGpuRange): boolean {
  return (
    a.buffer === b.buffer && a.byteOffset < b.byteOffset + b.byteLength && b.byteOffset < a.byteOffset + a.byteLength
  )
}

/** A new buffer for a result, which the caller may copy from and into. */
export function newGpuBuffer(byteLength: number, device: GpuDevice): GpuBuffer {
  return device.createBuffer({
    label: 'fused-preference-loss result',
    size: Math.ceil(byteLength / 4) * 4,
    usage: USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST,
  })
}

function checkBytes(value: unknown, name: string, most: number): asserts value is number {
  if (typeof value !== 'number') throw invalidType(name, 'a number of bytes', value)
  if (!Number.isSafeInteger(value) || value < 0 || value > most) {
    throw outOfRange(name, `a number of bytes within the buffer, at most ${most}`, value)
  }
}
