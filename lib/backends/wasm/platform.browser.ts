/**
 * What the wasm backend needs of a browser: the modules of the package, fetched from where bundlers have put them, and
 * workers, which share memory in pages that are isolated from other origins.
 */
import { fetched, type ModuleName, sourceOf, THREADS } from './modules.js'
import type { Platform } from './platform-type.js'

/** What is used of a page and of a worker in it. */
interface Scope {
  readonly crossOriginIsolated?: boolean
  readonly navigator?: { readonly hardwareConcurrency?: number }
  /** Only a page has one. */
  readonly document?: object
  readonly Worker?: new (
    url: URL,
    options: { type: 'module' },
  ) => {
    postMessage(message: unknown): void
    terminate(): void
    addEventListener(type: string, listener: (event: { data: unknown; message?: string }) => void): void
  }
}

const scope = globalThis as unknown as Scope
const sharesMemory = scope.crossOriginIsolated === true && scope.Worker !== undefined

export const platform: Platform = {
  threads: sharesMemory ? (scope.navigator?.hardwareConcurrency ?? 1) : 1,
  sharesMemory,
  maySleep: scope.document === undefined,

  findModule: () => undefined,

  async fetchModule(name, source) {
    return source === undefined ? fetched(urlOf(name)) : sourceOf(source)
  },

  startWorker(start, { message, error, exit }) {
    const worker = new Worker(new URL('./worker.mjs', import.meta.url), { type: 'module' })
    const end = async () => {
      worker.terminate()
      exit()
    }
    worker.addEventListener('message', ({ data }) => message(data))
    worker.addEventListener('error', (event) => {
      error(new Error(event.message || 'its script does not load'))
      void end()
    })
    worker.postMessage(start)
    return { post: (job) => worker.postMessage(job), keepAlive: () => {}, end }
  },
}

function urlOf(name: ModuleName): string {
  try {
    // Bundlers look for exactly this form, each with a name.
    const url =
      name === THREADS
        ? new URL('../../../prebuilds/wasm/fused-preference-loss.threads.wasm', import.meta.url)
        : new URL('../../../prebuilds/wasm/fused-preference-loss.wasm', import.meta.url)
    return url.href
  } catch {
    // Edge runtimes, and scripts that are no modules.
    throw new Error(`this script has no URL by which ${name} could be found: pass it to loadWasm`)
  }
}

// The global name, as bundlers look for `new Worker(new URL(…))`.
declare const Worker: NonNullable<Scope['Worker']>
