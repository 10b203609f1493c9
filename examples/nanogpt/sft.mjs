// Fine-tuning of a @genai-fi/nanogpt model with the loss of its own trainers. docs/trainers.md has the lines that change.
import { randomNumbers } from '../moby-dick/data.mjs'
import { batches, shape, time, vocab } from '../sft/data.mjs'
import { calculateLoss, models, tf, training } from './nanogpt.mjs'

// The model's weights are made of this: the same in every run.
Math.random = randomNumbers(5)
const config = { vocabSize: vocab, blockSize: time, nLayer: 1, nHead: 2, nEmbed: 32, mlpFactor: 4, useRope: true }
const model = new models.NanoGPTV1(config)
const schedule = { learningRate: 3e-3, minLearningRate: 3e-3, warmupSteps: 0, decayEpochs: 1, epochSteps: 40 }
const adam = { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.01, lossScaling: 1 }
const optimizer = new training.AdamWOptimizer({ ...schedule, ...adam })
const forward = (/** @type {Int32Array} */ inputIds) =>
  model.forward({ training: true }, tf.tensor2d(inputIds, shape, 'int32'))

for (const { inputIds, labels } of batches) {
  const { value, grads } = tf.tidy(() =>
    tf.variableGrads(() => {
      const next = labels.map((_, i) => (i % time < time - 1 && labels[i + 1] >= 0 ? labels[i + 1] : 65535))
      return calculateLoss(forward(inputIds), tf.tensor2d(next, shape, 'int32'), true)
    }),
  )
  optimizer.applyGradients(grads).dispose()
  model.weightStore.touchVariables(Object.keys(grads))
  console.log(value.dataSync()[0])
  tf.dispose([value, grads])
}
