/**
 * The types a user of the package sees.
 */
import type { Array as JaxArray } from '@jax-js/jax'
import * as tf from '@tensorflow/tfjs-core'
import { expectTypeOf, test } from 'vitest'
import {
  crossEntropyValueAndGrad,
  fusedLinearPreferenceLossValueAndGrad,
  fusedPreferenceLossValueAndGrad,
  tokenLossValueAndGrad,
} from '../lib/adapters/jax/index.js'
import { type ReferenceLogProbsOptions, writeReferenceLogProbs } from '../lib/adapters/onnxruntime/index.js'
import * as tfjs from '../lib/adapters/tfjs/index.js'
import {
  type Backends,
  type DeviceMemory,
  type FusedLinearPreferenceLoss,
  type FusedLinearUnpairedPreferenceLoss,
  type FusedPreferenceLoss,
  type FusedUnpairedPreferenceLoss,
  fusedLinearPreferenceLoss,
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLoss,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLoss,
  fusedUnpairedPreferenceLossSync,
  getBackends,
  type HeadWeight,
  type HostArray,
  type LinearSequenceLogProbs,
  type Logits,
  linearSequenceLogProbsSync,
  type PreferenceLoss,
  preferenceLoss,
  preferenceLossSync,
  type SequenceLogProbs,
  sequenceLogProbs,
  sequenceLogProbsSync,
  type UnpairedPreferenceLoss,
  unpairedPreferenceLoss,
  unpairedPreferenceLossSync,
} from '../lib/index.js'

const logits: Logits = { data: new Float32Array(2 * 3 * 5), shape: [2, 3, 5] }
const labels = new Int32Array(6)

test('each function has a promise form and a twin with the result itself', () => {
  expectTypeOf(sequenceLogProbs).returns.resolves.toEqualTypeOf<SequenceLogProbs>()
  expectTypeOf(sequenceLogProbsSync).returns.toEqualTypeOf<SequenceLogProbs>()
  expectTypeOf(preferenceLoss).returns.resolves.toEqualTypeOf<PreferenceLoss>()
  expectTypeOf(preferenceLossSync).returns.toEqualTypeOf<PreferenceLoss>()
  expectTypeOf(fusedPreferenceLoss).returns.resolves.toEqualTypeOf<FusedPreferenceLoss>()
  expectTypeOf(fusedPreferenceLossSync).returns.toEqualTypeOf<FusedPreferenceLoss>()
  expectTypeOf(getBackends).returns.toEqualTypeOf<Backends>()
  expectTypeOf(fusedPreferenceLoss).parameters.toEqualTypeOf<Parameters<typeof fusedPreferenceLossSync>>()
  expectTypeOf(sequenceLogProbs).parameters.toEqualTypeOf<Parameters<typeof sequenceLogProbsSync>>()
})

test('plain arrays, typed arrays and readonly shapes are welcome', () => {
  const shape = [2, 3, 5] as const
  fusedPreferenceLossSync({ data: new Uint16Array(30), shape, dtype: 'bfloat16' }, new BigInt64Array(6), {
    reference: { chosen: [-1], rejected: new Float32Array(1) },
    mask: [true, true, false, true, true, true],
    pairs: [0, 1],
    gradient: 'in-place',
    lossType: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight: 0.1 }],
    signal: AbortSignal.timeout(1000),
  })
  preferenceLossSync({ chosen: [-1], rejected: new Float64Array(1) }, { lossType: 'cpo' })
})

test('what sequenceLogProbs gives is a reference, and 64-bit integers are as good as others', () => {
  const reference = sequenceLogProbsSync(logits, labels)
  fusedPreferenceLossSync(logits, labels, { reference, mask: new BigInt64Array(6), pairs: BigInt64Array.of(0n, 1n) })
  fusedPreferenceLossSync(logits, labels, { reference: { logProbs: reference.logProbs } })
  const hidden = { data: new Float32Array(24), shape: [2, 3, 4] }
  const weight = { data: new Float32Array(20), shape: [5, 4] }
  fusedLinearPreferenceLossSync(hidden, weight, labels, {
    reference: linearSequenceLogProbsSync(hidden, weight, labels),
  })
  sequenceLogProbsSync({ ...logits, shape: [6, 5] }, labels, { sequenceOffsets: BigInt64Array.of(0n, 3n, 6n) })
  const chosenTokenCounts = BigInt64Array.of(3n)
  preferenceLossSync(
    { chosen: [-1], rejected: [-2], chosenTokenCounts, rejectedTokenCounts: [4] },
    { lossType: 'simpo' },
  )
  reference.backwardSync([1, 1], { gradient: true })
  // @ts-expect-error a gradient without a destination
  reference.backwardSync([1, 1], { gradient: false })
  // @ts-expect-error without the log-probs
  fusedPreferenceLossSync(logits, labels, { reference: { tokenCounts: [2, 2] } })
})

