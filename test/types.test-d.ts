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
import {
  type ReferenceLogProbsOptions,
  referenceLogProbs,
  writeReferenceLogProbs,
} from '../lib/adapters/onnxruntime/index.js'
import * as tfjs from '../lib/adapters/tfjs/index.js'
import {
  type Backends,
  type CrossEntropy,
  crossEntropy,
  crossEntropySync,
  type DeviceMemory,
  type FusedLinearOptions,
  type FusedLinearPreferenceLoss,
  type FusedLinearUnpairedOptions,
  type FusedLinearUnpairedPreferenceLoss,
  type FusedOptions,
  type FusedPreferenceLoss,
  type FusedUnpairedOptions,
  type FusedUnpairedPreferenceLoss,
  fusedLinearPreferenceLoss,
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLoss,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLoss,
  fusedUnpairedPreferenceLossSync,
  getBackends,
  type HeadGradientRequest,
  type HeadWeight,
  type Hidden,
  type LinearSequenceLogProbs,
  type Logits,
  linearCrossEntropySync,
  linearSequenceLogProbsSync,
  type PreferenceLoss,
  preferenceLoss,
  preferenceLossSync,
  type SequenceLogProbs,
  sequenceLogProbs,
  sequenceLogProbsSync,
  type TokenOutput,
  type TypedLogits,
  type UnpairedPreferenceLoss,
  unpairedPreferenceLoss,
  unpairedPreferenceLossSync,
} from '../lib/index.js'

const logits: Logits = { data: new Float32Array(2 * 3 * 5), shape: [2, 3, 5] }
const labels = new Int32Array(6)

test('each function has a promise form and a twin with the result itself', () => {
  const options: FusedOptions = {}
  expectTypeOf(sequenceLogProbsSync(logits, labels)).toEqualTypeOf<SequenceLogProbs>()
  expectTypeOf(sequenceLogProbs(logits, labels)).resolves.toEqualTypeOf<SequenceLogProbs>()
  expectTypeOf(preferenceLoss).returns.resolves.toEqualTypeOf<PreferenceLoss>()
  expectTypeOf(preferenceLossSync).returns.toEqualTypeOf<PreferenceLoss>()
  expectTypeOf(fusedPreferenceLossSync(logits, labels, options)).toEqualTypeOf<FusedPreferenceLoss>()
  expectTypeOf(fusedPreferenceLoss(logits, labels, options)).resolves.toEqualTypeOf<FusedPreferenceLoss>()
  expectTypeOf(crossEntropySync(logits, labels)).toEqualTypeOf<CrossEntropy>()
  expectTypeOf(crossEntropy(logits, labels)).resolves.toEqualTypeOf<CrossEntropy>()
  expectTypeOf(getBackends).returns.toEqualTypeOf<Backends>()
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
  expectTypeOf(gradLogits).toEqualTypeOf<TypedLogits | undefined>()
  expectTypeOf(tokenLogProbs).toEqualTypeOf<Float32Array | undefined>()
  expectTypeOf(logProbs).toEqualTypeOf<Float64Array>()
})

test('the output layer has functions of the same kind', () => {
  const options: FusedLinearOptions = {}
  const tensor: Logits = logits
  expectTypeOf(
    fusedLinearPreferenceLoss(tensor, tensor, labels, options),
  ).resolves.toExtend<FusedLinearPreferenceLoss>()
  expectTypeOf<FusedLinearPreferenceLoss>().toExtend<
    Pick<ReturnType<typeof fusedLinearPreferenceLossSync>, 'loss' | 'gradLogProbs' | 'layout'>
  >()
  const hidden = { data: new Float32Array(24), shape: [2, 3, 4] as const }
  const weight = { data: new Uint16Array(20), shape: [5, 4], dtype: 'bfloat16', strides: [1, 5] } as const
  const { gradWeight, gradBias } = fusedLinearPreferenceLossSync(hidden, weight, labels, {
    lossType: 'cpo',
    gradient: { hidden: true, weight: new Float32Array(20) },
    accumulate: true,
  })
  expectTypeOf(gradWeight.data).toEqualTypeOf<Float32Array<ArrayBuffer> | Float32Array>()
  expectTypeOf(gradBias).toExtend<Float32Array | undefined>()
  // @ts-expect-error there are no logits to overwrite
  fusedLinearPreferenceLossSync(hidden, weight, labels, { gradient: 'in-place' })
})

