/**
 * The jax-js steps over single tokens: cross-entropy, and losses of the user's own, against the operations of jax-js.
 */
import { type Array as JaxArray, jit, nn, numpy as np, tree, valueAndGrad } from '@jax-js/jax'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  crossEntropyValueAndGrad,
  type DifferentiableOutput,
  linearCrossEntropyValueAndGrad,
  linearTokenLossValueAndGrad,
  tokenLossValueAndGrad,
} from '../lib/adapters/jax/index.js'
import { crossEntropySync, sequenceLogProbsSync } from '../lib/index.js'
import { liveBuffers } from './jax-buffers.js'
import { gaussian, random } from './support.js'

const [BATCH, TIME, WIDTH, VOCAB] = [4, 5, 6, 31]
const NAMES = ['tokenLogProbs', 'tokenEntropies', 'logSumExp', 'tokenMeanLogits'] as const
const next = random(5)
const normal = (length: number) => Float32Array.from({ length }, () => gaussian(next))
const [hidden, weight, bias] = [normal(BATCH * TIME * WIDTH), normal(WIDTH * VOCAB), normal(VOCAB)]
const labels = Int32Array.from({ length: BATCH * TIME }, (_, i) => (i === 3 || i === 14 ? -100 : (i * 7) % VOCAB))
const active = Float32Array.from(labels, (label) => Number(label >= 0))
const count = active.reduce((sum, each) => sum + each)

/** One factor a token, each of its own. */
const factors = (k: number) =>
  np.array(
    Float32Array.from(labels, (_, i) => Math.sin(5 * k + i)),
    { shape: [BATCH, TIME] },
  )
const activeRows = () => np.array(active, { shape: [BATCH, TIME] })
const zero = () => 0

type Params = { hidden: JaxArray; weight: JaxArray; bias: JaxArray }
const parameters = (): Params => ({
  hidden: np.array(hidden, { shape: [BATCH, TIME, WIDTH] }),
  weight: np.array(weight, { shape: [WIDTH, VOCAB] }),
  bias: np.array(bias),
})
const apply = ({ hidden, weight, bias }: Params, scale: number) => np.matmul(hidden, weight).add(bias).mul(scale)
const layerOf = (params: Params, _: number) => params

/** Log-probs of the labels and so on, by operations of jax-js; 0 where inactive. */
function ownTokens(logits: JaxArray): Record<DifferentiableOutput, JaxArray> {
  // oneHot turns -100 into a row that is not zero.
  const ids = np.array(
    labels.map((label) => Math.max(0, label)),
    { shape: [BATCH, TIME] },
  )
  const logProbs = nn.logSoftmax(logits.ref, -1)
  const entropies = np.sum(np.exp(logProbs.ref).mul(logProbs.ref), -1).mul(-1)
  return {
    tokenLogProbs: np.sum(logProbs.mul(nn.oneHot(ids, VOCAB)), -1).mul(activeRows()),
    tokenEntropies: entropies.mul(activeRows()),
    logSumExp: nn.logsumexp(logits.ref, -1).mul(activeRows()),
    tokenMeanLogits: np.mean(logits, -1).mul(activeRows()),
  }
}

/** A loss with a derivative of its own for each result of each token. */
const lossOf = (tokens: Record<DifferentiableOutput, JaxArray>): JaxArray =>
  NAMES.map((name, k) => np.sum(tokens[name].ref.mul(tokens[name]).mul(factors(k)))).reduce((sum, term) =>
    sum.add(term),
  )

/** GRPO: the clipped ratio to the policy that wrote the tokens, and the KL divergence from a reference. */
function grpo({ tokenLogProbs }: { tokenLogProbs: JaxArray }): JaxArray {
  const old = np.array(
    Float32Array.from(labels, (_, i) => -3.4 + 2 * Math.sin(i)),
    { shape: [BATCH, TIME] },
  )
  const advantages = np.array(Float32Array.of(0.7, -1.2, 0.4, -0.3), { shape: [BATCH, 1] })
  const ratio = np.exp(tokenLogProbs.ref.sub(old.ref))
  const clipped = np.clip(ratio.ref, 0.8, 1.2).mul(advantages.ref)
  const gain = np.minimum(ratio.mul(advantages), clipped)
  const gap = old.sub(tokenLogProbs)
  const kl = np.exp(gap.ref).sub(gap).sub(1)
  return np.sum(kl.mul(0.04).sub(gain).mul(activeRows())).mul(1 / count)
}

/** Greatest difference of two arrays, relative to the greatest element of the second. */
function difference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length)
  const largest = Math.max(...Array.from(b, Math.abs))
  expect(largest).toBeGreaterThan(0)
  return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i]))) / largest
}

type Step = Promise<{ loss: number; gradParams: Params }>

