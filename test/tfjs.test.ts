/**
 * The TensorFlow.js adapter: its gradients against TensorFlow.js's own, and what it leaves behind.
 */
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { preferenceLoss, sequenceLogProbs } from '../lib/adapters/tfjs.js'
import type { FusedPreferenceLoss } from '../lib/types.js'

const [BATCH, TIME, WIDTH, VOCAB] = [4, 5, 6, 301]
const BETA = 0.7
const reference = { chosen: [-31, -22], rejected: [-30, -25] }

// Two masked positions, one of them a whole tail.
const labels = Int32Array.from({ length: BATCH * TIME }, (_, i) => (i === 3 || i === 14 ? -100 : (i * 97) % VOCAB))

function ownLogProbs(logits: tf.Tensor): tf.Tensor1D {
  const oneHot = tf.oneHot(tf.tensor2d(labels, [BATCH, TIME], 'int32'), VOCAB)
  return tf.sum(tf.mul(tf.logSoftmax(logits), oneHot), [1, 2])
}

function ownLoss(logits: tf.Tensor): tf.Scalar {
  const [chosen, rejected] = tf.split(ownLogProbs(logits), 2) as [tf.Tensor, tf.Tensor]
  const ratio = tf.sub(tf.sub(chosen, rejected), tf.sub(reference.chosen, reference.rejected))
  return tf.mean(tf.softplus(tf.mul(ratio, -BETA)))
}

const ourLoss = (logits: tf.Tensor) => preferenceLoss(logits, labels, { reference, beta: BETA, shift: false })
const inPlaceLoss = (logits: tf.Tensor) =>
  preferenceLoss(logits, labels, { reference, beta: BETA, shift: false, gradient: 'in-place' })

/** Greatest difference of two tensors, relative to the greatest element of the second. */
function difference(a: tf.Tensor, b: tf.Tensor): number {
  expect(a.shape).toEqual(b.shape)
  return tf.tidy(() => tf.div(tf.max(tf.abs(tf.sub(a, b))), tf.max(tf.abs(b))).dataSync()[0]!)
}

