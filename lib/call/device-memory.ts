/**
 * Results that are written to the memory of a GPU.
 */

import {
  beginTogether,
  type DeviceRange,
  deviceRange,
  gpuDeviceOf,
  isDeviceMemory,
  newMemoryBeside,
  rangesOverlap,
} from '../backends/device-memory.js'
import { invalidType, invalidValue, shapeMismatch } from '../errors.js'
import { ELEMENT_SIZES, type Memory, reasonOf } from './memory.js'

/** Memory of the GPU where this lies. */
export function memoryOfDevice(beside: DeviceRange): Memory {
  const { device, kind } = beside
  const gpuDevice = gpuDeviceOf(beside)
  return {
    output(value, wanted, others) {
      const { name, dtype, length, besides, like, source } = wanted
      const size = ELEMENT_SIZES[dtype]
      const byteLength = length * size
      if (value === true) {
        const data = newMemoryBeside(beside, byteLength)
        const { place } = deviceRange(data, name, size, gpuDevice)
        // WebGPU clears its buffers.
        return { data, memory: place, isZero: kind === 'webgpu', isSource: false, watched: [] }
      }
      if (!isDeviceMemory(value)) throw invalidType(name, `${besides} or device memory, as ${like}`, value)
      const range = deviceRange(value, name, size, gpuDevice)
      for (const [otherName, other] of others) {
        if (isDeviceMemory(other) && rangesOverlap(range, deviceRange(other, otherName, 1, gpuDevice))) {
          throw invalidValue(name, `would overwrite ${otherName}: they share memory`)
        }
      }
      if (source && beginTogether(range, beside)) {
        return { data: source.data, memory: range.place, isZero: false, isSource: true, watched: [] }
      }
      if (range.kind !== kind) throw invalidType(name, `memory of ${kind}, as ${like}`, value)
      if (range.device !== device) throw invalidValue(name, `is on device ${range.device}, but ${like} on ${device}`)
      if (source && rangesOverlap(range, beside)) {
        throw invalidValue(name, `would overwrite part of ${source.name}: they share memory`)
      }
      if (range.byteLength < byteLength) {
        throw shapeMismatch(
          name,
          `must have ${byteLength} bytes of ${dtype}${reasonOf(wanted)}; got ${range.byteLength}`,
        )
      }
      return { data: value, memory: range.place, isZero: false, isSource: false, watched: [] }
    },
  }
}
