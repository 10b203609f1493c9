/**
 * Parts of regions as bindings, which begin at aligned places and are no larger than the device allows.
 */
import { failure } from '../../errors.js'
import type { GpuSlice } from '../../job.js'
import type { GpuLimits } from '../../types/index.js'
import type { Region } from './arena.js'

/** What a binding shows, and its element at which the part begins. */
export interface Part extends Region {
  start: number
}

/** A slice as a region, which may begin anywhere. */
export function regionOf({ buffer, byteOffset, byteLength }: GpuSlice): Region {
  return { buffer, offset: byteOffset, size: byteLength }
}

/** Bytes `begin` to `end` of a region with elements of that size. */
export function partOf(region: Region, begin: number, end: number, elementSize: number, limits: GpuLimits): Part {
  const { minStorageBufferOffsetAlignment: alignment, maxStorageBufferBindingSize: most } = limits
  const first = region.offset + begin
  const offset = Math.floor(first / alignment) * alignment
  const size = Math.max(4, Math.ceil((region.offset + end - offset) / 4) * 4)
  if (size > most) {
    const problem = `a matrix needs a binding of ${size} bytes, and the device's maxStorageBufferBindingSize is ${most}`
    throw failure('ERR_WEBGPU', problem)
  }
  return {
    offset,
    size,
    start: (first - offset) / elementSize,
    // That of an arena is made later.
    get buffer() {
      return region.buffer
    },
  }
}

/** Some rows of a matrix. */
export interface Cut {
  first: number
  count: number
}

export interface RowsPart extends Part, Cut {}

/** How a matrix lies in memory: `count` rows of `length` elements, and the elements from row to row. */
export interface MatrixLayout {
  elementSize: number
  count: number
  length: number
  stride: number
}

/** Cuts a matrix into as many rows as fit a binding, a multiple of `multiple` but for the last. */
export function cutsOf(
  { elementSize, count, length, stride }: MatrixLayout,
  multiple: number,
  limits: GpuLimits,
): Cut[] {
  const room = limits.maxStorageBufferBindingSize - limits.minStorageBufferOffsetAlignment - length * elementSize
  const fitting = Math.floor(room / (stride * elementSize)) + 1
  const most = fitting >= count ? count : Math.max(1, Math.floor(fitting / multiple)) * multiple
  const cuts: Cut[] = []
  for (let first = 0; first < count; first += most) cuts.push({ first, count: Math.min(most, count - first) })
  return cuts
}

/** The parts of a matrix that are cut so. */
export function partsOf(region: Region, layout: MatrixLayout, multiple: number, limits: GpuLimits): RowsPart[] {
  const { elementSize, length, stride } = layout
  return cutsOf(layout, multiple, limits).map((cut) => {
    const begin = cut.first * stride * elementSize
    const end = begin + ((cut.count - 1) * stride + length) * elementSize
    return Object.assign(partOf(region, begin, end, elementSize, limits), cut)
  })
}
