/**
 * Log-probs of labels in operations of TensorFlow.js, on any of its backends.
 */

/**
 * @param {any} tf
 * @param {Int32Array} targets
 * @param {number} vocab
 * @returns {Record<'written' | 'custom', (logits: any) => any>} the log-prob of each row's target, 0 where there is none
 */
export function formulations(tf, targets, vocab) {
  const labels = tf.tensor1d(targets, 'int32')
  // The picked element of each row, as an index into all elements; rows that do not count are picked at 0 and masked.
  const picked = tf.tensor1d(
    targets.map((target, row) => row * vocab + Math.max(0, target)),
    'int32',
  )
  const mask = tf.tensor1d(Float32Array.from(targets, (target) => (target < 0 ? 0 : 1)))
  // One-hot of -1 is a row of zeros.
  const oneHot = () => tf.oneHot(labels, vocab)
  const places = tf.reshape(picked, [-1, 1])
  const custom = tf.customGrad((/** @type {any} */ x, /** @type {any} */ save) => {
    const probs = tf.softmax(x)
    save([probs])
    return {
      value: tf.mul(mask, tf.log(tf.gather(tf.reshape(probs, [-1]), picked))),
      gradFunc: (/** @type {any} */ upstream, /** @type {any[]} */ [saved]) => {
        const slopes = tf.mul(upstream, mask)
        const atLabels = tf.reshape(tf.scatterND(places, slopes, [saved.size]), saved.shape)
        return tf.sub(atLabels, tf.mul(saved, tf.expandDims(slopes, 1)))
      },
    }
  })
  return { written: (x) => tf.sum(tf.mul(tf.logSoftmax(x), oneHot()), 1), custom }
}
