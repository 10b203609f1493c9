/**
 * Whole trainings in other trainers, TensorFlow.js on wasm and jax-js: the gradients of every parameter against those
 * of the trainer's own operations, a preference that is learned, and the memory after 200 steps.
 */

import { type Array as JaxArray, nn, numpy as np, tree, valueAndGrad } from '@jax-js/jax'
import * as tf from '@tensorflow/tfjs'
import { liveBuffers } from './jax-buffers.js'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { fusedPreferenceLossValueAndGrad } from '../lib/adapters/jax/index.js'
import { fusedPreferenceLoss, sequenceLogProbs } from '../lib/adapters/tfjs/index.js'
import { preferenceLossSync, sequenceLogProbsSync } from '../lib/index.js'
import { gaussian, random } from './support.js'

const [VOCAB, WIDTH, PROMPT, TIME, PAIRS] = [40, 12, 3, 8, 8]
const [BETA, STEPS, LEARNING_RATE] = [0.5, 200, 0.3]

/** Random prompts; completions of even tokens are chosen, those of odd ones rejected. Chosen first. */
function batchOf(seed: number, pairs = PAIRS) {
  const next = random(seed)
  const inputIds = new Int32Array(2 * pairs * TIME)
  const labels = new Int32Array(2 * pairs * TIME).fill(-100)
  for (let i = 0; i < inputIds.length; i++) {
    const parity = i < pairs * TIME ? 0 : 1
    const completion = i % TIME >= PROMPT
    inputIds[i] = completion ? 2 * Math.floor((next() * VOCAB) / 2) + parity : Math.floor(next() * VOCAB)
    if (completion) labels[i] = inputIds[i]
  }
  return { inputIds, labels, rows: 2 * pairs }
}
type Batch = ReturnType<typeof batchOf>

/** The parameters of a two-layer model: embeddings, a hidden layer, the head. */
const SHAPES = { table: [VOCAB, WIDTH], hidden: [WIDTH, WIDTH], head: [WIDTH, VOCAB] } as const
type Name = keyof typeof SHAPES
const NAMES = Object.keys(SHAPES) as Name[]

function initial(name: Name): Float32Array {
  const next = random(NAMES.indexOf(name) + 1)
  return Float32Array.from({ length: SHAPES[name][0] * SHAPES[name][1] }, () => 0.4 * gaussian(next))
}

const split = (values: ArrayLike<number>) => {
  const all = Array.from(values)
  return { chosen: all.slice(0, all.length / 2), rejected: all.slice(all.length / 2) }
}

/** Share of pairs whose chosen reward is the larger. */
function rewardAccuracy(policy: ArrayLike<number>, reference: ArrayLike<number>): number {
  const { chosen, rejected } = split(policy)
  const { chosen: referenceChosen, rejected: referenceRejected } = split(reference)
  return preferenceLossSync({ chosen, rejected, referenceChosen, referenceRejected }, { beta: BETA }).accuracy
}

/** Greatest difference, relative to the greatest element of the second. */
function difference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length)
  const largest = Math.max(...Array.from(b, Math.abs))
  expect(largest).toBeGreaterThan(0)
  return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i]))) / largest
}

