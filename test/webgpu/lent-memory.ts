/**
 * Arrays of the host whose copies on the GPU a call gets in their place. Arrays in one ArrayBuffer are ranges of one
 * GPUBuffer, and so lie there as they do here: at the same offsets, next to each other, or over each other.
 */
import type { DType } from '../../lib/index.js'
import { downloadAll, upload } from './device.js'

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
    const results = new Set<GPUBuffer>()
    try {
      const result = await call
      this.#findBuffers(result, results)
      const found = await this.#bringBack([...results])
      return this.#inHostMemory(result, new Map([...results].map((buffer, i) => [buffer, found[i]]))) as T
    } catch (error) {
      await this.#bringBack([])
      throw error
    } finally {
      for (const buffer of results) buffer.destroy()
    }
  }

  /** Fills the arrays from their copies; returns what these buffers hold. */
  async #bringBack(others: readonly GPUBuffer[]): Promise<Uint8Array[]> {
    const found = await downloadAll(this.device, [...this.#copies.values(), ...others])
    for (const whole of this.#copies.keys()) new Uint8Array(whole).set(found.shift()!.subarray(0, whole.byteLength))
    return found
  }

  /** Adds the buffers of a result that are none of the arrays'. */
  #findBuffers(value: unknown, found: Set<GPUBuffer>): void {
    if (this.#arrays.has(value)) return
    if (isBuffer(value)) found.add(value)
    else if (isPlain(value)) for (const part of Object.values(value)) this.#findBuffers(part, found)
  }

  // `length`: of the elements, where a buffer may have room for more.
  #inHostMemory(value: unknown, found: Map<GPUBuffer, Uint8Array>, dtype: DType = 'float32', length?: number): unknown {
    const array = this.#arrays.get(value)
    if (array !== undefined) return array
    if (isBuffer(value)) return new ARRAYS[dtype](found.get(value)!.buffer as ArrayBuffer, 0, length)
    if (!isPlain(value)) return value
    // The bias's gradient is of the weight's type.
    const { dtype: own = (value.gradWeight as Tensor | undefined)?.dtype ?? dtype } = value as Tensor
    const size = (value as Tensor).shape?.reduce((product, side) => product * side, 1)
    const parts = Object.entries(value).map(([name, part]) => [name, this.#inHostMemory(part, found, own, size)])
    return Object.fromEntries(parts)
  }

  /** The memory on the GPU is gone. */
  free(): void {
    for (const buffer of this.#copies.values()) buffer.destroy()
  }
}
