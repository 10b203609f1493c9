/**
 * A model of two layers that learns a preference, in TensorFlow.js and in jax-js, and the DPO loss in their own operations.
 */
import { type Array as JaxArray, nn, numpy as np } from '@jax-js/jax'
import * as tf from '@tensorflow/tfjs'
import { expect } from 'vitest'
import { preferenceLossSync } from '../lib/index.js'
import { gaussian, random } from './support.js'

export const [VOCAB, WIDTH, PROMPT, TIME, PAIRS] = [40, 12, 3, 8, 8]
export const [BETA, STEPS, LEARNING_RATE] = [0.5, 200, 0.3]

/** Random prompts; completions of even tokens are chosen, those of odd ones rejected. Chosen first. */
export function batchOf(seed: number, pairs = PAIRS) {
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
export type Batch = ReturnType<typeof batchOf>

/** The parameters of a two-layer model: embeddings, a hidden layer, the head. */
export const SHAPES = { table: [VOCAB, WIDTH], hidden: [WIDTH, WIDTH], head: [WIDTH, VOCAB] } as const
export type Name = keyof typeof SHAPES
export const NAMES = Object.keys(SHAPES) as Name[]

export function initial(name: Name): Float32Array {
  const next = random(NAMES.indexOf(name) + 1)
  return Float32Array.from({ length: SHAPES[name][0] * SHAPES[name][1] }, () => 0.4 * gaussian(next))
}

export const split = (values: ArrayLike<number>) => {
  const all = Array.from(values)
  return { chosen: all.slice(0, all.length / 2), rejected: all.slice(all.length / 2) }
}

/** Share of pairs whose chosen reward is the larger. */
export function rewardAccuracy(policy: ArrayLike<number>, reference: ArrayLike<number>): number {
  const { chosen, rejected } = split(policy)
  const { chosen: referenceChosen, rejected: referenceRejected } = split(reference)
  return preferenceLossSync({ chosen, rejected, referenceChosen, referenceRejected }, { beta: BETA }).accuracy
}

/** Greatest difference, relative to the greatest element of the second. */
export function difference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length)
  const largest = Math.max(...Array.from(b, Math.abs))
  expect(largest).toBeGreaterThan(0)
  return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i]))) / largest
}

export const tfjsVariables = () =>
  Object.fromEntries(
    NAMES.map((name) => [name, tf.tidy(() => tf.variable(tf.tensor2d(initial(name), SHAPES[name] as never)))]),
  ) as Record<Name, tf.Variable>

const tfjsHidden = ({ table, hidden }: Record<Name, tf.Tensor>, { inputIds }: Batch) =>
  tf.tanh(tf.matMul(tf.matMul(tf.oneHot(tf.tensor1d(inputIds, 'int32'), VOCAB), table), hidden))

export const tfjsModel = (weights: Record<Name, tf.Tensor>, batch: Batch) =>
  tf.matMul(tfjsHidden(weights, batch), weights.head).reshape([batch.rows, TIME, VOCAB])

/** The same without the last product, whose weight is `[width, vocab]`. */
export const tfjsLayer = (weights: Record<Name, tf.Tensor>, batch: Batch) => ({
  hidden: tf.reshape(tfjsHidden(weights, batch), [batch.rows, TIME, WIDTH]),
  weight: weights.head,
})

export const tfjsLoss = (logits: tf.Tensor, { labels, rows }: Batch, reference: ReturnType<typeof split>) => {
  const targets = tf.slice(tf.tensor2d(labels, [rows, TIME], 'int32'), [0, 1])
  const logProbs = tf.logSoftmax(tf.slice(logits, [0, 0, 0], [rows, TIME - 1, VOCAB]))
  const sums = tf.sum(tf.mul(logProbs, tf.oneHot(targets, VOCAB)), [1, 2])
  const [chosen, rejected] = tf.split(sums, 2) as [tf.Tensor, tf.Tensor]
  const ratio = tf.sub(tf.sub(chosen, rejected), tf.sub(reference.chosen, reference.rejected))
  return tf.mean(tf.softplus(tf.mul(ratio, -BETA))) as tf.Scalar
}

export type JaxParams = Record<Name, JaxArray>
export const jaxParameters = () =>
  Object.fromEntries(NAMES.map((name) => [name, np.array(initial(name), { shape: [...SHAPES[name]] })])) as JaxParams

export const jaxIds = ({ inputIds, rows }: Batch) => np.array(inputIds, { shape: [rows, TIME] })
/** The model without its last product, whose weight is `[width, vocab]`. */
export const jaxLayer = ({ table, hidden, head }: JaxParams, ids: JaxArray) => ({
  hidden: np.tanh(np.matmul(np.matmul(nn.oneHot(ids, VOCAB), table), hidden)),
  weight: head,
})
export const jaxModel = (params: JaxParams, ids: JaxArray) => {
  const { hidden, weight } = jaxLayer(params, ids)
  return np.matmul(hidden, weight)
}

export const jaxLoss = (params: JaxParams, { inputIds, labels, rows }: Batch, reference: ReturnType<typeof split>) => {
  const logits = jaxModel(params, np.array(inputIds, { shape: [rows, TIME] })).slice([], [0, TIME - 1], [])
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
