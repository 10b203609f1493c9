/**
 * Calls each function a hundred thousand times, then half as often again: the second series must not make the process
 * larger, in heap and resident set, measured after a garbage collection. V8 may enlarge its space for new objects at any
 * time, once; what a call keeps makes the process larger in each of three such series.
 */
import { readFileSync } from 'node:fs'
import * as fpl from '../../dist/index.mjs'

const gc = /** @type {() => void} */ (globalThis.gc) // run with --expose-gc

const quick = process.argv.includes('--quick')
const CALLS = quick ? 6000 : 100_000
/** The difference that V8 and the allocator may make between two measurements. */
const HEAP_SLACK = 1e6
const RESIDENT_SLACK = 12e6

if (!fpl.getBackends().cpu.available) throw new Error(fpl.getBackends().cpu.reason)
const [batch, time, vocab] = [2, 8, 300]
const data = Float32Array.from({ length: batch * time * vocab }, (_, i) => (i * 37) % 11)
const logits = { data, shape: [batch, time, vocab] }
const labels = Int32Array.from({ length: batch * time }, (_, i) => i)
const reference = { chosen: [-3], rejected: [-4] }
const hidden = { data: data.subarray(0, batch * time * 4), shape: [batch, time, 4] }
const weight = { data: data.subarray(0, vocab * 4), shape: [vocab, 4] }
const pairs = { chosen: [-1, -2], rejected: [-2, -3] }
const bad = { temperature: -1 }
const wideLabels = new Int32Array(4)

const functions = {
  fusedPreferenceLossSync: () => fpl.fusedPreferenceLossSync(logits, labels, { reference, gradient: true }),
  fusedPreferenceLoss: () => fpl.fusedPreferenceLoss(logits, labels, { reference, gradient: true }),
  sequenceLogProbsSync: () => fpl.sequenceLogProbsSync(logits, labels).backwardSync([1, -1]),
  sequenceLogProbs: () => fpl.sequenceLogProbs(logits, labels, { outputs: ['logSumExp'] }),
  preferenceLossSync: () => fpl.preferenceLossSync(pairs, { lossType: 'cpo' }),
  preferenceLoss: () => fpl.preferenceLoss(pairs, { lossType: 'cpo' }),
  fusedLinearPreferenceLossSync: () =>
    fpl.fusedLinearPreferenceLossSync(hidden, weight, labels, { reference, gradient: true }),
  linearSequenceLogProbs: () => fpl.linearSequenceLogProbs(hidden, weight, labels),
  'a call that is refused': () => fpl.sequenceLogProbs(logits, labels, bad).catch(() => {}),
  'a call that is aborted': () => {
    const controller = new AbortController()
    const running = fpl.fusedPreferenceLoss(logits, labels, { reference, signal: controller.signal }).catch(() => {})
    controller.abort()
    return running
  },
}

if (fpl.getBackends().wasm.available) {
  const wasm = { backend: /** @type {const} */ ('wasm'), reference, gradient: true, threads: 2 }
  // As many as make workers worth their while.
  const wide = { data: new Float32Array(2 * 2 * 20_000), shape: [2, 2, 20_000] }
  Object.assign(functions, {
    'fusedPreferenceLossSync on wasm': () => fpl.fusedPreferenceLossSync(logits, labels, wasm),
    'fusedPreferenceLoss on wasm': () => fpl.fusedPreferenceLoss(logits, labels, wasm),
    'fusedPreferenceLossSync on wasm, two threads': () => fpl.fusedPreferenceLossSync(wide, wideLabels, wasm),
    'fusedPreferenceLoss on wasm, two threads': () => fpl.fusedPreferenceLoss(wide, wideLabels, wasm),
  })
} else console.log('memory: wasm left out')

async function size() {
  for (let i = 0; i < 4; i++) {
    gc()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  const { heapUsed, external, rss } = process.memoryUsage()
  const status = process.platform === 'linux' ? readFileSync('/proc/self/status', 'utf8') : ''
  const anonymous = /RssAnon:\s*(\d+) kB/.exec(status)
  return { heap: heapUsed + external, resident: anonymous ? 1024 * Number(anonymous[1]) : rss }
}

// Collects now and then: garbage makes the process large, and it does not shrink again.
async function many(/** @type {() => unknown} */ call, /** @type {number} */ count) {
  for (let i = 0; i < count; i += 100) {
    if (i % 500 === 0) gc()
    const running = []
    for (let k = 0; k < 100; k++) running.push(call())
    await Promise.all(running)
  }
}

for (const [name, call] of Object.entries(functions)) {
  await many(call, CALLS)
  let grows = true
  for (let series = 0; grows && series < 3; series++) {
    const before = await size()
    await many(call, CALLS / 2)
    const after = await size()
    const [heap, resident] = [after.heap - before.heap, after.resident - before.resident]
    const growth = `heap ${(heap / 1e6).toFixed(2)} MB, resident ${(resident / 1e6).toFixed(2)} MB`
    console.log(`memory: ${CALLS / 2} more calls of ${name}: ${growth}`)
    grows = heap > HEAP_SLACK || resident > RESIDENT_SLACK
  }
  if (grows) throw new Error(`${name} grows`)
}
