/**
 * Who still needs what has to be given back: a buffer that a pending call reads is freed when the call has settled, a
 * prepared call when the last graph that replays it is gone, however early their owners let go of them.
 */

/** Lets go of something; `isForgotten`: in the garbage collector's name, when nobody may be made to wait. */
export type Release = (isForgotten: boolean) => void

// On the global object: things of one copy of this package may be used with another copy's.
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
    // The device has failed; there is nobody to tell.
  }
})
const owners = new Map<Resource, WeakRef<object>>()

/** Something that is given back when the last who holds it lets go. Its owner holds it until it is garbage, or disowns it. */
export class Resource {
  #holders = 1
  readonly #giveBack: Release

  /** `giveBack` may not refer to the owner, which would then never be garbage. */
  constructor(owner: object, giveBack: Release) {
    this.#giveBack = giveBack
    forgotten.register(owner, this, this)
    owners.set(this, new WeakRef(owner))
  }

  hold(): Release {
    this.#holders++
    return (isForgotten) => this.#letGo(isForgotten)
  }

  /** Lets go for the owner. */
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
 * Gives back, at once, what nobody refers to any more once `collect` has made the garbage collector look for it; whether
 * there was any. What has been made since the event loop last turned is not found.
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

/** Says how to take hold of an object; that throws when it has been disposed of. */
export function holdableBy(object: object, hold: () => Release): void {
  holders.set(object, hold)
}

/** Keeps things alive as long as `owner` is, or until there are others to keep. */
export function keepAlive(owner: object, things: readonly unknown[]): void {
  kept.set(owner, things)
}

/** A hold of all that can be held among some things. */
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

/** What a graph that is being captured will need. */
export class Capture {
  readonly things: unknown[] = []
  readonly holds = new Holds()

  constructor() {
    captures.push(this)
  }

  /** Ends it; what has been let go of meanwhile is given back. */
  end(): void {
    captures.splice(captures.indexOf(this), 1)
    if (captures.length > 0) return
    for (const giveBack of postponed.splice(0)) giveBack()
  }
}

/** Tells the captures that are going on what the work just enqueued needs. */
export function enqueued(...things: readonly unknown[]): void {
  for (const { things: all, holds } of captures) {
    for (const thing of things)
      all.push(thing, typeof thing === 'object' && thing !== null ? kept.get(thing) : undefined)
    holds.add(things)
  }
}
