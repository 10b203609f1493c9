/**
 * Room in buffers of our own: a call has a few buffers, and its arrays are regions of them.
 */
import type { GpuBuffer, GpuDevice } from '../../types/index.js'
import { USAGE } from './constants.js'

/** What a binding shows of a buffer. */
export interface Region {
  readonly buffer: GpuBuffer
  readonly offset: number
  readonly size: number
}

/** Bytes of any structure of a shader: a binding has to have room for one. */
const SMALLEST = 64

/** Regions of a buffer that is made once their sizes are known. */
export class Arena {
  /** Bytes in use. */
  size = 0
  private made: GpuBuffer | undefined
  private readonly pieces: { offset: number; bytes: Uint8Array }[] = []

  constructor(
    private readonly name: string,
    private readonly usage: number,
    private readonly alignment: number,
  ) {}

  /** A region of that many bytes, zero at first. */
  room(byteLength: number): Region {
    const region = this.region(this.size, byteLength)
    this.size = Math.ceil((region.offset + region.size) / this.alignment) * this.alignment
    return region
  }

  /** A region at the beginning, in an arena of such regions: they lie over each other. */
  roomOver(byteLength: number): Region {
    const region = this.region(0, byteLength)
    this.size = Math.max(this.size, region.size)
    return region
  }

  private region(offset: number, byteLength: number): Region {
    const arena = this
    return {
      offset,
      size: Math.max(SMALLEST, Math.ceil(byteLength / 16) * 16),
      get buffer() {
        return arena.buffer
      },
    }
  }

  /** A region with a copy of an array. */
  put(array: ArrayBufferView | ArrayBuffer): Region {
    const region = this.room(array.byteLength)
    const bytes = ArrayBuffer.isView(array)
      ? new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
      : new Uint8Array(array)
    this.pieces.push({ offset: region.offset, bytes })
    return region
  }

  get buffer(): GpuBuffer {
    if (this.made === undefined) throw new Error(`the buffer of ${this.name} is not made yet`)
    return this.made
  }

  /** Makes the buffer and fills it. */
  make(device: GpuDevice): void {
    const size = Math.max(this.size, 16)
    this.made = device.createBuffer({ label: `fused-preference-loss ${this.name}`, size, usage: this.usage })
    if (this.pieces.length === 0) return
    const all = new Uint8Array(size)
    for (const { offset, bytes } of this.pieces) all.set(bytes, offset)
    device.queue.writeBuffer(this.made, 0, all)
  }

  destroy(): void {
    this.made?.destroy()
  }
}

/** The arenas of a call. */
export class Arenas {
  /** What shaders read alone: uniforms and the job's arrays. */
  readonly inputs: Arena
  /** What shaders write, all of it bound for writing, as a buffer cannot be bound in two ways at once. */
  readonly work: Arena
  /** What nobody needs any more once the next region is written, which lies over it. */
  readonly scratch: Arena
  /** What the shader of labels writes and others read alone. */
  readonly labels: Arena
  /** Logits of an output layer, and their gradients. */
  readonly logits: Arena
  /** What an output layer's gradients are finished from. */
  readonly sums: Arena

  constructor(alignment: number) {
    this.inputs = new Arena('inputs', USAGE.STORAGE | USAGE.UNIFORM | USAGE.COPY_DST, alignment)
    this.work = new Arena('work', USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST, alignment)
    this.scratch = new Arena('scratch', USAGE.STORAGE, alignment)
    this.labels = new Arena('labels', USAGE.STORAGE | USAGE.COPY_SRC, alignment)
    this.logits = new Arena('logits', USAGE.STORAGE, alignment)
    this.sums = new Arena('sums', USAGE.STORAGE, alignment)
  }

  private get all(): readonly Arena[] {
    return [this.inputs, this.work, this.scratch, this.labels, this.logits, this.sums]
  }

  /** Bytes of all of them. */
  get size(): number {
    return this.all.reduce((bytes, { size }) => bytes + size, 0)
  }

  make(device: GpuDevice): void {
    for (const arena of this.all) if (arena.size > 0) arena.make(device)
  }

  destroy(): void {
    for (const arena of this.all) arena.destroy()
  }
}
