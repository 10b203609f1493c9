/**
 * A wrong value for every option of the main functions, and the error that it causes.
 */
import * as main from 'fused-preference-loss'
import { preferenceBatches, readPreferences } from 'fused-preference-loss/data'
import { globalCountsSync, sumGradientsSync } from 'fused-preference-loss/distributed'
import { stepMetrics } from 'fused-preference-loss/metrics'

const [BATCH, TIME, VOCAB, WIDTH] = [2, 4, 8, 3]
const logits = () => ({ data: new Float32Array(BATCH * TIME * VOCAB), shape: [BATCH, TIME, VOCAB] })
const hidden = () => ({ data: new Float32Array(BATCH * TIME * WIDTH), shape: [BATCH, TIME, WIDTH] })
const weight = { data: new Float32Array(VOCAB * WIDTH), shape: [VOCAB, WIDTH] }
const labels = new Int32Array(BATCH * TIME).fill(3)
const reference = { chosen: [-6], rejected: [-6] }

const fused = (/** @type {object} */ options) =>
  main.fusedPreferenceLossSync(logits(), labels, { reference, ...options })
const backward = (/** @type {object} */ options) =>
  main.sequenceLogProbsSync(logits(), labels).backwardSync([1, -1], options)
const linearBackward = (/** @type {object} */ options) =>
  main.linearSequenceLogProbsSync(hidden(), weight, labels).backwardSync([1, -1], options)
const linear = (/** @type {object} */ options) =>
  main.fusedLinearPreferenceLossSync(hidden(), weight, labels, { reference, ...options })
const unpaired = (/** @type {object} */ options) => {
  const given = { desirable: [1, 0], kl: 0, reference: { logProbs: [-6, -6] }, ...options }
  return main.fusedUnpairedPreferenceLossSync(logits(), labels, given)
}
const linearUnpaired = (/** @type {object} */ options) => {
  const given = { desirable: [1, 0], kl: 0, reference: { logProbs: [-6, -6] }, ...options }
  return main.fusedLinearUnpairedPreferenceLossSync(hidden(), weight, labels, given)
}
const tokens = (/** @type {object} */ options) => main.crossEntropySync(logits(), labels, options)
const linearTokens = (/** @type {object} */ options) => main.linearCrossEntropySync(hidden(), weight, labels, options)
const steps = (/** @type {object} */ options) => stepMetrics(fused({}), { labels }, { step: 0, ...options })
/** A communicator of this process alone. */
const alone = () => ({
  ...{ rank: 0, size: 1, allGather: async () => {}, allReduceSum: async () => {}, barrier: async () => {} },
  allGatherSync: (/** @type {Uint8Array} */ send, /** @type {Uint8Array} */ receive) => receive.set(send),
  ...{ allReduceSumSync() {}, barrierSync() {}, abort() {} },
})
const counts = (/** @type {object} */ options) => globalCountsSync(alone(), { labels, shape: [BATCH, TIME] }, options)
const gradients = (/** @type {object} */ options) => sumGradientsSync(alone(), [new Float32Array(2)], options)
const batches = (/** @type {object} */ options) => {
  const records = [{ prompt: 'a', chosen: 'b', rejected: 'c' }]
  return preferenceBatches(records, { tokenizer: (text) => Buffer.from(text), batchSize: 1, ...options }).next()
}
const read = (/** @type {object} */ options) => readPreferences(stream(), options).next()
async function* stream() {
  yield '{ "prompt": "a", "chosen": "b", "rejected": "c" }\n'
}

/**
 * By subpath and interface: the call that gets the wrong value, and the values.
 * @type {Record<string, [call: (options: object) => unknown, values: Record<string, unknown>]>}
 */
