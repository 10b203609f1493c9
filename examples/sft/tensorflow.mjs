// Fine-tuning in TensorFlow.js with its own operations. docs/trainers.md has the five lines that change.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { batches, shape, time, vocab, weights, width } from './data.mjs'

await tf.setBackend('wasm')
const table = tf.variable(tf.tensor2d(weights(vocab, width), [vocab, width]))
const head = tf.variable(tf.tensor2d(weights(width, vocab), [width, vocab]))
const forward = (/** @type {Int32Array} */ inputIds) => {
  const hidden = tf.tanh(tf.matMul(tf.oneHot(tf.tensor1d(inputIds, 'int32'), vocab), table))
  return tf.matMul(hidden, head).reshape([...shape, vocab])
}

const optimizer = tf.train.adam(0.02)
for (const { inputIds, labels } of batches) {
  const loss = optimizer.minimize(() => {
    const logits = tf.slice(forward(inputIds), [0, 0, 0], [-1, time - 1, -1])
    const next = tf.slice(tf.tensor2d(labels, shape, 'int32'), [0, 1])
    return tf.losses.softmaxCrossEntropy(tf.oneHot(next, vocab), logits, tf.cast(tf.greaterEqual(next, 0), 'float32'))
  }, true)
  console.log(loss?.dataSync()[0])
}
