/**
 * Resources of the CUDA runtime that must be released: by `dispose`, by `using`, or at the latest when they are
 * garbage; and in each case only once no call, prepared call or graph needs them any more.
 */

import { disposeSymbol } from '../../check/dispose-symbol.js'
import { failure } from '../../errors.js'
import type { Using } from '../../types/index.js'
import { holdableBy, keepAlive, type Release, Resource } from './holds.js'

// biome-ignore lint/correctness/noUnusedVariables: a declaration that is merged has the parameters of the class
export interface Handle<Value> extends Using {}

/** A handle, and the function that releases it. */
// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: the method is put on the prototype below
export abstract class Handle<Value = number> {
  #value: Value | undefined
  readonly #resource: Resource

  /** `giveBack` must not refer to the object itself, which would then never become garbage. */
  protected constructor(value: Value, giveBack: Release) {
    this.#value = value
    this.#resource = new Resource(this, giveBack)
    holdableBy(this, () => this.hold())
  }

  /** The CUDA runtime's handle. Throws `ERR_DISPOSED` after `dispose`. */
  get handle(): Value {
    if (this.#value === undefined) throw failure('ERR_DISPOSED', `this ${this.constructor.name} has been disposed of`)
    return this.#value
  }

  /** @internal Keeps it from being released. Throws `ERR_DISPOSED` after `dispose`. */
  hold(): Release {
    void this.handle
    return this.#resource.hold()
  }

  /**
   * Releases it, at once or when the last call, prepared call or graph that needs it ends. A second call does nothing.
   */
  dispose(): void {
    if (this.#value === undefined) return
    this.#value = undefined
    keepAlive(this, [])
    this.#resource.disown()
  }
}

Object.defineProperty(Handle.prototype, disposeSymbol, {
  value(this: Handle): void {
    this.dispose()
  },
  writable: true,
  configurable: true,
})
