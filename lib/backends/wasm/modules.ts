/**
 * The WebAssembly modules, and what they can be made of.
 */
import { type Module, WebAssembly } from './webassembly.js'

/** The modules for one thread, and for threads that share its memory. */
export const ALONE = 'fused-preference-loss.wasm'
export const THREADS = 'fused-preference-loss.threads.wasm'
export type ModuleName = typeof ALONE | typeof THREADS

/** A module, and the file or URL that it comes from, if it has one. */
export interface FoundModule {
  readonly module: Module
  readonly path?: string | undefined
}

/** A function that takes a vector and gives it back: a module of an engine that has such vectors. */
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 123, 1, 123, 3, 2, 1, 0, 10, 6, 1, 4, 0, 32, 0, 11]

/** Throws an error that says what the engine lacks. */
export function checkEngine(): void {
  if (WebAssembly === undefined) throw new Error('this engine has no WebAssembly')
  if (!WebAssembly.validate(Uint8Array.from(SIMD))) throw new Error('this engine has no WebAssembly SIMD')
}

/** The module whose bytes these are. */
function compiled(bytes: ArrayBuffer | ArrayBufferView): Promise<Module> {
  return WebAssembly.compile(bytes)
}

/** What a fetched module is read from: a Response or a Blob. */
interface Body {
  readonly ok?: boolean
  readonly status?: number
  readonly url?: string
  readonly headers?: { get(name: string): string | null }
  arrayBuffer(): Promise<ArrayBuffer>
}

/** The module of a caller's source; see `LoadWasmOptions`. Throws an error that says what is wrong with it. */
export async function sourceOf(source: unknown): Promise<FoundModule> {
  if (source instanceof WebAssembly.Module) return { module: source }
  if (typeof source === 'string' || source instanceof URL) return fetched(String(source))
  const given = await source
  if (given instanceof WebAssembly.Module) return { module: given }
  if (given instanceof ArrayBuffer || ArrayBuffer.isView(given)) return { module: await compiled(given) }
  if (typeof (given as Body | undefined)?.arrayBuffer === 'function') return bodyOf(given as Body)
  throw new TypeError('it is neither bytes, a Response, a URL nor a WebAssembly.Module')
}

/** Fetches a module. */
export async function fetched(url: string): Promise<FoundModule> {
  let response: Body
  try {
    response = await fetch(url)
  } catch (error) {
    throw located(error, url)
  }
  return bodyOf(response, url)
}

async function bodyOf(body: Body, path = body.url || undefined): Promise<FoundModule> {
  try {
    if (body.ok === false) throw new Error(`HTTP status ${body.status}`)
    const type = body.headers?.get('content-type')
    // Servers of pages have one for every address.
    if (type?.startsWith('text/html')) throw new Error('the server answers with a page of HTML')
    // Browsers compile it while it arrives, where the server says what it is.
    const streams = type === 'application/wasm' && 'compileStreaming' in WebAssembly
    const module = streams ? await WebAssembly.compileStreaming(body) : await compiled(await body.arrayBuffer())
    return { module, path }
  } catch (error) {
    throw located(error, path)
  }
}

function located(error: unknown, path: string | undefined): Error {
  const problem = error instanceof Error ? error.message : String(error)
  return new Error(path === undefined ? problem : `${path}: ${problem}`)
}
