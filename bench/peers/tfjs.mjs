/**
 * TensorFlow.js on its backends. As written: log-softmax times one-hot, summed, and its automatic gradient
 * (that of a gather is missing in wasm and takes a pass over all logits per label on cpu). With a custom op:
 * tf.customGrad around softmax, which is one kernel in wasm, and the gradient from what that gave: the fastest way that we
 * know within TensorFlow.js. And with our op in its place.
 */
import { gradientAt } from '../agreement.mjs'
import { BETA } from '../cases.mjs'
import { formulations } from './tfjs-formulations.mjs'
import { tfjsOn } from './tfjs-library.mjs'

/**
 * Logits of hidden states `[rows, width]` and a weight `[vocab, width]`. The wasm backend multiplies fast only without
 * transpose flags, which the automatic gradient uses.
 * @param {any} tf
 * @returns {Record<'written' | 'custom', (hidden: any, weight: any) => any>}
 */
function heads(tf) {
  const custom = tf.customGrad((/** @type {any} */ x, /** @type {any} */ w, /** @type {any} */ save) => {
    save([x, w])
    return {
      value: tf.matMul(x, tf.transpose(w)),
      gradFunc: (/** @type {any} */ dy, /** @type {any[]} */ [hidden, weight]) => [
        tf.matMul(dy, weight),
        tf.matMul(tf.transpose(dy), hidden),
      ],
    }
  })
  return { written: (x, w) => tf.matMul(x, w, false, true), custom }
}

/**
 * @param {string} backend
 * @param {'written' | 'custom' | 'ours'} formulation
 * @param {Pick<import('./index.mjs').Peer, 'name' | 'title' | 'slowness' | 'quick' | 'embedded'>} words
 * @returns {import('./index.mjs').Peer}
 */
function tfjsPeer(backend, formulation, words) {
  /** @type {(copy: number) => void} */
  let call
  /** @type {any} */
  let found
  /** @type {() => any} */
  let result

  return {
    ...words,
    ownCopies: true,
    linear: backend === 'wasm',

    supports({ stage, dtype }) {
      if (stage === 'loss') return 'its own part of the work starts at the logits'
      if (stage === 'tokens' || stage === 'cross-entropy-step') return 'is compared on DPO and cross-entropy'
      if (stage === 'cross-entropy' && formulation === 'ours') return 'is compared on DPO'
      if (stage.endsWith('forward') && formulation === 'ours') return 'is compared where there is a gradient'
      return dtype === 'float32' || 'has float32 only'
    },

    async prepare(workload, inputs, { threads }) {
      const tf = await tfjsOn(backend, threads)
      const { fusedLinearPreferenceLoss, fusedPreferenceLoss } = await import('fused-preference-loss/tfjs')
      this.version = tf.version.tfjs
      const [batch, time, vocab] = workload.shape
      const { width } = workload
      const { labels, targets, reference, positions } = inputs
      const data = /** @type {Float32Array} */ (inputs.logits[0])
      const last = width ?? vocab
      const shape = formulation === 'ours' ? [batch, time, last] : [batch * time, last]
      const weight = inputs.weight && tf.tensor(inputs.weight, [vocab, last])
      const logits = Array.from({ length: inputs.copies }, () => tf.tensor(data.slice(), shape))
      const referenceMargins = tf.tensor1d(Float32Array.from(reference.chosen, (x, p) => x - reference.rejected[p]))
      const own = formulation === 'ours' ? 'written' : formulation
      const logitsOf = (/** @type {any} */ x, /** @type {any} */ w) => (w ? heads(tf)[own](x, w) : x)
      const tokenLogProbs = formulations(tf, targets, vocab)[own]
      const logProbsOf = (/** @type {any} */ x) => tf.sum(tf.reshape(tokenLogProbs(x), [batch, time]), 1)

      if (workload.stage.endsWith('forward')) {
        call = (copy) => {
          found = { logProbs: tf.tidy(() => logProbsOf(logitsOf(logits[copy], weight)).dataSync()) }
        }
        result = () => found
        return
      }
      const isDpo = workload.stage !== 'cross-entropy'
      const tokens = targets.reduce((count, target) => count + Number(target >= 0), 0)
      /** @type {any} */
      let logProbs
      const ownLoss = (/** @type {any} */ x, /** @type {any} */ w) => {
        const sums = logProbsOf(logitsOf(x, w))
        if (!isDpo) return tf.div(tf.sum(sums), -tokens)
        logProbs = tf.keep(sums.clone())
        const margins = tf.sub(tf.slice(sums, 0, batch / 2), tf.slice(sums, batch / 2))
        // softplus(-z) is -log sigmoid(z), and its gradient needs no kernel that a backend lacks.
        return tf.mean(tf.softplus(tf.mul(-BETA, tf.sub(margins, referenceMargins))))
      }
      const onResult = (/** @type {any} */ { chosenLogProbs, rejectedLogProbs }) => {
        logProbs = tf.keep(tf.tensor1d([...chosenLogProbs, ...rejectedLogProbs]))
      }
      const { shift } = workload
      const options = { reference, beta: BETA, shift, onResult }
      const ourLoss = (/** @type {any} */ x, /** @type {any} */ w) =>
        w ? fusedLinearPreferenceLoss(x, w, labels, options) : fusedPreferenceLoss(x, labels, options)
      const step = tf.valueAndGrads(formulation === 'ours' ? ourLoss : ownLoss)
      call = (copy) => {
        tf.dispose([found?.grads, logProbs])
        const { value, grads } = step(weight ? [logits[copy], weight] : [logits[copy]])
        found = { loss: value.dataSync()[0], grads }
        value.dispose()
      }
      result = () => {
        const [first, second] = found.grads.map((/** @type {any} */ tensor) => tensor.dataSync())
        const gradient = gradientAt(first, second, positions)
        return isDpo ? { logProbs: logProbs.dataSync(), loss: found.loss, gradient } : { loss: found.loss, gradient }
      }
    },

    run: (copy) => call(copy),
    result: () => result(),
  }
}

export const tfjsNode = tfjsPeer('tensorflow', 'written', {
  name: 'tfjs-node',
  title: 'TensorFlow.js, tfjs-node',
  slowness: 1,
})
export const tfjsWasm = tfjsPeer('wasm', 'written', { name: 'tfjs-wasm', title: 'TensorFlow.js, wasm', slowness: 1 })
export const tfjsWasmCustom = tfjsPeer('wasm', 'custom', {
  name: 'tfjs-wasm-custom',
  title: 'TensorFlow.js, wasm, with an op of its own',
  quick: true,
  slowness: 1,
})
export const tfjsWasmOurs = tfjsPeer('wasm', 'ours', {
  name: 'tfjs-wasm-ours',
  title: 'TensorFlow.js, wasm, with fused-preference-loss/tfjs',
  embedded: true,
  quick: true,
  slowness: 1,
})
export const tfjsCpu = tfjsPeer('cpu', 'written', { name: 'tfjs-cpu', title: 'TensorFlow.js, cpu', slowness: 8 })
