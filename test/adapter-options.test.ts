/**
 * The options of the adapters: every option of the wrapped function works, with the same bits as in that function.
 * Options that an adapter sets itself are refused, and so are unknown options.
 */
import { type Array as JaxArray, numpy as np } from '@jax-js/jax'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { beforeEach, describe, expect, it } from 'vitest'
import {
  crossEntropyValueAndGrad,
  fusedLinearPreferenceLossValueAndGrad,
  fusedPreferenceLossValueAndGrad,
  tokenLossValueAndGrad,
} from '../lib/adapters/jax/index.js'
import * as tfjs from '../lib/adapters/tfjs/index.js'
import { TOKEN_OUTPUT_OPTIONS } from '../lib/adapters/token-outputs.js'
import { PAIRED_OPTIONS } from '../lib/call/paired-call.js'
import { RUN_OPTIONS } from '../lib/call/run.js'
import { SINGLE_TOKEN_OPTIONS } from '../lib/call/token-loss-call.js'
import {
  crossEntropySync,
  fusedLinearPreferenceLossSync,
  fusedPreferenceLossSync,
  linearCrossEntropySync,
  linearSequenceLogProbsSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import { TOKEN_OPTIONS, type TokenOutput } from '../lib/options/token-options.js'
import { liveBuffers } from './jax-buffers.js'
import { gaussian, random } from './support.js'

const [BATCH, TIME, WIDTH, VOCAB] = [4, 6, 5, 23]
const ROWS = BATCH * TIME
const next = random(11)
const normal = (length: number) => Float32Array.from({ length }, () => gaussian(next))
const logits = normal(ROWS * VOCAB)
const hidden = normal(ROWS * WIDTH)
const weight = normal(VOCAB * WIDTH)
const bias = normal(VOCAB)
// Sequences of different lengths.
const labels = Int32Array.from({ length: ROWS }, (_, i) => (i === 5 || i === 15 || i === 16 ? -100 : (i * 7) % VOCAB))
const reference = { chosen: [-18, -14], rejected: [-17, -12] }
const OFFSETS = [0, 4, 11, 16, ROWS]

type Options = Record<string, unknown>
/** An option with a value that changes the result, and the other options it needs for that. */
interface Case {
  options: Options
  beside?: Options
}

const third = Array.from({ length: ROWS }, (_, i) => i % 3 !== 1)
/** All names in core's lists; an option that a list does not have yet is not run. */
const CASES: Record<string, Case> = {
  shift: { options: { shift: false } },
  ignoreIndex: { options: { ignoreIndex: 7 }, beside: { mask: labels.map((label) => (label < 0 ? 0 : 1)) } },
  mask: { options: { mask: third } },
  tokenWeights: { options: { tokenWeights: third.map((yes) => (yes ? 0.5 : 2)) } },
  averageLogProb: { options: { averageLogProb: true } },
  temperature: { options: { temperature: 1.7 } },
  logitScale: { options: { logitScale: 0.6 } },
  logitSoftcap: { options: { logitSoftcap: 1.5 } },
  sequenceOffsets: { options: { sequenceOffsets: OFFSETS } },
  emptySequence: { options: { emptySequence: 'nan' }, beside: { mask: third.map((_, i) => i >= TIME) } },
  outputs: { options: { outputs: ['tokenLogProbs', 'tokenArgmax'] } },
  ldAlpha: { options: { ldAlpha: 0.3 } },
  pairs: { options: { pairs: [1, 0, 3, 2] }, beside: { ldAlpha: 0.3 } },
  lossType: { options: { lossType: 'hinge' } },
  beta: { options: { beta: [0.4, 1.5] } },
  labelSmoothing: { options: { labelSmoothing: [0.2, 0.05] } },
  offset: { options: { offset: [0.5, -1] } },
  pairWeights: { options: { pairWeights: Float64Array.of(0.25, 2) } },
  gamma: { options: { gamma: 1.5 }, beside: { lossType: 'simpo' } },
  rewardShift: { options: { rewardShift: 0.7 }, beside: { lossType: 'bco_pair' } },
  targetMargin: { options: { targetMargin: [0.3, 2] }, beside: { lossType: 'rpo_fwd_kl', targetMargin: 0.5 } },
  dpopLambda: { options: { dpopLambda: 3 }, beside: { lossType: 'dpop' } },
  discopopTau: { options: { discopopTau: 0.3 }, beside: { lossType: 'discopop' } },
  referenceFree: { options: { referenceFree: true } },
  fDivergence: { options: { fDivergence: 'js' } },
  alpha: { options: { alpha: 0.8 }, beside: { fDivergence: 'alpha' } },
  rewardAlpha: { options: { rewardAlpha: 0.25 }, beside: { lossType: 'simpo' } },
  sftNormalization: { options: { sftNormalization: 'sequences' }, beside: { lossType: 'sft' } },
  normalizer: { options: { normalizer: 'sum' } },
  gradientScale: { options: { gradientScale: -0.25 } },
  zLoss: { options: { zLoss: 0.1 } },
  dft: { options: { dft: true } },
  classWeights: { options: { classWeights: Array.from({ length: VOCAB }, (_, v) => 0.5 + (v % 3)) } },
  reference: { options: { reference: { chosen: [-11, -12], rejected: [-13, -15] } } },
  weighting: { options: { weighting: 'wpo' } },
  backend: { options: { backend: 'gpu' } },
  threads: { options: { threads: 0 } },
  instructionSet: { options: { instructionSet: 'mmx' } },
  stream: { options: { stream: 1 } },
  device: { options: { device: 0 } },
  gpuDevice: { options: { gpuDevice: {} } },
  products: { options: { products: 'mkl' } },
  logitsBudget: { options: { logitsBudget: -1 } },
  signal: { options: { signal: AbortSignal.abort(new Error('stopped by the caller')) } },
}

/** The outcome of a call: its numbers, or its error. */
type Outcome = Record<string, unknown>
type Call = (options: Options) => Outcome | Promise<Outcome>

async function outcomeOf(call: Call, options: Options): Promise<Outcome> {
  try {
    return await call(options)
  } catch (error) {
    const { code, message } = error as Error & { code?: string }
    return { code, message }
  }
}

interface Op {
  name: string
  /** The options that the adapter passes on to the wrapped function. */
  takes: readonly string[]
  call: Call
  /** The wrapped function. */
  core: Call
  /** Options that the adapter sets itself, each with a value. */
  owned: Options
  /** One of the adapter's own options, misspelt. */
  misspelt: [wrong: string, right: string]
  /** Cases of its own, where an option of the same name takes something else. */
  cases?: Record<string, Case>
}

/** The smoothing over the vocabulary is one number. */
const OF_ENTROPY = { labelSmoothing: { options: { labelSmoothing: 0.2 } } }

/** Different at each token. */
const factors = ({ length }: { length: number }) => Float32Array.from({ length }, (_, i) => Math.sin(i + 1))

const isPacked = ({ sequenceOffsets }: Options) => sequenceOffsets !== undefined
const shapeOf = (options: Options, last: number) => (isPacked(options) ? [ROWS, last] : [BATCH, TIME, last])
const UPSTREAM = [1, -2, 0.5, 3]

const core = {
  paired(options: Options): Outcome {
    const shape = shapeOf(options, VOCAB)
    const { gradLogits, ...result } = fusedPreferenceLossSync({ data: logits, shape }, labels, {
      ...options,
      gradient: true,
    })
    return { ...result, gradLogits: gradLogits!.data }
  },
  linear(options: Options): Outcome {
    const { gradHidden, gradWeight, gradBias, ...result } = fusedLinearPreferenceLossSync(
      { data: hidden, shape: shapeOf(options, WIDTH) },
      { data: weight, shape: [VOCAB, WIDTH] },
      labels,
      { ...options, bias, gradient: true },
    )
    return { ...result, gradHidden: gradHidden!.data, gradWeight: gradWeight!.data, gradBias }
  },
  sums(options: Options): Outcome {
    const {
      backward: _,
      backwardSync,
      ...result
    } = sequenceLogProbsSync({ data: logits, shape: shapeOf(options, VOCAB) }, labels, options)
    return { ...result, gradLogits: backwardSync(UPSTREAM).gradLogits.data }
  },
  linearSums(options: Options): Outcome {
    const {
      backward: _,
      backwardSync,
      ...result
    } = linearSequenceLogProbsSync(
      { data: hidden, shape: shapeOf(options, WIDTH) },
      { data: weight, shape: [VOCAB, WIDTH] },
      labels,
      { ...options, bias },
    )
    const { gradHidden, gradWeight, gradBias } = backwardSync(UPSTREAM)
    return { ...result, gradHidden: gradHidden!.data, gradWeight: gradWeight!.data, gradBias }
  },
  entropy(options: Options): Outcome {
    const tensor = { data: logits, shape: shapeOf(options, VOCAB) }
    const { gradLogits, ...result } = crossEntropySync(tensor, labels, { ...options, gradient: true })
    return { ...result, gradLogits: gradLogits!.data }
  },
  linearEntropy(options: Options): Outcome {
    const { gradHidden, gradWeight, gradBias, ...result } = linearCrossEntropySync(
      { data: hidden, shape: shapeOf(options, WIDTH) },
      { data: weight, shape: [VOCAB, WIDTH] },
      labels,
      { ...options, bias, gradient: true },
    )
    return { ...result, gradHidden: gradHidden!.data, gradWeight: gradWeight!.data, gradBias }
  },
  tokens(options: Options): Outcome {
    const outputs = [...((options.outputs as TokenOutput[] | undefined) ?? []), 'tokenLogProbs' as const]
    const {
      backward: _,
      backwardSync,
      ...result
    } = sequenceLogProbsSync({ data: logits, shape: shapeOf(options, VOCAB) }, labels, { ...options, outputs })
    const { gradLogits } = backwardSync({ tokenLogProbs: factors(result.tokenLogProbs!) })
    return { ...result, gradLogits: gradLogits.data }
  },
  linearTokens(options: Options): Outcome {
    const outputs = [...((options.outputs as TokenOutput[] | undefined) ?? []), 'tokenLogProbs' as const]
    const {
      backward: _,
      backwardSync,
      ...result
    } = linearSequenceLogProbsSync(
      { data: hidden, shape: shapeOf(options, WIDTH) },
      { data: weight, shape: [VOCAB, WIDTH] },
      labels,
      { ...options, bias, outputs },
    )
    const { gradHidden, gradWeight, gradBias } = backwardSync({ tokenLogProbs: factors(result.tokenLogProbs!) })
    return { ...result, gradHidden: gradHidden!.data, gradWeight: gradWeight!.data, gradBias }
  },
}

/** Result and gradients of an op of TensorFlow.js. */
function differentiate(
  names: string[],
  inputs: () => tf.Tensor[],
  op: (x: tf.Tensor[], told: object) => tf.Tensor,
): Outcome {
  let outcome: Outcome = {}
  tf.tidy(() => {
    let told: Outcome = {}
    const options = { onResult: (result: Outcome) => (told = result) }
    const weighted = (...x: tf.Tensor[]) => {
      const value = op(x, options)
      if (value.rank === 0) return value
      const upstream = value.size === BATCH ? UPSTREAM : factors({ length: value.size })
      return tf.sum(tf.mul(value.flatten(), upstream))
    }
    const gradients = tf.grads(weighted)(inputs())
    outcome = { ...told, ...Object.fromEntries(names.map((name, i) => [name, gradients[i]!.dataSync().slice()])) }
  })
  return outcome
}

const ofLogits = (options: Options) => () => [tf.tensor(logits, shapeOf(options, VOCAB))]
const ofLayer = (options: Options) => () => [
  tf.tensor(hidden, shapeOf(options, WIDTH)),
  tf.tensor(weight, [VOCAB, WIDTH]),
  tf.tensor(bias),
]
const GRADIENTS = ['gradHidden', 'gradWeight', 'gradBias']
/** Of calls from an output layer to its gradients. */
const ONE_PASS = ['products', 'logitsBudget']

const TFJS: Op[] = [
  {
    name: 'fusedPreferenceLoss',
    takes: PAIRED_OPTIONS,
    call: (options) =>
      differentiate(['gradLogits'], ofLogits(options), ([x], told) =>
        tfjs.fusedPreferenceLoss(x!, labels, { ...options, ...told }),
      ),
    core: core.paired,
    owned: { zeroInactive: false, gradientDType: 'float32', deferredScale: false },
    misspelt: ['onresult', 'onResult'],
  },
  {
    name: 'sequenceLogProbs',
    takes: [...TOKEN_OPTIONS, ...RUN_OPTIONS],
    call: (options) =>
      differentiate(['gradLogits'], ofLogits(options), ([x], told) =>
        tfjs.sequenceLogProbs(x!, labels, { ...options, ...told }),
      ),
    core: core.sums,
    owned: {},
    misspelt: ['gradiant', 'gradient'],
  },
  {
    name: 'fusedLinearPreferenceLoss',
    takes: [...PAIRED_OPTIONS, ...ONE_PASS],
    call: (options) =>
      differentiate(GRADIENTS, ofLayer(options), ([x, w, b], told) =>
        tfjs.fusedLinearPreferenceLoss(x!, w!, labels, { ...options, ...told, bias: b }),
      ),
    core: core.linear,
    owned: {
      gradient: true,
      accumulate: true,
      zeroInactive: false,
      gradientDType: 'float32',
      gradientPrecision: 'float32',
    },
    misspelt: ['transpose', 'transposed'],
  },
  {
    name: 'linearSequenceLogProbs',
    takes: [...TOKEN_OPTIONS, ...RUN_OPTIONS, 'products'],
    call: (options) =>
      differentiate(GRADIENTS, ofLayer(options), ([x, w, b], told) =>
        tfjs.linearSequenceLogProbs(x!, w!, labels, { ...options, ...told, bias: b }),
      ),
    core: core.linearSums,
    owned: {},
    misspelt: ['frozn', 'frozen'],
  },
  {
    name: 'crossEntropy',
    takes: SINGLE_TOKEN_OPTIONS,
    cases: OF_ENTROPY,
    call: (options) =>
      differentiate(['gradLogits'], ofLogits(options), ([x], told) =>
        tfjs.crossEntropy(x!, labels, { ...options, ...told }),
      ),
    core: core.entropy,
    owned: { zeroInactive: false, gradientDType: 'float32', deferredScale: false },
    misspelt: ['zloss', 'zLoss'],
  },
  {
    name: 'linearCrossEntropy',
    takes: [...SINGLE_TOKEN_OPTIONS, ...ONE_PASS],
    cases: OF_ENTROPY,
    call: (options) =>
      differentiate(GRADIENTS, ofLayer(options), ([x, w, b], told) =>
        tfjs.linearCrossEntropy(x!, w!, labels, { ...options, ...told, bias: b }),
      ),
    core: core.linearEntropy,
    owned: {
      gradient: true,
      accumulate: true,
      zeroInactive: false,
      gradientDType: 'float32',
      gradientPrecision: 'float32',
    },
    misspelt: ['transpose', 'transposed'],
  },
  {
    name: 'tokenLogProbs',
    takes: TOKEN_OUTPUT_OPTIONS,
    call: (options) =>
      differentiate(['gradLogits'], ofLogits(options), ([x], told) =>
        tfjs.tokenLogProbs(x!, labels, { ...options, ...told }),
      ),
    core: core.tokens,
    owned: {},
    misspelt: ['output', 'outputs'],
  },
  {
    name: 'linearTokenLogProbs',
    takes: [...TOKEN_OUTPUT_OPTIONS, 'products'],
    call: (options) =>
      differentiate(GRADIENTS, ofLayer(options), ([x, w, b], told) =>
        tfjs.linearTokenLogProbs(x!, w!, labels, { ...options, ...told, bias: b }),
      ),
    core: core.linearTokens,
    owned: {},
    misspelt: ['frozn', 'frozen'],
  },
]

/** A model whose parameters are its logits. */
const asArray = (x: JaxArray) => x

const JAX: Op[] = [
  {
    name: 'fusedPreferenceLossValueAndGrad',
    takes: PAIRED_OPTIONS,
    async call(options) {
      const step = fusedPreferenceLossValueAndGrad(asArray)
      const { metrics, gradParams } = await step(
        np.array(logits, { shape: shapeOf(options, VOCAB) }),
        0,
        labels,
        options,
      )
      return { ...metrics, gradLogits: await gradParams.data() }
    },
    core: core.paired,
    owned: { gradient: 'in-place', zeroInactive: false, gradientDType: 'float32', deferredScale: false },
    misspelt: ['betta', 'beta'],
  },
  {
    name: 'fusedLinearPreferenceLossValueAndGrad',
    takes: [...PAIRED_OPTIONS, ...ONE_PASS],
    async call(options) {
      const step = fusedLinearPreferenceLossValueAndGrad(
        (layer: Record<'hidden' | 'weight' | 'bias', JaxArray>) => layer,
      )
      const layer = {
        hidden: np.array(hidden, { shape: shapeOf(options, WIDTH) }),
        weight: np.array(weight, { shape: [VOCAB, WIDTH] }),
        bias: np.array(bias),
      }
      const { metrics, gradParams } = await step(layer, 0, labels, options)
      const [gradHidden, gradWeight, gradBias] = [gradParams.hidden, gradParams.weight, gradParams.bias]
      return {
        ...metrics,
        gradHidden: await gradHidden.data(),
        gradWeight: await gradWeight.data(),
        gradBias: await gradBias.data(),
      }
    },
    core: core.linear,
    owned: {
      bias: new Float32Array(VOCAB),
      gradient: true,
      accumulate: true,
      zeroInactive: false,
      gradientDType: 'float32',
      gradientPrecision: 'float32',
    },
    misspelt: ['transpose', 'transposed'],
  },
  {
    name: 'crossEntropyValueAndGrad',
    takes: SINGLE_TOKEN_OPTIONS,
    cases: OF_ENTROPY,
    async call(options) {
      const step = crossEntropyValueAndGrad(asArray)
      const array = np.array(logits, { shape: shapeOf(options, VOCAB) })
      const { metrics, gradParams } = await step(array, 0, labels, options)
      return { ...metrics, gradLogits: await gradParams.data() }
    },
    core: core.entropy,
    owned: { gradient: 'in-place', zeroInactive: false, gradientDType: 'float32', deferredScale: false },
    misspelt: ['zloss', 'zLoss'],
  },
  {
    name: 'tokenLossValueAndGrad',
    takes: TOKEN_OUTPUT_OPTIONS.filter((name) => name !== 'outputs'),
    async call(options) {
      const step = tokenLossValueAndGrad(asArray)
      const weighted = ({ tokenLogProbs }: { tokenLogProbs: JaxArray }) => {
        const upstream = np.array(factors({ length: tokenLogProbs.size }), { shape: tokenLogProbs.shape })
        return np.sum(tokenLogProbs.mul(upstream))
      }
      const array = np.array(logits, { shape: shapeOf(options, VOCAB) })
      const result = await step(array, 0, labels, weighted, options)
      const { loss: _, ...metrics } = result.metrics
      return { ...metrics, gradLogits: await result.gradParams.data() }
    },
    core: core.tokens,
    owned: { gradient: 'in-place', zeroInactive: false, gradientDType: 'float32', deferredScale: false },
    misspelt: ['output', 'outputs'],
  },
]

const base = ({ takes }: Op): Options => (takes.includes('reference') ? { reference, beta: 0.3 } : {})

describe.each([
  { library: 'TensorFlow.js, cpu', backend: 'cpu', ops: TFJS },
  { library: 'TensorFlow.js, wasm', backend: 'wasm', ops: TFJS },
  { library: 'jax-js', backend: undefined, ops: JAX },
])('$library', ({ backend, ops }) => {
  beforeEach(async () => {
    if (backend) expect(await tf.setBackend(backend)).toBe(true)
    const before = { ...tf.memory(), live: liveBuffers() }
    // No tensor is left behind, whether the option is taken or refused.
    return () => {
      const { numTensors, numBytes } = tf.memory()
      expect({ numTensors, numBytes, live: liveBuffers() }).toEqual({
        numTensors: before.numTensors,
        numBytes: before.numBytes,
        live: before.live,
      })
    }
  })

  describe.each(ops.map((op) => ({ ...op, op })))('$name', ({ op, takes, owned, misspelt: [wrong, right] }) => {
    it('has a case here for each option of the function behind', () => {
      expect(Object.keys(CASES)).toEqual(expect.arrayContaining([...takes]))
    })

    it.each(takes)('hands %s on', async (name) => {
      const { options, beside } = op.cases?.[name] ?? CASES[name]
      const given = { ...base(op), ...beside, ...options }
      const wanted = await outcomeOf(op.core, given)
      const without = { ...given, [name]: base(op)[name] ?? beside?.[name] }
      // Packed logits have another shape; without offsets all sequences would count as one.
      if (name === 'sequenceOffsets') without.sequenceOffsets = [0, 8, 11, 16, ROWS]
      expect(await outcomeOf(op.core, without)).not.toEqual(wanted)
      expect(await outcomeOf(op.call, given)).toEqual(wanted)
    })

    it.each(Object.keys(owned))('refuses %s, which it decides itself', async (name) => {
      const error = await outcomeOf(op.call, { ...base(op), [name]: owned[name] })
      expect(error).toEqual({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringMatching(new RegExp(`^options\\.${name} is not taken: .{20}`)),
      })
      expect(await outcomeOf(op.call, { ...base(op), [name]: undefined })).toEqual(await op.core(base(op)))
    })

    it('says which option does not exist', async () => {
      expect(await outcomeOf(op.call, { ...base(op), [wrong]: true })).toEqual({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringMatching(new RegExp(`^options\\.${wrong} is not an option; did you mean '${right}'`)),
      })
    })
  })
})

describe('options that are no object', () => {
  const x = () => tf.tensor(logits, [BATCH, TIME, VOCAB])
  const layer = () => [tf.tensor(hidden, [BATCH, TIME, WIDTH]), tf.tensor(weight, [VOCAB, WIDTH])] as const
  const inTidy = (op: () => tf.Tensor) => async () => tf.tidy(() => void op())
  const asLayer = (x: JaxArray) => ({ hidden: x.ref, weight: x })
  it.each<[string, (options: never) => () => Promise<unknown>]>([
    ['crossEntropy', (options) => inTidy(() => tfjs.crossEntropy(x(), labels, options))],
    ['tokenLogProbs', (options) => inTidy(() => tfjs.tokenLogProbs(x(), labels, options))],
    ['linearCrossEntropy', (options) => inTidy(() => tfjs.linearCrossEntropy(...layer(), labels, options))],
    ['linearTokenLogProbs', (options) => inTidy(() => tfjs.linearTokenLogProbs(...layer(), labels, options))],
    ['fusedPreferenceLoss', (options) => inTidy(() => tfjs.fusedPreferenceLoss(x(), labels, options))],
    ['sequenceLogProbs', (options) => inTidy(() => tfjs.sequenceLogProbs(x(), labels, options))],
    ['sparseSoftmaxCrossEntropy', (options) => inTidy(() => tfjs.sparseSoftmaxCrossEntropy(x(), labels, options))],
    [
      'fusedLinearPreferenceLoss',
      (options) => inTidy(() => tfjs.fusedLinearPreferenceLoss(...layer(), labels, options)),
    ],
    ['linearSequenceLogProbs', (options) => inTidy(() => tfjs.linearSequenceLogProbs(...layer(), labels, options))],
    [
      'fusedPreferenceLossValueAndGrad',
      (options) => () => fusedPreferenceLossValueAndGrad(asArray)(np.array(logits), 0, labels, options),
    ],
    [
      'fusedLinearPreferenceLossValueAndGrad',
      (options) => () => fusedLinearPreferenceLossValueAndGrad(asLayer)(np.array(logits), 0, labels, options),
    ],
  ])('are refused by %s', async (_, call) => {
    const live = liveBuffers()
    for (const options of [null, [], 5, new Float32Array(2)]) {
      await expect(call(options as never)()).rejects.toMatchObject({
        code: 'ERR_INVALID_ARG_TYPE',
        message: expect.stringContaining('options must be an object'),
      })
    }
    expect(liveBuffers()).toBe(live)
  })
})