describe('TensorFlow.js, wasm', () => {
  beforeAll(async () => {
    expect(await tf.setBackend('wasm')).toBe(true)
  })

  const variables = () =>
    Object.fromEntries(
      NAMES.map((name) => [name, tf.tidy(() => tf.variable(tf.tensor2d(initial(name), SHAPES[name] as never)))]),
    ) as Record<Name, tf.Variable>

  const model = ({ table, hidden, head }: Record<Name, tf.Tensor>, { inputIds, rows }: Batch) => {
    const x = tf.matMul(tf.oneHot(tf.tensor1d(inputIds, 'int32'), VOCAB), table)
    return tf.matMul(tf.tanh(tf.matMul(x, hidden)), head).reshape([rows, TIME, VOCAB])
  }

  const logProbsOf = (weights: Record<Name, tf.Tensor>, batch: Batch) =>
    tf.tidy(() => sequenceLogProbs(model(weights, batch), batch.labels).dataSync())

  const ownLoss = (logits: tf.Tensor, { labels, rows }: Batch, reference: ReturnType<typeof split>) => {
    const targets = tf.slice(tf.tensor2d(labels, [rows, TIME], 'int32'), [0, 1])
    const logProbs = tf.logSoftmax(tf.slice(logits, [0, 0, 0], [rows, TIME - 1, VOCAB]))
    const sums = tf.sum(tf.mul(logProbs, tf.oneHot(targets, VOCAB)), [1, 2])
    const [chosen, rejected] = tf.split(sums, 2) as [tf.Tensor, tf.Tensor]
    const ratio = tf.sub(tf.sub(chosen, rejected), tf.sub(reference.chosen, reference.rejected))
    return tf.mean(tf.softplus(tf.mul(ratio, -BETA))) as tf.Scalar
  }

  it('gives the loss and the gradients of its own operations', () => {
    const weights = variables()
    tf.tidy(() => {
      const batch = batchOf(1)
      const reference = split(logProbsOf(weights, batch).map((x, i) => x + 2 * Math.sin(i)))
      const list = NAMES.map((name) => weights[name])
      const ours = tf.variableGrads(
        () => fusedPreferenceLoss(model(weights, batch), batch.labels, { reference, beta: BETA }),
        list,
      )
      const own = tf.variableGrads(() => ownLoss(model(weights, batch), batch, reference), list)
      expect(difference(ours.value.dataSync(), own.value.dataSync())).toBeLessThan(1e-4)
      for (const { name } of list) {
        expect(difference(ours.grads[name].dataSync(), own.grads[name].dataSync())).toBeLessThan(1e-4)
      }
    })
    tf.dispose(weights)
  })

  it('learns the preference, and has no more tensors after 200 steps than before', () => {
    const weights = variables()
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
        fusedPreferenceLoss(model(weights, batch), batch.labels, {
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
  type Params = Record<Name, JaxArray>
  const parameters = () =>
    Object.fromEntries(NAMES.map((name) => [name, np.array(initial(name), { shape: [...SHAPES[name]] })])) as Params

  const idsOf = ({ inputIds, rows }: Batch) => np.array(inputIds, { shape: [rows, TIME] })
  const apply = ({ table, hidden, head }: Params, ids: JaxArray) => {
    const x = np.matmul(nn.oneHot(ids, VOCAB), table)
    return np.matmul(np.tanh(np.matmul(x, hidden)), head)
  }

  const logProbsOf = async (params: Params, batch: Batch) => {
    const logits = apply(tree.ref(params), idsOf(batch))
    const { shape } = logits
    return sequenceLogProbsSync({ data: (await logits.data()) as Float32Array, shape }, batch.labels).logProbs
  }

  const ownLoss = (params: Params, { inputIds, labels, rows }: Batch, reference: ReturnType<typeof split>) => {
    const logits = apply(params, np.array(inputIds, { shape: [rows, TIME] })).slice([], [0, TIME - 1], [])
    // Its oneHot turns -100 into a row that is not zero.
    const counts = np.array(
      Float32Array.from(labels, (label) => (label < 0 ? 0 : 1)),
      { shape: [rows, TIME, 1] },
    )
    const oneHot = nn.oneHot(
      np.array(
        labels.map((label) => Math.max(0, label)),
        { shape: [rows, TIME] },
      ),
      VOCAB,
    )
    const picked = oneHot.mul(counts).slice([], [1, TIME], [])
    const sums = np.sum(nn.logSoftmax(logits, -1).mul(picked), [1, 2])
    const ratio = sums.ref.slice([0, rows / 2]).sub(sums.slice([rows / 2, rows]))
    const referenceRatio = np.array(Float32Array.from(reference.chosen, (x, i) => x - reference.rejected[i]))
    return np.mean(nn.logSigmoid(ratio.sub(referenceRatio).mul(BETA))).mul(-1)
  }

  it('gives the loss and the gradients of its own operations', async () => {
    const params = parameters()
    const batch = batchOf(1)
    const reference = split((await logProbsOf(params, batch)).map((x, i) => x + 2 * Math.sin(i)))
    const step = fusedPreferenceLossValueAndGrad(apply)
    const ours = await step(tree.ref(params), idsOf(batch), batch.labels, { reference, beta: BETA })
    const [loss, gradient] = valueAndGrad((traced: Params) => ownLoss(traced, batch, reference))(params) as [
      JaxArray,
      Params,
    ]
    expect(difference([ours.loss], await loss.data())).toBeLessThan(1e-4)
    for (const name of NAMES) {
      expect(difference(await ours.gradParams[name].data(), await gradient[name].data())).toBeLessThan(1e-4)
    }
  })

  it('learns the preference, and has no more buffers after 200 steps than before', async () => {
    let params = parameters()
    const frozen = tree.ref(params)
    const heldOut = batchOf(99, 100)
    const before = await logProbsOf(params, heldOut)
    const step = fusedPreferenceLossValueAndGrad(apply)
    const losses: number[] = []
    let buffers = 0
    for (let i = 0; i < STEPS; i++) {
      const batch = batchOf(1000 + i)
      const reference = split(await logProbsOf(frozen, batch))
      const { loss, gradParams } = await step(tree.ref(params), idsOf(batch), batch.labels, { reference, beta: BETA })
      params = tree.map(
        (weight: JaxArray, gradient: JaxArray) => weight.sub(gradient.mul(LEARNING_RATE)),
        params,
        gradParams,
      ) as Params
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
