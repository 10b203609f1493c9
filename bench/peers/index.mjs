/**
 * Everything that can be measured: ours and the alternatives a user could pick. One file per library, each with the
 * same small interface. A library is imported only in the process that runs it, so any library may be missing.
 *
 * @typedef {import('../cases.mjs').Workload} Workload
 *
 * @typedef {object} Inputs
 * @property {(Float32Array | Uint16Array)[]} logits the same batch at several places in memory; hidden states, with a
 *   weight
 * @property {Float32Array | Uint16Array} [weight] `[vocab, width]` of the output layer, for the linear stages
 * @property {Float32Array | Uint16Array} [pristine] one more copy, from which overwritten inputs are restored
 * @property {number} copies
 * @property {number} distinct number of outputs to rotate through so that none is still in a cache
 * @property {Int32Array} labels `[batch, time]`, -100 where masked
 * @property {Int32Array} targets `[batch, time]` what each row of logits predicts, -1 where it does not count
 * @property {{ chosen: Float64Array, rejected: Float64Array }} reference
 * @property {{ chosen: Float64Array, rejected: Float64Array }} [policy] log-probs, for stage 'loss'
 * @property {number[]} positions where the gradient is compared
 *
 * @typedef {object} Peer
 * @property {string} name the value of --peer
 * @property {string} title the name in the tables
 * @property {number} [slowness] marks a slow peer, which gets fewer tokens so that a repetition ends within about a
 *   second; the factor by which it gets fewer tokens than other slow peers
 * @property {boolean} [quick] runs with --quick too
 * @property {boolean} [inPython] runs in a python3
 * @property {boolean} [linear] has the linear stages too
 * @property {boolean} [compiles] for each shape anew, which takes many seconds: its errors are those of the same without
 * @property {boolean} [embedded] is ours inside a trainer, or a part of the work, and runs where a case or --peer names it
 * @property {() => Peer} [another] makes another instance, for a peer that can have variants
 * @property {boolean} [overwrites] leaves a gradient where the logits were
 * @property {boolean} [ownInputs] needs no logits
 * @property {boolean} [oneThread] a meter that has one thread
 * @property {boolean} [ownCopies] needs the logits once, and keeps copies in a memory of its own
 * @property {string} [version]
 * @property {string} [note] a remark for the reader of the table
 * @property {number} [pid] of the process that does the work, when it is another process
 * @property {(workload: Workload) => true | string} supports true, or the reason why not
 * @property {(workload: Workload, inputs: Inputs, settings: any) => Promise<void> | void} prepare
 * @property {(copy: number) => any} run one call; seconds if it has taken the time itself, and where the work is done in
 *   another process, `{ seconds, processor }` with the processor time there; of a meter, what it has measured; may be a
 *   promise
 * @property {() => import('../agreement.mjs').Result | Promise<import('../agreement.mjs').Result>} result of the last
 *   call, which was on copy 0
 */
import { bandwidth } from './bandwidth.mjs'
import { blasProducts } from './blas.mjs'
import { findIn } from './find.mjs'
import { jax, jaxOurs } from './jax.mjs'
import { onnxruntimeWeb } from './onnxruntime.mjs'
import { onnxruntimeNode } from './onnxruntime-node.mjs'
import { ours, oursBlas, oursJs, oursWasm } from './ours.mjs'
import { plainJavaScript } from './plain-javascript.mjs'
import { tfjsCpu, tfjsNode, tfjsWasm, tfjsWasmCustom, tfjsWasmOurs } from './tfjs.mjs'
import { tfjsProduct, tfjsProductTransposed } from './tfjs-product.mjs'
import { torchCompile, torchCrossEntropy, torchEager, torchWithoutAmx, trl } from './torch.mjs'
import { wasmLimits } from './wasm-limits.mjs'
import { xla } from './xla.mjs'

/** In the order of the tables. */
export const PEERS = [
  ours,
  oursBlas,
  blasProducts,
  oursWasm,
  oursJs,
  onnxruntimeNode,
  onnxruntimeWeb,
  torchEager,
  torchCrossEntropy,
  torchCompile,
  torchWithoutAmx,
  trl,
  xla,
  tfjsNode,
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

/** The roofline's meters: not peers, but run like them. */
export { bandwidth, wasmLimits }

/**
 * @param {string} name
 * @returns {Peer}
 */
export const findPeer = (name) => findIn(PEERS, [bandwidth, wasmLimits], name)
