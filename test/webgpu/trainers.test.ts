/**
 * TensorFlow.js and jax-js on WebGPU: loss and gradients against those of their own operations, a preference that is
 * learned in 200 steps, without a copy of the logits or their gradient, and without a buffer more than before.
 */
import { defaultDevice, getWebGPUDevice, init, type Array as JaxArray, tree, valueAndGrad } from '@jax-js/jax'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-webgpu'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { fusedLinearPreferenceLossValueAndGrad, fusedPreferenceLossValueAndGrad } from '../../lib/adapters/jax/index.js'
import {
  fusedLinearPreferenceLossVariableGrads,
  fusedPreferenceLossVariableGrads,
  type LinearPreferenceGradsOptions,
  type PreferenceGradsOptions,
} from '../../lib/adapters/tfjs/index.js'
import { sequenceLogProbsSync } from '../../lib/index.js'
import {
  type Batch,
  BETA,
  batchOf,
  difference,
  type JaxParams,
  jaxIds,
  jaxLayer,
  jaxLoss,
  jaxModel,
  jaxParameters,
  LEARNING_RATE,
  NAMES,
  type Name,
  rewardAccuracy,
  STEPS,
  split,
  tfjsLayer,
  tfjsLoss,
  tfjsModel,
  tfjsVariables,
} from '../small-models.js'
import { copiesOfArrays, type Watched, watch } from './watch.js'

/** Software takes its time. */
const LONG = 240_000

/** Steps after which trainers have all the buffers that they keep. */
const WARM = 20

describe('TensorFlow.js', () => {
  let watched: Watched
  beforeAll(async () => {
    expect(await tf.setBackend('webgpu')).toBe(true)
    watched = watch((tf.backend() as tf.KernelBackend & { device: GPUDevice }).device)
  })
  afterAll(() => watched.stop())

  const logProbsOf = async (weights: Record<Name, tf.Tensor>, batch: Batch) => {
    const logits = tf.tidy(() => tfjsModel(weights, batch))
    const { shape } = logits
    const { logProbs } = sequenceLogProbsSync({ data: (await logits.data()) as Float32Array, shape }, batch.labels)
    logits.dispose()
    return logProbs
  }

  type Weights = Record<Name, tf.Tensor>
  type Reference = PreferenceGradsOptions['reference']
  /** The step from logits, and from the layer that they come from. */
  const steps = {
    logits: (weights: Weights, batch: Batch, reference: Reference, gradient?: 'in-place') =>
      fusedPreferenceLossVariableGrads(() => tfjsModel(weights, batch), batch.labels, {
        reference,
        beta: BETA,
        gradient,
      }),
    'logits, in place': (weights: Weights, batch: Batch, reference: Reference) =>
      steps.logits(weights, batch, reference, 'in-place'),
    'the output layer': (weights: Weights, batch: Batch, reference: LinearPreferenceGradsOptions['reference']) =>
      fusedLinearPreferenceLossVariableGrads(() => tfjsLayer(weights, batch), batch.labels, {
        reference,
        beta: BETA,
        transposed: true,
      }),
  }

  it.each(Object.entries(steps))('the loss and the gradients of its own operations, from %s', async (_, step) => {
    const weights = tfjsVariables()
    const batch = batchOf(1)
    const reference = split((await logProbsOf(weights, batch)).map((x, i) => x + 2 * Math.sin(i)))
    const list = NAMES.map((name) => weights[name])
    watched.copies.length = 0
    const ours = await step(weights, batch, reference)
    expect(watched.copies.length).toBeGreaterThan(0)
    expect(copiesOfArrays(watched, batch)).toEqual([])
    const own = tf.variableGrads(() => tfjsLoss(tfjsModel(weights, batch), batch, reference), list)
    expect(difference([ours.loss], await own.value.data())).toBeLessThan(1e-4)
    for (const { name } of list) {
      expect(difference(await ours.grads[name].data(), await own.grads[name].data())).toBeLessThan(1e-4)
    }
    tf.dispose([ours.grads, own.grads, own.value])
    tf.dispose(weights)
  })

  /** Steps whose reference is a frozen model, which stays on the device as well. */
  const trainers = [
    async (weights: Weights, frozen: Weights, batch: Batch) => {
      const logits = tf.tidy(() => tfjsModel(frozen, batch))
      const result = await steps.logits(weights, batch, { logits })
      logits.dispose()
      return result
    },
    async (weights: Weights, frozen: Weights, batch: Batch) => {
      const layer = tf.tidy(() => tfjsLayer(frozen, batch))
      const result = await steps['the output layer'](weights, batch, layer)
      layer.hidden.dispose()
      return result
    },
  ]

  it('learns the preference from logits and layers in turn, and has no more tensors and buffers after 200 steps', {
    timeout: LONG,
  }, async () => {
    const weights = tfjsVariables()
    const frozen = Object.fromEntries(NAMES.map((name) => [name, tf.clone<tf.Tensor>(weights[name])])) as typeof weights
    const heldOut = batchOf(99, 100)
    const before = await logProbsOf(frozen, heldOut)
    const optimizer = tf.train.sgd(LEARNING_RATE)
    const losses: number[] = []
    let kept = { tensors: 0, data: 0, buffers: 0 }
    const keeps = () => {
      const { numTensors: tensors, numDataBuffers: data } = tf.memory()
      return { tensors, data, buffers: watched.live.size }
    }
    for (let i = 0; i < STEPS; i++) {
      const batch = batchOf(1000 + i)
      const { loss, grads } = await trainers[i % 2]!(weights, frozen, batch)
      optimizer.applyGradients(grads)
      tf.dispose(grads)
      losses.push(loss)
      // From the first update on the weights are no longer those of the frozen model.
      if (i === WARM) kept = keeps()
    }
    expect(keeps()).toEqual(kept)
    expect(losses[0]).toBeCloseTo(Math.LN2, 5)
    expect(losses.at(-1)).toBeLessThan(0.3)
    expect(rewardAccuracy(await logProbsOf(weights, heldOut), before)).toBeGreaterThan(0.8)
    optimizer.dispose()
    tf.dispose([weights, frozen])
  })
})

