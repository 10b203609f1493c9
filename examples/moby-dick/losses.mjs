// The DPO loss computed in three ways, each from the hidden states `[2 pairs, time, width]` and the output layer's
// weight `[vocab, width]`, with labels of the same positions, log-probs of the pairs under the reference, and beta.
import * as tf from '@tensorflow/tfjs'
import { fusedLinearPreferenceLoss, fusedPreferenceLoss } from 'fused-preference-loss/tfjs'
import { logits } from './model.mjs'

/**
 * @typedef {{ chosen: number[], rejected: number[] }} Scores log-probs of pairs
 * @typedef {import('fused-preference-loss').PreferenceLoss} Result
 * @typedef {(
 *   hidden: tf.Tensor, weight: tf.Tensor, labels: Int32Array, reference: Scores, beta: number,
 *   onResult?: (result: Result) => void,
 * ) => tf.Scalar} LossOf
 */

/**
 * Output layer and loss by this package. `onResult` gets the accuracy, the margin and so on.
 * @type {LossOf}
 */
export function linearLoss(hidden, weight, labels, reference, beta, onResult) {
  return fusedLinearPreferenceLoss(hidden, weight, labels, { reference, beta, shift: false, onResult })
}

/**
 * The output layer by TensorFlow.js, the loss by this package.
 * @type {LossOf}
 */
export function fusedLoss(hidden, weight, labels, reference, beta, onResult) {
  const options = { reference, beta, shift: false, gradient: /** @type {const} */ ('in-place'), onResult }
  return fusedPreferenceLoss(logits(hidden, weight), labels, options)
}

/**
 * Both by TensorFlow.js.
 * @type {LossOf}
 */
export function ownOpsLoss(hidden, weight, labels, reference, beta) {
  const own = logits(hidden, weight)
  const [batch, time, vocab] = own.shape
  // oneHot picks the label's log-prob: a gather would be less work, but it has no gradient on the wasm backend.
  const oneHot = tf.oneHot(tf.tensor2d(labels, [batch, time], 'int32'), vocab)
  const logProbs = tf.sum(tf.mul(tf.logSoftmax(own), oneHot), [1, 2])
  const [chosen, rejected] = tf.split(logProbs, 2)
  const referenceRatio = tf.sub(tf.tensor1d(reference.chosen), tf.tensor1d(reference.rejected))
  const difference = tf.sub(tf.sub(chosen, rejected), referenceRatio)
  // -log sigmoid(x) = softplus(-x); tf.logSigmoid itself cannot be differentiated within variableGrads.
  return tf.mean(tf.softplus(tf.mul(difference, -beta)))
}

export const LOSSES = { linear: linearLoss, fused: fusedLoss, own: ownOpsLoss }
