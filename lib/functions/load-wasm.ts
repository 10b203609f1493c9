/**
 * `loadWasm`: the WebAssembly of the package, before the first call that needs it.
 */
import { type LoadedWasm, loadWasm as load } from '../backends/wasm/index.js'
import { optionsObject } from '../check/options.js'
import { failure, invalidType } from '../errors.js'
import type { Backends, LoadWasmOptions } from '../types/index.js'

const SOURCES = 'bytes, a Response, a URL or a WebAssembly.Module'
const OPTIONS: ReadonlySet<string> = new Set(['module', 'threadsModule'])

/**
 * Loads the wasm backend. Browsers fetch its module when a promise first needs it, or by this function, which Sync calls
 * need before them; pages that are isolated from other origins (`crossOriginIsolated`) fetch the one for threads, too. In
 * Node.js it is loaded without being asked, and only a package without its file needs `options.module`. What has been
 * loaded stays, and a failure may be tried again.
 *
 * @returns what `getBackends().wasm` then is.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`; Error `ERR_BACKEND_UNAVAILABLE` where the engine has no WebAssembly with
 *   vectors, and for a module that cannot be had, or is not one of this version of the package.
 */
export async function loadWasm(options?: LoadWasmOptions): Promise<Backends['wasm']> {
  const { module, threadsModule } = optionsObject(options, 'options', OPTIONS)
  for (const [name, source] of Object.entries({ module, threadsModule })) {
    const isSource = typeof source === 'string' || (typeof source === 'object' && source !== null)
    if (source !== undefined && !isSource) throw invalidType(`options.${name}`, SOURCES, source)
  }
  const loaded = await load({ module, threadsModule })
  if ('reason' in loaded)
    throw failure('ERR_BACKEND_UNAVAILABLE', `the wasm backend is not available: ${loaded.reason}`)
  return wasmInfo(loaded)
}

/** The wasm backend as `getBackends` describes it. */
export function wasmInfo(loaded: LoadedWasm): Backends['wasm'] {
  return 'reason' in loaded ? { available: false, reason: loaded.reason } : { available: true, ...loaded.info }
}
