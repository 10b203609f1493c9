// The DPO loss twice: with this package, and with TensorFlow.js's own ops. Both have the same arguments:
// logits `[2 pairs, time, vocab]`, labels of the same positions, log-probs of the pairs under the reference, and beta.
import * as tf from '@tensorflow/tfjs'
import { preferenceLoss } from 'fused-preference-loss/tfjs'

/** `onResult` is given the accuracy, the margin and so on. */
export function fusedLoss(logits, labels, reference, beta, onResult) {
  return preferenceLoss(logits, labels, { reference, beta, shift: false, gradient: 'in-place', onResult })
}

export function ownOpsLoss(logits, labels, reference, beta) {
  const [batch, time, vocab] = logits.shape
  // oneHot picks the label's log-prob: a gather would be less work, but has no gradient on the wasm backend.
  const oneHot = tf.oneHot(tf.tensor2d(labels, [batch, time], 'int32'), vocab)
  const logProbs = tf.sum(tf.mul(tf.logSoftmax(logits), oneHot), [1, 2])
  const [chosen, rejected] = tf.split(logProbs, 2)
  const referenceRatio = tf.sub(tf.tensor1d(reference.chosen), tf.tensor1d(reference.rejected))
  const difference = tf.sub(tf.sub(chosen, rejected), referenceRatio)
  // -log sigmoid(x) = softplus(-x); tf.logSigmoid itself cannot be differentiated within variableGrads.
  return tf.mean(tf.softplus(tf.mul(difference, -beta)))
}
