// A small GPT: token and position embeddings, pre-norm blocks of causal attention and an MLP, and an output layer tied
// to the token embeddings. Written for the wasm backend, whose matrix product is fast only without transpose flags.
import * as tf from '@tensorflow/tfjs'

/**
 * @typedef {{ vocab: number, time: number, width: number, heads: number, blocks: number }} ModelConfig
 * @typedef {Record<string, tf.Tensor>} Weights
 * @typedef {{ config: ModelConfig, weights: Weights, mask: tf.Tensor }} Model
 */

/**
 * `tf.customGrad`, with types that let an op name its inputs and, after them, `save`.
 * @type {(
 *   op: (...inputs: any[]) => {
 *     value: tf.Tensor, gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => tf.Tensor | tf.Tensor[],
 *   },
 * ) => (...inputs: tf.Tensor[]) => tf.Tensor}
 */
export const customGrad = tf.customGrad
/** @typedef {(tensors: tf.Tensor[]) => void} Save */

/**
 * A model with random weights.
 * @param {ModelConfig} config
 * @param {number} seed
 * @returns {Model}
 */
export function createModel(config, seed) {
  const { vocab, time, width, blocks, heads } = config
  /** @type {Weights} */
  const weights = {}
  const normal = (/** @type {string} */ name, /** @type {number[]} */ shape, /** @type {number} */ deviation) => {
    weights[name] = tf.tidy(() => tf.variable(tf.randomNormal(shape, 0, deviation, 'float32', seed++), true, name))
  }
  const constant = (/** @type {string} */ name, /** @type {number[]} */ shape, /** @type {number} */ value) => {
    weights[name] = tf.tidy(() => tf.variable(tf.fill(shape, value), true, name))
  }
  normal('tokens', [vocab, width], 0.5 / Math.sqrt(width))
  normal('positions', [time, width], 0.5 / Math.sqrt(width))
  for (let i = 0; i < blocks; i++) {
    constant(`${i}.attention.scale`, [width], 1)
    constant(`${i}.attention.shift`, [width], 0)
    normal(`${i}.attention.in`, [width, 3 * width], 1 / Math.sqrt(width))
    normal(`${i}.attention.out`, [width, width], 1 / Math.sqrt(2 * blocks * width))
    constant(`${i}.mlp.scale`, [width], 1)
    constant(`${i}.mlp.shift`, [width], 0)
    normal(`${i}.mlp.in`, [width, 4 * width], 1 / Math.sqrt(width))
    normal(`${i}.mlp.out`, [4 * width, width], 1 / Math.sqrt(2 * blocks * 4 * width))
  }
  constant('scale', [width], 1)
  constant('shift', [width], 0)
  // Added to the attention scores: -1e9 where a position would look ahead.
  const future = Float32Array.from({ length: time * time }, (_, i) => (i % time > Math.floor(i / time) ? -1e9 : 0))
  return { config: { vocab, time, width, heads, blocks }, weights, mask: tf.tensor(future, [time, time]) }
}

/**
 * A copy with its own weights, which training the original does not change.
 * @param {Model} model
 * @returns {Model}
 */
export function freeze({ config, weights, mask }) {
  const copies = Object.entries(weights).map(([name, weight]) => [name, tf.clone(weight)])
  return { config, weights: Object.fromEntries(copies), mask }
}

/**
 * A copy that can be trained separately.
 * @param {Model} model
 * @returns {Model}
 */
export function trainable({ config, weights, mask }) {
  const copies = Object.entries(weights).map(([name, weight]) => [name, tf.variable(tf.clone(weight))])
  return { config, weights: Object.fromEntries(copies), mask }
}

/** @param {Model} model */
export function countParameters({ weights }) {
  return Object.values(weights).reduce((sum, { size }) => sum + size, 0)
}

/**
 * The input of the output layer at the positions from `from` on, `[batch, time - from, width]`. The layer is by far the
 * largest part of the model, so it gets only the positions whose predictions count. Its weight is `weights.tokens`.
 * @param {Model} model
 * @param {Int32Array} ids `[batch, time]`
 */
