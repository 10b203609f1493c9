/**
 * Results on their way back: regions of buffers are copied to one buffer, which is mapped once.
 */
import type { GpuBuffer, GpuDevice, GpuEncoder } from '../../types/index.js'
import type { Region } from './arena.js'
import { MAP_READ, USAGE } from './constants.js'
import { fromTwoFloats } from './two-floats.js'

/** A copy, and what is done with it. */
interface Part {
  from: Pick<Region, 'buffer' | 'offset'>
  /** In the buffer of all of them. */
  offset: number
  size: number
  take(bytes: ArrayBuffer): void
}

/** The results of a call. */
export class ReadBack {
  private readonly parts: Part[] = []
  private size = 0

  /** `byteLength` bytes of a region. */
  bytes(from: Region, byteLength: number, take: Part['take'], begin = 0): void {
    const size = Math.ceil(byteLength / 4) * 4
    if (size === 0) return
    const place = {
      offset: from.offset + begin,
      get buffer() {
        return from.buffer
      },
    }
    this.parts.push({ from: place, offset: this.size, size, take })
    this.size += size
  }

  /** Words as they are. */
  words(from: Region, out: ArrayBufferView): void {
    this.bytes(from, out.byteLength, (bytes) => {
      new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(new Uint8Array(bytes))
    })
  }

  /** Two-float numbers as float64, from an element of the region on. */
  float64(from: Region, out: Float64Array, begin = 0): void {
    this.bytes(from, 8 * out.length, (bytes) => void fromTwoFloats(new Float32Array(bytes), out), 8 * begin)
  }

  /** Several regions of two-float numbers, with their sizes in bytes, which are taken together. */
  twoFloats(regions: readonly Region[], sizes: readonly number[], take: (found: Float32Array[]) => void): void {
    const found: Float32Array[] = []
    regions.forEach((region, i) => {
      this.bytes(region, sizes[i], (bytes) => {
        found.push(new Float32Array(bytes))
        if (found.length === regions.length) take(found.splice(0))
      })
    })
  }

  /** Records copies of the results to a new buffer; undefined where there are none. */
  record(device: GpuDevice, encoder: GpuEncoder): GpuBuffer | undefined {
    if (this.size === 0) return undefined
    const usage = USAGE.MAP_READ | USAGE.COPY_DST
    const buffer = device.createBuffer({ label: 'fused-preference-loss read-back', size: this.size, usage })
    for (const { from, offset, size } of this.parts) {
      encoder.copyBufferToBuffer(from.buffer, from.offset, buffer, offset, size)
    }
    return buffer
  }

  /** Waits for the copies in that buffer, hands them out, and destroys it. */
  async take(buffer: GpuBuffer | undefined): Promise<void> {
    if (buffer === undefined) return
    try {
      await buffer.mapAsync(MAP_READ)
      const all = buffer.getMappedRange()
      for (const { offset, size, take } of this.parts) take(all.slice(offset, offset + size))
    } finally {
      buffer.destroy()
    }
  }
}
