/**
 * Counts the holders of resources that must be released: a buffer that a pending call reads is freed when the call has
 * settled, and a prepared call when the last graph that replays it is gone, even if their owners released them earlier.
 */

/** Releases something; `isForgotten`: on behalf of the garbage collector, which must not wait. */
export type Release = (isForgotten: boolean) => void

// On the global object: objects of one copy of this package may be used with those of another copy.
function shared<T>(name: string, initial: T): T {
  const key = Symbol.for(`fused-preference-loss.${name}`)
  const global = globalThis as { [key: symbol]: T | undefined }
  global[key] ??= initial
  return global[key]
}

const holders = shared('holders', new WeakMap<object, () => Release>())
const kept = shared('kept', new WeakMap<object, readonly unknown[]>())
const captures = shared<Capture[]>('captures', [])
const postponed = shared<(() => void)[]>('postponed', [])

const forgotten = new FinalizationRegistry<Resource>((resource) => {
  try {
    resource.disown(true)
  } catch {
    // The device has failed; nobody can receive the error.
  }
})
const owners = new Map<Resource, WeakRef<object>>()

/**
 * A resource that is released when its last holder lets go. Its owner holds it until the owner is garbage or disowns
 * it.
 */
export class Resource {
  #holders = 1
  readonly #giveBack: Release

  /** `giveBack` must not refer to the owner, which would then never become garbage. */
  constructor(owner: object, giveBack: Release) {
    this.#giveBack = giveBack
    forgotten.register(owner, this, this)
    owners.set(this, new WeakRef(owner))
  }

  hold(): Release {
    this.#holders++
    return (isForgotten) => this.#letGo(isForgotten)
  }

  /** Lets go on behalf of the owner. */
  disown(isForgotten = false): void {
    forgotten.unregister(this)
    owners.delete(this)
    this.#letGo(isForgotten)
  }

  #letGo(isForgotten: boolean): void {
    if (--this.#holders > 0) return
    // Freeing memory would spoil a capture.
    if (captures.length > 0) postponed.push(() => this.#giveBack(isForgotten))
    else this.#giveBack(isForgotten)
  }
}

/**
 * Runs the garbage collector through `collect`, releases the resources that it has found unreferenced, and returns
 * whether there were any. Objects created since the last turn of the event loop are not found.
 */
export function reclaim(collect: () => void): boolean {
  collect()
  let found = false
  for (const [resource, owner] of owners) {
    if (owner.deref() !== undefined) continue
    found = true
    resource.disown()
  }
  return found
}

/** Registers the function that takes hold of an object; it throws when the object has been disposed of. */
export function holdableBy(object: object, hold: () => Release): void {
  holders.set(object, hold)
}

/** Keeps things alive as long as `owner` is alive, or until the next call for the same owner. */
export function keepAlive(owner: object, things: readonly unknown[]): void {
  kept.set(owner, things)
}

/** Holds every holdable object among some things. */
export class Holds {
  readonly #releases: Release[] = []

  /** Throws `ERR_DISPOSED` when one of them has been disposed of. */
  constructor(things: readonly unknown[] = []) {
    try {
      this.add(things)
    } catch (error) {
      this.letGo(false)
      throw error
    }
  }

  add(things: readonly unknown[]): void {
    for (const thing of things) {
      const hold = typeof thing === 'object' && thing !== null ? holders.get(thing) : undefined
      if (hold) this.#releases.push(hold())
    }
  }

  letGo(isForgotten: boolean): void {
    for (const release of this.#releases.splice(0)) release(isForgotten)
  }
}

/** The resources that a graph being captured will need. */
export class Capture {
  readonly things: unknown[] = []
  readonly holds = new Holds()

  constructor() {
    captures.push(this)
  }

  /** Ends the capture; resources that were let go of meanwhile are released. */
  end(): void {
    captures.splice(captures.indexOf(this), 1)
    if (captures.length > 0) return
    for (const giveBack of postponed.splice(0)) giveBack()
  }
}

/** Records in the current captures what the work just enqueued needs. */
export function enqueued(...things: readonly unknown[]): void {
  for (const { things: all, holds } of captures) {
    for (const thing of things)
      all.push(thing, typeof thing === 'object' && thing !== null ? kept.get(thing) : undefined)
    holds.add(things)
  }
}
