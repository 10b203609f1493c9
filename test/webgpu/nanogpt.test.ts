/**
 * The models of @genai-fi/nanogpt on the WebGPU backend that the package brings: loss and gradients against those of its own
 * loss and of operations of TensorFlow.js, and training, without a copy of the logits and without a buffer more than before.
 */
import { models, TeachableLLM, training } from '@genai-fi/nanogpt'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import {
  crossEntropyVariableGrads,
  fusedLinearPreferenceLossVariableGrads,
  fusedPreferenceLossVariableGrads,
  linearCrossEntropyVariableGrads,
} from '../../lib/adapters/tfjs/index.js'
// The loss of its trainers, which it does not export.
import { calculateLoss } from '../../node_modules/@genai-fi/nanogpt/dist/training/loss.js'
import { BETA, batchOf, difference, PAIRS, split, TIME, tfjsLoss, VOCAB } from '../small-models.js'
import { random } from '../support.js'
import { copiesOfArrays, type Watched, watch } from './watch.js'

/** What its trainers take for a label that does not count. */
const IGNORED = 65535

const config = { vocabSize: VOCAB, blockSize: TIME, nLayer: 1, nHead: 2, nEmbed: 32, mlpFactor: 2 }

let watched: Watched
beforeAll(async () => {
  // What it selects, and kernels that take the place of those of other tests in this page.
  for (const name of ['log', 'warn'] as const) vi.spyOn(console, name).mockImplementation(() => {})
  if (tf.findBackendFactory('webgpu')) tf.removeBackend('webgpu')
  await TeachableLLM.selectBackend('webgpu')
  expect(tf.getBackend()).toBe('webgpu')
  watched = watch((tf.backend() as tf.KernelBackend & { device: GPUDevice }).device)
})
afterAll(() => {
  watched.stop()
  tf.removeBackend('webgpu')
  vi.restoreAllMocks()
})

describe.each(['NanoGPTV1', 'NanoGPTV2'] as const)('%s', (name) => {
  function newModel() {
    // The model's weights are made of this.
    const drawn = vi.spyOn(Math, 'random').mockImplementation(random(5))
    const model = new models[name](config)
    drawn.mockRestore()
    onTestFinished(() => model.dispose())
    const batch = batchOf(1)
    const shape: [number, number] = [batch.rows, TIME]
    const forward = (more: { skipLogits?: boolean } = {}, { inputIds } = batch) =>
      tf.tidy(() => model.forward({ training: true, ...more }, tf.tensor2d(inputIds, shape, 'int32')))
    const weight = model.weightStore.getRawVariable('token_embedding')
    const layer = (batchGiven = batch) => ({ hidden: forward({ skipLogits: true }, batchGiven), weight })
    return { model, batch, shape, forward, layer, variables: model.weightStore.variables }
  }

  /** Compares a step of ours with the same of other operations, and looks for copies. */
  async function compare(
    { batch, variables }: ReturnType<typeof newModel>,
    step: (variables: tf.Variable[]) => Promise<{ loss: number; grads: tf.NamedTensorMap }>,
    loss: () => tf.Scalar,
  ) {
    // This one takes the weights to the GPU.
    const own = tf.variableGrads(loss, variables)
    watched.copies.length = 0
    const ours = await step(variables)
    expect(watched.copies.length).toBeGreaterThan(0)
    expect(copiesOfArrays(watched, batch)).toEqual([])
    expect(difference([ours.loss], await own.value.data())).toBeLessThan(1e-4)
    expect(Object.keys(ours.grads)).toHaveLength(variables.length)
    for (const [variable, gradient] of Object.entries(own.grads)) {
      expect(difference(await ours.grads[variable].data(), await gradient.data()), variable).toBeLessThan(1e-4)
    }
    tf.dispose([ours.grads, own.grads, own.value])
  }

  it('has the loss and the gradients of its own cross-entropy', async () => {
    const made = newModel()
    const { batch, shape, forward, layer } = made
    const next = batch.labels.map((_, i) =>
      i % TIME < TIME - 1 && batch.labels[i + 1]! >= 0 ? batch.labels[i + 1]! : IGNORED,
    )
    const own = () => calculateLoss(forward(), tf.tensor2d(next, shape, 'int32'), true) as tf.Scalar
    const options = { shift: false, ignoreIndex: IGNORED }
    await compare(made, (list) => crossEntropyVariableGrads(forward, next, options, list), own)
    await compare(made, (list) => linearCrossEntropyVariableGrads(layer, next, options, list), own)
  })

  it('has the preference loss and the gradients of operations of TensorFlow.js', async () => {
    const made = newModel()
    const { batch, forward, layer } = made
    const reference = split(Array.from({ length: 2 * PAIRS }, (_, i) => -18 + 2 * Math.sin(i)))
    const own = () => tfjsLoss(forward(), batch, reference)
    const options = { reference, beta: BETA }
    await compare(made, (list) => fusedPreferenceLossVariableGrads(forward, batch.labels, options, list), own)
    await compare(made, (list) => fusedLinearPreferenceLossVariableGrads(layer, batch.labels, options, list), own)
  })

  it('learns the preference with its own optimizer, and has no more tensors and buffers from step to step', async () => {
    const { model, forward } = newModel()
    const [warm, steps] = [4, 12]
    const schedule = { learningRate: 1e-2, minLearningRate: 1e-2, warmupSteps: 0, decayEpochs: 1, epochSteps: steps }
    const adam = { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0, lossScaling: 1 }
    const optimizer = new training.AdamWOptimizer({ ...schedule, ...adam })
    const frozen = split(new Float64Array(2 * PAIRS).fill(-(TIME - 3) * Math.log(VOCAB)))
    const losses: number[] = []
    const keeps = () => ({ tensors: tf.memory().numTensors, buffers: watched.live.size })
    let kept = keeps()
    for (let i = 0; i < steps; i++) {
      const batch = batchOf(1000 + i)
      const { loss, grads } = await fusedPreferenceLossVariableGrads(() => forward({}, batch), batch.labels, {
        reference: frozen,
        beta: BETA,
      })
      tf.dispose(optimizer.applyGradients(grads))
      model.weightStore.touchVariables(Object.keys(grads))
      tf.dispose(grads)
      losses.push(loss)
      if (i === warm) kept = keeps()
    }
    expect(keeps()).toEqual(kept)
    expect(losses[0]).toBeCloseTo(Math.LN2, 1)
    expect(losses.at(-1)).toBeLessThan(0.3)
    optimizer.dispose()
  })
})
