/**
 * Parts of regions as bindings: arithmetic alone.
 */
import { expect, test } from 'vitest'
import { cutsOf, partOf, partsOf } from '../../lib/backends/webgpu/parts.js'
import type { GpuLimits } from '../../lib/types/index.js'

const limits = { minStorageBufferOffsetAlignment: 256, maxStorageBufferBindingSize: 4096 } as GpuLimits
const region = { buffer: {} as GPUBuffer, offset: 512, size: 2 ** 20 }

test('a part begins at an aligned place before its first element', () => {
  const place = ({ offset, size, start }: ReturnType<typeof partOf>) => ({ offset, size, start })
  expect(place(partOf(region, 300, 420, 4, limits))).toEqual({ offset: 768, size: 164, start: 11 })
  expect(place(partOf(region, 256, 258, 2, limits))).toEqual({ offset: 768, size: 4, start: 0 })
  expect(place(partOf(region, 258, 261, 1, limits))).toEqual({ offset: 768, size: 8, start: 2 })
  expect(partOf(region, 0, 4096, 4, limits).size).toBe(4096)
  expect(() => partOf(region, 4, 4100, 4, limits)).toThrow(
    expect.objectContaining({ code: 'ERR_WEBGPU', message: expect.stringContaining('a binding of 4100 bytes') }),
  )
})

test('a matrix is cut into as many rows as fit wherever they begin', () => {
  // 60 rows take 59 · 64 + 32 bytes, and up to 256 before them.
  const exact = { ...limits, maxStorageBufferBindingSize: 59 * 64 + 32 + 256 }
  const layout = { elementSize: 4, count: 130, length: 8, stride: 16 }
  expect(cutsOf(layout, 1, exact).map(({ count }) => count)).toEqual([60, 60, 10])
  expect(cutsOf({ ...layout, length: 9 }, 1, exact).map(({ count }) => count)).toEqual([59, 59, 12])
  expect(cutsOf(layout, 16, limits)).toEqual([
    { first: 0, count: 48 },
    { first: 48, count: 48 },
    { first: 96, count: 34 },
  ])
  expect(cutsOf({ ...layout, count: 60 }, 16, limits)).toEqual([{ first: 0, count: 60 }])
  const parts = partsOf(region, layout, 1, exact)
  expect(parts.map(({ first, start, offset }) => 4 * start + offset - region.offset - 64 * first)).toEqual([0, 0, 0])
})