/** Loss and gradients of a step against those of jax-js, to 1e-5 of the largest. */
async function expectEqual(step: Step, own: (logits: JaxArray) => JaxArray): Promise<void> {
  const { loss, gradParams } = await step
  const [value, gradients] = valueAndGrad((params: Params) => own(apply(params, 1)))(parameters()) as [JaxArray, Params]
  expect(difference([loss], await value.data())).toBeLessThan(1e-5)
  for (const name of ['hidden', 'weight', 'bias'] as const) {
    expect(difference(await gradParams[name].data(), await gradients[name].data())).toBeLessThan(1e-5)
  }
}

let before = 0
beforeEach(() => {
  before = liveBuffers()
})
afterEach(() => {
  expect(liveBuffers()).toBe(before)
})

const transposed = true
const shift = false

describe('crossEntropyValueAndGrad', () => {
  const ownCrossEntropy = (smoothing: number) => (logits: JaxArray) => {
    const mean = np.mean(nn.logSoftmax(logits.ref, -1), -1).mul(activeRows())
    const { tokenLogProbs, ...others } = ownTokens(logits)
    tree.dispose(others)
    return np.sum(tokenLogProbs.mul(1 - smoothing).add(mean.mul(smoothing))).mul(-1 / count)
  }

  it.each([0, 0.1])('gives the loss and the gradients of its own operations (%s smoothed)', async (labelSmoothing) => {
    const options = { shift, labelSmoothing }
    const own = ownCrossEntropy(labelSmoothing)
    await expectEqual(crossEntropyValueAndGrad(apply)(parameters(), 1, labels, options), own)
    const linear = linearCrossEntropyValueAndGrad(layerOf)
    await expectEqual(linear(parameters(), 0, labels, { ...options, transposed }), own)
  })

  it('hands its options on, and tells what it knows', async () => {
    const logits = normal(BATCH * TIME * VOCAB)
    const options = {
      zLoss: 0.01,
      classWeights: Array.from({ length: VOCAB }, (_, v) => 1 + (v % 3)),
      mask: labels.map((_, i) => Number(i % 4 !== 2)),
      outputs: ['tokenArgmax'] as const,
      normalizer: { tokens: 9 },
    }
    const shape = [BATCH, TIME, VOCAB]
    const { gradLogits, ...wanted } = crossEntropySync({ data: logits, shape }, labels, { ...options, gradient: true })
    const step = crossEntropyValueAndGrad((x: JaxArray) => x)
    const { loss, metrics, gradParams } = await step(np.array(logits, { shape }), 0, labels, options)
    expect(loss).toBe(wanted.loss)
    expect(metrics).toEqual(wanted)
    expect(await gradParams.data()).toEqual(gradLogits!.data)
  })

  it('refuses what is no option, or what it decides itself', async () => {
    const linear = linearCrossEntropyValueAndGrad(layerOf)
    for (const [name, problem] of [
      ['pairs', 'is not an option'],
      ['gradient', 'is not taken'],
      ['zeroInactive', 'is not taken'],
    ]) {
      const options = { [name]: true } as never
      const error = { code: 'ERR_INVALID_ARG_VALUE', message: expect.stringContaining(`options.${name} ${problem}`) }
      await expect(crossEntropyValueAndGrad(apply)(parameters(), 1, labels, options)).rejects.toMatchObject(error)
      await expect(linear(parameters(), 0, labels, options)).rejects.toMatchObject(error)
    }
  })
})