test('device memory is anything with a ptr', () => {
  const data = { ptr: 1n, byteLength: 120, somethingOfItsOwn: true }
  expectTypeOf(data).toExtend<Logits['data']>()
})

test('optional results are optional', () => {
  const { gradLogits, tokenLogProbs, logProbs } = { ...({} as FusedPreferenceLoss), ...({} as SequenceLogProbs) }
  expectTypeOf(gradLogits).toEqualTypeOf<Logits | undefined>()
  expectTypeOf(tokenLogProbs).toEqualTypeOf<Float32Array | undefined>()
  expectTypeOf(logProbs).toEqualTypeOf<Float64Array>()
})

test('the output layer has functions of the same kind', () => {
  expectTypeOf(fusedLinearPreferenceLoss).returns.resolves.toEqualTypeOf<FusedLinearPreferenceLoss>()
  expectTypeOf(fusedLinearPreferenceLossSync).returns.toEqualTypeOf<FusedLinearPreferenceLoss>()
  const hidden = { data: new Float32Array(24), shape: [2, 3, 4] as const }
  const weight = { data: new Uint16Array(20), shape: [5, 4], dtype: 'bfloat16', strides: [1, 5] } as const
  const { gradWeight, gradBias } = fusedLinearPreferenceLossSync(hidden, weight, labels, {
    lossType: 'cpo',
    gradient: { hidden: true, weight: new Float32Array(20) },
    accumulate: true,
  })
  expectTypeOf(gradWeight).toEqualTypeOf<HeadWeight | undefined>()
  expectTypeOf(gradBias).toEqualTypeOf<HostArray | DeviceMemory | undefined>()
  // @ts-expect-error there are no logits to overwrite
  fusedLinearPreferenceLossSync(hidden, weight, labels, { gradient: 'in-place' })
})

test('results that keep arrays are disposed of, by using too', () => {
  expectTypeOf<SequenceLogProbs>().toExtend<Disposable>()
  expectTypeOf<LinearSequenceLogProbs>().toExtend<Disposable>()
  expectTypeOf<SequenceLogProbs['dispose']>().toEqualTypeOf<() => void>()
})

test('misspelt names and wrong types do not compile', () => {
  // @ts-expect-error lossType is one of the known names
  preferenceLossSync({ chosen: [-1], rejected: [-2] }, { lossType: 'sigmod' })
  // @ts-expect-error no such option
  sequenceLogProbsSync(logits, labels, { shft: false })
  // @ts-expect-error labels are integers
  sequenceLogProbsSync(logits, new Float32Array(6))
  // @ts-expect-error weighting needs logits
  preferenceLossSync({ chosen: [-1], rejected: [-2] }, { weighting: 'wpo' })
  // @ts-expect-error a reference has both log-probs
  fusedPreferenceLossSync(logits, labels, { reference: { chosen: [-1] } })
})

