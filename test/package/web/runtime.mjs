/** In a runtime with the modules of Node.js: every backend, and how many answers came from worker threads. */
import { readFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import * as library from 'fused-preference-loss'
import { checkGolden, resultOf } from './calls.mjs'

let answers = 0
const post = Worker.prototype.postMessage
Worker.prototype.postMessage = function (message) {
  if (message.addresses) this.once('message', ({ finished }) => finished && answers++)
  post.call(this, message)
}

const cases = JSON.parse(readFileSync('cases.json', 'utf8'))
const backends = library.getBackends()
const results = {}
for (const backend of ['cpu', 'wasm', 'js']) {
  if (!backends[backend].available) continue
  checkGolden(library, cases, { backend })
  results[backend] = await resultOf(library, { backend, threads: 2 })
}
console.log(JSON.stringify({ backends, results, answers }))