describe('tokenLossValueAndGrad', () => {
  const step = tokenLossValueAndGrad(apply)
  const linear = linearTokenLossValueAndGrad(layerOf)

  it('differentiates a GRPO loss, also a jitted one', async () => {
    const own = (logits: JaxArray) => {
      const { tokenLogProbs, ...others } = ownTokens(logits)
      tree.dispose(others)
      return grpo({ tokenLogProbs })
    }
    await expectEqual(step(parameters(), 1, labels, grpo, { shift }), own)
    await expectEqual(linear(parameters(), 0, labels, grpo, { shift, transposed }), own)
    const jitted = jit(grpo)
    await expectEqual(step(parameters(), 1, labels, jitted as typeof grpo, { shift }), own)
    jitted.dispose()
  })

  it('gives the loss all results that have a gradient', async () => {
    const own = (logits: JaxArray) => lossOf(ownTokens(logits))
    await expectEqual(step(parameters(), 1, labels, lossOf, { shift, outputs: NAMES }), own)
    await expectEqual(linear(parameters(), 0, labels, lossOf, { shift, outputs: NAMES, transposed }), own)
  })

  it.each(NAMES)('gives it one of them alone (%s)', async (name) => {
    const square = (x: JaxArray) => np.sum(x.ref.mul(x))
    const own = (logits: JaxArray) => {
      const { [name]: one, ...others } = ownTokens(logits)
      tree.dispose(others)
      return square(one)
    }
    const loss = (tokens: Record<string, JaxArray>) => square(tokens[name])
    await expectEqual(step(parameters(), 1, labels, loss, { shift, outputs: [name] }), own)
    await expectEqual(linear(parameters(), 0, labels, loss, { shift, outputs: [name], transposed }), own)
  })

  it('gives it the shapes and numbers of the main module, with a shift, and packed', async () => {
    const logits = normal(BATCH * TIME * VOCAB)
    const alone = tokenLossValueAndGrad((x: JaxArray) => x)
    for (const { shape, wanted, options } of [
      { shape: [BATCH, TIME, VOCAB], wanted: [BATCH, TIME - 1], options: {} },
      { shape: [BATCH * TIME, VOCAB], wanted: [BATCH * TIME], options: { sequenceOffsets: [0, 7, BATCH * TIME] } },
    ]) {
      let given: number[] = []
      const loss = ({ tokenLogProbs }: { tokenLogProbs: JaxArray }) => {
        given = tokenLogProbs.shape
        return np.sum(tokenLogProbs.ref.mul(tokenLogProbs))
      }
      const result = sequenceLogProbsSync({ data: logits, shape }, labels, { ...options, outputs: ['tokenLogProbs'] })
      const { metrics, gradParams } = await alone(np.array(logits, { shape }), 0, labels, loss, options)
      expect(given).toEqual(wanted)
      expect(metrics.tokenLogProbs).toEqual(result.tokenLogProbs)
      expect(metrics.logProbs).toEqual(result.logProbs)
      expect(Object.keys(metrics)).not.toContain('backward')
      const derivative = result.tokenLogProbs!.map((x) => 2 * x)
      expect(await gradParams.data()).toEqual(result.backwardSync({ tokenLogProbs: derivative }).gradLogits.data)
    }
  })

  it('learns from a reward: tokens that are wanted become more likely', async () => {
    let params = np.zeros([BATCH, TIME, VOCAB])
    const alone = tokenLossValueAndGrad((x: JaxArray) => x)
    const reinforce = ({ tokenLogProbs }: { tokenLogProbs: JaxArray }) => np.sum(tokenLogProbs).mul(-1)
    const losses: number[] = []
    for (let i = 0; i < 20; i++) {
      const { loss, gradParams } = await alone(params.ref, 0, labels, reinforce)
      params = params.sub(gradParams)
      losses.push(loss)
    }
    params.dispose()
    expect(losses[0]).toBeGreaterThan(40)
    expect(losses.at(-1)).toBeLessThan(4)
  })

  describe('refuses, and uses up what it is given, and nothing else', () => {
    const fine = ({ tokenLogProbs }: { tokenLogProbs: JaxArray }) => np.sum(tokenLogProbs)
    it.each<[string, string | undefined, RegExp, unknown, object]>([
      ['no loss', 'ERR_INVALID_ARG_TYPE', /^loss must be a function/, undefined, {}],
      ['a loss that is a number', 'ERR_INVALID_ARG_TYPE', /^loss\(tokens\) must be a scalar array.*got 0/, zero, {}],
      [
        'a loss that is not there at once',
        'ERR_INVALID_ARG_TYPE',
        /at once; got an instance of Promise/,
        async () => 0,
        {},
      ],
      [
        'a loss per token',
        'ERR_SHAPE_MISMATCH',
        /^loss\(tokens\) must be a scalar; got \[4, 4\]$/,
        ({ tokenLogProbs }: { tokenLogProbs: JaxArray }) => tokenLogProbs.mul(2),
        {},
      ],
      [
        'a loss that throws',
        undefined,
        /^half a loss$/,
        ({ tokenLogProbs }: { tokenLogProbs: JaxArray }) => {
          tokenLogProbs.dispose()
          throw new Error('half a loss')
        },
        {},
      ],
      ['no outputs', 'ERR_INVALID_ARG_VALUE', /^options\.outputs must name at least one/, fine, { outputs: [] }],
      [
        'an output without a gradient',
        'ERR_INVALID_ARG_VALUE',
        /^options\.outputs\[0\].*'x'/,
        fine,
        { outputs: ['x'] },
      ],
      ['options of sums', 'ERR_INVALID_ARG_VALUE', /tokenWeights is not an option/, fine, { tokenWeights: [1] }],
      ['a gradient', 'ERR_INVALID_ARG_VALUE', /gradient is not taken/, fine, { gradient: true }],
    ])('%s', async (_, code, message, loss, options) => {
      for (const [run, more] of [
        [step, {}],
        [linear, { transposed }],
      ] as const) {
        const params = parameters()
        const given = { ...options, ...more } as never
        const error = await run(tree.ref(params), 1, labels, loss as never, given).catch((reason) => reason)
        expect(error).toBeInstanceOf(Error)
        expect(error).toMatchObject({ ...(code && { code }), message: expect.stringMatching(message) })
        expect(Object.values(params).map(({ refCount }) => refCount)).toEqual([1, 1, 1])
        tree.dispose(params)
      }
    })
  })
})
