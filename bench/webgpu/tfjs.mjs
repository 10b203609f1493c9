/**
 * TensorFlow.js's own operations on its webgpu backend; the formulations are those of ../peers/tfjs.mjs.
 */
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-webgpu'
import { formulations } from '../peers/tfjs-formulations.mjs'

/**
 * @param {'written' | 'custom'} formulation
 * @returns {import('./measure.mjs').Prepare}
 */
const prepare =
  (formulation) =>
  async ({ values, shape, targets, margins, beta, hasGradient }) => {
    if (!(await tf.setBackend('webgpu'))) throw new Error('its webgpu backend does not start')
    const [batch, time, vocab] = shape
    const logits = tf.tensor(values, [batch * time, vocab])
    const tokenLogProbs = formulations(tf, targets, vocab)[formulation]
    const referenceMargins = tf.tensor1d(margins)
    const lossOf = (/** @type {any} */ x) => {
      const sums = tf.sum(tf.reshape(tokenLogProbs(x), [batch, time]), 1)
      const difference = tf.sub(tf.slice(sums, 0, batch / 2), tf.slice(sums, batch / 2))
      return tf.mean(tf.softplus(tf.mul(-beta, tf.sub(difference, referenceMargins))))
    }
    const step = tf.valueAndGrad(/** @type {any} */ (lossOf))
    /** @type {import('@tensorflow/tfjs').Tensor | undefined} */
    let gradient
    return async () => {
      gradient?.dispose()
      if (!hasGradient) {
        const value = tf.tidy(() => lossOf(logits))
        const [loss] = await value.data()
        value.dispose()
        return { loss }
      }
      const { value, grad } = step(logits)
      gradient = grad
      // The backend records; what is read has been done, and what was recorded before it.
      const [loss] = await value.data()
      await /** @type {any} */ (tf.backend()).queue.onSubmittedWorkDone()
      value.dispose()
      return { loss, gradient }
    }
  }

export const tfjsWritten = prepare('written')
export const tfjsCustom = prepare('custom')
