/**
 * Arrays of the host whose copies on the GPU a call gets in their place. Arrays in one ArrayBuffer are ranges of one
 * GPUBuffer, and so lie there as they do here: at the same offsets, next to each other, or over each other.
 */
import type { DType } from '../../lib/index.js'
import { download, upload } from './device.js'

/** What holds tensors among arguments, options and results; other arrays stay in host memory. */
const TENSORS = ['data', 'gradient', 'hidden', 'weight', 'bias']
const ARRAYS = { float32: Float32Array, float16: Uint16Array, bfloat16: Uint16Array }

interface Tensor {
  dtype?: DType
  shape?: readonly number[]
}

const isPlain = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
const isBuffer = (value: unknown): value is GPUBuffer =>
  typeof value === 'object' && value !== null && 'mapState' in value

export class LentMemory {
  /** The copies of whole ArrayBuffers. */
  readonly #copies = new Map<ArrayBuffer, GPUBuffer>()
  /** Which array a call knows as this buffer or range. */
  readonly #arrays = new Map<unknown, ArrayBufferView>()

  constructor(private readonly device: GPUDevice) {}

  /** The same arguments with buffers and ranges for their tensors. */
  lend<T>(value: T, name = ''): T {
    if (ArrayBuffer.isView(value) && TENSORS.includes(name)) return this.#placeOf(value) as T
    if (!isPlain(value)) return value
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, this.lend(part, name)])) as T
  }

  #placeOf(array: ArrayBufferView): unknown {
    const { byteOffset, byteLength } = array
    const whole = array.buffer as ArrayBuffer
    const buffer = this.#copies.get(whole) ?? upload(this.device, new Uint8Array(whole))
    this.#copies.set(whole, buffer)
    const place = byteOffset === 0 && byteLength === buffer.size ? buffer : { buffer, byteOffset, byteLength }
    this.#arrays.set(place, array)
    return place
  }

  /** Waits for a call that has been lent memory; then the arrays hold what their copies do, and so does its result. */
  async during<T>(call: Promise<T>): Promise<T> {
    try {
      return (await this.#inHostMemory(await call)) as T
    } finally {
      for (const [whole, buffer] of this.#copies) {
        new Uint8Array(whole).set((await download(this.device, buffer)).subarray(0, whole.byteLength))
      }
    }
  }

  // `length`: of the elements, where a buffer may have room for more.
  async #inHostMemory(value: unknown, dtype: DType = 'float32', length?: number): Promise<unknown> {
    const array = this.#arrays.get(value)
    if (array !== undefined) return array
    if (isBuffer(value)) {
      const bytes = await download(this.device, value)
      value.destroy()
      return new ARRAYS[dtype](bytes.buffer as ArrayBuffer, 0, length)
    }
    if (!isPlain(value)) return value
    // The bias's gradient is of the weight's type.
    const { dtype: own = (value.gradWeight as Tensor | undefined)?.dtype ?? dtype } = value as Tensor
    const size = (value as Tensor).shape?.reduce((product, side) => product * side, 1)
    const parts = Object.entries(value).map(async ([name, part]) => [name, await this.#inHostMemory(part, own, size)])
    return Object.fromEntries(await Promise.all(parts))
  }

  /** The memory on the GPU is gone. */
  free(): void {
    for (const buffer of this.#copies.values()) buffer.destroy()
  }
}
