/**
 * Copies of the package that have just been loaded, so that the counters of each copy begin alike: cancelling a call
 * cancels no call of another copy, on every backend. Run as a process and as a worker; uses dist.
 */
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const load = createRequire(import.meta.url)
const commonJs = () => {
  for (const path of Object.keys(load.cache)) if (!path.endsWith('.node')) delete load.cache[path]
  return load('../../dist/index.cjs')
}
/** @typedef {typeof import('../../dist/index.mjs')} Copy */

/** A copy that has loaded its addon. */
const loaded = (/** @type {Copy} */ copy) => {
  assert.ok(copy.getBackends().cpu.available)
  return copy
}
const copies = [loaded(await import('../../dist/index.mjs')), loaded(commonJs()), loaded(commonJs())]
// A bundle that includes the addon does the same; see writeSubpath in scripts/prebuild.mjs.
const bundled = Symbol.for('fused-preference-loss.addon')
Object.assign(globalThis, { [bundled]: load(String(copies[0].getBackends().cpu.path)) })
copies.push(loaded(commonJs()))
Reflect.deleteProperty(globalThis, bundled)
assert.equal(copies[3].getBackends().cpu.path, '(in the bundle)')
// Another addon, which shares nothing with the first.
for (const file of Object.keys(load.cache)) if (file.endsWith('.node')) delete load.cache[file]
copies.push(loaded(commonJs()), loaded(commonJs()))

const reason = new Error('no longer wanted')
const vocab = 500
const data = Float32Array.from({ length: vocab }, (_, i) => (i * 37) % 11)
const options = { shift: false, lossType: /** @type {const} */ ('cpo') }

for (const backend of /** @type {const} */ (['cpu', 'js', 'cuda'])) {
  if (!copies[0].getBackends()[backend].available) continue
  // With few rows the cpu backend would finish before it can be told to stop.
  const rows = backend === 'cpu' ? 2000 : 1
  const logits = { data, shape: [2, rows, vocab], strides: [0, 0, 1] }
  const labels = Int32Array.from({ length: 2 * rows }, (_, i) => (i * 7) % vocab)
  const wanted = copies[0].fusedPreferenceLossSync(logits, labels, { ...options, backend }).losses[0]
  let aborted = 0
  for (const cancelling of copies) {
    const controller = new AbortController()
    const calls = copies.map((copy) =>
      Array.from({ length: 30 }, (_, i) => {
        const signal = copy === cancelling && i % 2 ? controller.signal : undefined
        const call = copy.fusedPreferenceLoss(logits, labels, { ...options, backend, gradient: i === 0, signal })
        return call.then(
          ({ losses }) => losses[0],
          (error) => error,
        )
      }),
    )
    controller.abort(reason)
    for (const [c, outcomes] of (await Promise.all(calls.map((call) => Promise.all(call)))).entries()) {
      for (const [i, outcome] of outcomes.entries()) {
        // A call that finished before it could be aborted has its result.
        if (copies[c] === cancelling && i % 2 && outcome === reason) aborted++
        else assert.ok(Math.abs(outcome - wanted) < 1e-9, `${backend}, copy ${c}, call ${i}: ${outcome}`)
      }
    }
  }
  assert.ok(aborted > 0, `${backend}: nothing was aborted`)
}
console.log(`${copies.length} copies, 30 calls of each: as they should`)
