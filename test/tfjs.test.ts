/**
 * The TensorFlow.js adapter: its gradients against TensorFlow.js's own, and what it leaves behind.
 */
import * as tf from '@tensorflow/tfjs'
import { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  linearPreferenceLoss,
  linearSequenceLogProbs,
  preferenceLoss,
  sequenceLogProbs,
  sparseSoftmaxCrossEntropy,
} from '../lib/adapters/tfjs.js'
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

const ownLoss = (logits: tf.Tensor) => lossOf(ownLogProbs(logits))

function lossOf(logProbs: tf.Tensor1D): tf.Scalar {
  const [chosen, rejected] = tf.split(logProbs, 2) as [tf.Tensor, tf.Tensor]
  const ratio = tf.sub(tf.sub(chosen, rejected), tf.sub(reference.chosen, reference.rejected))
  return tf.mean(tf.softplus(tf.mul(ratio, -BETA)))
}

const ourLoss = (logits: tf.Tensor) => preferenceLoss(logits, labels, { reference, beta: BETA, shift: false })
const inPlaceLoss = (logits: tf.Tensor) =>
  preferenceLoss(logits, labels, { reference, beta: BETA, shift: false, gradient: 'in-place' })

/** Mean over the labels that count, with TensorFlow.js's own op. */
function ownCrossEntropy(logits: tf.Tensor, labelSmoothing = 0): tf.Scalar {
  const oneHot = tf.oneHot(tf.tensor1d(labels, 'int32'), VOCAB)
  const weights = tf.tensor1d(Float32Array.from(labels, (label) => (label < 0 ? 0 : 1)))
  const rows = logits.reshape([BATCH * TIME, VOCAB])
  return tf.losses.softmaxCrossEntropy(oneHot, rows, weights, labelSmoothing) as tf.Scalar
}

/** Greatest difference of two tensors, relative to the greatest element of the second. */
function difference(a: tf.Tensor, b: tf.Tensor): number {
  expect(a.shape).toEqual(b.shape)
  return tf.tidy(() => tf.div(tf.max(tf.abs(tf.sub(a, b))), tf.max(tf.abs(b))).dataSync()[0]!)
}

// As tfjs-node does, it keeps elements where they cannot be seen, and gives copies.
tf.registerBackend('copies', () => {
  const backend = new MathBackendCPU()
  const { readSync } = backend
  backend.readSync = (id) => (readSync.call(backend, id) as Float32Array).slice()
  return backend
})
tf.copyRegisteredKernels('cpu', 'copies')

// As webgpu does, it gives promises of them alone.
tf.registerBackend('asynchronous', () => {
  const backend = new MathBackendCPU()
  backend.readSync = () => {
    throw new Error('readSync is not supported')
  }
  return backend
})
tf.copyRegisteredKernels('cpu', 'asynchronous')

