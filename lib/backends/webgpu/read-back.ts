/**
 * Results on their way back: regions of buffers are copied to one buffer, which is mapped once.
 */
import type { GpuBuffer, GpuDevice, GpuEncoder } from '../../types/index.js'
import type { Region } from './arena.js'
import { MAP_READ, USAGE } from './constants.js'
import { fromTwoFloats } from './two-floats.js'

/** The results of a call. */
export class ReadBack {
  private readonly parts: { from: Region; offset: number; size: number; take(bytes: ArrayBuffer): void }[] = []
  private size = 0
  private buffer: GpuBuffer | undefined

  /** The first `byteLength` bytes of a region. */
  bytes(from: Region, byteLength: number, take: (bytes: ArrayBuffer) => void): void {
    const size = Math.ceil(byteLength / 4) * 4
    if (size === 0) return
    this.parts.push({ from, offset: this.size, size, take })
    this.size += size
  }

  /** Words as they are. */
  words(from: Region, out: ArrayBufferView): void {
    this.bytes(from, out.byteLength, (bytes) => {
      new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(new Uint8Array(bytes))
    })
  }

  /** Two-float numbers as float64. */
  float64(from: Region, out: Float64Array<ArrayBufferLike>): void {
    this.bytes(from, 8 * out.length, (bytes) =>
      fromTwoFloats(new Float32Array(bytes), out as Float64Array<ArrayBuffer>),
    )
  }

  /** Copies the results once those that are recorded before it are there. */
  record(device: GpuDevice, encoder: GpuEncoder): void {
    if (this.size === 0) return
    const usage = USAGE.MAP_READ | USAGE.COPY_DST
    const buffer = device.createBuffer({ label: 'fused-preference-loss read-back', size: this.size, usage })
    this.buffer = buffer
    for (const { from, offset, size } of this.parts) {
      encoder.copyBufferToBuffer(from.buffer, from.offset, buffer, offset, size)
    }
  }

  /** Waits for the copies and hands them out. */
  async take(): Promise<void> {
    const { buffer } = this
    if (buffer === undefined) return
    await buffer.mapAsync(MAP_READ)
    const all = buffer.getMappedRange()
    for (const { offset, size, take } of this.parts) take(all.slice(offset, offset + size))
    buffer.unmap()
  }

  destroy(): void {
    this.buffer?.destroy()
  }
}
