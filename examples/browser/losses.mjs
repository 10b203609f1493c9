// The ways in which the page computes the last layer and the loss, so that it can compare them.
import * as tf from '@tensorflow/tfjs'
import { linearLoss, ownOpsLoss } from '../moby-dick/losses.mjs'
import { customGrad, logits } from '../moby-dick/model.mjs'

/**
 * By TensorFlow.js, in the fastest way that we know: softmax, which is one kernel of XNNPACK, once, and a gradient of
 * our own from what it has given. The logarithm of a softmax is less exact than log-softmax where a probability is tiny.
 * @type {import('../moby-dick/losses.mjs').LossOf}
 */
function fastestLoss(hidden, weight, labels, reference, beta) {
  const own = logits(hidden, weight)
  const [batch, time, vocab] = own.shape
  // The places of the labels among all elements; made anew for the gradient, as tensors of the forward pass are gone then.
  const places = labels.map((label, row) => row * vocab + label)
  const logProbsOf = customGrad(
    (/** @type {tf.Tensor} */ x, /** @type {import('../moby-dick/model.mjs').Save} */ save) => {
      const probs = tf.softmax(x)
      save([probs])
      return {
        value: tf.log(tf.gather(probs.reshape([-1]), tf.tensor1d(places, 'int32'))).reshape([batch, time]),
        gradFunc: (dy, [probs]) => {
          const indices = tf.tensor2d(places, [places.length, 1], 'int32')
          const atLabels = tf.scatterND(indices, dy.reshape([-1]), [probs.size]).reshape(probs.shape)
          return tf.sub(atLabels, tf.mul(probs, tf.expandDims(dy, 2)))
        },
      }
    },
  )
  const [chosen, rejected] = tf.split(tf.sum(logProbsOf(own), 1), 2)
  const referenceRatio = tf.sub(tf.tensor1d(reference.chosen), tf.tensor1d(reference.rejected))
  const difference = tf.sub(tf.sub(chosen, rejected), referenceRatio)
  return tf.mean(tf.softplus(tf.mul(difference, -beta)))
}

/** @type {Record<import('./events.js').Way, import('../moby-dick/losses.mjs').LossOf>} */
export const WAYS = { package: linearLoss, fastest: fastestLoss, automatic: ownOpsLoss }