describe.each(['cpu', 'wasm', 'copies'])('on the %s backend', (backend) => {
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

  it('takes logits of more dimensions, chosen and rejected stacked', () => {
    const stacked = () => model().reshape([2, BATCH / 2, TIME, VOCAB])
    const ids = tf.tensor3d(labels, [2, BATCH / 2, TIME], 'int32')
    expectEqualGradients(
      () => preferenceLoss(stacked(), ids, { reference, beta: BETA, shift: false }),
      () => ownLoss(model()),
    )
    expectEqualGradients(
      () => tf.sum(sequenceLogProbs(stacked(), ids, { shift: false })),
      () => tf.sum(ownLogProbs(model())),
    )
    ids.dispose()
  })

  it('is minimised by an optimizer', () => {
    const optimizer = tf.train.adam(0.05)
    const value = () => tf.tidy(() => ourLoss(model()).dataSync()[0]!)
    const before = value()
    optimizer.minimize(() => ourLoss(model()))
    const { numTensors, numDataBuffers } = tf.memory()
    for (let i = 0; i < 20; i++) optimizer.minimize(() => ourLoss(model()))
    expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers })
    expect(value()).toBeLessThan(0.5 * before)
    optimizer.dispose()
  })

  describe('sparseSoftmaxCrossEntropy', () => {
    const cases = [undefined, 'in-place'].flatMap((gradient) =>
      [0, 0.1, 1].map((smoothing) => ({ gradient, smoothing })),
    )

    it.each(cases)('gives the gradients of one-hot labels ($smoothing smoothed, gradient: $gradient)', (given) => {
      const options = { labelSmoothing: given.smoothing, gradient: given.gradient as 'in-place' | undefined }
      expectEqualGradients(
        () => tf.mul(sparseSoftmaxCrossEntropy(model(), labels, options), 3),
        () => tf.mul(ownCrossEntropy(model(), given.smoothing), 3),
      )
    })

    it('takes logits of any rank, and labels as a tensor or as 64-bit integers', () => {
      const shape = [BATCH / 2, 2, TIME]
      const ids = tf.tensor(labels, shape, 'int32')
      const options = { labelSmoothing: 0.2 }
      const own = () => ownCrossEntropy(model(), 0.2)
      expectEqualGradients(() => sparseSoftmaxCrossEntropy(model().reshape([...shape, VOCAB]), ids, options), own)
      const wide = BigInt64Array.from(labels, BigInt)
      expectEqualGradients(() => sparseSoftmaxCrossEntropy(model().reshape([-1, VOCAB]), wide, options), own)
      ids.dispose()
    })

    it('leaves out the labels it is told to, and gives 0 where none is left', () => {
      const zeros = labels.map((label) => Math.max(0, label))
      expectEqualGradients(
        () => sparseSoftmaxCrossEntropy(model(), zeros, { ignoreIndex: 0, labelSmoothing: 0.1 }),
        () => {
          const kept = zeros.map((label) => (label === 0 ? -100 : label))
          return sparseSoftmaxCrossEntropy(model(), kept, { labelSmoothing: 0.1 })
        },
      )
      tf.tidy(() => {
        const none = new Int32Array(BATCH * TIME).fill(-100)
        const { value, grads } = tf.variableGrads(() =>
          sparseSoftmaxCrossEntropy(model(), none, { labelSmoothing: 0.1 }),
        )
        expect(value.dataSync()[0]).toBe(0)
        expect(tf.max(tf.abs(grads[weight.name]!)).dataSync()[0]).toBe(0)
      })
    })

    it('leaves no tensors behind', () => {
      const { numTensors, numDataBuffers, numBytes } = tf.memory()
      for (const { gradient, smoothing } of cases) {
        const options = { labelSmoothing: smoothing, gradient: gradient as 'in-place' | undefined }
        tf.tidy(() => {
          tf.variableGrads(() => sparseSoftmaxCrossEntropy(model(), labels, options), [hidden, weight])
          sparseSoftmaxCrossEntropy(model(), labels, options)
        })
      }
      expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers, numBytes })
    })
  })

  describe('with the output layer', () => {
    const shape = { reference, beta: BETA, shift: false }
    const states = () => hidden.reshape([BATCH, TIME, WIDTH])

    it('gives the gradients of its own ops, the kernel [width, vocab]', () => {
      expectEqualGradients(
        () => linearPreferenceLoss(states(), weight, labels, { ...shape, transposed: true }),
        () => ownLoss(model()),
      )
      expectEqualGradients(
        () =>
          tf.sum(
            tf.mul(linearSequenceLogProbs(states(), weight, labels, { shift: false, transposed: true }), [1, 2, 3, 4]),
          ),
        () => tf.sum(tf.mul(ownLogProbs(model()), [1, 2, 3, 4])),
      )
    })

    it('gives them for a table [vocab, width] and a bias, and minds the upstream gradient', () => {
      const table = tf.variable(tf.transpose(weight))
      const bias = tf.variable(tf.randomNormal([VOCAB], 0, 1, 'float32', 3))
      const all = [hidden, table, bias]
      const own = () =>
        tf.mul(ownLoss(tf.matMul(hidden, table, false, true).add(bias).reshape([BATCH, TIME, VOCAB])), 3)
      const ours = () => tf.mul(linearPreferenceLoss(states(), table, labels, { ...shape, bias }), 3)
      const sums = () => tf.mul(lossOf(linearSequenceLogProbs(states(), table, labels, { shift: false, bias })), 3)
      tf.tidy(() => {
        const expected = tf.variableGrads(own as () => tf.Scalar, all)
        for (const loss of [ours, sums]) {
          const actual = tf.variableGrads(loss as () => tf.Scalar, all)
          expect(difference(actual.value, expected.value)).toBeLessThan(1e-5)
          for (const { name } of all) expect(difference(actual.grads[name]!, expected.grads[name]!)).toBeLessThan(1e-4)
        }
      })
      tf.dispose([table, bias])
    })

    it('leaves a frozen layer without a gradient', () => {
      tf.tidy(() => {
        const options = { ...shape, transposed: true, frozen: true }
        const { value, grads } = tf.variableGrads(
          () => linearPreferenceLoss(states(), weight, labels, options),
          [hidden],
        )
        const expected = tf.variableGrads(() => ownLoss(model()), [hidden])
        expect(difference(value, expected.value)).toBeLessThan(1e-5)
        expect(difference(grads[hidden.name]!, expected.grads[hidden.name]!)).toBeLessThan(1e-4)
        expect(() =>
          tf.variableGrads(() => linearPreferenceLoss(states(), weight, labels, options), [weight]),
        ).toThrow()
      })
    })

    it('leaves no tensors behind, in and out of gradient functions', () => {
      const { numTensors, numBytes } = tf.memory()
      for (let i = 0; i < 3; i++) {
        let known: unknown
        const onResult = (result: unknown) => {
          known = result
        }
        const options = { ...shape, transposed: true, onResult }
        const alone = tf.tidy(() => linearPreferenceLoss(states(), weight, labels, options).dataSync()[0]!)
        expect(known).toMatchObject({ loss: expect.closeTo(alone, 4) })
        expect(Object.keys(known as object).filter((name) => name.startsWith('grad'))).toEqual(['gradient'])
        tf.tidy(() => void differentiate(() => linearPreferenceLoss(states(), weight, labels, options)))
        tf.tidy(
          () =>
            void differentiate(() => tf.sum(linearSequenceLogProbs(states(), weight, labels, { transposed: true }))),
        )
      }
      expect(tf.memory()).toMatchObject({ numTensors, numBytes })
    })
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
    expectEqualGradients(
      () => {
        const states = hidden.reshape([BATCH, TIME, WIDTH])
        const sums = linearSequenceLogProbs(states, weight, labels, { shift: false, transposed: true })
        tf.zeros([1 << 23]).dispose()
        return tf.sum(sums)
      },
      () => tf.sum(ownLogProbs(model())),
    )
  })

  it("writes all of the output layer's gradients, whatever else it is told", () => {
    tf.tidy(() => {
      const states = () => hidden.reshape([BATCH, TIME, WIDTH])
      const told = { accumulate: true, zeroInactive: false } as object
      const options = { reference, beta: BETA, shift: false, transposed: true }
      const plain = differentiate(() => linearPreferenceLoss(states(), weight, labels, options))
      // What memory the gradients get has been used.
      const used = [hidden, weight, hidden, weight].map(({ shape }) => tf.ones(shape))
      tf.dispose(used)
      const given = differentiate(() => linearPreferenceLoss(states(), weight, labels, { ...options, ...told }))
      expect(given.hidden.dataSync()).toEqual(plain.hidden.dataSync())
      expect(given.weight.dataSync()).toEqual(plain.weight.dataSync())
    })
  })
})

