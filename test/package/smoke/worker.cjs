/** The check, in a worker thread. */
const { parentPort } = require('node:worker_threads')
const check = require('./check.cjs')

parentPort?.postMessage(check(require('fused-preference-loss')))
