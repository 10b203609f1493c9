/**
 * TensorFlow.js on its backends for Node. As written: log-softmax times one-hot, summed, and its automatic gradient
 * (that of a gather is missing in wasm and takes a pass over all logits per label on cpu). With an op of its own:
 * tf.customGrad with softmax minus one-hot for the gradient, the fastest there is without leaving TensorFlow.js. And with
 * our op in the same place.
 */
import { BETA } from '../cases.mjs'

/** @type {Record<string, () => Promise<any>>} */
const IMPORTS = {
  cpu: () => import('@tensorflow/tfjs-backend-cpu'),
  wasm: () => import('@tensorflow/tfjs-backend-wasm'),
  tensorflow: () => import('@tensorflow/tfjs-node'),
}

/**
 * @param {any} tf
 * @param {Int32Array} targets
 * @param {number} vocab
 * @returns {Record<'written' | 'custom', (logits: any) => any>} the log-prob of each row's target, 0 where there is none
 */
function formulations(tf, targets, vocab) {
  const labels = tf.tensor1d(targets, 'int32')
  // What is picked of each row, as an index into all of them; rows that do not count are picked at 0 and masked.
  const picked = tf.tensor1d(
    targets.map((target, row) => row * vocab + Math.max(0, target)),
    'int32',
  )
  const mask = tf.tensor1d(Float32Array.from(targets, (target) => (target < 0 ? 0 : 1)))
  // One-hot of -1 is a row of zeros.
  const oneHot = () => tf.oneHot(labels, vocab)
  const custom = tf.customGrad((/** @type {any} */ x, /** @type {any} */ save) => {
    save([x])
    return {
      value: tf.mul(mask, tf.sub(tf.gather(tf.reshape(x, [-1]), picked), tf.logSumExp(x, 1))),
      gradFunc: (/** @type {any} */ upstream, /** @type {any[]} */ [saved]) =>
        tf.mul(tf.sub(oneHot(), tf.softmax(saved)), tf.expandDims(tf.mul(upstream, mask), 1)),
    }
  })
  return { written: (x) => tf.sum(tf.mul(tf.logSoftmax(x), oneHot()), 1), custom }
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
  let last
  /** @type {() => any} */
  let result

  return {
    ...words,
    ownCopies: true,

    supports({ stage, dtype }) {
      if (stage === 'loss') return 'its own part of the work is the logits'
      if (stage === 'forward' && formulation === 'ours') return 'is compared where there is a gradient'
      return dtype === 'float32' || 'has float32 only'
    },

    async prepare(workload, inputs) {
      const tf = await import('@tensorflow/tfjs')
      const { preferenceLoss } = await import('fused-preference-loss/tfjs')
      await IMPORTS[backend]()
      await tf.setBackend(backend)
      await tf.ready()
      this.version = tf.version.tfjs
      const [batch, time, vocab] = workload.shape
      const { labels, targets, reference, positions } = inputs
      const data = /** @type {Float32Array} */ (inputs.logits[0])
      const shape = formulation === 'ours' ? workload.shape : [batch * time, vocab]
      const logits = Array.from({ length: inputs.copies }, () => tf.tensor(data.slice(), shape))
      const referenceMargins = tf.tensor1d(Float32Array.from(reference.chosen, (x, p) => x - reference.rejected[p]))
      const tokenLogProbs = formulations(tf, targets, vocab)[formulation === 'ours' ? 'written' : formulation]
      const logProbsOf = (/** @type {any} */ x) => tf.sum(tf.reshape(tokenLogProbs(x), [batch, time]), 1)

      if (workload.stage === 'forward') {
        call = (copy) => {
          last = { logProbs: tf.tidy(() => logProbsOf(logits[copy]).dataSync()) }
        }
        result = () => last
        return
      }
      /** @type {any} */
      let logProbs
      const ownLoss = (/** @type {any} */ x) => {
        const sums = logProbsOf(x)
        logProbs = tf.keep(sums.clone())
        const margins = tf.sub(tf.slice(sums, 0, batch / 2), tf.slice(sums, batch / 2))
        // softplus(-z) is -log sigmoid(z), and its gradient needs no kernel that a backend lacks.
        return tf.mean(tf.softplus(tf.mul(-BETA, tf.sub(margins, referenceMargins))))
      }
      const onResult = (/** @type {any} */ { chosenLogProbs, rejectedLogProbs }) => {
        logProbs = tf.keep(tf.tensor1d([...chosenLogProbs, ...rejectedLogProbs]))
      }
      const { shift } = workload
      const ourLoss = (/** @type {any} */ x) => preferenceLoss(x, labels, { reference, beta: BETA, shift, onResult })
      const step = tf.valueAndGrad(formulation === 'ours' ? ourLoss : ownLoss)
      call = (copy) => {
        last?.grad.dispose()
        logProbs?.dispose()
        const { value, grad } = step(logits[copy])
        last = { loss: value.dataSync()[0], grad }
        value.dispose()
      }
      result = () => {
        const values = last.grad.dataSync()
        return {
          logProbs: logProbs.dataSync(),
          loss: last.loss,
          gradient: positions.map((position) => values[position]),
        }
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
