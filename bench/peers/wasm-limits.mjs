/**
 * Measures how fast WebAssembly could be here, on one thread: how fast memory of JavaScript is copied into a module's
 * memory and out of it, a chunk at a time, which every logit and every element of a gradient needs; and how fast vectors
 * of WebAssembly multiply and add.
 */
import { instructions as op, wasmModule } from './wasm-module.mjs'

/** Bytes of a chunk, as lib/backends/wasm has it. */
const CHUNK = 2 ** 20

/** Independent sums, so that no multiplication waits for an addition: six cycles of four operations. */
const SUMS = 12
/** Steps of a round of the loop. */
const UNROLLED = 4
/** Floating-point operations of a round, in vectors of four. */
export const ROUND_OPERATIONS = UNROLLED * SUMS * 4 * 2
/** Rounds of a call: about a millisecond. */
const ROUNDS = 40_000

/** What is used of the engine's WebAssembly. */
const engine = /** @type {any} */ (globalThis).WebAssembly

/**
 * A function of the number of rounds: it does x = x · factor + 1 in each sum, and adds up the sums. With a factor of a half
 * the limit of each is 2.
 * @returns {(rounds: number) => number}
 */
export function multiplyAdds(by = 0.5) {
  const [factor, one] = [SUMS + 1, SUMS + 2]
  const sums = Array.from({ length: SUMS }, (_, i) => i + 1)
  const step = (/** @type {number} */ x) =>
    [op.get(x), op.get(factor), op.multiply, op.get(one), op.add, op.set(x)].flat()
  const bytes = wasmModule({
    vectors: SUMS + 2,
    body: [
      ...sums.flatMap((x) => [...op.splat(x / 16), ...op.set(x)]),
      ...[...op.splat(by), ...op.set(factor), ...op.splat(1), ...op.set(one)],
      ...op.repeat(0, Array.from({ length: UNROLLED }, () => sums.flatMap(step)).flat()),
      ...op.get(sums[0]),
      ...sums.slice(1).flatMap((x) => [...op.get(x), ...op.add]),
      ...op.firstLane,
    ],
  })
  return new engine.Instance(new engine.Module(bytes)).exports.run
}

/**
 * Copies the source to the module's memory, a chunk at a time, and from there to the target, if there is one.
 * @param {Uint8Array} memory
 * @param {Uint8Array} source
 * @param {Uint8Array} [target]
 */
export function passThrough(memory, source, target) {
  for (let at = 0; at < source.length; at += memory.length) {
    const chunk = source.subarray(at, at + memory.length)
    memory.set(chunk)
    target?.set(memory.subarray(0, chunk.length), at)
  }
}

/** @type {Record<string, () => unknown>} */
let sweeps

/** @type {import('./index.mjs').Peer} */
export const wasmLimits = {
  name: 'wasm-limits',
  title: 'WebAssembly',
  ownInputs: true,
  oneThread: true,

  supports: () => true,

  prepare(_workload, _inputs, { bytes, sweeps: wanted }) {
    const memory = new Uint8Array(new engine.Memory({ initial: CHUNK / 65536 }).buffer)
    const made = wanted.some((/** @type {string} */ sweep) => sweep !== 'multiply')
    // Written first: pages that were never written all share one page of zeros.
    const source = new Uint8Array(made ? bytes : 0).fill(1)
    const target = new Uint8Array(wanted.includes('copy') ? bytes : 0).fill(1)
    const run = multiplyAdds()
    /** @type {Record<string, () => unknown>} */
    const all = {
      read: () => passThrough(memory, source),
      copy: () => passThrough(memory, source, target),
      update: () => passThrough(memory, source, source),
      fill: () => source.fill(0),
      multiply: () => run(ROUNDS),
    }
    sweeps = Object.fromEntries(Object.entries(all).filter(([sweep]) => wanted.includes(sweep)))
    // Engines compile the loop well only once it has run for a while.
    const start = performance.now()
    while (sweeps.multiply && performance.now() - start < 200) run(ROUNDS)
  },

  run() {
    /** @type {Record<string, number>} */
    const seconds = {}
    for (const [sweep, work] of Object.entries(sweeps)) {
      if (sweep === 'multiply') seconds[sweep] = fastest(work, 20) / (ROUNDS * ROUND_OPERATIONS)
      else seconds[sweep] = fastest(work, 1)
    }
    return seconds
  },

  result: () => ({}),
}

/** Seconds of the fastest of so many repetitions. */
function fastest(/** @type {() => unknown} */ work, /** @type {number} */ repetitions) {
  let least = Infinity
  for (let i = 0; i < repetitions; i++) {
    const start = performance.now()
    work()
    least = Math.min(least, (performance.now() - start) / 1000)
  }
  return least
}