const WRONG = {
  'main/TokenOptions': [
    fused,
    {
      shift: 1,
      ignoreIndex: 0.5,
      mask: [true],
      tokenWeights: [1],
      averageLogProb: 1,
      temperature: 0,
      logitScale: 0,
      logitSoftcap: Number.POSITIVE_INFINITY,
      sequenceOffsets: 8,
      emptySequence: 'skip',
      outputs: ['entropy'],
      ldAlpha: 2,
      pairs: [0, 2],
    },
  ],
  'main/LossOptions': [
    fused,
    {
      lossType: 'dpo',
      beta: 0,
      labelSmoothing: 2,
      offset: [0, 0],
      pairWeights: [-1],
      gamma: 1,
      rewardShift: 1,
      targetMargin: 1,
      dpopLambda: -1,
      discopopTau: 0,
      referenceFree: 'yes',
      fDivergence: 'kl',
      alpha: 1,
      rewardAlpha: 0.25,
      sftNormalization: 'pairs',
      averageLogProb: 1,
      normalizer: 0,
      gradientScale: Number.NaN,
    },
  ],
  'main/UnpairedLossOptions': [
    unpaired,
    {
      desirable: [1, 2],
      lossType: 'kto_pair',
      beta: 0,
      desirableWeight: -1,
      undesirableWeight: -1,
      sequenceWeights: [1, -1],
      targets: [1, 2],
      klLogProbs: [Number.NaN],
      referenceKlLogProbs: [-6],
      kl: Number.NaN,
      rewardShift: 1,
      referenceFree: 'yes',
      normalizer: 0,
      gradientScale: Number.NaN,
    },
  ],
  'main/TokenLossOptions': [
    tokens,
    {
      labelSmoothing: 2,
      zLoss: -1,
      dft: 1,
      classWeights: [1],
      normalizer: { tokens: 0 },
      gradientScale: Number.NaN,
    },
  ],
  'main/LogitsGradientOptions': [
    (/** @type {object} */ options) => fused({ gradient: 'in-place', ...options }),
    { zeroInactive: 0, gradientDType: 'float16', deferredScale: 1 },
  ],
  'main/CrossEntropyOptions': [tokens, { gradient: new Float32Array(1) }],
  'main/LinearCrossEntropyOptions': [linearTokens, { gradient: 'in-place' }],
  'main/RunOptions': [
    fused,
    { backend: 'gpu', threads: 0, instructionSet: 'sse', stream: 1, device: 1, gpuDevice: {}, signal: {} },
  ],
  'main/ShardOptions': [
    (/** @type {object} */ options) => tokens({ communicator: alone(), shard: { start: 0, vocab: VOCAB }, ...options }),
    { shard: { start: 1, vocab: VOCAB }, communicator: {}, segments: 'most' },
  ],
  'main/FusedOptions': [fused, { reference: { chosen: [-6] }, weighting: 'vpo', gradient: new Float32Array(1) }],
  'main/FusedUnpairedOptions': [unpaired, { reference: { logProbs: [-6] }, gradient: new Float32Array(1) }],
  'main/FusedLinearUnpairedOptions': [linearUnpaired, { reference: { hidden: hidden() }, gradient: 'in-place' }],
  'main/BackwardOptions': [backward, { gradient: false, gradientScale: Number.NaN }],
  'main/LinearBackwardOptions': [linearBackward, { gradient: { bias: true }, gradientScale: Number.NaN }],
  'main/HeadOptions': [linear, { bias: new Float32Array(1), products: 'mkl' }],
  'main/HeadGradientRequest': [
    (/** @type {object} */ gradient) => linear({ gradient }),
    { hidden: new Float32Array(1), weight: new Float32Array(1), bias: true },
  ],
  'main/HeadGradientOptions': [
    linear,
    { accumulate: true, zeroInactive: 0, gradientDType: 'half', gradientPrecision: 'tf32' },
  ],
  'main/FusedLinearOptions': [linear, { reference: { hidden: hidden() }, weighting: 'vpo', gradient: 'in-place' }],
  'data/ReadOptions': [read, { chatTemplate: 'chatml', onError: 'stop', onWarning: true, name: 1 }],
  'data/BatchOptions': [
    batches,
    {
      tokenizer: {},
      batchSize: 0,
      maxLength: 1,
      maxPromptLength: -1,
      layout: 'flat',
      padToMultipleOf: 0,
      padId: -1,
      bosId: 0.5,
      eosId: '2',
      ignoreIndex: 0.5,
      onIdentical: 'drop',
      onWarning: true,
    },
  ],
  'distributed/CountOptions': [
    counts,
    { shift: 1, ignoreIndex: 0.5, mask: [1], signal: {}, classWeights: [0, 0, 0, -1] },
  ],
  'distributed/GradientOptions': [gradients, { bucketBytes: 4, signal: {} }],
  'metrics/StepOptions': [
    steps,
    {
      step: -1,
      ms: -1,
      bytes: -1,
      tokensBefore: 0,
    },
  ],
}

/**
 * Types of the main module and of other subpaths whose options get no example; the pages of those types explain the
 * options.
 */
const covered = (/** @type {string} */ path) => ['main', 'data', 'metrics', 'distributed'].includes(path)

/**
 * The code and message of the error that a wrong value of the option gets; undefined for a subpath without examples.
 *
 * @param {string} path
 * @param {string} type
 * @param {string} option
 */
export async function errorOf(path, type, option) {
  if (!covered(path)) return undefined
  const [call, values] = WRONG[`${path}/${type}`] ?? []
  if (!values || !(option in values))
    throw new Error(`scripts/api/wrong-values.mjs has no wrong value for ${option} of ${path}/${type}`)
  try {
    await call({ [option]: values[option] })
  } catch (thrown) {
    const error = /** @type {Error & { code?: string }} */ (thrown)
    if (error.code?.startsWith('ERR_')) return `${error.code}: ${error.message}`
    throw error
  }
  throw new Error(`${JSON.stringify(values[option])} is not a wrong value for ${option}`)
}
