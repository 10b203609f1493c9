/**
 * How fast the machine's memory is, or its cores multiply, with the same number of threads and in the same minutes as the
 * peers: native code, native/cpu/limits.cc.
 */
import { createRequire } from 'node:module'
import { getBackends } from 'fused-preference-loss'

/** @type {any} */
let addon
/** @type {ArrayBuffer} */
let buffer
/** @type {ArrayBuffer} */
let target
/** @type {{ threads: number, sweeps: string[], instructionSet: string }} */
let wanted

/** @type {import('./index.mjs').Peer} */
export const bandwidth = {
  name: 'bandwidth',
  title: 'memory bandwidth',
  ownInputs: true,

  supports: () => true,

  prepare(_workload, _inputs, { bytes, sweeps, threads }) {
    const { cpu } = getBackends()
    if (!cpu.path) throw new Error(`the native addon is missing: ${cpu.reason}`)
    addon = createRequire(import.meta.url)(cpu.path)
    const instructionSet = /** @type {string} */ (cpu.instructionSet)
    wanted = { threads, sweeps, instructionSet }
    if (sweeps.includes('multiply')) return
    buffer = new ArrayBuffer(bytes)
    target = new ArrayBuffer(sweeps.includes('copy') ? bytes : 0)
    // Pages that were never written are all the same page of zeros.
    new Uint8Array(buffer).fill(1)
    new Uint8Array(target).fill(1)
  },

  run() {
    /** @type {Record<string, number>} */
    const seconds = {}
    for (const sweep of wanted.sweeps) {
      if (sweep === 'multiply') {
        // Of a single operation.
        seconds[sweep] = 1 / addon.multiplyAddRate(wanted.instructionSet, wanted.threads)
        continue
      }
      // A fill goes over the source's pages last, and leaves zeros there: the bytes do not matter to the memory.
      const copies = sweep.startsWith('copy')
      seconds[sweep] = addon.bandwidth(sweep, buffer, copies ? target : undefined, wanted.threads)
    }
    return seconds
  },

  result: () => ({}),
}
