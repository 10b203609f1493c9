// DPO on a @genai-fi/nanogpt model: a small GPT learns to count upwards. Chosen completions count up, rejected ones
// down.
import { sequenceLogProbsSync } from 'fused-preference-loss'
import { fusedPreferenceLoss } from 'fused-preference-loss/tfjs'
import { models, tf, training } from './nanogpt.mjs'

const [BETA, STEPS, PAIRS, PROMPT, COMPLETION] = [0.1, 60, 4, 3, 4]
const TIME = PROMPT + COMPLETION
const DIRECTIONS = { chosen: 1, rejected: -1 }
const config = { vocabSize: 10, blockSize: TIME, nLayer: 1, nHead: 2, nEmbed: 32, mlpFactor: 4, useRope: true }

/** A batch of pairs, chosen first: two random digits, a start, and then the digits upwards or downwards. */
function batchOf(/** @type {() => number} */ random, pairs = PAIRS) {
  const prompts = Array.from({ length: pairs }, () => Array.from({ length: PROMPT }, () => Math.floor(10 * random())))
  const rows = Object.values(DIRECTIONS).flatMap((direction) =>
    prompts.map((prompt) => [
      ...prompt,
      ...Array.from({ length: COMPLETION }, (_, i) => (prompt[PROMPT - 1] + direction * (i + 1) + 100) % 10),
    ]),
  )
  const inputIds = Int32Array.from(rows.flat())
  /** @type {[number, number]} */
  const shape = [2 * pairs, TIME]
  return { inputIds, labels: inputIds.map((id, i) => (i % TIME < PROMPT ? -100 : id)), shape }
}

/**
 * @typedef {import('@genai-fi/nanogpt').Model} Model
 * @typedef {ReturnType<typeof batchOf>} Batch
 * @typedef {ReturnType<typeof scores>} Scores
 */

const forward = (/** @type {Model} */ model, /** @type {Batch} */ { inputIds, shape }) =>
  model.forward({ training: true }, tf.tensor2d(inputIds, shape, 'int32'))

/** Log-probs of both completions of each pair. */
function scores(/** @type {Model} */ model, /** @type {Batch} */ batch) {
  const data = /** @type {Float32Array} */ (tf.tidy(() => forward(model, batch).dataSync()))
  const { logProbs } = sequenceLogProbsSync({ data, shape: [...batch.shape, config.vocabSize] }, batch.labels)
  return { chosen: logProbs.subarray(0, logProbs.length / 2), rejected: logProbs.subarray(logProbs.length / 2) }
}

/** The share of pairs whose chosen completion has gained more over the reference than the rejected one. */
function rewardAccuracy(/** @type {Scores} */ policy, /** @type {Scores} */ reference) {
  const gain = (/** @type {keyof Scores} */ side, /** @type {number} */ i) => policy[side][i] - reference[side][i]
  return policy.chosen.filter((_, i) => gain('chosen', i) > gain('rejected', i)).length / policy.chosen.length
}

const model = new models.NanoGPTV1(config)
const schedule = { learningRate: 3e-3, minLearningRate: 3e-3, warmupSteps: 0, decayEpochs: 1, epochSteps: STEPS }
const adam = { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.01, lossScaling: 1 }
const optimizer = new training.AdamWOptimizer({ ...schedule, ...adam })
const heldOut = batchOf(Math.random, 100)
// The reference is the model as it is now: its log-probs of all training data are taken before the first step.
const batches = Array.from({ length: STEPS }, () => batchOf(Math.random))
const references = batches.map((batch) => scores(model, batch))
const reference = scores(model, heldOut)

for (const [step, batch] of batches.entries()) {
  let [loss, margin] = [0, 0]
  const { value, grads } = tf.tidy(() =>
    tf.variableGrads(() =>
      fusedPreferenceLoss(forward(model, batch), batch.labels, {
        reference: references[step],
        beta: BETA,
        onResult: (result) => {
          ;({ loss, margin } = result)
        },
      }),
    ),
  )
  optimizer.applyGradients(grads).dispose()
  model.weightStore.touchVariables(Object.keys(grads))
  tf.dispose([value, grads])
  if (step % 10 === 0 || step === STEPS - 1) {
    console.log(`step ${step}: loss ${loss.toFixed(4)}, margin ${margin.toFixed(3)}`)
  }
}
const accuracy = rewardAccuracy(scores(model, heldOut), reference)
console.log(`held-out reward accuracy ${(100 * accuracy).toFixed(0)} %; ${tf.memory().numTensors} tensors`)
