/**
 * Things of the CUDA runtime that have to be given back: disposed of by hand, by `using`, or at the latest when nobody
 * refers to them any more.
 */
import { failure } from '../errors.js'
import type { Using } from '../types.js'

const forgotten = new FinalizationRegistry<() => void>((release) => {
  try {
    release()
  } catch {
    // The device has failed; there is nobody to tell.
  }
})

/** The key of `using`, which is newer than some versions of Node 20. */
export const disposeSymbol: symbol = Symbol.dispose ?? Symbol.for('Symbol.dispose')

export interface Handle extends Using {}

/** A handle, and how to give it back. */
// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: the method is put on the prototype below
export abstract class Handle {
  #value: number | undefined
  readonly #release: () => void

  /** `release` may not refer to the object itself, which would then never be forgotten. */
  protected constructor(value: number, release: () => void) {
    this.#value = value
    this.#release = release
    forgotten.register(this, release, this)
  }

  /** The handle as the CUDA runtime knows it. Throws `ERR_DISPOSED` after `dispose`. */
  get handle(): number {
    if (this.#value === undefined) throw failure('ERR_DISPOSED', `this ${this.constructor.name} has been disposed of`)
    return this.#value
  }

  /** Gives it back. A second call does nothing. */
  dispose(): void {
    if (this.#value === undefined) return
    this.#value = undefined
    forgotten.unregister(this)
    this.#release()
  }
}

Object.defineProperty(Handle.prototype, disposeSymbol, {
  value(this: Handle): void {
    this.dispose()
  },
  writable: true,
  configurable: true,
})
