/**
 * What can be measured in a browser: see index.mjs.
 */
import { findIn } from './find.mjs'
import { jax, jaxOurs } from './jax.mjs'
import { onnxruntimeWeb } from './onnxruntime.mjs'
import { oursJs, oursWasm } from './ours.mjs'
import { plainJavaScript } from './plain-javascript.mjs'
import { tfjsCpu, tfjsWasm, tfjsWasmCustom, tfjsWasmOurs } from './tfjs.mjs'
import { tfjsProduct, tfjsProductTransposed } from './tfjs-product.mjs'
import { wasmLimits } from './wasm-limits.mjs'

/** In the order of the tables. */
export const PEERS = [
  oursWasm,
  oursJs,
  onnxruntimeWeb,
  tfjsWasm,
  tfjsWasmCustom,
  tfjsWasmOurs,
  tfjsProduct,
  tfjsProductTransposed,
  tfjsCpu,
  jax,
  jaxOurs,
  plainJavaScript,
]

/**
 * @param {string} name
 * @returns {import('./index.mjs').Peer}
 */
export const findPeer = (name) => findIn(PEERS, [wasmLimits], name)