describe.each(['cpu', 'wasm'])('on the %s backend', (backend) => {
  beforeAll(async () => {
    expect(await tf.setBackend(backend)).toBe(true)
  })

  let hidden: tf.Variable
  let weight: tf.Variable
  beforeEach(() => {
    hidden = tf.variable(tf.randomNormal([BATCH * TIME, WIDTH], 0, 1, 'float32', 1))
    weight = tf.variable(tf.randomNormal([WIDTH, VOCAB], 0, 1, 'float32', 2))
    return () => tf.dispose([hidden, weight])
  })

  const model = () => tf.reshape(tf.matMul(hidden, weight), [BATCH, TIME, VOCAB])
  const differentiate = (loss: () => tf.Tensor) => {
    const { value, grads } = tf.variableGrads(() => loss() as tf.Scalar, [hidden, weight])
    return { value, hidden: grads[hidden.name]!, weight: grads[weight.name]! }
  }

  function expectEqualGradients(ours: () => tf.Tensor, own: () => tf.Tensor): void {
    tf.tidy(() => {
      const expected = differentiate(own)
      const actual = differentiate(ours)
      expect(difference(actual.value, expected.value)).toBeLessThan(1e-5)
      expect(difference(actual.hidden, expected.hidden)).toBeLessThan(1e-4)
      expect(difference(actual.weight, expected.weight)).toBeLessThan(1e-4)
    })
  }

  it('gives the gradients of its own ops', () => {
    expectEqualGradients(
      () => ourLoss(model()),
      () => ownLoss(model()),
    )
  })

  it('gives them in the memory of the logits', () => {
    expectEqualGradients(
      () => inPlaceLoss(model()),
      () => ownLoss(model()),
    )
  })

  it('minds the upstream gradient', () => {
    const regularised = (loss: tf.Scalar) => tf.add(tf.mul(loss, -2.5), tf.sum(tf.square(weight)))
    expectEqualGradients(
      () => regularised(ourLoss(model())),
      () => regularised(ownLoss(model())),
    )
    expectEqualGradients(
      () => regularised(inPlaceLoss(model())),
      () => regularised(ownLoss(model())),
    )
  })

  it('takes logits that are a slice of something larger, and shifts', () => {
    const sliced = (logits: tf.Tensor3D) => tf.slice(logits, [0, 1, 0], [BATCH, TIME - 1, VOCAB])
    const shifted = labels.map((label, i) => (i % TIME === 0 ? -100 : label))
    expectEqualGradients(
      () => preferenceLoss(model(), labels, { reference, beta: BETA }),
      () => {
        const oneHot = tf.oneHot(tf.slice(tf.tensor2d(shifted, [BATCH, TIME], 'int32'), [0, 1]), VOCAB)
        const logProbs = tf.logSoftmax(tf.slice(model(), [0, 0, 0], [BATCH, TIME - 1, VOCAB]))
        const [chosen, rejected] = tf.split(tf.sum(tf.mul(logProbs, oneHot), [1, 2]), 2) as [tf.Tensor, tf.Tensor]
        const ratio = tf.sub(tf.sub(chosen, rejected), tf.sub(reference.chosen, reference.rejected))
        return tf.mean(tf.softplus(tf.mul(ratio, -BETA)))
      },
    )
    const tail = Int32Array.from({ length: BATCH * (TIME - 1) }, (_, i) => (i * 31) % VOCAB)
    expectEqualGradients(
      () => tf.sum(sequenceLogProbs(sliced(model() as tf.Tensor3D), tail, { shift: false })),
      () =>
        tf.sum(
          tf.mul(
            tf.logSoftmax(sliced(model() as tf.Tensor3D)),
            tf.oneHot(tf.tensor2d(tail, [BATCH, TIME - 1], 'int32'), VOCAB),
          ),
        ),
    )
  })

  it.each([undefined, 'in-place'] as const)('differentiates sequence log-probs (gradient: %s)', (gradient) => {
    const factors = tf.tensor1d([1, -2, 0.5, 3])
    expectEqualGradients(
      () => tf.sum(tf.mul(sequenceLogProbs(model(), labels, { shift: false, gradient }), factors)),
      () => tf.sum(tf.mul(ownLogProbs(model()), factors)),
    )
    factors.dispose()
  })

  it('differentiates with respect to the logits themselves, and leaves them alone', () => {
    tf.tidy(() => {
      const logits = model()
      const before = logits.dataSync().slice()
      expect(difference(tf.grad(ourLoss)(logits), tf.grad(ownLoss)(logits))).toBeLessThan(1e-4)
      expect(logits.dataSync()).toEqual(before)
    })
  })

  it('takes labels as a tensor, and tells what it knows', () => {
    tf.tidy(() => {
      const results: Omit<FusedPreferenceLoss, 'gradLogits'>[] = []
      const options = { reference, beta: BETA, shift: false, onResult: results.push.bind(results) }
      const loss = preferenceLoss(model(), tf.tensor2d(labels, [BATCH, TIME], 'int32'), options)
      expect(loss.dataSync()[0]).toBeCloseTo(results[0]!.loss, 5)
      expect(results[0]!.chosenRewards).toHaveLength(BATCH / 2)
      expect(results[0]).not.toHaveProperty('gradLogits')
    })
  })

  it('leaves no tensors behind', () => {
    const step = (loss: () => tf.Tensor) => {
      const { value, grads } = tf.tidy(() => tf.variableGrads(() => loss() as tf.Scalar, [hidden, weight]))
      tf.dispose([value, grads])
    }
    const { numTensors, numDataBuffers, numBytes } = tf.memory()
    step(() => ourLoss(model()))
    step(() => inPlaceLoss(model()))
    step(() => tf.sum(sequenceLogProbs(model(), labels)))
    step(() => tf.sum(sequenceLogProbs(model(), labels, { gradient: 'in-place' })))
    // A loss that nothing comes of, and one outside of any gradient.
    step(() => {
      ourLoss(model())
      return tf.sum(tf.add(tf.sum(hidden), tf.sum(weight)))
    })
    tf.tidy(() => ourLoss(model()).dispose())
    expect(() => tf.tidy(() => preferenceLoss(model(), labels, { shift: false }))).toThrow(/reference/)
    expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers, numBytes })
  })

  it('survives a heap that grows between forward and backward', () => {
    expectEqualGradients(
      () => {
        const sums = sequenceLogProbs(model(), labels, { shift: false })
        tf.zeros([1 << 22]).dispose()
        return tf.sum(sums)
      },
      () => tf.sum(ownLogProbs(model())),
    )
  })
})

it('refuses logits of another type', () => {
  expect(() => preferenceLoss(tf.zeros([4, 5, 7], 'int32'), labels)).toThrow(/float32/)
})