describe('jax-js', () => {
  let watched: Watched
  beforeAll(async () => {
    expect(await init('webgpu')).toContain('webgpu')
    defaultDevice('webgpu')
    watched = watch(getWebGPUDevice())
  })
  afterAll(() => watched.stop())

  const logProbsOf = async (params: JaxParams, batch: Batch) => {
    const logits = jaxModel(tree.ref(params), jaxIds(batch))
    const { shape } = logits
    return sequenceLogProbsSync({ data: (await logits.data()) as Float32Array, shape }, batch.labels).logProbs
  }
  const ofLayer = fusedLinearPreferenceLossValueAndGrad(jaxLayer)
  const steps = {
    logits: fusedPreferenceLossValueAndGrad(jaxModel),
    'the output layer': (...[params, ids, labels, options]: Parameters<typeof ofLayer>) =>
      ofLayer(params, ids, labels, { ...options, transposed: true }),
  }

  it.each(Object.entries(steps))('the loss and the gradients of its own operations, from %s', async (_, step) => {
    const params = jaxParameters()
    const batch = batchOf(1)
    const reference = split((await logProbsOf(params, batch)).map((x, i) => x + 2 * Math.sin(i)))
    watched.copies.length = 0
    const ours = await step(tree.ref(params), jaxIds(batch), batch.labels, { reference, beta: BETA })
    expect(watched.copies.length).toBeGreaterThan(0)
    expect(copiesOfArrays(watched, batch)).toEqual([])
    const own = valueAndGrad((traced: JaxParams) => jaxLoss(traced, batch, reference))(params)
    const [loss, gradient] = own as [JaxArray, JaxParams]
    expect(difference([ours.loss], await loss.data())).toBeLessThan(1e-4)
    for (const name of NAMES) {
      expect(difference(await ours.gradParams[name].data(), await gradient[name].data())).toBeLessThan(1e-4)
    }
  })

  it('learns the preference from logits and layers in turn, and has no more buffers after 200 steps', {
    timeout: LONG,
  }, async () => {
    let params = jaxParameters()
    const frozen = tree.ref(params)
    const heldOut = batchOf(99, 100)
    const before = await logProbsOf(params, heldOut)
    const losses: number[] = []
    let buffers = 0
    for (let i = 0; i < STEPS; i++) {
      const step = Object.values(steps)[i % 2]!
      const batch = batchOf(1000 + i)
      const reference = split(await logProbsOf(frozen, batch))
      const { loss, gradParams } = await step(tree.ref(params), jaxIds(batch), batch.labels, {
        reference,
        beta: BETA,
      })
      const updated = (weight: JaxArray, gradient: JaxArray) => weight.sub(gradient.mul(LEARNING_RATE))
      params = tree.map(updated, params, gradParams) as JaxParams
      for (const name of NAMES) await params[name].blockUntilReady()
      losses.push(loss)
      if (i === WARM) buffers = watched.live.size
    }
    expect(watched.live.size).toBe(buffers)
    expect(losses[0]).toBeCloseTo(Math.LN2, 5)
    expect(losses.at(-1)).toBeLessThan(0.3)
    expect(rewardAccuracy(await logProbsOf(params, heldOut), before)).toBeGreaterThan(0.8)
    tree.dispose([params, frozen])
  })
})