const floats = { data: new Float32Array(30), shape: [2, 3, 5] }
const halves = { data: new Uint16Array(30), shape: [2, 3, 5], dtype: 'bfloat16' } as const
const memory = { data: { ptr: 8, byteLength: 120, own: true }, shape: [2, 3, 5] }
const dynamic = {} as { gradient: boolean; outputs: TokenOutput[] }

test('a gradient that was asked for is there, in the kind of array that came in', () => {
  const dataOf = <Data>(result: { gradLogits: { data: Data } }) => result.gradLogits.data
  type Floats = Float32Array<ArrayBuffer>
  expectTypeOf(dataOf(fusedPreferenceLossSync(floats, labels, { gradient: true }))).toEqualTypeOf<Floats>()
  expectTypeOf(dataOf(fusedPreferenceLossSync(halves, labels, { gradient: 'in-place' }))).toExtend<Uint16Array>()
  const out = new Float32Array(30)
  expectTypeOf(dataOf(fusedPreferenceLossSync(floats, labels, { gradient: out }))).toEqualTypeOf<Floats>()
  expectTypeOf(dataOf(fusedPreferenceLossSync(memory, labels, { gradient: true }))).toEqualTypeOf<DeviceMemory>()
  expectTypeOf(dataOf(fusedPreferenceLossSync(memory, labels, { gradient: 'in-place' }))).toEqualTypeOf(memory.data)
  const shorter = { gradient: true, gradientDType: 'bfloat16' } as const
  expectTypeOf(dataOf(fusedPreferenceLossSync(floats, labels, shorter))).toEqualTypeOf<Uint16Array>()
  const longer = { gradient: true, gradientDType: 'float32' } as const
  expectTypeOf(dataOf(crossEntropySync(halves, labels, longer))).toEqualTypeOf<Float32Array>()
  const given = { desirable: [1, 0], gradient: true } as const
  expectTypeOf(dataOf(fusedUnpairedPreferenceLossSync(floats, labels, given))).toEqualTypeOf<Floats>()
  expectTypeOf(fusedPreferenceLoss(floats, labels, { gradient: true }).then(dataOf)).resolves.toEqualTypeOf<Floats>()
  // @ts-expect-error it may be absent
  dataOf(fusedPreferenceLossSync(floats, labels))
  // @ts-expect-error it may be absent
  dataOf(fusedPreferenceLossSync(floats, labels, { gradient: dynamic.gradient }))
  // @ts-expect-error it is absent
  dataOf(crossEntropySync(floats, labels, { gradient: false }))
})

test('so are those of backward and of an output layer', () => {
  const sums = sequenceLogProbsSync(floats, labels)
  expectTypeOf(sums.backwardSync([1, 1]).gradLogits.data).toExtend<Float32Array>()
  expectTypeOf(sums.backward([1, 1], { gradient: 'in-place' })).resolves.toExtend<{
    gradLogits: { data: Float32Array }
  }>()
  const weight = { data: new Uint16Array(20), shape: [5, 4], dtype: 'bfloat16' } as const
  const hidden = { data: new Uint16Array(24), shape: [2, 3, 4], dtype: 'bfloat16' } as const
  const linear = linearSequenceLogProbsSync(hidden, weight, labels)
  expectTypeOf(linear.backwardSync([1, 1]).gradWeight.data).toEqualTypeOf<Float32Array>()
  expectTypeOf(
    linear.backwardSync([1, 1], { gradient: { bias: new Float32Array(5) } }).gradBias,
  ).toExtend<Float32Array>()
  const all = linearCrossEntropySync(hidden, weight, labels, { gradient: true, gradientDType: 'bfloat16' })
  expectTypeOf([all.gradHidden.data, all.gradWeight.data]).toEqualTypeOf<Uint16Array[]>()
  const some = fusedLinearPreferenceLossSync(hidden, weight, labels, { gradient: { weight: true } })
  expectTypeOf(some.gradWeight.data).toEqualTypeOf<Float32Array>()
  expectTypeOf(some.gradHidden).toEqualTypeOf<TypedLogits<Float32Array> | undefined>()
  // @ts-expect-error there may be no bias
  all.gradBias.length
  const request: HeadGradientRequest = { hidden: true }
  expectTypeOf(linear.backwardSync([1, 1], { gradient: request }).gradHidden).toExtend<TypedLogits | undefined>()
  // @ts-expect-error no such gradient
  fusedLinearPreferenceLossSync(hidden, weight, labels, { gradient: { weight: true, hiden: true } })
})

