/**
 * Checks the package here, by promise and in a worker, and writes the outcome to result.json: a file, because not every
 * runtime under an emulator has a usable standard output.
 */
const assert = require('node:assert/strict')
const { writeFileSync } = require('node:fs')
const { Worker } = require('node:worker_threads')
const { join } = require('node:path')
const check = require('./check.cjs')

module.exports = async function report(/** @type {typeof import('fused-preference-loss')} */ fpl) {
  /** @type {(string | undefined)[]} */
  const warnings = []
  process.on('warning', (warning) => warnings.push(/** @type {{ code?: string }} */ (warning).code))
  const backends = check(fpl)
  const pairs = { chosen: [-1], rejected: [-2] }
  const { loss } = await fpl.preferenceLoss(pairs, { lossType: 'cpo', beta: 1 })
  assert(Math.abs(loss - Math.log1p(Math.exp(-1))) < 1e-9, `promise: loss ${loss}`)
  const worker = new Worker(join(__dirname, 'worker.cjs'))
  const inWorker = await new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  await worker.terminate()
  writeFileSync('result.json', JSON.stringify({ backends, inWorker, warnings }))
}
