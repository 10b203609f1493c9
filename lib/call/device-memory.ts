/**
 * Results that are written to the memory of a GPU.
 */

import { type DeviceRange, deviceRange, isDeviceMemory, rangesOverlap } from '../backends/cuda/addresses.js'
import { DeviceBuffer } from '../backends/cuda/buffer.js'
import { invalidType, invalidValue, shapeMismatch } from '../errors.js'
import { ELEMENT_SIZES, type Memory, reasonOf } from './memory.js'

/** Memory of the GPU where this lies. */
export function memoryOfDevice(beside: DeviceRange): Memory {
  const { device } = beside
  return {
    output(value, wanted, others) {
      const { name, dtype, length, besides, like, source } = wanted
      const size = ELEMENT_SIZES[dtype]
      const byteLength = length * size
      if (value === true) {
        const data = new DeviceBuffer(byteLength, { device })
        return { data, memory: deviceRange(data, name, size).address, isZero: false, isSource: false, watched: [] }
      }
      if (!isDeviceMemory(value)) throw invalidType(name, `${besides} or device memory, as ${like}`, value)
      const range = deviceRange(value, name, size)
      for (const [otherName, other] of others) {
        if (isDeviceMemory(other) && rangesOverlap(range, deviceRange(other, otherName, 1))) {
          throw invalidValue(name, `would overwrite ${otherName}: they share memory`)
        }
      }
      if (source && range.address === beside.address) {
        return { data: source.data, memory: range.address, isZero: false, isSource: true, watched: [] }
      }
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
      return { data: value, memory: range.address, isZero: false, isSource: false, watched: [] }
    },
  }
}
