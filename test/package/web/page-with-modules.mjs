/** A page whose bundler leaves `new URL(…, import.meta.url)` alone, but copies files that are imported. */
import { fusedPreferenceLoss, loadWasm } from 'fused-preference-loss'
import threadsModule from 'fused-preference-loss/prebuilds/wasm/fused-preference-loss.threads.wasm'
import module from 'fused-preference-loss/prebuilds/wasm/fused-preference-loss.wasm'
import { resultOf } from './calls.mjs'

const at = (path) => new URL(path, import.meta.url)

globalThis.outcome = loadWasm({ module: at(module), threadsModule: at(threadsModule) }).then(() =>
  resultOf({ fusedPreferenceLoss }, { threads: 2 }),
)