test('the per-token results that were asked for are there', () => {
  const both = fusedPreferenceLossSync(logits, labels, { outputs: ['tokenLogProbs', 'tokenArgmax'] })
  expectTypeOf([both.tokenLogProbs, both.tokenArgmax]).toEqualTypeOf<(Float32Array | Int32Array)[]>()
  expectTypeOf(both.logSumExp).toEqualTypeOf<Float32Array | undefined>()
  const names = ['tokenEntropies'] as const
  expectTypeOf(sequenceLogProbsSync(logits, labels, { outputs: names }).tokenEntropies).toEqualTypeOf<Float32Array>()
  const { tokenLogProbs } = sequenceLogProbsSync(logits, labels, { outputs: dynamic.outputs })
  expectTypeOf(tokenLogProbs).toEqualTypeOf<Float32Array | undefined>()
  const one = dynamic.gradient ? ('logSumExp' as const) : ('tokenArgmax' as const)
  const { logSumExp } = crossEntropySync(logits, labels, { outputs: [one] })
  expectTypeOf(logSumExp).toEqualTypeOf<Float32Array | undefined>()
  // @ts-expect-error no such result
  fusedPreferenceLossSync(logits, labels, { outputs: ['entropy'] })
})

test('bits need a dtype, and results go back in', () => {
  // @ts-expect-error bfloat16 or float16
  fusedPreferenceLossSync({ data: new Uint16Array(30), shape: [2, 3, 5] }, labels)
  // @ts-expect-error bfloat16 or float16
  const bits: Logits = { data: new Uint16Array(30), shape: [2, 3, 5] }
  expectTypeOf<Hidden>().toEqualTypeOf<Logits>()
  expectTypeOf<HeadWeight>().toEqualTypeOf<Logits>()
  const { gradLogits } = fusedPreferenceLossSync(bits, labels, { gradient: true })
  fusedPreferenceLossSync(gradLogits, labels, { reference: sequenceLogProbsSync(halves, labels) })
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
  const kept = writeReferenceLogProbs('file', [{ labels, own: 1 }], forward, { keepBatches: true })
  type Kept = Awaited<typeof kept>['batches'][number]
  expectTypeOf<Pick<Kept['reference'], 'chosen'> & Pick<Kept, 'own'>>().toExtend<{
    chosen: Float64Array
    own: number
  }>()
  const others = writeReferenceLogProbs('file', [{ labels }], forward)
  expectTypeOf<keyof Awaited<typeof others>>().toEqualTypeOf<'chosen' | 'rejected'>()
  const inMemory = referenceLogProbs([{ labels, own: 1 }], forward, { keepBatches: true })
  expectTypeOf(inMemory).toEqualTypeOf<typeof kept>()
  // @ts-expect-error a model is for a file
  void referenceLogProbs([{ labels }], forward, { model: 'tiny' })
  // @ts-expect-error a model is what JSON keeps
  void writeReferenceLogProbs('file', [{ labels }], forward, { model: new Map() })
})

test('unpaired functions need to know what is desirable', () => {
  expectTypeOf(unpairedPreferenceLoss).returns.resolves.toEqualTypeOf<UnpairedPreferenceLoss>()
  expectTypeOf(unpairedPreferenceLossSync).returns.toEqualTypeOf<UnpairedPreferenceLoss>()
  const sequences: FusedUnpairedOptions = { desirable: [1, 0] }
  expectTypeOf(fusedUnpairedPreferenceLoss(logits, labels, sequences)).resolves.toExtend<FusedUnpairedPreferenceLoss>()
  const linear: FusedLinearUnpairedOptions = { desirable: [1, 0] }
  expectTypeOf(
    fusedLinearUnpairedPreferenceLoss(logits, logits, labels, linear),
  ).resolves.toExtend<FusedLinearUnpairedPreferenceLoss>()
  const given = { desirable: [true, false], reference: { logProbs: [-1, -2] }, kl: 0.5 }
  fusedUnpairedPreferenceLossSync(logits, labels, given)
  fusedUnpairedPreferenceLossSync(logits, labels, { ...given, desirable: [1, 0] })
  // @ts-expect-error: it has no default
  fusedUnpairedPreferenceLossSync(logits, labels, { kl: 0.5 })
  // @ts-expect-error: a loss of pairs
  fusedUnpairedPreferenceLossSync(logits, labels, { ...given, lossType: 'sigmoid' })
})
