/**
 * The TensorFlow.js ops over single tokens: cross-entropy, and results of tokens for losses of the user's own, against
 * TensorFlow.js's own operations.
 */
import * as tf from '@tensorflow/tfjs'
import { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  type CrossEntropyOptions,
  crossEntropy,
  linearCrossEntropy,
  linearTokenLogProbs,
  linearTokenOutputs,
  sequenceLogProbs,
  sparseSoftmaxCrossEntropy,
  tokenLogProbs,
  tokenOutputs,
} from '../lib/adapters/tfjs/index.js'
import { crossEntropySync, sequenceLogProbsSync } from '../lib/index.js'
import type { CrossEntropy } from '../lib/types/index.js'

const [BATCH, TIME, WIDTH, VOCAB] = [4, 5, 6, 301]
const NAMES = ['tokenLogProbs', 'tokenEntropies', 'logSumExp', 'tokenMeanLogits'] as const

// Two positions are inactive, one of them the end of a sequence.
const labels = Int32Array.from({ length: BATCH * TIME }, (_, i) => (i === 3 || i === 14 ? -100 : (i * 97) % VOCAB))
const active = Float32Array.from(labels, (label) => (label < 0 ? 0 : 1))
const count = active.reduce((sum, each) => sum + each)
const advantages = [0.7, -1.2, 0.4, -0.3]

/** Greatest difference of two tensors, relative to the greatest element of the second. */
function difference(a: tf.Tensor, b: tf.Tensor): number {
  expect(a.shape).toEqual(b.shape)
  return tf.tidy(() => tf.div(tf.max(tf.abs(tf.sub(a, b))), tf.max(tf.abs(b))).dataSync()[0])
}

// Like tfjs-node, it keeps elements where JavaScript cannot access them, and returns copies.
tf.registerBackend('copies', () => {
  const backend = new MathBackendCPU()
  const { readSync } = backend
  backend.readSync = (id) => (readSync.call(backend, id) as Float32Array).slice()
  return backend
})
tf.copyRegisteredKernels('cpu', 'copies')

/** The results of tokens without a shift, by operations of TensorFlow.js; 0 where inactive. */
const own = {
  tokenLogProbs: (logits: tf.Tensor) =>
    tf.sum(tf.mul(tf.logSoftmax(logits), tf.oneHot(tf.tensor2d(labels, [BATCH, TIME], 'int32'), VOCAB)), -1),
  tokenEntropies(logits: tf.Tensor) {
    const logProbs = tf.logSoftmax(logits)
    return tf.mul(tf.neg(tf.sum(tf.mul(tf.exp(logProbs), logProbs), -1)), active2d())
  },
  logSumExp: (logits: tf.Tensor) => tf.mul(tf.logSumExp(logits, -1), active2d()),
  tokenMeanLogits: (logits: tf.Tensor) => tf.mul(tf.mean(logits, -1), active2d()),
} satisfies Record<(typeof NAMES)[number], (logits: tf.Tensor) => tf.Tensor>
const active2d = () => tf.tensor2d(active, [BATCH, TIME])

/** A loss of all four results, each with a derivative of its own at each token. */
function lossOf(tokens: Record<(typeof NAMES)[number], tf.Tensor>): tf.Scalar {
  const terms = NAMES.map((name, k) => {
    const factors = tf.tensor2d(
      Float32Array.from(labels, (_, i) => Math.sin(5 * k + i)),
      [BATCH, TIME],
    )
    return tf.sum(tf.mul(tf.square(tokens[name]), factors))
  })
  return tf.addN(terms) as tf.Scalar
}

/** GRPO: the clipped ratio to the policy that wrote the tokens, and the KL divergence from a reference. */
function grpo(logProbs: tf.Tensor): tf.Scalar {
  const old = tf.tensor2d(
    Float32Array.from(labels, (_, i) => -5.6 + 2 * Math.sin(i)),
    [BATCH, TIME],
  )
  const ratio = tf.exp(tf.sub(logProbs, old))
  const advantage = tf.tensor2d(advantages, [BATCH, 1])
  const gain = tf.minimum(tf.mul(ratio, advantage), tf.mul(tf.clipByValue(ratio, 0.8, 1.2), advantage))
  const gap = tf.sub(old, logProbs)
  const kl = tf.sub(tf.sub(tf.exp(gap), gap), 1)
  const each = tf.mul(tf.sub(tf.mul(kl, 0.04), gain), active2d())
  return tf.div(tf.sum(each), count)
}

