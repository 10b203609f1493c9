/**
 * The TensorFlow.js adapter: its gradients against TensorFlow.js's own, and the tensors it leaves behind.
 */
import * as tf from '@tensorflow/tfjs'
import { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu'
import '@tensorflow/tfjs-backend-wasm'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  crossEntropy,
  type FusedPreferenceLossOptions,
  type FusedUnpairedPreferenceLossOptions,
  fusedLinearPreferenceLoss,
  fusedLinearUnpairedPreferenceLoss,
  fusedPreferenceLoss,
  fusedUnpairedPreferenceLoss,
  linearCrossEntropy,
  linearSequenceLogProbs,
  linearTokenLogProbs,
  sequenceLogProbs,
  sparseSoftmaxCrossEntropy,
  tokenLogProbs,
} from '../lib/adapters/tfjs/index.js'
import type { FusedPreferenceLoss } from '../lib/types/index.js'

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

/** KTO: Ethayarajh et al. 2024. */
function ownUnpairedLoss(logits: tf.Tensor, { desirable, kl }: { desirable: number[]; kl: number }): tf.Scalar {
  const ratio = tf.sub(ownLogProbs(logits), [...reference.chosen, ...reference.rejected])
  const sign = desirable.map((yes) => 2 * yes - 1)
  return tf.mean(tf.sub(1, tf.sigmoid(tf.mul(tf.mul(tf.sub(ratio, kl), BETA), sign))))
}

const ourLoss = (logits: tf.Tensor) => fusedPreferenceLoss(logits, labels, { reference, beta: BETA, shift: false })
const inPlaceLoss = (logits: tf.Tensor) =>
  fusedPreferenceLoss(logits, labels, { reference, beta: BETA, shift: false, gradient: 'in-place' })

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

// Like tfjs-node, it keeps elements where JavaScript cannot access them, and returns copies.
tf.registerBackend('copies', () => {
  const backend = new MathBackendCPU()
  const { readSync } = backend
  backend.readSync = (id) => (readSync.call(backend, id) as Float32Array).slice()
  return backend
})
tf.copyRegisteredKernels('cpu', 'copies')

