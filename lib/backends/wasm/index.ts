/**
 * Loads the wasm backend: at once where the modules lie in files, and otherwise when it is first wanted.
 */
import { failure } from '../../errors.js'
import type { Backend, Job, RunSettings } from '../../job.js'
import { WasmBackend } from './backend.js'
import { ALONE, checkEngine, type FoundModule, THREADS } from './modules.js'
import { platform } from './platform.js'
import type { Module } from './webassembly.js'

/** The facts about the wasm backend. */
export interface WasmInfo {
  simd: true
  /** Default number of threads. */
  threads: number
  path?: string
}

export type LoadedWasm = { backend: WasmBackend; info: WasmInfo } | { reason: string }

/** What the modules are made of, in place of those of the package; see `LoadWasmOptions`. */
export interface WasmSources {
  module?: unknown
  threadsModule?: unknown
}

const NOT_YET: LoadedWasm = { reason: 'it has not been loaded yet: `await loadWasm()` loads it' }

let known: LoadedWasm | undefined
let loading: Promise<LoadedWasm> | undefined

/** The wasm backend, or the reason why it is missing, which may be that it has not been loaded. Never throws. */
export function findWasm(): LoadedWasm {
  if (known !== undefined) return known
  try {
    checkEngine()
    const found = platform.findModule(ALONE)
    if (found === undefined) return NOT_YET
    known = begun(found, () => platform.findModule(THREADS)!.module)
  } catch (error) {
    known = { reason: problemOf(error) }
  }
  return known
}

/**
 * The same, once the modules have been loaded. What has been loaded stays; a failure is tried again. Never throws.
 */
export function loadWasm(sources: WasmSources = {}): Promise<LoadedWasm> {
  const earlier = loading
  loading =
    earlier === undefined ? load(sources) : earlier.then((found) => ('backend' in found ? found : load(sources)))
  return loading
}

async function load({ module, threadsModule }: WasmSources): Promise<LoadedWasm> {
  const found = findWasm()
  if ('backend' in found) return found
  try {
    checkEngine()
    const threads = platform.sharesMemory
      ? platform.fetchModule(THREADS, threadsModule).catch(problemOf)
      : 'memory cannot be shared here'
    const alone = await platform.fetchModule(ALONE, module)
    known = begun(alone, fromFetched(await threads))
  } catch (error) {
    known = { reason: problemOf(error) }
  }
  return known
}

function begun({ module, path }: FoundModule, threadsModule: () => Module): LoadedWasm {
  const backend = new WasmBackend(module, threadsModule)
  return { backend, info: { simd: true, threads: platform.threads, ...(path !== undefined && { path }) } }
}

function fromFetched(found: FoundModule | string): () => Module {
  return () => {
    if (typeof found === 'string') throw new Error(found)
    return found.module
  }
}

function problemOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Ends its workers and frees its memory, if it has been loaded. */
export async function closeWasm(): Promise<void> {
  if (known && 'backend' in known) await known.backend.close()
}

/** Stands for the wasm backend until it has been loaded. `without` gives the backend to use if that fails, or throws. */
export class WasmToCome implements Backend {
  readonly name = 'wasm'

  constructor(private readonly without: (reason: string) => Backend) {}

  runSync(job: Job, settings: RunSettings): void {
    const found = findWasm()
    if (found === NOT_YET) {
      const problem = 'a Sync call needs the WebAssembly, which has not been loaded yet: `await loadWasm()` before it'
      throw failure('ERR_BACKEND_UNAVAILABLE', problem)
    }
    this.backendOf(found).runSync(job, settings)
  }

  async run(job: Job, settings: RunSettings): Promise<void> {
    loading ??= loadWasm()
    const backend = this.backendOf(await loading)
    settings.signal?.throwIfAborted()
    await backend.run(job, settings)
  }

  private backendOf(found: LoadedWasm): Backend {
    return 'backend' in found ? found.backend : this.without(found.reason)
  }
}

/** Whether it may still be loaded. */
export function isToCome(found: LoadedWasm): boolean {
  return found === NOT_YET
}
