/**
 * The losses of the TensorFlow.js adapter that give promises, on the backends of Node.js; webgpu/trainers.test.ts has them on
 * WebGPU.
 */
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import * as tfjs from '../lib/adapters/tfjs/index.js'
import {
  BETA,
  batchOf,
  NAMES,
  type Name,
  split,
  TIME,
  tfjsLayer,
  tfjsModel,
  tfjsVariables,
  VOCAB,
} from './small-models.js'

const batch = batchOf(1)
const { labels } = batch
const desirable = Array.from({ length: batch.rows }, (_, i) => i % 2)
const reference = split(Float64Array.from({ length: batch.rows }, (_, i) => -20 + Math.sin(i)))

describe.each(['cpu', 'wasm'])('%s', (backend) => {
  let weights: Record<Name, tf.Variable>
  let list: tf.Variable[]
  let before = 0
  beforeEach(async () => {
    expect(await tf.setBackend(backend)).toBe(true)
    weights = tfjsVariables()
    list = NAMES.map((name) => weights[name])
    before = tf.memory().numTensors
  })
  afterEach(() => {
    expect(tf.memory().numTensors).toBe(before)
    tf.dispose(weights)
  })

  const model = () => tfjsModel(weights, batch)
  const layer = () => tfjsLayer(weights, batch)
  /** The output layer tied to the embedding, and a bias that is a variable, too. */
  const tied = () => ({
    hidden: layer().hidden,
    weight: weights.table,
    bias: tf.slice(tf.reshape(weights.head, [-1]), 0, VOCAB),
  })
  const opOf = <T extends object>(
    op: (hidden: tf.Tensor, weight: tf.Tensor, labels: Int32Array, options: T & { bias?: tf.Tensor }) => tf.Scalar,
    { hidden, weight, bias }: tfjs.LayerTensors,
    options: T,
  ) => op(hidden, weight, labels, { ...options, bias })

  it.each<[string, () => Promise<tfjs.VariableGrads<{ loss: number }>>, () => tf.Scalar]>([
    [
      'fusedPreferenceLoss',
      () => tfjs.fusedPreferenceLossVariableGrads(model, labels, { reference, beta: BETA }, list),
      () => tfjs.fusedPreferenceLoss(model(), labels, { reference, beta: BETA }),
    ],
    [
      'fusedUnpairedPreferenceLoss',
      () =>
        tfjs.fusedUnpairedPreferenceLossVariableGrads(model, labels, { desirable, referenceFree: true, kl: 0.1 }, list),
      () => tfjs.fusedUnpairedPreferenceLoss(model(), labels, { desirable, referenceFree: true, kl: 0.1 }),
    ],
    [
      'crossEntropy',
      () => tfjs.crossEntropyVariableGrads(model, labels, { zLoss: 0.1 }, list),
      () => tfjs.crossEntropy(model(), labels, { zLoss: 0.1 }),
    ],
    [
      'fusedLinearPreferenceLoss',
      () =>
        tfjs.fusedLinearPreferenceLossVariableGrads(layer, labels, { reference, beta: BETA, transposed: true }, list),
      () => opOf(tfjs.fusedLinearPreferenceLoss, layer(), { reference, beta: BETA, transposed: true }),
    ],
    [
      'fusedLinearUnpairedPreferenceLoss',
      () =>
        tfjs.fusedLinearUnpairedPreferenceLossVariableGrads(
          tied,
          labels,
          { desirable, referenceFree: true, kl: 0.1 },
          list,
        ),
      () => opOf(tfjs.fusedLinearUnpairedPreferenceLoss, tied(), { desirable, referenceFree: true, kl: 0.1 }),
    ],
    [
      'linearCrossEntropy',
      () => tfjs.linearCrossEntropyVariableGrads(tied, labels, { zLoss: 0.1 }, list),
      () => opOf(tfjs.linearCrossEntropy, tied(), { zLoss: 0.1 }),
    ],
    [
      'a layer that is frozen',
      () => tfjs.linearCrossEntropyVariableGrads(tied, labels, { frozen: true }, list.slice(0, 2)),
      () => opOf(tfjs.linearCrossEntropy, tied(), { frozen: true }),
    ],
  ])('%s has the loss and the gradients of the op', async (_, promise, op) => {
    const { loss, metrics, grads } = await promise()
    const wanted = tf.variableGrads(op)
    expect([metrics.loss, Math.fround(loss)]).toEqual([loss, wanted.value.dataSync()[0]])
    expect(Object.keys(metrics).filter((name) => /^grad[A-Z]/.test(name) && !/LogP/.test(name))).toEqual([])
    expect(Object.keys(grads).sort()).toEqual(Object.keys(wanted.grads).sort())
    for (const name of Object.keys(grads)) expect(grads[name].dataSync()).toEqual(wanted.grads[name].dataSync())
    tf.dispose([grads, wanted.grads, wanted.value])
  })

  it('takes labels in a tensor, and logits of a reference, of which it gives no gradient', async () => {
    const ids = tf.tensor2d(labels, [batch.rows, TIME], 'int32')
    const logits = tf.tidy(() => tfjsModel(weights, batch))
    const given = { reference: { logits }, beta: BETA }
    const { loss, grads } = await tfjs.fusedPreferenceLossVariableGrads(model, ids, given, list)
    expect(loss).toBeCloseTo(Math.LN2, 12)
    tf.dispose([grads, logits, ids])
  })

  it("takes a reference's layer in tensors, its weight stored as the policy's", async () => {
    const frozen = tf.tidy(() => ({ ...layer(), bias: tf.tensor1d(new Float32Array(VOCAB).fill(1)) }))
    const given = { reference: frozen, beta: BETA, transposed: true }
    const { loss, grads } = await tfjs.fusedLinearPreferenceLossVariableGrads(layer, labels, given, list)
    // A bias that is the same for all words changes nothing.
    expect(loss).toBeCloseTo(Math.LN2, 5)
    tf.dispose([grads, { ...frozen, weight: [] }])
  })

  it('leaves nothing behind where something is wrong', async () => {
    const refused = (f: () => tf.Tensor, options: object = { reference }, variables = list) =>
      expect(tfjs.fusedPreferenceLossVariableGrads(f, labels, options, variables)).rejects
    await refused(() => {
      model()
      throw new Error('no logits')
    }).toThrow('no logits')
    await refused(() => 5 as never).toEqual(expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }))
    await refused(model, { reference, beta: -1 }).toEqual(expect.objectContaining({ code: 'ERR_OUT_OF_RANGE' }))
    await refused(model, { onResult() {} }).toEqual(expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }))
    await refused(model, {}, []).toEqual(expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }))
    const other = tf.tidy(() => model())
    await refused(() => other).toEqual(expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }))
    other.dispose()
    const linear = (f: () => unknown, options: object = { reference, transposed: true }) =>
      expect(tfjs.fusedLinearPreferenceLossVariableGrads(f as never, labels, options, list)).rejects
    await linear(model).toThrow('f() must be { hidden, weight, bias? } of tensors')
    await linear(() => ({ ...layer(), head: weights.head })).toThrow('f() must be { hidden, weight, bias? } of tensors')
    await linear(async () => layer()).toEqual(expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }))
    await linear(layer, { reference }).toThrow('needs transposed: true')
    await linear(layer, { reference, bias: weights.head }).toThrow('it comes from f')
    await linear(layer, { reference: { hidden: weights.head, weight: 1 }, transposed: true }).toThrow(
      'options.reference.weight must be a tensor',
    )
    // Time passes between the passes, so that no tape may be open.
    let inside: Promise<unknown> | undefined
    const { value, grads } = tf.variableGrads(() => {
      inside = tfjs.fusedPreferenceLossVariableGrads(model, labels, { reference }, list).catch((error) => error.code)
      return tf.sum(weights.head) as tf.Scalar
    }, list)
    expect(await inside).toBe('ERR_BACKEND_UNAVAILABLE')
    tf.dispose([value, grads])
  })

  it('lets other gradients be computed meanwhile', async () => {
    const running = tfjs.crossEntropyVariableGrads(model, labels, {}, list)
    const between = tf.variableGrads(() => tfjs.crossEntropy(model(), labels), list)
    const { grads } = await running
    for (const { name } of list) expect(grads[name].dataSync()).toEqual(between.grads[name].dataSync())
    tf.dispose([between.value, between.grads, grads])
  })
})