const ownCrossEntropy = (logits: tf.Tensor, smoothing = 0): tf.Scalar => {
  const oneHot = tf.oneHot(tf.tensor1d(labels, 'int32'), VOCAB)
  const weights = tf.tensor1d(active)
  return tf.losses.softmaxCrossEntropy(oneHot, logits.reshape([-1, VOCAB]), weights, smoothing) as tf.Scalar
}

describe.each(['cpu', 'wasm', 'copies'])('on the %s backend', (backend) => {
  beforeAll(async () => {
    expect(await tf.setBackend(backend)).toBe(true)
  })

  let hidden: tf.Variable
  let weight: tf.Variable
  let bias: tf.Variable
  let before: tf.MemoryInfo
  beforeEach(() => {
    const normal = (shape: number[], seed: number) =>
      tf.tidy(() => tf.variable(tf.randomNormal(shape, 0, 1, 'float32', seed)))
    hidden = normal([BATCH * TIME, WIDTH], 1)
    weight = normal([WIDTH, VOCAB], 2)
    bias = normal([VOCAB], 3)
    before = { ...tf.memory() }
    return () => {
      // Not one tensor is left behind, whatever the test did.
      const { numTensors, numDataBuffers, numBytes } = before
      expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers, numBytes })
      tf.dispose([hidden, weight, bias])
    }
  })

  const states = () => tf.reshape(hidden, [BATCH, TIME, WIDTH])
  const logitsOf = () => tf.reshape(tf.add(tf.matMul(hidden, weight), bias), [BATCH, TIME, VOCAB])

  /** Value and gradients of both, which must agree to 1e-5 of the largest. */
  function expectEqual(ours: () => tf.Tensor, own: () => tf.Tensor, variables = [hidden, weight, bias]): void {
    tf.tidy(() => {
      const expected = tf.variableGrads(own as () => tf.Scalar, variables)
      const actual = tf.variableGrads(ours as () => tf.Scalar, variables)
      expect(difference(actual.value, expected.value)).toBeLessThan(1e-5)
      for (const { name } of variables) {
        expect(difference(actual.grads[name], expected.grads[name])).toBeLessThan(1e-5)
      }
    })
  }

  describe('crossEntropy', () => {
    it.each([undefined, 'in-place'] as const)(
      'gives the gradients of its own operations (gradient: %s)',
      (gradient) => {
        for (const labelSmoothing of [0, 0.1, 1]) {
          const options = { shift: false, labelSmoothing, gradient }
          expectEqual(
            () => tf.mul(crossEntropy(logitsOf(), labels, options), 3),
            () => tf.mul(ownCrossEntropy(logitsOf(), labelSmoothing), 3),
          )
        }
      },
    )

    it('predicts the next label, as the main module does, unless it is told otherwise', () => {
      const next = labels.map((_, i) => (i % TIME === TIME - 1 ? -100 : labels[i + 1]))
      expectEqual(
        () => crossEntropy(logitsOf(), labels),
        () => crossEntropy(logitsOf(), next, { shift: false }),
      )
    })

    it('takes z-loss, class weights, token weights, a mask and a normalizer, as arrays or tensors', () => {
      const perToken = Float32Array.from(labels, (_, i) => 0.5 + (i % 3))
      const perClass = Float32Array.from({ length: VOCAB }, (_, v) => 0.25 + (v % 5))
      const mask = labels.map((_, i) => Number(i % 4 !== 2))
      const factors = () => {
        const weights = Float32Array.from(labels, (label, i) =>
          label < 0 ? 0 : perToken[i] * perClass[label] * mask[i],
        )
        return tf.tensor2d(weights, [BATCH, TIME])
      }
      const ownLoss = () => {
        const logits = logitsOf()
        const z = tf.mul(tf.square(tf.logSumExp(logits, -1)), 0.01)
        return tf.div(tf.sum(tf.mul(tf.sub(z, own.tokenLogProbs(logits)), factors())), 7)
      }
      const arrays = { tokenWeights: perToken, classWeights: perClass, mask }
      const shared = { shift: false, zLoss: 0.01, normalizer: { tokens: 7 } }
      expectEqual(() => crossEntropy(logitsOf(), labels, { ...shared, ...arrays }), ownLoss)
      const tensors = () => ({
        tokenWeights: tf.tensor2d(perToken, [BATCH, TIME]),
        classWeights: tf.tensor1d(perClass),
        mask: tf.tensor2d(mask, [BATCH, TIME], 'int32'),
      })
      expectEqual(() => crossEntropy(logitsOf(), labels, { ...shared, ...tensors() }), ownLoss)
      expectEqual(() => {
        const layer = { bias, transposed: true }
        return linearCrossEntropy(states(), weight, labels, { ...shared, ...tensors(), ...layer })
      }, ownLoss)
    })

    it('tells what it knows, but not the gradient', () => {
      const told: Omit<CrossEntropy, 'gradLogits' | 'rowScale'>[] = []
      const options: CrossEntropyOptions = { outputs: ['tokenArgmax'], onResult: (result) => told.push(result) }
      tf.tidy(() => {
        const logits = logitsOf()
        const data = logits.dataSync().slice() as Float32Array
        const wanted = crossEntropySync({ data, shape: logits.shape }, labels, { outputs: ['tokenArgmax'] })
        const loss = crossEntropy(logits, labels, options)
        tf.grad((x) => crossEntropy(x, labels, { ...options, gradient: 'in-place' }))(logits)
        expect(told).toEqual([wanted, wanted])
        expect(loss.dataSync()[0]).toBe(Math.fround(wanted.loss))
      })
    })

    it('takes packed sequences', () => {
      const sequenceOffsets = [0, 3, 8, 14, BATCH * TIME]
      const next = labels.map((_, i) => (sequenceOffsets.includes(i + 1) ? -100 : labels[i + 1]))
      expectEqual(
        () => crossEntropy(tf.reshape(logitsOf(), [-1, VOCAB]), labels, { sequenceOffsets }),
        () => sparseSoftmaxCrossEntropy(tf.reshape(logitsOf(), [-1, VOCAB]), next),
      )
    })

    it('of an output layer gives the gradients of its own operations', () => {
      for (const labelSmoothing of [0, 0.1]) {
        const options = { shift: false, transposed: true, bias, labelSmoothing }
        expectEqual(
          () => tf.mul(linearCrossEntropy(states(), weight, labels, options), 3),
          () => tf.mul(ownCrossEntropy(logitsOf(), labelSmoothing), 3),
        )
      }
      expectEqual(
        () => linearCrossEntropy(states(), weight, labels, { shift: false, transposed: true, bias, frozen: true }),
        () => ownCrossEntropy(logitsOf()),
        [hidden],
      )
    })

    it('of an output layer tells what it knows, but not the gradients', () => {
      const told: object[] = []
      tf.tidy(() => {
        const options = { transposed: true, onResult: (result: object) => told.push(result) }
        tf.grad((x) => linearCrossEntropy(x, weight, labels, options))(states())
        linearCrossEntropy(states(), weight, labels, options)
      })
      expect(told).toHaveLength(2)
      expect(told[0]).toEqual(told[1])
      expect(Object.keys(told[0])).toEqual(['loss', 'losses', 'tokenCounts'])
    })

    it('is minimised by an optimizer', () => {
      const optimizer = tf.train.adam(0.05)
      const value = () => tf.tidy(() => crossEntropy(logitsOf(), labels).dataSync()[0])
      const atFirst = value()
      optimizer.minimize(() => crossEntropy(logitsOf(), labels, { gradient: 'in-place' }))
      const { numTensors, numDataBuffers } = tf.memory()
      for (let i = 0; i < 20; i++) {
        optimizer.minimize(() => crossEntropy(logitsOf(), labels, { gradient: 'in-place' }))
        optimizer.minimize(() => linearCrossEntropy(states(), weight, labels, { transposed: true, bias }))
      }
      expect(tf.memory()).toMatchObject({ numTensors, numDataBuffers })
      expect(value()).toBeLessThan(0.2 * atFirst)
      optimizer.dispose()
    })
  })

  describe('results of tokens', () => {
    const shift = false

    it.each([undefined, 'in-place'] as const)('are those of its own operations (gradient: %s)', (gradient) => {
      expectEqual(
        () => lossOf(tokenOutputs(logitsOf(), labels, { shift, gradient, outputs: NAMES })),
        () => {
          const logits = logitsOf()
          return lossOf({
            tokenLogProbs: own.tokenLogProbs(logits),
            tokenEntropies: own.tokenEntropies(logits),
            logSumExp: own.logSumExp(logits),
            tokenMeanLogits: own.tokenMeanLogits(logits),
          })
        },
      )
    })

    it.each(NAMES)('alone give the gradient of its own operation (%s)', (name) => {
      const square = (x: tf.Tensor) => tf.sum(tf.square(x))
      const ownLoss = () => square(own[name](logitsOf()))
      expectEqual(() => square(tokenOutputs(logitsOf(), labels, { shift, outputs: [name] })[name]), ownLoss)
      const layer = { shift, transposed: true, bias }
      const ours = () => linearTokenOutputs(states(), weight, labels, { ...layer, outputs: [name] })[name]
      expectEqual(() => square(ours()), ownLoss)
    })

    it('differentiate a GRPO loss', () => {
      const ownLoss = () => grpo(own.tokenLogProbs(logitsOf()))
      expectEqual(() => grpo(tokenLogProbs(logitsOf(), labels, { shift })), ownLoss)
      expectEqual(() => grpo(tokenLogProbs(logitsOf(), labels, { shift, gradient: 'in-place' })), ownLoss)
      const layer = { shift, transposed: true, bias }
      expectEqual(() => grpo(linearTokenLogProbs(states(), weight, labels, layer)), ownLoss)
    })

    it('of an output layer may leave it frozen, or some of the results unused', () => {
      const layer = { shift, transposed: true, bias, outputs: NAMES }
      expectEqual(
        () => lossOf(linearTokenOutputs(states(), weight, labels, { ...layer, frozen: true })),
        () => lossOf(tokenOutputs(logitsOf(), labels, { shift, outputs: NAMES })),
        [hidden],
      )
      expectEqual(
        () => tf.sum(linearTokenOutputs(states(), weight, labels, layer).tokenEntropies),
        () => tf.sum(own.tokenEntropies(logitsOf())),
      )
    })

    it('have the shape and the numbers of the main module, with a shift, without, and packed', () => {
      tf.tidy(() => {
        const logits = logitsOf()
        const data = logits.dataSync().slice() as Float32Array
        for (const options of [{}, { shift }, { temperature: 2, mask: labels.map((_, i) => i % 2) }]) {
          const wanted = sequenceLogProbsSync({ data, shape: logits.shape }, labels, { ...options, outputs: NAMES })
          const given = tokenOutputs(logits, labels, { ...options, outputs: NAMES })
          expect(Object.keys(given)).toEqual([...NAMES])
          for (const name of NAMES) {
            expect(given[name].shape).toEqual([BATCH, 'shift' in options ? TIME : TIME - 1])
            expect(given[name].dataSync()).toEqual(wanted[name])
          }
          expect(tokenLogProbs(logits, labels, options).dataSync()).toEqual(wanted.tokenLogProbs)
        }
        const packed = { sequenceOffsets: [0, 3, 8, 14, BATCH * TIME] }
        const rows = tf.reshape(logits, [-1, VOCAB])
        const wanted = sequenceLogProbsSync({ data, shape: rows.shape }, labels, { ...packed, outputs: NAMES })
        const given = tokenLogProbs(rows, labels, packed)
        expect(given.shape).toEqual([BATCH * TIME])
        expect(given.dataSync()).toEqual(wanted.tokenLogProbs)
        const stacked = tf.reshape(logits, [2, BATCH / 2, TIME, VOCAB])
        expect(tokenLogProbs(stacked, labels).shape).toEqual([BATCH, TIME - 1])
      })
    })

    it('sum up to log-probs of sequences, whose gradients they then have', () => {
      expectEqual(
        () => tf.sum(tf.mul(tf.sum(tokenLogProbs(logitsOf(), labels), -1), advantages)),
        () => tf.sum(tf.mul(sequenceLogProbs(logitsOf(), labels), advantages)),
      )
    })

    it('come with all else that is known of the tokens', () => {
      const told: { logProbs: Float64Array; tokenArgmax?: Int32Array; tokenLogProbs?: Float32Array }[] = []
      const onResult = (result: (typeof told)[number]) => told.push(result)
      tf.tidy(() => {
        tokenLogProbs(logitsOf(), labels, { outputs: ['tokenArgmax'], onResult })
        linearTokenLogProbs(states(), weight, labels, { outputs: ['tokenArgmax'], bias, transposed: true, onResult })
      })
      for (const result of told) {
        expect(result.tokenArgmax).toHaveLength(BATCH * (TIME - 1))
        expect(result.tokenLogProbs).toHaveLength(BATCH * (TIME - 1))
        expect(result).not.toHaveProperty('backward')
      }
    })

    it('survive a heap that grows between forward and backward', () => {
      const grow = <T>(value: T): T => {
        const backend = tf.backend() as { typedArrayFromHeap?(tensor: tf.Tensor): Float32Array }
        const memory = () => backend.typedArrayFromHeap?.(bias).buffer
        const before = memory()
        for (let size = 1 << 20; before && memory() === before; size *= 2) tf.zeros([size]).dispose()
        return value
      }
      const ownLoss = () => grpo(own.tokenLogProbs(logitsOf()))
      expectEqual(() => grpo(grow(tokenLogProbs(logitsOf(), labels, { shift }))), ownLoss)
      const layer = { shift, transposed: true, bias }
      expectEqual(() => grpo(grow(linearTokenLogProbs(states(), weight, labels, layer))), ownLoss)
    })

    it('leave nothing behind when a callback throws', () => {
      const onResult = () => {
        throw new Error('not what was hoped for')
      }
      const layer = { transposed: true, onResult }
      tf.tidy(() => {
        const [logits, inputs] = [logitsOf(), states()]
        const { numTensors } = tf.memory()
        for (const [input, op] of [
          [logits, (x: tf.Tensor) => crossEntropy(x, labels, { onResult })],
          [logits, (x: tf.Tensor) => crossEntropy(x, labels, { onResult, gradient: 'in-place' })],
          [inputs, (x: tf.Tensor) => linearCrossEntropy(x, weight, labels, layer)],
          [logits, (x: tf.Tensor) => tokenLogProbs(x, labels, { onResult })],
          [inputs, (x: tf.Tensor) => linearTokenLogProbs(x, weight, labels, layer)],
        ] as const) {
          expect(() => tf.tidy(() => void tf.grad(op)(input))).toThrow('not what was hoped for')
          expect(() => op(input)).toThrow('not what was hoped for')
          expect(tf.memory().numTensors).toBe(numTensors)
        }
      })
    })
  })
})

