// Fine-tuning in jax-js with its own operations. docs/trainers.md has the five lines that change.
import { nn, numpy as np, tree, valueAndGrad } from '@jax-js/jax'
import { batches, shape, time, vocab, weights, width } from './data.mjs'

/** @typedef {import('@jax-js/jax').Array} JaxArray */
/** @typedef {{ table: JaxArray, head: JaxArray }} Params */

/** @type {Params} */
let params = {
  table: np.array(weights(vocab, width), { shape: [vocab, width] }),
  head: np.array(weights(width, vocab), { shape: [width, vocab] }),
}
const apply = (/** @type {Params} */ { table, head }, /** @type {JaxArray} */ ids) =>
  np.matmul(np.tanh(np.matmul(nn.oneHot(ids, vocab), table)), head)

/** The mean of -log p over the labels that are not -100. */
function ownCrossEntropy(/** @type {JaxArray} */ logits, /** @type {Int32Array} */ labels) {
  const active = Float32Array.from(labels, (label) => Number(label >= 0))
  const count = active.reduce((sum, each) => sum + each)
  const ids = np.array(
    labels.map((label) => Math.max(0, label)),
    { shape },
  )
  const targets = nn
    .oneHot(ids, vocab)
    .mul(np.array(active, { shape: [...shape, 1] }))
    .slice([], [1, time])
  return np.sum(nn.logSoftmax(logits.slice([], [0, time - 1]), -1).mul(targets)).mul(-1 / count)
}

for (const { inputIds, labels } of batches) {
  const lossOf = (/** @type {Params} */ params) => ownCrossEntropy(apply(params, np.array(inputIds, { shape })), labels)
  const [loss, gradParams] = valueAndGrad(lossOf)(tree.ref(params))
  params = tree.map((weight, gradient) => weight.sub(gradient.mul(0.5)), params, gradParams)
  console.log(Number(loss))
}
