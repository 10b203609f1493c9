/**
 * Whole trainings in other trainers, TensorFlow.js on wasm and jax-js: the gradients of every parameter against those
 * of the trainer's own operations, a preference that is learned, and the memory after 200 steps.
 */

import { type Array as JaxArray, tree, valueAndGrad } from '@jax-js/jax'
import * as tf from '@tensorflow/tfjs'
import { liveBuffers } from './jax-buffers.js'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { fusedPreferenceLossValueAndGrad } from '../lib/adapters/jax/index.js'
import { fusedPreferenceLoss, sequenceLogProbs } from '../lib/adapters/tfjs/index.js'
import { sequenceLogProbsSync } from '../lib/index.js'
import {
  type Batch,
  BETA,
  batchOf,
  difference,
  type JaxParams,
  jaxIds,
  jaxLoss,
  jaxModel,
  jaxParameters,
  LEARNING_RATE,
  NAMES,
  type Name,
  rewardAccuracy,
  STEPS,
  split,
  tfjsLoss,
  tfjsModel,
  tfjsVariables,
} from './small-models.js'

describe('TensorFlow.js, wasm', () => {
  beforeAll(async () => {
    expect(await tf.setBackend('wasm')).toBe(true)
  })

  const logProbsOf = (weights: Record<Name, tf.Tensor>, batch: Batch) =>
    tf.tidy(() => sequenceLogProbs(tfjsModel(weights, batch), batch.labels).dataSync())

  it('gives the loss and the gradients of its own operations', () => {
    const weights = tfjsVariables()
    tf.tidy(() => {
      const batch = batchOf(1)
      const reference = split(logProbsOf(weights, batch).map((x, i) => x + 2 * Math.sin(i)))
      const list = NAMES.map((name) => weights[name])
      const ours = tf.variableGrads(
        () => fusedPreferenceLoss(tfjsModel(weights, batch), batch.labels, { reference, beta: BETA }),
        list,
      )
      const own = tf.variableGrads(() => tfjsLoss(tfjsModel(weights, batch), batch, reference), list)
      expect(difference(ours.value.dataSync(), own.value.dataSync())).toBeLessThan(1e-4)
      for (const { name } of list) {
        expect(difference(ours.grads[name].dataSync(), own.grads[name].dataSync())).toBeLessThan(1e-4)
      }
    })
    tf.dispose(weights)
  })

  it('learns the preference, and has no more tensors after 200 steps than before', () => {
    const weights = tfjsVariables()
    const heldOut = batchOf(99, 100)
    const before = logProbsOf(weights, heldOut)
    expect(rewardAccuracy(before, before)).toBe(0)
    const frozen = Object.fromEntries(NAMES.map((name) => [name, tf.clone<tf.Tensor>(weights[name])])) as Record<
      Name,
      tf.Tensor
    >
    const optimizer = tf.train.sgd(LEARNING_RATE)
    const losses: number[] = []
    const { numTensors, numDataBuffers, numBytes } = tf.memory()
    for (let step = 0; step < STEPS; step++) {
      const batch = batchOf(1000 + step)
      const reference = split(logProbsOf(frozen, batch))
      optimizer.minimize(() =>
        fusedPreferenceLoss(tfjsModel(weights, batch), batch.labels, {
          reference,
          beta: BETA,
          gradient: 'in-place',
          onResult: ({ loss }) => losses.push(loss),
        }),
      )
    }
    expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers, numBytes })
    expect(losses).toHaveLength(STEPS)
    expect(losses[0]).toBeCloseTo(Math.LN2, 5)
    expect(losses.at(-1)).toBeLessThan(0.3)
    expect(rewardAccuracy(logProbsOf(weights, heldOut), before)).toBeGreaterThan(0.8)
    optimizer.dispose()
    tf.dispose([weights, frozen])
  })
})

describe('jax-js', () => {
  const logProbsOf = async (params: JaxParams, batch: Batch) => {
    const logits = jaxModel(tree.ref(params), jaxIds(batch))
    const { shape } = logits
    return sequenceLogProbsSync({ data: (await logits.data()) as Float32Array, shape }, batch.labels).logProbs
  }

  it('gives the loss and the gradients of its own operations', async () => {
    const params = jaxParameters()
    const batch = batchOf(1)
    const reference = split((await logProbsOf(params, batch)).map((x, i) => x + 2 * Math.sin(i)))
    const step = fusedPreferenceLossValueAndGrad(jaxModel)
    const ours = await step(tree.ref(params), jaxIds(batch), batch.labels, { reference, beta: BETA })
    const [loss, gradient] = valueAndGrad((traced: JaxParams) => jaxLoss(traced, batch, reference))(params) as [
      JaxArray,
      JaxParams,
    ]
    expect(difference([ours.loss], await loss.data())).toBeLessThan(1e-4)
    for (const name of NAMES) {
      expect(difference(await ours.gradParams[name].data(), await gradient[name].data())).toBeLessThan(1e-4)
    }
  })

  it('learns the preference, and has no more buffers after 200 steps than before', async () => {
    let params = jaxParameters()
    const frozen = tree.ref(params)
    const heldOut = batchOf(99, 100)
    const before = await logProbsOf(params, heldOut)
    const step = fusedPreferenceLossValueAndGrad(jaxModel)
    const losses: number[] = []
    let buffers = 0
    for (let i = 0; i < STEPS; i++) {
      const batch = batchOf(1000 + i)
      const reference = split(await logProbsOf(frozen, batch))
      const { loss, gradParams } = await step(tree.ref(params), jaxIds(batch), batch.labels, { reference, beta: BETA })
      params = tree.map(
        (weight: JaxArray, gradient: JaxArray) => weight.sub(gradient.mul(LEARNING_RATE)),
        params,
        gradParams,
      ) as JaxParams
      for (const name of NAMES) await params[name].blockUntilReady()
      losses.push(loss)
      // After the first step the parameters are no longer those of the reference.
      if (i === 0) buffers = liveBuffers()
    }
    expect(liveBuffers()).toBe(buffers)
    expect(losses[0]).toBeCloseTo(Math.LN2, 5)
    expect(losses.at(-1)).toBeLessThan(0.3)
    expect(rewardAccuracy(await logProbsOf(params, heldOut), before)).toBeGreaterThan(0.8)
    tree.dispose([params, frozen])
  })
})