describe('bad input', () => {
  const OPS = {
    preferenceLoss: (logits: tf.Tensor, ids: tf.Tensor | Int32Array = labels) =>
      preferenceLoss(logits, ids, { reference, shift: false }),
    sequenceLogProbs: (logits: tf.Tensor, ids: tf.Tensor | Int32Array = labels) => sequenceLogProbs(logits, ids),
    sparseSoftmaxCrossEntropy: (logits: tf.Tensor, ids: tf.Tensor | Int32Array = labels) =>
      sparseSoftmaxCrossEntropy(logits, ids),
  }
  const shape = [BATCH, TIME, VOCAB]

  beforeAll(async () => {
    expect(await tf.setBackend('wasm')).toBe(true)
  })

  /** What is thrown inside a gradient function, which leaves no tensors behind. */
  function thrown(make: () => tf.Tensor): { code: string; message: string } {
    const { numTensors, numDataBuffers } = tf.memory()
    let caught: unknown
    try {
      tf.tidy(() => tf.valueAndGrad((x) => tf.mul(x, tf.sum(make())))(tf.scalar(1)))
    } catch (error) {
      caught = error
    }
    expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers })
    expect(caught).toBeInstanceOf(Error)
    return caught as { code: string; message: string }
  }

  describe.each(Object.entries(OPS))('%s refuses', (_, op) => {
    it('logits of another type, or no tensor at all', () => {
      expect(thrown(() => op(tf.zeros(shape, 'int32')))).toMatchObject({
        code: 'ERR_INVALID_ARG_TYPE',
        message: expect.stringMatching(/logits .*float32.*int32/),
      })
      expect(thrown(() => op(new Float32Array(8) as never))).toMatchObject({ code: 'ERR_INVALID_ARG_TYPE' })
    })

    it('disposed tensors', () => {
      const disposed = (dtype: 'float32' | 'int32', size: number[]) => {
        const tensor = tf.zeros(size, dtype)
        tensor.dispose()
        return tensor
      }
      expect(thrown(() => op(disposed('float32', shape)))).toMatchObject({
        code: 'ERR_DISPOSED',
        message: expect.stringContaining('logits'),
      })
      expect(thrown(() => op(tf.zeros(shape), disposed('int32', [BATCH, TIME])))).toMatchObject({
        code: 'ERR_DISPOSED',
        message: expect.stringContaining('labels'),
      })
    })

    it('labels of another shape or type', () => {
      const other = (ids: () => tf.Tensor | Int32Array) => thrown(() => op(tf.zeros(shape), ids()))
      expect(other(() => tf.zeros([TIME, BATCH], 'int32'))).toMatchObject({
        code: 'ERR_SHAPE_MISMATCH',
        message: expect.stringContaining(`[${BATCH}, ${TIME}]; got [${TIME}, ${BATCH}]`),
      })
      expect(other(() => labels.subarray(1))).toMatchObject({ code: 'ERR_SHAPE_MISMATCH' })
      expect(other(() => tf.zeros([BATCH, TIME]))).toMatchObject({
        code: 'ERR_INVALID_ARG_TYPE',
        message: expect.stringMatching(/labels .*int32.*float32/),
      })
      expect(other(() => labels.map(() => VOCAB))).toMatchObject({ code: 'ERR_LABEL_OUT_OF_RANGE' })
    })

    it('logits without a vocabulary', () => {
      expect(thrown(() => op(tf.zeros([8])))).toMatchObject({ code: 'ERR_SHAPE_MISMATCH' })
    })

    it('a backend that can be read only by promises', async () => {
      await tf.setBackend('asynchronous')
      const error = thrown(() => op(tf.ones(shape)))
      await tf.setBackend('wasm')
      expect(error).toMatchObject({
        code: 'ERR_BACKEND_UNAVAILABLE',
        message: expect.stringMatching(/'asynchronous'.*'wasm'/),
        cause: expect.objectContaining({ message: 'readSync is not supported' }),
      })
    })
  })

  it('an output layer whose shapes do not chain', () => {
    const [states, table] = [tf.zeros([2, 3, 4]), tf.zeros([5, 7])]
    expect(() => linearPreferenceLoss(states, table, new Int32Array(6))).toThrow(
      expect.objectContaining({
        code: 'ERR_SHAPE_MISMATCH',
        message: expect.stringContaining('weight.shape must be [vocab, 4]'),
      }),
    )
    expect(() => linearPreferenceLoss(states, tf.zeros([5]), new Int32Array(6))).toThrow(
      /weight must be \[vocab, width\]/,
    )
    expect(() => linearSequenceLogProbs(tf.zeros([4]), table, new Int32Array(6))).toThrow(
      /hidden must be \[\.\.\., width\]/,
    )
    tf.dispose([states, table])
    expect(() => linearPreferenceLoss(states, table, new Int32Array(6))).toThrow(
      expect.objectContaining({ code: 'ERR_DISPOSED' }),
    )
  })

  it('says which option does not exist, or is out of range', () => {
    const run = (options: object) => thrown(() => sparseSoftmaxCrossEntropy(tf.zeros(shape), labels, options))
    expect(run({ labelSmoothin: 0.1 })).toMatchObject({ message: expect.stringContaining("'labelSmoothing'") })
    expect(run({ labelSmoothing: 1.5 })).toMatchObject({ code: 'ERR_OUT_OF_RANGE' })
  })
})
