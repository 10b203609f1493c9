/**
 * `DeviceBuffer`: memory of a GPU that belongs to JavaScript.
 */
import { checkView, type View, viewAs, viewKind } from '../../check/arrays.js'
import { integer, optionsObject } from '../../check/options.js'
import { invalidType, outOfRange } from '../../errors.js'
import type { DeviceMemory, RunOptions } from '../../types/index.js'
import { cudaRange, DEVICE_OPTION, isCudaMemory, STREAM_OPTION, streamOf } from './addresses.js'
import { COPY, cudaCall, cudaPromise, withRoom } from './calls.js'
import { Handle } from './handle.js'
import { enqueued, Holds, type Release } from './holds.js'
import { nextId } from './index.js'
import { cudaFunctions } from './open.js'

/** Options of a copy. */
export interface CopyOptions {
  /** First byte of the buffer. Defaults to 0. */
  byteOffset?: number | undefined
  /** Stream the copy is in order with. Defaults to the default stream. */
  stream?: RunOptions['stream'] | undefined
}

const COPY_OPTIONS: ReadonlySet<string> = new Set(['byteOffset', 'stream'])
const FROM_OPTIONS: ReadonlySet<string> = new Set(['device', 'stream'])
const MOST_BYTES = 2 ** 48

/**
 * A range of device memory. It is freed by `dispose`, by `using`, or when it is garbage, and in each case only once no
 * pending call, prepared call or graph needs it any more. Freed memory is used again after the work that has been enqueued
 * by then; nothing waits for that.
 */
export class DeviceBuffer extends Handle implements DeviceMemory {
  /** Size in bytes. */
  readonly byteLength: number
  readonly byteOffset: number = 0
  /** Index of the GPU. */
  readonly device: number
  // What owns the memory, a buffer or a prepared call: slices keep it alive.
  #owner: Handle<unknown> | undefined

  /**
   * Allocates memory, which is not cleared.
   * @param byteLength bytes, at least 1
   * @param options `device`: index of the GPU. Defaults to 0.
   * @throws RangeError `ERR_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA` (out of memory: it names the bytes)
   */
  constructor(byteLength: number, options?: { device?: number })
  /** @internal */
  constructor(byteLength: number, options: { device?: number }, slice: { of: Handle<unknown>; address: number })
  constructor(byteLength: number, options?: { device?: number }, slice?: { of: Handle<unknown>; address: number }) {
    const { device = 0 } = optionsObject(options, 'options', DEVICE_OPTION)
    if (slice) {
      super(slice.address, () => {})
      this.#owner = slice.of
    } else {
      integer(byteLength, 'byteLength', 1, MOST_BYTES)
      const cuda = cudaFunctions()
      const address = withRoom(cuda, () => cudaCall(() => cuda.allocate(device, byteLength)))
      super(address, (isForgotten) => {
        // Freeing waits for a device without memory pools; the garbage collector must not wait.
        if (isForgotten) cuda.releaseAsync(nextId(), device, address, byteLength).catch(() => {})
        else cudaCall(() => cuda.release(device, address, byteLength))
      })
    }
    this.byteLength = byteLength
    this.device = device
  }

  /** A buffer with a copy of a typed array. */
  static from(array: ArrayBufferView, options?: { device?: number; stream?: RunOptions['stream'] }): DeviceBuffer {
    const bytes = bytesOf(array, 'array')
    const { device = 0, stream } = optionsObject(options, 'options', FROM_OPTIONS)
    const buffer = new DeviceBuffer(bytes.byteLength, { device })
    buffer.copyFrom(array, { stream })
    return buffer
  }

  /** Device address. Throws `ERR_DISPOSED` once this buffer, or what it is a part of, has been disposed of. */
  get ptr(): number {
    void this.#owner?.handle
    return this.handle
  }

