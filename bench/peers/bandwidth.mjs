/**
 * Measures how fast the machine's memory is, or how fast its cores multiply, with the same number of threads and in the
 * same minutes as the peers. The native code is native/cpu/limits.cc.
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
  title: 'memory',
  ownInputs: true,

  supports: () => true,

  prepare(_workload, _inputs, { bytes, sweeps, threads }) {
    const { cpu } = getBackends()
    if (!cpu.path) throw new Error(`the native addon is missing: ${cpu.reason}`)
    addon = createRequire(import.meta.url)(cpu.path)
    const instructionSet = /** @type {string} */ (cpu.instructionSet)
    wanted = { threads, sweeps, instructionSet }
    if (sweeps.includes('multiply') || sweeps.includes('multiplyPairs')) return
    buffer = new ArrayBuffer(bytes)
    target = new ArrayBuffer(sweeps.includes('copy') ? bytes : 0)
    // Written first: pages that were never written all share one page of zeros.
    new Uint8Array(buffer).fill(1)
    new Uint8Array(target).fill(1)
  },

  run() {
    /** @type {Record<string, number>} */
    const seconds = {}
    for (const sweep of wanted.sweeps) {
      if (sweep === 'multiply') {
        // Seconds per operation.
        seconds[sweep] = 1 / addon.multiplyAddRate(wanted.instructionSet, wanted.threads)
        continue
      }
      if (sweep === 'multiplyPairs') {
        // Where there is no instruction for pairs, they are converted and multiplied as float32.
        const { instructionSet, threads } = wanted
        seconds[sweep] = 1 / (addon.pairProductRate(threads) || addon.multiplyAddRate(instructionSet, threads))
        continue
      }
      // The fill comes last because it leaves zeros in the source. The speed of memory does not depend on the bytes.
      const copies = sweep.startsWith('copy')
      seconds[sweep] = addon.bandwidth(sweep, buffer, copies ? target : undefined, wanted.threads)
    }
    return seconds
  },

  result: () => ({}),
}
