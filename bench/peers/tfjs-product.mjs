/**
 * What the output layer's product alone takes on TensorFlow.js's wasm backend: its matMul, without log-softmax. It is fast
 * with a weight `[width, vocab]`, and slow with a weight `[vocab, width]`, which it takes by a flag.
 */
import { sequenceLogProbsSync } from 'fused-preference-loss'
import { tfjsOn } from './tfjs-library.mjs'

/**
 * @param {boolean} transposed the weight is `[vocab, width]`
 * @param {Pick<import('./index.mjs').Peer, 'name' | 'title' | 'slowness'>} words
 * @returns {import('./index.mjs').Peer}
 */
function productPeer(transposed, words) {
  /** @type {(copy: number) => void} */
  let call
  /** @type {any} */
  let product
  /** @type {() => import('../agreement.mjs').Result} */
  let result

  return {
    ...words,
    ownCopies: true,
    linear: true,
    embedded: true,
    quick: true,

    supports: ({ stage }) => stage === 'linear-forward' || 'is the product of an output layer alone',

    async prepare({ shape, width, shift }, { logits, weight, labels, copies }, { threads }) {
      const tf = await tfjsOn('wasm', threads)
      this.version = tf.version.tfjs
      const [batch, time, vocab] = shape
      const states = Array.from({ length: copies }, () => tf.tensor(logits[0].slice(), [batch * time, width]))
      const given = tf.tensor(weight, [vocab, width])
      const factor = transposed ? given : tf.transpose(given)
      call = (copy) => {
        product?.dispose()
        product = tf.matMul(states[copy], factor, false, transposed)
      }
      result = () => {
        const data = /** @type {Float32Array} */ (product.dataSync())
        return { logProbs: sequenceLogProbsSync({ data, shape }, labels, { shift }).logProbs }
      }
    },

    run: (copy) => call(copy),
    result: () => result(),
  }
}

export const tfjsProduct = productPeer(false, {
  name: 'tfjs-wasm-product',
  title: 'TensorFlow.js, wasm, the product alone, weight [width, vocab]',
})
export const tfjsProductTransposed = productPeer(true, {
  name: 'tfjs-wasm-product-transposed',
  title: 'TensorFlow.js, wasm, the product alone, weight [vocab, width]',
  slowness: 1,
})