  /** @internal A slice holds the memory it lies in. */
  override hold(): Release {
    const release = super.hold()
    if (this.#owner === undefined) return release
    release(false)
    return this.#owner.hold()
  }

  /** Bytes `begin` to `end` of the same memory, which stays allocated until the whole buffer is disposed of. */
  slice(begin = 0, end = this.byteLength): DeviceBuffer {
    integer(begin, 'begin', 0, this.byteLength)
    integer(end, 'end', begin, this.byteLength)
    const address = this.ptr + begin
    return new DeviceBuffer(end - begin, { device: this.device }, { of: this.#owner ?? this, address })
  }

  /**
   * Sets every byte, of a part by `buffer.slice(begin, end).fill()`. This is only enqueued.
   * @param byte an integer in [0, 255]. Defaults to 0.
   * @param options `stream`: the one it is in order with. Defaults to the default stream.
   * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`; Error `ERR_DISPOSED`,
   *   `ERR_CUDA`
   */
  fill(byte = 0, options?: Pick<CopyOptions, 'stream'>): void {
    integer(byte, 'byte', 0, 255)
    const { stream = 0 } = optionsObject(options, 'options', STREAM_OPTION)
    const address = Number(streamOf(stream, this.device))
    const { ptr, device, byteLength } = this
    if (byteLength === 0) return
    cudaCall(() => cudaFunctions().fill(device, ptr, byte, byteLength, address))
    enqueued(this)
  }

  /** Copies a typed array or other device memory here. A copy between arrays of the device is only enqueued. */
  copyFrom(source: ArrayBufferView | DeviceMemory, options?: CopyOptions): void {
    const args = this.#copyFrom(source, copyOptions(options))
    cudaCall(() => cudaFunctions().copy(...args))
    enqueued(this, source)
  }

  /** The same off the calling thread. The array must not be touched until the promise has settled. */
  async copyFromAsync(source: ArrayBufferView | DeviceMemory, options?: CopyOptions): Promise<void> {
    const given = copyOptions(options)
    await this.#copyLater(this.#copyFrom(source, given), [source, given.stream])
  }

  /** Fills a typed array with the bytes from `byteOffset` on. */
  copyTo(target: ArrayBufferView, options?: CopyOptions): void {
    const args = this.#copyTo(target, copyOptions(options))
    cudaCall(() => cudaFunctions().copy(...args))
  }

  /** The same off the calling thread. */
  async copyToAsync(target: ArrayBufferView, options?: CopyOptions): Promise<void> {
    const given = copyOptions(options)
    await this.#copyLater(this.#copyTo(target, given), [given.stream])
  }

  async #copyLater(args: CopyArguments, others: readonly unknown[]): Promise<void> {
    const things = [this, ...others]
    const holds = new Holds(things)
    try {
      await cudaPromise(cudaFunctions().copyAsync(nextId(), ...args, things))
    } finally {
      holds.letGo(false)
    }
  }

  #copyFrom(source: unknown, { byteOffset = 0, stream = 0 }: CopyOptions): CopyArguments {
    const handle = Number(streamOf(stream, this.device))
    if (isCudaMemory(source)) {
      const { place, byteLength } = cudaRange(source, 'source', 1)
      const to = this.#at(byteOffset, byteLength)
      return [this.device, COPY.onDevice, to, Number(place), byteLength, handle]
    }
    const bytes = bytesOf(source, 'source')
    return [this.device, COPY.toDevice, this.#at(byteOffset, bytes.byteLength), bytes, bytes.byteLength, handle]
  }

  #copyTo(target: unknown, { byteOffset = 0, stream = 0 }: CopyOptions): CopyArguments {
    const bytes = bytesOf(target, 'target')
    const from = this.#at(byteOffset, bytes.byteLength)
    return [this.device, COPY.toHost, bytes, from, bytes.byteLength, Number(streamOf(stream, this.device))]
  }

  #at(byteOffset: number, bytes: number): number {
    integer(byteOffset, 'options.byteOffset', 0, this.byteLength)
    if (byteOffset + bytes > this.byteLength) {
      throw outOfRange(
        'the copy',
        `within the ${this.byteLength} bytes of the buffer`,
        `bytes to ${byteOffset + bytes}`,
      )
    }
    return this.ptr + byteOffset
  }
}

type CopyArguments = [
  device: number,
  kind: number,
  to: number | ArrayBufferView,
  from: number | ArrayBufferView,
  bytes: number,
  stream: number,
]

const copyOptions = (given: CopyOptions | undefined) => optionsObject(given, 'options', COPY_OPTIONS)

function bytesOf(array: unknown, name: string): Uint8Array {
  if (viewKind(array) === undefined) throw invalidType(name, 'a typed array', array)
  checkView(array as View, name)
  const { byteLength } = array as ArrayBufferView
  return viewAs(Uint8Array, array as View, byteLength)
}
