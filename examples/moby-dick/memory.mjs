// main.mjs runs this file in a process of its own. It prints the bytes by which output layer and loss of random hidden
// states, with their gradients, raise the process's peak memory. Arguments: a name of LOSSES, pairs, time, width,
// vocab.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { LOSSES } from './losses.mjs'

const [name, ...sizes] = process.argv.slice(2)
const [pairs, time, width, vocab] = sizes.map(Number)
await tf.setBackend('wasm')

const lossOf = LOSSES[/** @type {keyof typeof LOSSES} */ (name)]
const reference = { chosen: new Array(pairs).fill(-100), rejected: new Array(pairs).fill(-100) }
function run(/** @type {number} */ vocab) {
  const hidden = tf.randomNormal([2 * pairs, time, width])
  const weight = tf.randomNormal([vocab, width])
  const labels = new Int32Array(2 * pairs * time)
  const before = process.memoryUsage.rss()
  const gradients = tf.grads((x, w) => lossOf(x, w, labels, reference, 0.1))([hidden, weight])
  const peak = process.resourceUsage().maxRSS * 1024
  tf.dispose([hidden, weight, gradients])
  return peak - before
}
// A call with a small vocabulary comes first, because the first call loads and compiles code.
run(100)
console.log(run(vocab))