describe('refused', () => {
  beforeAll(async () => {
    expect(await tf.setBackend('wasm')).toBe(true)
  })

  const thrown = (op: (logits: tf.Tensor, hidden: tf.Tensor, weight: tf.Tensor) => unknown) => {
    const { numTensors } = tf.memory()
    let error: unknown
    try {
      tf.tidy(() => void op(tf.zeros([BATCH, TIME, 7]), tf.zeros([BATCH, TIME, 3]), tf.zeros([7, 3])))
    } catch (reason) {
      error = reason
    }
    expect(tf.memory().numTensors).toBe(numTensors)
    return error
  }
  const ids = new Int32Array(BATCH * TIME)

  it.each<[string, string, RegExp, object]>([
    ['none at all', 'ERR_INVALID_ARG_TYPE', /^options\.outputs must be an array of names/, {}],
    [
      'an empty list',
      'ERR_INVALID_ARG_VALUE',
      /^options\.outputs must name at least one of tokenLogProbs, /,
      { outputs: [] },
    ],
    [
      'a result without a gradient',
      'ERR_INVALID_ARG_VALUE',
      /^options\.outputs\[1\] must be one of 'tokenLogProbs', .*; got 'tokenArgmax'/,
      { outputs: ['logSumExp', 'tokenArgmax'] },
    ],
    ['what is no name', 'ERR_INVALID_ARG_TYPE', /^options\.outputs\[0\] must be one of/, { outputs: [undefined] }],
  ])('outputs that are %s', (_, code, message, options) => {
    const wanted = { code, message: expect.stringMatching(message) }
    expect(thrown((logits) => tokenOutputs(logits, ids, options as never))).toMatchObject(wanted)
    expect(thrown((_, hidden, weight) => linearTokenOutputs(hidden, weight, ids, options as never))).toMatchObject(
      wanted,
    )
  })

  it.each(['averageLogProb', 'emptySequence', 'ldAlpha', 'pairs', 'tokenWeights', 'zeroInactive'])(
    'options that are not about single tokens: %s',
    (name) => {
      const options = { outputs: ['logSumExp'], [name]: true } as never
      const wanted = {
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringMatching(`^options.${name} is not an option`),
      }
      expect(thrown((logits) => tokenLogProbs(logits, ids, options))).toMatchObject(wanted)
      expect(thrown((logits) => tokenOutputs(logits, ids, options))).toMatchObject(wanted)
      expect(thrown((_, hidden, weight) => linearTokenLogProbs(hidden, weight, ids, options))).toMatchObject(wanted)
      expect(thrown((_, hidden, weight) => linearTokenOutputs(hidden, weight, ids, options))).toMatchObject(wanted)
    },
  )

  it.each(['pairs', 'averageLogProb', 'emptySequence', 'ldAlpha'])('by the cross-entropy: %s', (name) => {
    const wanted = {
      code: 'ERR_INVALID_ARG_VALUE',
      message: expect.stringMatching(`^options.${name} is not an option`),
    }
    const options = { [name]: true } as never
    expect(thrown((logits) => crossEntropy(logits, ids, options))).toMatchObject(wanted)
    expect(thrown((_, hidden, weight) => linearCrossEntropy(hidden, weight, ids, options))).toMatchObject(wanted)
  })

  it('outputs of another kind, a wrong gradient, a callback that is none, tensors that do not fit', () => {
    expect(thrown((logits) => tokenLogProbs(logits, ids, { outputs: 5 as never }))).toMatchObject({
      code: 'ERR_INVALID_ARG_TYPE',
      message: expect.stringContaining('options.outputs must be an array'),
    })
    for (const op of [crossEntropy, tokenLogProbs]) {
      expect(thrown((logits) => op(logits, ids, { gradient: true as never }))).toMatchObject({
        code: 'ERR_INVALID_ARG_TYPE',
        message: expect.stringContaining("options.gradient must be one of 'in-place'"),
      })
      expect(thrown((logits) => op(logits, ids, { onResult: 3 as never }))).toMatchObject({
        code: 'ERR_INVALID_ARG_TYPE',
        message: 'options.onResult must be a function; got 3',
      })
      expect(thrown((logits) => op(logits, ids, { mask: tf.zeros([BATCH]) }))).toMatchObject({
        code: 'ERR_SHAPE_MISMATCH',
        message: expect.stringContaining('options.mask must have the shape of the logits'),
      })
    }
    expect(thrown((logits) => crossEntropy(logits, ids, { classWeights: tf.zeros([3]) }))).toMatchObject({
      code: 'ERR_SHAPE_MISMATCH',
      message: expect.stringContaining('options.classWeights must have length 7'),
    })
    expect(thrown((logits) => crossEntropy(logits, ids, { zeroInactive: false } as never))).toMatchObject({
      message: expect.stringMatching(/^options\.zeroInactive is not taken/),
    })
    for (const name of ['gradient', 'accumulate', 'zeroInactive']) {
      const op = (_: tf.Tensor, hidden: tf.Tensor, weight: tf.Tensor) =>
        linearCrossEntropy(hidden, weight, ids, { [name]: true } as never)
      expect(thrown(op)).toMatchObject({ message: expect.stringMatching(`^options.${name} is not taken`) })
    }
  })
})
