/**
 * Tensors of a job on the device: those of the caller's buffers as they are, those in the host's memory as copies.
 */
import type { GpuSlice, Place, Rows } from '../../job.js'
import type { GpuDevice, HostArray } from '../../types/index.js'
import { USAGE } from './constants.js'
import type { ReadBack } from './read-back.js'
import type { GpuRows } from './windows.js'

/** Copies of arrays of the host's, for one call. */
export class HostCopies {
  private readonly copies = new Map<HostArray, GpuSlice>()

  constructor(private readonly device: GpuDevice) {}

  /** Rows on the device. Rows in the host's memory are copied there if they are `read`. */
  rows(rows: Rows, isRead = true): GpuRows {
    return { ...rows, data: this.slice(rows.data, isRead) }
  }

  /** Memory on the device, which is copied there likewise. */
  slice(place: Place, isRead = true): GpuSlice {
    if (isSlice(place)) return place
    const array = place as HostArray
    let slice = this.copies.get(array)
    if (slice !== undefined) return slice
    const { byteLength } = array
    const usage = USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST
    const size = Math.ceil(byteLength / 16) * 16
    const buffer = this.device.createBuffer({ label: 'fused-preference-loss copy', size, usage })
    slice = { buffer, byteOffset: 0, byteLength }
    this.copies.set(array, slice)
    if (isRead) this.device.queue.writeBuffer(buffer, 0, paddedTo4(array))
    return slice
  }

  /** Brings back rows that were written to a copy. */
  readBack({ data }: Pick<Rows, 'data'>, results: ReadBack): void {
    if (isSlice(data)) return
    const array = data as HostArray
    const { buffer, byteLength } = this.copies.get(array) as GpuSlice
    results.bytes({ buffer, offset: 0, size: byteLength }, byteLength, (bytes) => {
      const out = new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
      out.set(new Uint8Array(bytes, 0, byteLength))
    })
  }

  destroy(): void {
    for (const { buffer } of this.copies.values()) buffer.destroy()
  }
}

/** Whether a tensor is in a buffer of the device. */
export function isSlice(place: Place): place is GpuSlice {
  return typeof place === 'object' && 'byteLength' in place && !ArrayBuffer.isView(place)
}

// A copy to the device is of whole words.
function paddedTo4(array: HostArray): ArrayBufferView<ArrayBuffer> {
  const { buffer, byteOffset, byteLength } = array
  const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength)
  if (byteLength % 4 === 0) return bytes
  const padded = new Uint8Array(byteLength + 4 - (byteLength % 4))
  padded.set(bytes)
  return padded
}
