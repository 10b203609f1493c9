/**
 * The words of structures in buffers, written field by field.
 */
import { setTwoFloat } from './two-floats.js'

export class Words {
  readonly bytes: ArrayBuffer
  readonly #floats: Float32Array
  readonly #integers: Uint32Array
  #at = 0

  constructor(byteLength: number) {
    this.bytes = new ArrayBuffer(byteLength)
    this.#floats = new Float32Array(this.bytes)
    this.#integers = new Uint32Array(this.bytes)
  }

  twoFloats(...values: number[]): this {
    for (const value of values) {
      setTwoFloat(this.#floats, this.#at, value)
      this.#at += 2
    }
    return this
  }

  integers(...values: number[]): this {
    for (const value of values) this.#integers[this.#at++] = value
    return this
  }

  /** Goes on at the next multiple of so many bytes. */
  align(bytes: number): this {
    this.#at = (Math.ceil((4 * this.#at) / bytes) * bytes) / 4
    return this
  }
}