// Like webgpu, it returns only promises of them.
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
      () => fusedPreferenceLoss(model(), labels, { reference, beta: BETA }),
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
      const loss = fusedPreferenceLoss(model(), tf.tensor2d(labels, [BATCH, TIME], 'int32'), options)
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
    // A loss whose value is not used, and a loss outside of any gradient.
    step(() => {
      ourLoss(model())
      return tf.sum(tf.add(tf.sum(hidden), tf.sum(weight)))
    })
    tf.tidy(() => ourLoss(model()).dispose())
    expect(() => tf.tidy(() => fusedPreferenceLoss(model(), labels, { shift: false }))).toThrow(/reference/)
    expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers, numBytes })
  })

  it('takes logits of more dimensions, chosen and rejected stacked', () => {
    const stacked = () => model().reshape([2, BATCH / 2, TIME, VOCAB])
    const ids = tf.tensor3d(labels, [2, BATCH / 2, TIME], 'int32')
    expectEqualGradients(
      () => fusedPreferenceLoss(stacked(), ids, { reference, beta: BETA, shift: false }),
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

  it('takes a value for each pair, or for each sequence, as a tensor', () => {
    const all = { reference, shift: false }
    const numbers = { beta: [0.25, 1.5], offset: [0.5, -1], labelSmoothing: [0.25, 0.5], pairWeights: [2, 0.75] }
    const flags = { shift: false, desirable: [1, 0, 0, 1], lossType: 'regression' as const, referenceFree: true }
    const each = { beta: [0.25, 1.5, 0.5, 2], sequenceWeights: [1, 0.5, 2, 0.25], targets: [-2, 1, 0.5, -0.5] }
    const tensorsOf = (arrays: Record<string, number[]>) =>
      Object.fromEntries(Object.entries(arrays).map(([name, array]) => [name, tf.tensor1d(array)]))
    const rows = () => hidden.reshape([BATCH, TIME, WIDTH])
    const layer = { transposed: true }
    for (const [one, other] of [
      [
        () => fusedPreferenceLoss(model(), labels, { ...all, ...tensorsOf(numbers) }),
        () => fusedPreferenceLoss(model(), labels, { ...all, ...numbers }),
      ],
      [
        () => fusedLinearPreferenceLoss(rows(), weight, labels, { ...all, ...layer, ...tensorsOf(numbers) }),
        () => fusedLinearPreferenceLoss(rows(), weight, labels, { ...all, ...layer, ...numbers }),
      ],
      [
        () => fusedUnpairedPreferenceLoss(model(), labels, { ...flags, ...tensorsOf(each) }),
        () => fusedUnpairedPreferenceLoss(model(), labels, { ...flags, ...each }),
      ],
    ] as const) {
      const [loss, wanted] = tf.tidy(() => [one().dataSync()[0], other().dataSync()[0]])
      expect(loss).toBe(wanted)
      expectEqualGradients(one, other)
    }
  })

  describe('of sequences that stand alone', () => {
    const logProbs = [...reference.chosen, ...reference.rejected]
    const options: FusedUnpairedPreferenceLossOptions & { kl: number } = {
      desirable: [1, 0, 0, 1],
      reference: { logProbs },
      kl: 1.5,
      beta: BETA,
      shift: false,
    }
    const own = () => ownUnpairedLoss(model(), { desirable: [1, 0, 0, 1], kl: 1.5 })

    it('gives the gradients of its own ops, in place or not', () => {
      expectEqualGradients(() => fusedUnpairedPreferenceLoss(model(), labels, options), own)
      expectEqualGradients(
        () => fusedUnpairedPreferenceLoss(model(), labels, { ...options, gradient: 'in-place' }),
        own,
      )
      expectEqualGradients(
        () => tf.mul(fusedUnpairedPreferenceLoss(model(), labels, options), -2.5),
        () => tf.mul(own(), -2.5),
      )
    })

    it('gives them for an output layer', () => {
      const { gradient: _, onResult: __, reference: ___, ...rest } = options
      const layer = { ...rest, reference: { logProbs }, transposed: true }
      const states = () => hidden.reshape([BATCH, TIME, WIDTH])
      expectEqualGradients(() => fusedLinearUnpairedPreferenceLoss(states(), weight, labels, layer), own)
      expect(() =>
        fusedLinearUnpairedPreferenceLoss(states(), weight, labels, { ...layer, pairs: [0, 1] } as never),
      ).toThrow('options.pairs is not an option')
    })

    it('takes tensors, tells what it knows, and leaves none behind', () => {
      const { numTensors } = tf.memory()
      tf.tidy(() => {
        const told: unknown[] = []
        const { kl: _, ...rest } = options
        const tensors: FusedUnpairedPreferenceLossOptions = {
          ...rest,
          desirable: tf.tensor1d([1, 0, 0, 1], 'bool'),
          reference: { logProbs: tf.tensor1d(logProbs) },
          klLogProbs: tf.tensor1d([-8, -9]),
          referenceKlLogProbs: tf.tensor1d([-10, -10]),
          onResult: (result) => told.push(result),
        }
        const loss = fusedUnpairedPreferenceLoss(model(), labels, tensors)
        expect(loss.dataSync()).toEqual(fusedUnpairedPreferenceLoss(model(), labels, options).dataSync())
        expect(told).toMatchObject([{ kl: 1.5, meanRewards: { desirable: expect.any(Number) } }])
        expect(told[0]).not.toHaveProperty('gradLogits')
      })
      expect(tf.memory().numTensors).toBe(numTensors)
      const wrong = { ...options, zeroInactive: true } as FusedUnpairedPreferenceLossOptions
      tf.tidy(() => {
        expect(() => fusedUnpairedPreferenceLoss(model(), labels, wrong)).toThrow('options.zeroInactive is not taken')
      })
    })
  })

  describe('with the output layer', () => {
    const shape = { reference, beta: BETA, shift: false }
    const states = () => hidden.reshape([BATCH, TIME, WIDTH])

    it('gives the gradients of its own ops, the kernel [width, vocab]', () => {
      expectEqualGradients(
        () => fusedLinearPreferenceLoss(states(), weight, labels, { ...shape, transposed: true }),
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
      const ours = () => tf.mul(fusedLinearPreferenceLoss(states(), table, labels, { ...shape, bias }), 3)
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
          () => fusedLinearPreferenceLoss(states(), weight, labels, options),
          [hidden],
        )
        const expected = tf.variableGrads(() => ownLoss(model()), [hidden])
        expect(difference(value, expected.value)).toBeLessThan(1e-5)
        expect(difference(grads[hidden.name]!, expected.grads[hidden.name]!)).toBeLessThan(1e-4)
        expect(() =>
          tf.variableGrads(() => fusedLinearPreferenceLoss(states(), weight, labels, options), [weight]),
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
        const alone = tf.tidy(() => fusedLinearPreferenceLoss(states(), weight, labels, options).dataSync()[0]!)
        expect(known).toMatchObject({ loss: expect.closeTo(alone, 4) })
        expect(Object.keys(known as object).filter((name) => name.startsWith('grad'))).toEqual(['gradLogProbs'])
        tf.tidy(() => void differentiate(() => fusedLinearPreferenceLoss(states(), weight, labels, options)))
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

  // The memory of the gradients has been used before.
  const useMemory = () =>
    tf.dispose([...Array(4)].flatMap(() => [hidden, weight]).map(({ shape }) => tf.fill(shape, 7)))

  it('writes all of the gradients into memory that has been used, masked rows too', () => {
    const states = () => hidden.reshape([BATCH, TIME, WIDTH])
    const options = { reference, beta: BETA, shift: false }
    const masked = labels.indexOf(-100)
    for (const gradient of [undefined, 'in-place'] as const) {
      for (const op of [fusedPreferenceLoss, sequenceLogProbs, sparseSoftmaxCrossEntropy] as const) {
        tf.tidy(() => {
          const logits = model()
          tf.dispose(tf.fill(logits.shape, 7))
          const shift = op === sparseSoftmaxCrossEntropy ? {} : { shift: false }
          const given = op === fusedPreferenceLoss ? { ...options, gradient } : { ...shift, gradient }
          const grad = tf
            .grad((x: tf.Tensor) => tf.sum(op(x, labels, given)))(logits)
            .dataSync()
          expect(grad.slice(masked * VOCAB, (masked + 1) * VOCAB).every((x) => x === 0)).toBe(true)
        })
      }
    }
    tf.tidy(() => {
      const ours = () => fusedLinearPreferenceLoss(states(), weight, labels, { ...options, transposed: true })
      const plain = differentiate(ours)
      useMemory()
      const again = differentiate(ours)
      expect(again.hidden.dataSync()).toEqual(plain.hidden.dataSync())
      expect(again.weight.dataSync()).toEqual(plain.weight.dataSync())
    })
  })

  it('takes tensors for what belongs to tokens and pairs, and for the reference', () => {
    tf.tidy(() => {
      const mask = labels.map((_, i) => (i % 4 === 2 ? 0 : 1))
      const weights = Float32Array.from(labels, (_, i) => 0.5 + (i % 3))
      const rows = [BATCH, TIME]
      const tensors = {
        mask: tf.tensor(mask, rows, 'int32'),
        tokenWeights: tf.tensor(weights, rows),
        pairs: tf.tensor1d([1, 0, 2, 3], 'int32'),
      }
      const arrays = { mask, tokenWeights: weights, pairs: [1, 0, 2, 3] }
      const logProbs = { chosen: tf.tensor1d(reference.chosen), rejected: tf.tensor1d(reference.rejected) }
      const other = tf.randomNormal([BATCH, TIME, VOCAB], 0, 1, 'float32', 5)
      const shared = { beta: BETA, shift: false }
      const states = hidden.reshape([BATCH, TIME, WIDTH])
      const layer = { ...shared, transposed: true }
      const logits = model()
      const same = (ours: tf.Tensor, wanted: tf.Tensor) => expect(ours.dataSync()).toEqual(wanted.dataSync())
      const loss = (options: FusedPreferenceLossOptions) =>
        fusedPreferenceLoss(logits, labels, { ...shared, ...options })
      for (const name of ['mask', 'tokenWeights', 'pairs'] as const) {
        same(loss({ reference, [name]: tensors[name] }), loss({ reference, [name]: arrays[name] }))
        const wanted = sequenceLogProbs(logits, labels, { shift: false, [name]: arrays[name] })
        same(sequenceLogProbs(logits, labels, { shift: false, [name]: tensors[name] }), wanted)
      }
      same(loss({ reference, mask: tf.cast(tensors.mask, 'bool') }), loss({ reference, mask }))
      same(loss({ reference: logProbs }), loss({ reference }))
      same(loss({ reference: { ...reference, rejected: logProbs.rejected } }), loss({ reference }))
      const perSequence = { logProbs: [...reference.chosen, ...reference.rejected] }
      same(loss({ reference: perSequence }), loss({ reference }))
      same(loss({ reference: { logProbs: tf.tensor1d(perSequence.logProbs) } }), loss({ reference }))
      same(
        loss({ reference: { logits: other } }),
        loss({ reference: { logits: { data: other.dataSync() as Float32Array, shape: other.shape } } }),
      )
      same(
        fusedLinearPreferenceLoss(states, weight, labels, { ...layer, ...tensors, reference: logProbs }),
        fusedLinearPreferenceLoss(states, weight, labels, { ...layer, ...arrays, reference }),
      )
      same(
        linearSequenceLogProbs(states, weight, labels, { shift: false, transposed: true, mask: tensors.mask }),
        linearSequenceLogProbs(states, weight, labels, { shift: false, transposed: true, mask }),
      )
      const offsets = [0, 3, 8, 14, BATCH * TIME]
      const rowsAlone = logits.reshape([BATCH * TIME, VOCAB])
      same(
        sequenceLogProbs(rowsAlone, labels, { sequenceOffsets: tf.tensor1d(offsets, 'int32') }),
        sequenceLogProbs(rowsAlone, labels, { sequenceOffsets: offsets }),
      )
    })
  })

  it('tells of sequence log-probs in float64, from which a reference gives rewards of 0', () => {
    tf.tidy(() => {
      let logProbs!: Float64Array
      const sums = sequenceLogProbs(model(), labels, { onResult: (result) => (logProbs = result.logProbs) })
      expect(sums.dataSync()).toEqual(Float32Array.from(logProbs))
      expect([...logProbs]).not.toEqual([...Float32Array.from(logProbs)])
      const own = { chosen: logProbs.subarray(0, BATCH / 2), rejected: logProbs.subarray(BATCH / 2) }
      let rewards!: Float64Array
      fusedPreferenceLoss(model(), labels, { reference: own, onResult: (result) => (rewards = result.chosenRewards) })
      expect([...rewards]).toEqual([0, 0])
    })
  })

  it('leaves nothing behind when what is told of results throws', () => {
    const onResult = () => {
      throw new Error('not what was hoped for')
    }
    const logits = model()
    const states = tf.reshape(hidden, [BATCH, TIME, WIDTH])
    const { numTensors, numDataBuffers, numBytes } = tf.memory()
    for (const [input, loss] of [
      [logits, (x: tf.Tensor) => fusedPreferenceLoss(x, labels, { reference, onResult })],
      [logits, (x: tf.Tensor) => fusedPreferenceLoss(x, labels, { reference, onResult, gradient: 'in-place' })],
      [logits, (x: tf.Tensor) => sequenceLogProbs(x, labels, { onResult })],
      [
        states,
        (x: tf.Tensor) => fusedLinearPreferenceLoss(x, weight, labels, { reference, transposed: true, onResult }),
      ],
      [states, (x: tf.Tensor) => linearSequenceLogProbs(x, weight, labels, { transposed: true, onResult })],
    ] as const) {
      expect(() => tf.tidy(() => void tf.grad(loss)(input))).toThrow('not what was hoped for')
      expect(() => loss(input)).toThrow('not what was hoped for')
      expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers, numBytes })
    }
    tf.dispose([logits, states])
  })
})

describe('what is copied', () => {
  const options = { reference, beta: BETA, shift: false }
  const OPS = {
    fusedPreferenceLoss: (x: tf.Tensor, gradient?: 'in-place') =>
      fusedPreferenceLoss(x, labels, { ...options, gradient }),
    sequenceLogProbs: (x: tf.Tensor, gradient?: 'in-place') =>
      tf.sum(sequenceLogProbs(x, labels, { shift: false, gradient })),
    sparseSoftmaxCrossEntropy: (x: tf.Tensor, gradient?: 'in-place') =>
      sparseSoftmaxCrossEntropy(x, labels, { gradient }),
    crossEntropy: (x: tf.Tensor, gradient?: 'in-place') => crossEntropy(x, labels, { gradient }),
    tokenLogProbs: (x: tf.Tensor, gradient?: 'in-place') => tf.sum(tokenLogProbs(x, labels, { gradient })),
  }
  const shape = [BATCH, TIME, VOCAB]
  const elements = tf.util.sizeFromShape(shape)

  /** Where a backend keeps the elements of a tensor. */
  function memoryOf(tensor: tf.Tensor): ArrayBufferView {
    // biome-ignore lint/suspicious/noExplicitAny: the backends keep these to themselves
    const backend = tf.backend() as any
    return tf.getBackend() === 'wasm' ? backend.typedArrayFromHeap(tensor) : backend.data.get(tensor.dataId).values
  }
  const isSame = (a: ArrayBufferView, b: ArrayBufferView) =>
    a.buffer === b.buffer && a.byteOffset === b.byteOffset && a.byteLength === b.byteLength

  /** Counts reads from the backend and writes into it of this number of elements. */
  function copiesDuring(work: () => void, ...sizes: number[]): number {
    const read = vi.spyOn(tf.backend(), 'readSync')
    const write = vi.spyOn(tf.backend(), 'write')
    work()
    const copied = [...read.mock.results.map(({ value }) => value), ...write.mock.calls.map(([values]) => values)]
    vi.restoreAllMocks()
    return copied.filter((values) => sizes.includes((values as Float32Array | null)?.length ?? -1)).length
  }

  describe.each(['cpu', 'wasm'])('on the %s backend', (backend) => {
    beforeAll(async () => {
      expect(await tf.setBackend(backend)).toBe(true)
    })

    it.each(Object.entries(OPS))('%s writes in place into the memory of the logits', (_, op) => {
      tf.tidy(() => {
        const logits = tf.randomNormal(shape, 0, 1, 'float32', 4)
        const plain = tf.grad((x) => op(x))(logits)
        const before = memoryOf(logits)
        expect(isSame(memoryOf(plain), before)).toBe(false)
        const inPlace = tf.grad((x) => op(x, 'in-place'))(logits)
        expect(isSame(memoryOf(inPlace), before)).toBe(true)
        expect(inPlace.dataSync()).toEqual(plain.dataSync())
        expect(logits.dataSync()).toEqual(plain.dataSync())
      })
    })
  })

  it.each(Object.entries(OPS))('%s copies neither logits nor gradient out of the heap or into it', async (_, op) => {
    expect(await tf.setBackend('wasm')).toBe(true)
    tf.tidy(() => {
      const logits = tf.randomNormal(shape, 0, 1, 'float32', 4)
      for (const gradient of [undefined, 'in-place'] as const) {
        expect(copiesDuring(() => void tf.grad((x) => op(x, gradient))(logits), elements)).toBe(0)
      }
      expect(copiesDuring(() => void tf.tensor(logits.dataSync().slice(), shape), elements)).toBe(2)
    })
  })

  it('the output layer, its input and their gradients are not copied either', async () => {
    expect(await tf.setBackend('wasm')).toBe(true)
    tf.tidy(() => {
      const states = tf.randomNormal([BATCH, TIME, WIDTH], 0, 1, 'float32', 4)
      const table = tf.randomNormal([VOCAB, WIDTH], 0, 1, 'float32', 5)
      for (const op of [
        (h: tf.Tensor, w: tf.Tensor) => fusedLinearPreferenceLoss(h, w, labels, { reference, beta: BETA }),
        (h: tf.Tensor, w: tf.Tensor) => tf.sum(linearSequenceLogProbs(h, w, labels)),
        (h: tf.Tensor, w: tf.Tensor) => linearCrossEntropy(h, w, labels),
        (h: tf.Tensor, w: tf.Tensor) => tf.sum(linearTokenLogProbs(h, w, labels)),
      ]) {
        expect(copiesDuring(() => void tf.grads(op)([states, table]), states.size, table.size)).toBe(0)
      }
    })
  })

  it('writes elsewhere, though told in place, where memory is not seen', async () => {
    expect(await tf.setBackend('copies')).toBe(true)
    for (const op of Object.values(OPS)) {
      tf.tidy(() => {
        const logits = tf.randomNormal(shape, 0, 1, 'float32', 4)
        const before = logits.dataSync()
        const plain = tf.grad((x) => op(x))(logits)
        expect(
          tf
            .grad((x) => op(x, 'in-place'))(logits)
            .dataSync(),
        ).toEqual(plain.dataSync())
        expect(logits.dataSync()).toEqual(before)
      })
    }
  })
})

describe('a TensorFlow.js that keeps its tape elsewhere', () => {
  const loss = (x: tf.Tensor) => tf.sum(sequenceLogProbs(x, labels))
  const unavailable = expect.objectContaining({
    code: 'ERR_BACKEND_UNAVAILABLE',
    message: expect.stringMatching(/^TensorFlow\.js 4\.\d+\.\d+ does not keep its gradient tape where/),
  })
  const engine = tf.engine()
  let logits: tf.Tensor
  let before: tf.MemoryInfo

  beforeAll(async () => {
    expect(await tf.setBackend('cpu')).toBe(true)
    logits = tf.ones([BATCH, TIME, VOCAB])
    return () => logits.dispose()
  })
  beforeEach(() => {
    before = tf.memory()
  })
  afterEach(() => {
    vi.restoreAllMocks()
    expect(tf.memory()).toMatchObject({ numTensors: before.numTensors, numBytes: before.numBytes })
    expect(tf.tidy(() => tf.grad(loss)(logits).shape)).toEqual(logits.shape)
  })

  it('is refused where there is none', () => {
    const elsewhere = (x: tf.Tensor) => {
      const tape = engine.state.activeTape
      engine.state.activeTape = undefined as never
      try {
        return loss(x)
      } finally {
        engine.state.activeTape = tape
      }
    }
    expect(() => tf.tidy(() => void tf.grad(elsewhere)(logits))).toThrow(unavailable)
  })

  it('is refused where the op is not at its end', () => {
    const op = (x: tf.Tensor) => {
      tf.neg(x)
      const push = vi.spyOn(engine.state.activeTape, 'push').mockReturnValue(0)
      try {
        return loss(x)
      } finally {
        push.mockRestore()
      }
    }
    expect(() => tf.tidy(() => void tf.grad(op)(logits))).toThrow(unavailable)
  })

  it('is refused where it does not tell whether there is one', () => {
    const isTapeOn = engine.isTapeOn
    Object.assign(engine, { isTapeOn: undefined })
    try {
      expect(() => tf.tidy(() => void loss(logits))).toThrow(unavailable)
    } finally {
      delete (engine as Partial<typeof engine>).isTapeOn
    }
    expect(engine.isTapeOn).toBe(isTapeOn)
  })
})

describe('bad input', () => {
  const OPS = {
    fusedPreferenceLoss: (logits: tf.Tensor, ids: tf.Tensor | Int32Array = labels) =>
      fusedPreferenceLoss(logits, ids, { reference, shift: false }),
    sequenceLogProbs: (logits: tf.Tensor, ids: tf.Tensor | Int32Array = labels) => sequenceLogProbs(logits, ids),
    sparseSoftmaxCrossEntropy: (logits: tf.Tensor, ids: tf.Tensor | Int32Array = labels) =>
      sparseSoftmaxCrossEntropy(logits, ids),
    crossEntropy: (logits: tf.Tensor, ids: tf.Tensor | Int32Array = labels) => crossEntropy(logits, ids),
    tokenLogProbs: (logits: tf.Tensor, ids: tf.Tensor | Int32Array = labels) => tokenLogProbs(logits, ids),
  }
  const shape = [BATCH, TIME, VOCAB]

  beforeAll(async () => {
    expect(await tf.setBackend('wasm')).toBe(true)
  })

  /** The error thrown inside a gradient function, which must leave no tensors behind. */
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
    expect(() => fusedLinearPreferenceLoss(states, table, new Int32Array(6))).toThrow(
      expect.objectContaining({
        code: 'ERR_SHAPE_MISMATCH',
        message: 'weight must be [vocab, 4], as hidden has 4 features; got [5, 7]',
      }),
    )
    const turned = tf.zeros([4, 5])
    for (const op of [fusedLinearPreferenceLoss, linearSequenceLogProbs]) {
      expect(() => op(states, turned, new Int32Array(6))).toThrow(/got \[4, 5\], which needs transposed: true/)
      const back = () => op(states, tf.zeros([5, 4]), new Int32Array(6), { transposed: true })
      expect(() => tf.tidy(() => void back())).toThrow(/got \[5, 4\], which needs transposed: false/)
    }
    turned.dispose()
    expect(() => fusedLinearPreferenceLoss(states, tf.zeros([5]), new Int32Array(6))).toThrow(
      /weight must be \[vocab, 4\]; got \[5\]/,
    )
    expect(() => linearSequenceLogProbs(tf.zeros([4]), table, new Int32Array(6))).toThrow(
      /hidden must be \[\.\.\., width\]/,
    )
    tf.dispose([states, table])
    expect(() => fusedLinearPreferenceLoss(states, table, new Int32Array(6))).toThrow(
      expect.objectContaining({ code: 'ERR_DISPOSED' }),
    )
  })

  it('says which option does not exist, or is out of range', () => {
    const run = (options: object) => thrown(() => sparseSoftmaxCrossEntropy(tf.zeros(shape), labels, options))
    expect(run({ labelSmoothin: 0.1 })).toMatchObject({ message: expect.stringContaining("'labelSmoothing'") })
    expect(run({ labelSmoothing: 1.5 })).toMatchObject({ code: 'ERR_OUT_OF_RANGE' })
    expect(run({ onResult() {} })).toMatchObject({ code: 'ERR_INVALID_ARG_VALUE' })
  })

  it.each([
    ['backend', 'jax', 'ERR_INVALID_ARG_VALUE'],
    ['threads', 0, 'ERR_OUT_OF_RANGE'],
    ['instructionSet', 'mmx', 'ERR_INVALID_ARG_VALUE'],
    ['stream', 1, 'ERR_INVALID_ARG_VALUE'],
    ['device', 0, 'ERR_INVALID_ARG_VALUE'],
    ['ignoreIndex', 0.5, 'ERR_OUT_OF_RANGE'],
    ['signal', {}, 'ERR_INVALID_ARG_TYPE'],
  ])('hands %s on from the cross-entropy', (name, value, code) => {
    const error = thrown(() => sparseSoftmaxCrossEntropy(tf.zeros(shape), labels, { [name]: value }))
    expect(error).toMatchObject({ code, message: expect.stringContaining(`options.${name}`) })
  })

  it('a gradient that is not known, and an onResult that is no function', () => {
    for (const [name, op] of Object.entries({ fusedPreferenceLoss, sequenceLogProbs, sparseSoftmaxCrossEntropy })) {
      const run = (options: object) =>
        thrown(() => op(tf.zeros(shape), labels, name === 'fusedPreferenceLoss' ? { ...options, reference } : options))
      expect(run({ gradient: 'inplace' })).toMatchObject({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringMatching(/^options\.gradient must be one of 'in-place'; got 'inplace'/),
      })
      for (const gradient of [5, true, false, new Float32Array(BATCH * TIME * VOCAB)]) {
        expect(run({ gradient })).toMatchObject({
          code: 'ERR_INVALID_ARG_TYPE',
          message: expect.stringMatching(/^options\.gradient must be one of 'in-place'; got/),
        })
      }
      if (name === 'sparseSoftmaxCrossEntropy') continue
      expect(run({ onResult: 3 })).toMatchObject({
        code: 'ERR_INVALID_ARG_TYPE',
        message: 'options.onResult must be a function; got 3',
      })
    }
    for (const op of [fusedLinearPreferenceLoss, linearSequenceLogProbs]) {
      const run = () => op(tf.zeros([2, 3, 4]), tf.zeros([5, 4]), new Int32Array(6), { onResult: {} as never })
      expect(thrown(run)).toMatchObject({ message: expect.stringContaining('options.onResult must be a function') })
    }
  })

  it('tensors among the options that do not fit, with what to do', () => {
    const run = (options: object) =>
      thrown(() => fusedPreferenceLoss(tf.zeros(shape), labels, { reference, ...options }))
    for (const name of ['mask', 'tokenWeights']) {
      expect(run({ [name]: tf.zeros([BATCH, TIME - 1]) })).toMatchObject({
        code: 'ERR_SHAPE_MISMATCH',
        message: `options.${name} must have the shape of the logits without the last dimension, [4, 5]; got [4, 4]`,
      })
    }
    const gone = tf.zeros([2])
    gone.dispose()
    for (const name of ['pairs', 'sequenceOffsets']) {
      expect(run({ [name]: gone })).toMatchObject({
        code: 'ERR_DISPOSED',
        message: expect.stringContaining(`options.${name}`),
      })
    }
    expect(run({ reference: { chosen: gone, rejected: [1, 2] } })).toMatchObject({
      code: 'ERR_DISPOSED',
      message: expect.stringContaining('options.reference.chosen'),
    })
    expect(run({ reference: { chosen: tf.zeros([3]), rejected: tf.zeros([2]) } })).toMatchObject({
      code: 'ERR_SHAPE_MISMATCH',
      message: expect.stringContaining('options.reference.chosen must have length 2'),
    })
    expect(run({ reference: tf.zeros([BATCH]) })).toMatchObject({
      code: 'ERR_INVALID_ARG_TYPE',
      message: expect.stringMatching(/^options\.reference must be { chosen, rejected }.*onResult of sequenceLogProbs/),
    })
    expect(run({ reference: { logits: tf.zeros(shape, 'int32') } })).toMatchObject({
      code: 'ERR_INVALID_ARG_TYPE',
      message: expect.stringContaining('options.reference.logits must be a tensor of dtype float32'),
    })
    const layer = { hidden: tf.zeros([2, 3, 4]), weight: tf.zeros([5, 4]), bias: tf.zeros([5]) }
    const plain = { hidden: { data: new Float32Array(24), shape: [2, 3, 4] }, weight: {}, bias: new Float32Array(5) }
    for (const name of ['hidden', 'weight', 'bias'] as const) {
      const reference = { ...plain, [name]: layer[name] } as never
      expect(
        thrown(() => fusedLinearPreferenceLoss(layer.hidden, layer.weight, new Int32Array(6), { reference })),
      ).toMatchObject({
        code: 'ERR_INVALID_ARG_TYPE',
        message: expect.stringMatching(new RegExp(`^options\\.reference\\.${name} must be .*dataSync`)),
      })
    }
    tf.dispose(layer)
  })
})
