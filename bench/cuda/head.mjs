/**
 * `node bench/cuda/head.mjs [json]`: the output layer and the loss in one, hidden [8, 1024, 4096] and a weight [128256, 4096]
 * in bfloat16, against the rate of cuBLAS in the same run and against the fused layers that python3 can import.
 *
 * A forward is one product with the weight. A step is three where the logits are kept, for them and for the gradients of
 * hidden and weight, and four where they are made twice.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fusedLinearPreferenceLossSync, getBackends, linearSequenceLogProbsSync } from 'fused-preference-loss'
import { DeviceBuffer, getDevices, Stream } from 'fused-preference-loss/cuda'
import { quantile } from '../statistics.mjs'
import { toldByPeers } from './peers.mjs'
import { labelsFor, randomLogits } from './run.mjs'

const [BATCH, TIME, WIDTH, VOCAB] = [8, 1024, 4096, 128256]
const dtype = /** @type {const} */ ('bfloat16')

/** Median milliseconds of a call that waits for the GPU. */
function time(/** @type {() => void} */ call, rounds = 7) {
  for (let i = 0; i < 2; i++) call()
  const times = Array.from({ length: rounds }, () => {
    const start = performance.now()
    call()
    return performance.now() - start
  }).sort((a, b) => a - b)
  return quantile(times, 0.5)
}

/** Writes what there is by now. */
function keep() {
  const json = process.argv[2]
  if (!json) return
  mkdirSync(dirname(json), { recursive: true })
  const report = { date: new Date().toISOString(), device: getDevices()[0], results }
  writeFileSync(json, `${JSON.stringify(report, null, 1)}\n`)
}

const { cublasLt } = getBackends().cuda
if (!cublasLt?.available) throw new Error(`cuBLASLt: ${cublasLt?.reason}`)

const stream = new Stream()
const hidden = {
  data: randomLogits({ dtype, rows: BATCH * TIME, vocab: WIDTH }, 1),
  dtype,
  shape: [BATCH, TIME, WIDTH],
}
// Scaled so that the logits have a standard deviation of 2.
const weight = {
  data: randomLogits({ dtype, rows: VOCAB, vocab: WIDTH }, 2 / Math.sqrt(WIDTH)),
  dtype,
  shape: [VOCAB, WIDTH],
}
const gradient = { hidden: new DeviceBuffer(4 * BATCH * TIME * WIDTH), weight: new DeviceBuffer(4 * VOCAB * WIDTH) }
const heads = [0, 0.5].map((masked) => ({ name: `head${masked ? '-masked50' : ''}`, masked }))
/** @type {any[]} */
const results = []
for (const { name, masked } of heads) {
  const labels = labelsFor({ rows: BATCH * TIME, vocab: VOCAB, masked }, TIME)
  const options = { shift: false, stream }
  const forward = () => linearSequenceLogProbsSync(hidden, weight, labels, options)
  const { logProbs } = forward()
  const reference = { chosen: logProbs.slice(0, BATCH / 2), rejected: logProbs.slice(BATCH / 2) }
  const step = (/** @type {number} */ logitsBudget) => () => {
    const more = { ...options, reference, gradient, logitsBudget, zeroInactive: false }
    return fusedLinearPreferenceLossSync(hidden, weight, labels, more)
  }
  const add = (/** @type {string} */ stage, /** @type {number} */ products, /** @type {() => void} */ call) =>
    results.push({ case: name, stage, peer: 'ours', products: products * (1 - masked), ms: time(call) })
  add('forward', 1, forward)
  add('step', 3, step(4 * BATCH * TIME * VOCAB))
  add('step, in chunks', 4, step(0))
}
for (const { data } of [hidden, weight]) data.dispose()
for (const buffer of Object.values(gradient)) buffer.dispose()

keep() // Before the peers, of which one may hang.
results.push(...toldByPeers({ heads, shape: [BATCH, TIME, WIDTH, VOCAB], dtype }))
keep()

const product = results.find(({ peer }) => peer === 'cublas')?.ms
for (const { case: name = '', stage = '', peer, ms, products, peakBytes, skipped } of results) {
  const said = skipped ? `skipped: ${skipped}` : `${ms.toFixed(2).padStart(9)} ms`
  const share = products && product ? `   ${((100 * products * product) / ms).toFixed(1)} % of cuBLAS` : ''
  const memory = peakBytes ? `   peak ${(peakBytes / 1e9).toFixed(2)} GB beyond the inputs` : ''
  console.log(`${`${name} ${stage}`.padEnd(24)} ${peer.padEnd(24)} ${said}${share}${memory}`)
}