test('adapters do not take what they decide themselves', () => {
  const tensor = tf.zeros([2, 3, 5])
  const reference = { chosen: tf.zeros([1]), rejected: [-1] }
  tfjs.fusedPreferenceLoss(tensor, labels, { reference, mask: tensor, gradient: 'in-place' })
  tfjs.fusedPreferenceLoss(tensor, labels, { reference: { logits: tensor } })
  tfjs.fusedPreferenceLoss(tensor, labels, { reference: { logits } })
  // @ts-expect-error all of the gradient is written
  tfjs.fusedPreferenceLoss(tensor, labels, { reference, zeroInactive: false })
  // @ts-expect-error the gradient goes to TensorFlow.js
  tfjs.fusedPreferenceLoss(tensor, labels, { reference, gradient: true })
  // @ts-expect-error there is only one other place
  tfjs.sequenceLogProbs(tensor, labels, { gradient: 'inplace' })
  // @ts-expect-error the options of the core are no options of the op
  tfjs.sparseSoftmaxCrossEntropy(tensor, labels, { beta: 1 })
  const weight = tf.zeros([7, 5])
  tfjs.fusedLinearPreferenceLoss(tensor, weight, labels, { reference, tokenWeights: tensor, transposed: false })
  // @ts-expect-error TensorFlow.js asks for the gradients it needs
  tfjs.fusedLinearPreferenceLoss(tensor, weight, labels, { reference, gradient: true })
  // @ts-expect-error TensorFlow.js adds gradients up
  tfjs.fusedLinearPreferenceLoss(tensor, weight, labels, { reference, accumulate: true })
  // @ts-expect-error all of the gradients are written
  tfjs.fusedLinearPreferenceLoss(tensor, weight, labels, { reference, zeroInactive: true })
  // @ts-expect-error there are no logits to overwrite
  tfjs.linearSequenceLogProbs(tensor, weight, labels, { gradient: 'in-place' })
  tfjs.crossEntropy(tensor, labels, { classWeights: tensor, zLoss: 1e-4, gradientScale: 8, gradient: 'in-place' })
  // @ts-expect-error gradients of TensorFlow.js are float32
  tfjs.crossEntropy(tensor, labels, { gradientDType: 'bfloat16' })
  // @ts-expect-error there are no pairs
  tfjs.linearCrossEntropy(tensor, weight, labels, { pairs: [0, 1] })
  expectTypeOf(tfjs.tokenLogProbs(tensor, labels, { outputs: ['tokenArgmax'] })).toEqualTypeOf<tf.Tensor>()
  const tokens = tfjs.tokenOutputs(tensor, labels, { outputs: ['tokenLogProbs', 'tokenEntropies'] })
  expectTypeOf(tokens).toEqualTypeOf<Record<'tokenLogProbs' | 'tokenEntropies', tf.Tensor>>()
  // @ts-expect-error it has no gradient
  tfjs.linearTokenOutputs(tensor, weight, labels, { outputs: ['tokenArgmax'] })
  // @ts-expect-error weights are those of sums
  tfjs.tokenLogProbs(tensor, labels, { tokenWeights: tensor })

  const step = fusedPreferenceLossValueAndGrad((params: JaxArray) => params)
  type Options = NonNullable<Parameters<typeof step>[3]>
  expectTypeOf<Extract<keyof Options, 'gradient' | 'zeroInactive'>>().toBeNever()
  const sft = crossEntropyValueAndGrad((params: JaxArray) => params)
  expectTypeOf(sft).returns.resolves.toHaveProperty('loss').toBeNumber()
  const tokenStep = tokenLossValueAndGrad((params: JaxArray) => params)
  const params = {} as JaxArray
  void (() => tokenStep(params, 0, labels, ({ tokenLogProbs }) => tokenLogProbs))
  void (() => tokenStep(params, 0, labels, (tokens) => tokens.logSumExp, { outputs: ['logSumExp'] }))
  // @ts-expect-error it was not asked for
  void (() => tokenStep(params, 0, labels, (tokens) => tokens.tokenEntropies, { outputs: ['logSumExp'] }))
  // @ts-expect-error the gradient goes back into jax-js
  void (() => sft(params, 0, labels, { deferredScale: true }))

  const linearStep = fusedLinearPreferenceLossValueAndGrad((params: JaxArray) => ({ hidden: params, weight: params }))
  type LinearOptions = NonNullable<Parameters<typeof linearStep>[3]>
  type Owned = 'gradient' | 'zeroInactive' | 'accumulate' | 'bias'
  expectTypeOf<Extract<keyof LinearOptions, Owned>>().toBeNever()

  type Told = 'mask' | 'tokenWeights' | 'pairs' | 'sequenceOffsets' | 'outputs'
  expectTypeOf<Extract<keyof ReferenceLogProbsOptions, Told>>().toBeNever()
  const tensor64 = { type: 'int64', dims: [1, 6], data: new BigInt64Array(6) }
  const forward = () => ({ type: 'float32', dims: [2, 3, 5], data: new Float32Array(30) })
  const model = { name: 'tiny', revision: 1, parts: [null, true] }
  void writeReferenceLogProbs('file', [{ labels: tensor64, mask: tensor64 }], forward, { model, ldAlpha: 0.5 })
  // @ts-expect-error a model is what JSON keeps
  void writeReferenceLogProbs('file', [{ labels }], forward, { model: new Map() })
})

test('unpaired functions need to know what is desirable', () => {
  expectTypeOf(unpairedPreferenceLoss).returns.resolves.toEqualTypeOf<UnpairedPreferenceLoss>()
  expectTypeOf(unpairedPreferenceLossSync).returns.toEqualTypeOf<UnpairedPreferenceLoss>()
  expectTypeOf(fusedUnpairedPreferenceLoss).returns.resolves.toEqualTypeOf<FusedUnpairedPreferenceLoss>()
  expectTypeOf(fusedLinearUnpairedPreferenceLoss).returns.resolves.toEqualTypeOf<FusedLinearUnpairedPreferenceLoss>()
  const given = { desirable: [true, false], reference: { logProbs: [-1, -2] }, kl: 0.5 }
  expectTypeOf(fusedUnpairedPreferenceLossSync).toBeCallableWith(logits, labels, given)
  expectTypeOf(fusedUnpairedPreferenceLossSync).toBeCallableWith(logits, labels, { ...given, desirable: [1, 0] })
  // @ts-expect-error: it has no default
  expectTypeOf(fusedUnpairedPreferenceLossSync).toBeCallableWith(logits, labels, { kl: 0.5 })
  // @ts-expect-error: a loss of pairs
  expectTypeOf(fusedUnpairedPreferenceLossSync).toBeCallableWith(logits, labels, { ...given, lossType: 'sigmoid' })
})
