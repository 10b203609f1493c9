// Run in a process of its own by main.mjs: by how much the loss of random logits, with its gradient, raises the peak of
// the process's memory. Arguments: 'fused' or 'own', pairs, time, vocab. Prints bytes.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { fusedLoss, ownOpsLoss } from './losses.mjs'

const [name, ...sizes] = process.argv.slice(2)
const [pairs, time, vocab] = sizes.map(Number)
await tf.setBackend('wasm')

const lossOf = name === 'fused' ? fusedLoss : ownOpsLoss
const reference = { chosen: new Array(pairs).fill(-100), rejected: new Array(pairs).fill(-100) }
function run(vocab) {
  // Made in the heap of the backend, without a JavaScript array on the way that would raise the peak first.
  const logits = tf.tidy(() => tf.mul(tf.randomNormal([2 * pairs, time, 1]), tf.randomNormal([vocab])))
  const labels = new Int32Array(2 * pairs * time)
  const before = process.memoryUsage.rss()
  const gradient = tf.grad((x) => lossOf(x, labels, reference, 0.1))(logits)
  const peak = process.resourceUsage().maxRSS * 1024
  tf.dispose([logits, gradient])
  return peak - before
}
// Once with a small vocabulary first, for what is loaded and compiled at the first call.
run(100)
console.log(run(vocab))