export function hiddenStates({ config, weights, mask }, ids, from = 0) {
  return tf.tidy(() => {
    const { time, width, blocks } = config
    const batch = ids.length / time
    let x = embed(weights.tokens, ids).reshape([batch, time, width]).add(weights.positions)
    for (let i = 0; i < blocks; i++) {
      x = x.add(attention(norm(x, weights, `${i}.attention.`), weights, i, config, mask))
      const hidden = linear(norm(x, weights, `${i}.mlp.`), weights[`${i}.mlp.in`])
      x = x.add(linear(tf.relu(hidden), weights[`${i}.mlp.out`]))
    }
    return norm(x.slice([0, from, 0]), weights, '')
  })
}

/**
 * Causal attention of block i.
 * @param {tf.Tensor} x
 * @param {Weights} weights
 * @param {number} i
 * @param {ModelConfig} config
 * @param {tf.Tensor} mask
 */
function attention(x, weights, i, { time, width, heads }, mask) {
  const batch = x.shape[0]
  const size = width / heads
  const split = (/** @type {tf.Tensor} */ part) => part.reshape([batch, time, heads, size]).transpose([0, 2, 1, 3])
  const [query, key, value] = tf.split(linear(x, weights[`${i}.attention.in`]), 3, 2).map(split)
  const scores = tf.matMul(query, key, false, true).mul(1 / Math.sqrt(size))
  const mixed = tf.matMul(tf.softmax(scores.add(mask)), value)
  return linear(mixed.transpose([0, 2, 1, 3]).reshape([batch, time, width]), weights[`${i}.attention.out`])
}

/** Layer normalisation. */
function norm(/** @type {tf.Tensor} */ x, /** @type {Weights} */ weights, /** @type {string} */ name) {
  const centred = x.sub(tf.mean(x, -1, true))
  const deviation = tf.sqrt(tf.mean(tf.square(centred), -1, true).add(1e-5))
  return centred.div(deviation).mul(weights[`${name}scale`]).add(weights[`${name}shift`])
}

function linear(/** @type {tf.Tensor} */ x, /** @type {tf.Tensor} */ weight) {
  const [batch, time, width] = x.shape
  return matMul(x.reshape([batch * time, width]), weight).reshape([batch, time, -1])
}

/** A matrix product whose gradients transpose first and then multiply. */
const matMul = customGrad((/** @type {tf.Tensor} */ a, /** @type {tf.Tensor} */ b, /** @type {Save} */ save) => {
  save([a, b])
  return {
    value: tf.matMul(a, b),
    gradFunc: (dy, [a, b]) => [tf.matMul(dy, tf.transpose(b)), tf.matMul(tf.transpose(a), dy)],
  }
})

/**
 * Logits by TensorFlow.js. One op includes the reshapes, because the gradient of a reshape would keep a copy of the
 * logits.
 * @param {tf.Tensor} hidden
 * @param {tf.Tensor} table
 */
export function logits(hidden, table) {
  const [batch, time, width] = hidden.shape
  return customGrad((/** @type {tf.Tensor} */ hidden, /** @type {tf.Tensor} */ table, /** @type {Save} */ save) => {
    save([hidden, table])
    return {
      value: tf.matMul(hidden.reshape([-1, width]), tf.transpose(table)).reshape([batch, time, table.shape[0]]),
      gradFunc: (dy, [hidden, table]) => {
        const gradient = dy.reshape([batch * time, table.shape[0]])
        return [
          tf.matMul(gradient, table).reshape(hidden.shape),
          tf.matMul(tf.transpose(gradient), hidden.reshape([-1, width])),
        ]
      },
    }
  })(hidden, table)
}

/** Rows of the embedding table. The gradient is a scatter, because the wasm backend has no unsortedSegmentSum. */
function embed(/** @type {tf.Tensor} */ table, /** @type {Int32Array} */ ids) {
  return customGrad((/** @type {tf.Tensor} */ table) => ({
    value: tf.gather(table, tf.tensor1d(ids, 'int32')),
    gradFunc: (dy) => tf.scatterND(tf.tensor2d(ids, [ids.length, 1], 'int32'), dy, table.shape),
  }))(table)
}
