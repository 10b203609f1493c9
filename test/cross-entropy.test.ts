/**
 * `crossEntropy` and `linearCrossEntropy` on every backend. The golden cases of
 * golden/cross-entropy.jsonl are those of PyTorch's cross_entropy, in float64.
 */
import { describe, expect, test } from 'vitest'
import {
  crossEntropy,
  crossEntropySync,
  linearCrossEntropy,
  linearCrossEntropySync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { CrossEntropyOptions, LinearCrossEntropyOptions, TokenOutput } from '../lib/options/index.js'
import type { CrossEntropy, Logits } from '../lib/types/index.js'
import * as calls from './calls.js'
import { element, type LogitsSpec, logitsOf } from './golden/inputs.js'
import { spyOnWarnings } from './platform.js'
import {
  ALL_TARGETS,
  bytes,
  DTYPES,
  decode,
  encode,
  fusesMultiplyAdds,
  gaussian,
  goldenCases,
  NATIVE,
  random,
  TARGETS,
  logitsOf as tensor,
  ulp,
  ulpsOf,
  values,
  WASM,
} from './support.js'

interface Case {
  name: string
  logits: LogitsSpec
  labels: number[]
  options: CrossEntropyOptions
  expected: {
    loss: number
    losses: number[]
    scales: number[]
    divisor: number
    tokenCounts: number[]
    gradient: { at?: number[]; values: number[]; magnitudes: number[] }
    rowScale?: number[]
  }
}

const CASES = await goldenCases<Case>('cross-entropy')

// As docs/numerics.md has them.
const GRADIENT_ABSOLUTE = 1e-37
// DFT multiplies by p, which a GPU's float32 sums leave 2 ULP off.
const DFT_ULPS = 2
// Of soft-capped logits, as in token-gradients.test.ts: of the tanh, and of its slope.
const EPSILON = 2 ** -23
const TANH_ULPS = 4
const SLOPE_ULPS = 5
const SLOPE_ABSOLUTE = 1e-36

describe.each(CASES)('$name', ({ logits: spec, labels, options, expected }) => {
  const { logitSoftcap: cap = null, logitScale = 1, temperature = 1 } = options
  /** By how much logits may be off that are capped. */
  const ofLogits = cap === null ? 0 : (TANH_ULPS * EPSILON * cap) / temperature

  test.each(ALL_TARGETS)('$name', async ({ run }) => {
    const dtype = options.gradientDType ?? spec.dtype
    const logits = logitsOf(spec)
    const { shape, strides } = logits
    const [vocab, time] = [shape.at(-1)!, shape.at(-2)!]
    const [timeStride, batchStride] = strides ? [strides.at(-2)!, strides.at(-3) ?? 0] : [vocab, time * vocab]
    const startOf = (row: number) => Math.floor(row / time) * batchStride + (row % time) * timeStride
    const before = bytes(logits.data as Float32Array).slice()
    const all = { ...options, ...run }
    const given = Int32Array.from(labels)
    const got = await calls.crossEntropy(logits, given, { ...all, gradient: true })
    expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)

    expect([...got.tokenCounts]).toEqual(expected.tokenCounts)
    expect(got.losses).toHaveLength(expected.losses.length)
    let bound = 0
    for (const [i, wanted] of expected.losses.map(Number).entries()) {
      const ofToken = ulpsOf(run).logProb * ulp(expected.scales[i]) + 2 * ofLogits * expected.scales[i]
      bound += ofToken
      if (got.losses[i] !== wanted) expect(Math.abs(got.losses[i] - wanted), `token ${i}`).toBeLessThanOrEqual(ofToken)
    }
    const loss = Number(expected.loss)
    if (got.loss !== loss) expect(Math.abs(got.loss - loss)).toBeLessThanOrEqual(bound / expected.divisor)

    expect(got.gradLogits!.dtype).toBe(options.gradientDType ?? spec.dtype)
    expect(got.rowScale === undefined).toBe(expected.rowScale === undefined)
    for (const [i, wanted] of (expected.rowScale ?? []).entries()) {
      // Under dft it has the label's probability, which is as exact as its logarithm and the cap allow.
      const relative = options.dft ? 1e-12 + 2 * ofLogits : 1e-14
      expect(Math.abs(got.rowScale![i] - wanted)).toBeLessThanOrEqual(relative * Math.abs(wanted))
    }

    const { at, values: wanted, magnitudes } = expected.gradient
    for (const [k, x] of wanted.entries()) {
      const index = at === undefined ? k : at[k]
      const ulps = ulpsOf(run).gradient + (options.dft && run.backend === 'cuda' ? DFT_ULPS : 0)
      let bound = ulps * ulp(magnitudes[k]) + GRADIENT_ABSOLUTE
      if (cap !== null) {
        const logit = element(logits, startOf(Math.floor(index / vocab)) + (index % vocab))
        const caps = Math.min(Math.abs(logit * logitScale) / cap, 43)
        const slopeUlps = SLOPE_ULPS + (fusesMultiplyAdds(run) ? 0 : 2 * caps)
        bound += magnitudes[k] * (slopeUlps * EPSILON + 4 * ofLogits) + SLOPE_ABSOLUTE
      }
      const value = element(got.gradLogits as Logits, index)
      const [low, high] =
        dtype === 'float32'
          ? [x - bound, x + bound]
          : [x - bound, x + bound].map((end) => decode[dtype](encode[dtype](end)))
      const ulpsOff = (value - x) / ulp(magnitudes[k])
      if (!(value >= low && value <= high)) expect.fail(`${value}, not ${x}: ${ulpsOff} ULP off at ${index}`)
    }

    const { deferredScale: _, ...forward } = all
    const alone = await calls.crossEntropy(logits, given, forward)
    expect([alone.loss, alone.gradLogits]).toEqual([got.loss, undefined])
    expect(alone.losses).toEqual(got.losses)
    if ((dtype === 'float32') !== (spec.dtype === 'float32')) return
    const inPlace = await calls.crossEntropy(logits, given, { ...all, gradient: 'in-place' })
    expect([inPlace.loss, inPlace.losses]).toEqual([got.loss, got.losses])
    expect(inPlace.gradLogits!.data).toBe(logits.data)
    const fresh = got.gradLogits!.data as Float32Array
    for (let row = 0; row * vocab < fresh.length; row++) {
      const overwritten = (logits.data as Float32Array).subarray(startOf(row), startOf(row) + vocab)
      const ofRow = fresh.subarray(row * vocab, (row + 1) * vocab)
      expect(bytes(overwritten).equals(bytes(ofRow)), `row ${row}`).toBe(true)
    }
  })
})

const SHAPE = [2, 4, 37]
const LABELS = Int32Array.of(3, -100, 0, 36, 5, 5, 17, 1)
const next = random(18)
const LOGITS = Float64Array.from({ length: 2 * 4 * 37 }, () => Math.fround(3 * gaussian(next)))
const TOKEN_WEIGHTS = [1, 0.5, 2, 1, -1, 1, 0.75, 1]
const CLASS_WEIGHTS = Float64Array.from({ length: 37 }, (_, v) => (v % 5) / 2)
const VARIANTS: Omit<CrossEntropyOptions, 'gradient'>[] = [
  {},
  { labelSmoothing: 0.2 },
  { zLoss: 0.05 },
  { classWeights: CLASS_WEIGHTS },
  { classWeights: CLASS_WEIGHTS, labelSmoothing: 0.2 },
  { classWeights: CLASS_WEIGHTS, labelSmoothing: 1, logitScale: 1.3, logitSoftcap: 4, tokenWeights: TOKEN_WEIGHTS },
  { tokenWeights: TOKEN_WEIGHTS, normalizer: 3, temperature: 0.7 },
  { labelSmoothing: 0.1, zLoss: 0.01, tokenWeights: TOKEN_WEIGHTS, normalizer: 'sum' },
  { labelSmoothing: 0.1, zLoss: 0.01, logitScale: 1.3 },
  { labelSmoothing: 0.1, zLoss: 0.01, logitScale: 1.3, logitSoftcap: 4, temperature: 0.8 },
]

/** The same with a head whose products are exact in float32. */
function head(dtype: 'float32' | 'float16' | 'bfloat16', width = 5) {
  const sixteenths = (count: number) => Float64Array.from({ length: count }, () => Math.round(16 * gaussian(next)) / 16)
  const [hidden, weight, bias] = [sixteenths(8 * width), sixteenths(37 * width), sixteenths(37)]
  const logits = new Float64Array(8 * 37)
  for (let r = 0; r < 8; r++) {
    for (let v = 0; v < 37; v++) {
      logits[r * 37 + v] = bias[v]
      for (let d = 0; d < width; d++) logits[r * 37 + v] += hidden[r * width + d] * weight[v * width + d]
    }
  }
  const tensors = { hidden: tensor(dtype, [2, 4, width], hidden), weight: tensor(dtype, [37, width], weight) }
  return { ...tensors, bias: Float32Array.from(bias), logits, numbers: { hidden, weight }, width }
}

describe.each(TARGETS)('$name', ({ run }) => {
  test('the gradient is the difference of the loss', () => {
    const h = 2 ** -6
    for (const options of VARIANTS) {
      const call = (elements: Float64Array, more: CrossEntropyOptions = {}) =>
        crossEntropySync(tensor('float32', SHAPE, elements), LABELS, { ...options, ...run, ...more })
      const gradient = values(call(LOGITS, { gradient: true }).gradLogits!)
      // On the host each row of the cuda backend is a block of threads.
      const stride = run.backend === 'cuda' ? 11 : 2
      for (let at = 0; at < LOGITS.length; at += stride) {
        const [up, down] = [h, -h].map((step) => call(LOGITS.with(at, LOGITS[at] + step)).loss)
        expect(Math.abs((up - down) / (2 * h) - gradient[at])).toBeLessThan(3e-4)
      }
    }
  })

  test('dft has the gradient of the loss with the probability held', () => {
    const logits = tensor('float32', SHAPE, LOGITS)
    const sums = sequenceLogProbsSync(logits, LABELS, { outputs: ['tokenLogProbs'], ...run })
    const p = sums.tokenLogProbs!.map(Math.exp)
    const got = crossEntropySync(logits, LABELS, { dft: true, gradient: true, normalizer: 'sum', ...run })
    // Weights stand at the labels, one place further.
    const weights = Array.from({ length: 8 }, (_, i) => (i % 4 === 0 ? 1 : p[(i >> 2) * 3 + (i % 4) - 1]))
    const held = { tokenWeights: weights, gradient: true, normalizer: 'sum', ...run } as const
    const wanted = crossEntropySync(logits, LABELS, held)
    expect(Math.abs(got.loss - wanted.loss)).toBeLessThan(1e-6)
    const gradient = values(got.gradLogits!)
    for (const [i, x] of values(wanted.gradLogits!).entries()) {
      expect(Math.abs(gradient[i] - x)).toBeLessThanOrEqual(1e-6 * Math.abs(x))
    }
  })

  test('the output layer has what its logits have, multiplied on', () => {
    // Before the last products a GPU rounds the logits' gradient to 16 bits, if these are the hidden states':
    // cuda-tokens.test.ts.
    for (const dtype of run.backend === 'cuda' ? (['float32'] as const) : DTYPES) {
      const { hidden, weight, bias, logits, numbers, width } = head(dtype)
      for (const options of [...VARIANTS, { dft: true, labelSmoothing: 0.1 }]) {
        const ofLogits = crossEntropySync(tensor('float32', SHAPE, logits), LABELS, {
          ...options,
          ...run,
          gradient: true,
        })
        const got = linearCrossEntropySync(hidden, weight, LABELS, { ...options, ...run, bias, gradient: true })
        expect(Math.abs(got.loss - ofLogits.loss)).toBeLessThan(1e-6)
        for (const [i, x] of ofLogits.losses.entries()) expect(Math.abs(got.losses[i] - x)).toBeLessThan(3e-6)
        expect(got.tokenCounts).toEqual(ofLogits.tokenCounts)
        const gradient = values(ofLogits.gradLogits!)
        const near = (value: number, term: (k: number) => number, count: number) => {
          let sum = 0
          for (let k = 0; k < count; k++) sum += term(k)
          expect(Math.abs(value - sum)).toBeLessThan(4e-6)
        }
        const ofHidden = values(got.gradHidden!)
        const ofWeight = values(got.gradWeight as Logits)
        for (let d = 0; d < width; d++) {
          for (let r = 0; r < 8; r++) {
            near(ofHidden[r * width + d], (v) => gradient[r * 37 + v] * numbers.weight[v * width + d], 37)
          }
          for (let v = 0; v < 37; v++) {
            near(ofWeight[v * width + d], (r) => gradient[r * 37 + v] * numbers.hidden[r * width + d], 8)
          }
        }
        for (let v = 0; v < 37; v++) near((got.gradBias as Float32Array)[v], (r) => gradient[r * 37 + v], 8)
        const forward = linearCrossEntropySync(hidden, weight, LABELS, { ...options, ...run, bias })
        expect([forward.loss, forward.losses, forward.gradHidden]).toEqual([got.loss, got.losses, undefined])
      }
    }
  })

  test('accumulate adds to gradients of the output layer', () => {
    const { hidden, weight, bias } = head('float32')
    const first = linearCrossEntropySync(hidden, weight, LABELS, { bias, gradient: { weight: true }, ...run })
    const sum = (first.gradWeight!.data as Float32Array).map((x) => x + 1)
    const given = new Float32Array(sum.length).fill(1)
    linearCrossEntropySync(hidden, weight, LABELS, { bias, gradient: { weight: given }, accumulate: true, ...run })
    for (const [i, x] of sum.entries()) expect(Math.abs(given[i] - x)).toBeLessThan(1e-6)
  })

  test('the outputs are those of sequenceLogProbs', () => {
    const outputs: TokenOutput[] = ['tokenArgmax', 'tokenEntropies', 'logSumExp', 'tokenLogProbs', 'tokenMeanLogits']
    const wanted = sequenceLogProbsSync(tensor('float32', SHAPE, LOGITS), LABELS, { outputs, ...run })
    for (const gradient of [false, 'in-place'] as const) {
      const logits = tensor('float32', SHAPE, LOGITS)
      const options = { outputs, gradient, labelSmoothing: 0.1, ...run }
      const got = crossEntropySync(logits, LABELS, options)
      for (const name of outputs) expect(got[name], name).toEqual(wanted[name])
      for (const [i, x] of crossEntropySync(tensor('float32', SHAPE, LOGITS), LABELS, run).losses.entries()) {
        expect(Math.abs(x + wanted.tokenLogProbs![i])).toBeLessThanOrEqual(ulp(x))
      }
    }
  })

  test('inactive rows are neither read nor, unless they are to be zeros, written', () => {
    const elements = LOGITS.slice()
      .fill(Number.NaN, 0, 37)
      .fill(Number.NaN, 3 * 37, 4 * 37)
    const call = (options: CrossEntropyOptions) =>
      crossEntropySync(tensor('float32', SHAPE, elements), LABELS, { gradient: 'in-place', ...options, ...run })
    const { loss, losses, gradLogits } = call({})
    expect([Number.isFinite(loss), losses[0]]).toEqual([true, 0])
    const zeros = values(gradLogits!).slice(0, 37)
    expect(zeros.every((x) => Object.is(x, 0))).toBe(true)
    const left = values(call({ zeroInactive: false }).gradLogits!)
    expect(left.slice(0, 37).every(Number.isNaN)).toBe(true)
    expect(left.slice(37, 3 * 37)).toEqual(values(gradLogits!).slice(37, 3 * 37))
  })

  test('a class of weight 0 has no part in a smoothed loss, even at -inf', () => {
    const classWeights = CLASS_WEIGHTS.with(2, 0)
    const options = { ...run, shift: false, classWeights, labelSmoothing: 0.2 } as const
    const lossAt = (logit: number) =>
      crossEntropySync(tensor('float32', [1, 1, 37], LOGITS.slice(0, 37).with(2, logit)), Int32Array.of(5), options)
        .loss
    const loss = lossAt(Number.NEGATIVE_INFINITY)
    expect(Math.abs(loss - lossAt(-1000))).toBeLessThanOrEqual(1e-6 * loss)
  })

  test('a token of weight 0 takes no part, whatever its logits are; another is NaN as they are', () => {
    const elements = LOGITS.slice().fill(Number.NaN, 37, 2 * 37)
    const call = (options: CrossEntropyOptions) =>
      crossEntropySync(tensor('float32', SHAPE, elements), LABELS, { gradient: true, ...options, ...run })
    const options = { labelSmoothing: 0.1, zLoss: 0.1, dft: true }
    const without = call({ ...options, tokenWeights: [1, 1, 0, 1, 1, 1, 1, 1] })
    expect([without.losses[1], Number.isFinite(without.loss)]).toEqual([0, true])
    expect(values(without.gradLogits!).every(Number.isFinite)).toBe(true)
    for (const given of [{}, options]) {
      const got = call(given)
      expect([got.loss, got.losses[1]]).toEqual([Number.NaN, Number.NaN])
      const gradient = values(got.gradLogits!)
      expect(gradient.slice(37, 2 * 37).every(Number.isNaN)).toBe(true)
      expect(gradient.slice(2 * 37).every(Number.isFinite)).toBe(true)
    }
  })

  test('a label of probability 0 has an infinite loss, and under dft none', () => {
    const elements = LOGITS.with(37, Number.NEGATIVE_INFINITY)
    const call = (options: CrossEntropyOptions) =>
      crossEntropySync(tensor('float32', SHAPE, elements), LABELS, { gradient: true, ...options, ...run })
    const plain = call({})
    expect([plain.loss, plain.losses[1]]).toEqual([Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY])
    expect(values(plain.gradLogits!).every(Number.isFinite)).toBe(true)
    const dft = call({ dft: true })
    expect([dft.losses[1], Number.isFinite(dft.loss)]).toEqual([0, true])
    expect(
      values(dft.gradLogits!)
        .slice(37, 74)
        .every((x) => x === 0),
    ).toBe(true)
  })

  test('without active tokens the loss and its gradient are 0', () => {
    const none = new Int32Array(8).fill(-100)
    for (const options of [{}, { classWeights: new Float32Array(37) }]) {
      const got = crossEntropySync(tensor('float32', SHAPE, LOGITS), none, { gradient: true, ...options, ...run })
      expect([got.loss, [...got.tokenCounts]]).toEqual([0, [0, 0]])
      expect(values(got.gradLogits!).every((x) => Object.is(x, 0))).toBe(true)
    }
  })

  test('parts that are divided by the tokens of all add up to the whole', () => {
    const options = { labelSmoothing: 0.1, zLoss: 0.01, gradient: true, ...run } as const
    const whole = crossEntropySync(tensor('float32', SHAPE, LOGITS), LABELS, options)
    const parts = [0, 1].map((b) => {
      const half = tensor('float32', [1, 4, 37], LOGITS.slice(b * 148, b * 148 + 148))
      return crossEntropySync(half, LABELS.slice(4 * b, 4 * b + 4), { ...options, normalizer: { tokens: 5 } })
    })
    expect(Math.abs(parts[0].loss + parts[1].loss - whole.loss)).toBeLessThan(1e-12)
    const halves = parts.flatMap(({ gradLogits }) => [...values(gradLogits!)])
    expect(halves).toEqual([...values(whole.gradLogits!)])
  })

  test('the promise has the same bits', async () => {
    const options = { labelSmoothing: 0.1, zLoss: 0.01, logitSoftcap: 5, ...run }
    const wanted = crossEntropySync(tensor('float32', SHAPE, LOGITS), LABELS, { ...options, gradient: true })
    for (const signal of [undefined, new AbortController().signal]) {
      const logits = tensor('float32', SHAPE, LOGITS)
      const got = await crossEntropy(logits, LABELS, { ...options, gradient: 'in-place', signal })
      expect([got.loss, got.losses]).toEqual([wanted.loss, wanted.losses])
      expect(values(got.gradLogits!)).toEqual(values(wanted.gradLogits!))
    }
    const { hidden, weight, bias } = head('bfloat16')
    const linear: LinearCrossEntropyOptions = { ...options, bias, gradient: true }
    expect(await linearCrossEntropy(hidden, weight, LABELS, linear)).toEqual(
      linearCrossEntropySync(hidden, weight, LABELS, linear),
    )
    const aborted = { ...options, gradient: 'in-place', signal: AbortSignal.abort(new Error('stop')) } as const
    const logits = tensor('float32', SHAPE, LOGITS)
    await expect(crossEntropy(logits, LABELS, aborted)).rejects.toThrow('stop')
    expect(values(logits)).toEqual(LOGITS)
  })

  test('what cannot be is refused, and nothing written', async () => {
    const logits = tensor('float32', SHAPE, LOGITS)
    const { hidden, weight } = head('float32')
    const sink = new Float32Array(37 * 5).fill(7)
    const refused = async (options: object, code: string, message: string) => {
      const error = expect.objectContaining({ code, message: expect.stringContaining(message) })
      const own = { gradient: 'in-place', ...options, ...run } as CrossEntropyOptions
      const ofHead = { ...options, ...run, gradient: { weight: sink } } as LinearCrossEntropyOptions
      expect(() => crossEntropySync(logits, LABELS, own)).toThrow(error)
      await expect(crossEntropy(logits, LABELS, own)).rejects.toThrow(error)
      expect(() => linearCrossEntropySync(hidden, weight, LABELS, ofHead)).toThrow(error)
      await expect(linearCrossEntropy(hidden, weight, LABELS, ofHead)).rejects.toThrow(error)
    }
    const TYPE = 'ERR_INVALID_ARG_TYPE'
    const VALUE = 'ERR_INVALID_ARG_VALUE'
    const RANGE = 'ERR_OUT_OF_RANGE'
    await refused({ labelSmoothing: 1.1 }, RANGE, 'options.labelSmoothing must be a number in [0, 1]; got 1.1')
    await refused({ labelSmoothing: -0.1 }, RANGE, 'options.labelSmoothing')
    await refused({ labelSmoothing: Number.NaN }, RANGE, 'options.labelSmoothing')
    await refused({ labelSmoothing: '0.1' }, TYPE, 'options.labelSmoothing')
    await refused({ zLoss: -1 }, RANGE, 'options.zLoss must be a finite number >= 0; got -1')
    await refused({ zLoss: Number.POSITIVE_INFINITY }, RANGE, 'options.zLoss')
    await refused({ zLoss: null }, TYPE, 'options.zLoss')
    await refused({ dft: 1 }, TYPE, 'options.dft must be a boolean')
    await refused(
      { classWeights: new Float32Array(36) },
      'ERR_SHAPE_MISMATCH',
      'options.classWeights must have length 37',
    )
    await refused({ classWeights: new Float32Array(37).fill(-1, 5) }, RANGE, 'options.classWeights[5]')
    await refused({ classWeights: new Float32Array(37).fill(Number.NaN, 36) }, RANGE, 'options.classWeights[36]')
    await refused({ classWeights: 2 }, TYPE, 'options.classWeights')
    const tooLarge = { classWeights: new Float64Array(37).fill(1e39, 4), labelSmoothing: 0.1 }
    await refused(tooLarge, RANGE, 'options.classWeights[4] must be a number that float32 holds; got 1e+39')
    await refused({ normalizer: 0 }, RANGE, 'options.normalizer')
    await refused({ normalizer: 'tokens' }, VALUE, "options.normalizer must be one of 'mean', 'sum'")
    await refused({ normalizer: {} }, TYPE, 'options.normalizer.tokens')
    await refused({ normalizer: { tokens: -1 } }, RANGE, 'options.normalizer.tokens')
    await refused({ normalizer: { pairs: 2 } }, VALUE, 'options.normalizer.pairs is not an option')
    await refused({ tokenWeights: [1] }, 'ERR_SHAPE_MISMATCH', 'options.tokenWeights')
    await refused({ temperature: 0 }, RANGE, 'options.temperature')
    await refused({ outputs: ['entropy'] }, VALUE, 'options.outputs[0]')
    for (const name of ['averageLogProb', 'emptySequence', 'ldAlpha', 'pairs', 'lossType', 'beta', 'reduction']) {
      await refused({ [name]: 1 }, VALUE, `options.${name} is not an option`)
    }
    await refused({ threads: 0 }, RANGE, 'options.threads')
    const mine = new Float32Array(LOGITS.length)
    const shared = { gradient: mine, classWeights: mine.subarray(0, 37), ...run }
    expect(() => crossEntropySync(logits, LABELS, shared)).toThrow('would overwrite options.classWeights')
    const wrong = LABELS.with(2, 37)
    expect(() => crossEntropySync(logits, wrong, { gradient: 'in-place', ...run })).toThrow('position 2 is 37')
    expect(values(logits)).toEqual(LOGITS)
    expect(sink.every((x) => x === 7)).toBe(true)
  })
})

test('a process is warned once of a call without active tokens', () => {
  const given = Symbol.for('fused-preference-loss.warnings')
  const holder = globalThis as { [given]?: Set<string> }
  const code = 'FUSED_PREFERENCE_LOSS_NO_ACTIVE_TOKENS'
  holder[given]?.delete(code)
  const warn = spyOnWarnings()
  const none = new Int32Array(8).fill(-100)
  for (let i = 0; i < 2; i++) crossEntropySync(tensor('float32', SHAPE, LOGITS), none)
  // The first call of all also warns where no native binary loads.
  expect(warn.mock.calls.filter(([, options]) => options?.code === code)).toEqual([
    [expect.stringContaining('The loss and its gradient are 0'), { code }],
  ])
  warn.mockRestore()
})

test('the bits depend on neither threads, batch nor, with fused multiply-adds, instruction set', () => {
  const [batch, time, vocab] = [4, 6, 40000]
  const uniform = random(4)
  const elements = Float64Array.from({ length: batch * time * vocab }, () => 12 * uniform() - 6)
  const labels = Int32Array.from({ length: batch * time }, () => Math.floor(uniform() * vocab))
  const options: CrossEntropyOptions = {
    ...{ shift: false, temperature: 0.9, normalizer: 'sum', gradient: true },
    tokenWeights: Array.from({ length: batch * time }, () => uniform()),
  }
  // Of arrays this long a comparison by elements takes minutes.
  const gradient = ({ gradLogits }: CrossEntropy) => bytes(gradLogits!.data as Float32Array)
  const isSame = (a: CrossEntropy, b: CrossEntropy) =>
    a.loss === b.loss && bytes(a.losses).equals(bytes(b.losses)) && gradient(a).equals(gradient(b))
  for (const dtype of DTYPES) {
    const logits = tensor(dtype, [batch, time, vocab], elements)
    const everything = { labelSmoothing: 0.1, zLoss: 0.01, dft: true }
    const classWeights = Float32Array.from({ length: vocab }, (_, v) => (v % 7) / 3)
    const capped = { ...everything, logitScale: 1.3, logitSoftcap: 5 }
    const gradientDType = dtype === 'bfloat16' ? 'float32' : 'bfloat16'
    const weighted = { ...everything, classWeights, gradientDType } as const
    const deferred = { dft: true, deferredScale: true, gradientDType } as const
    for (const variant of [{}, everything, capped, weighted, { ...capped, ...weighted }, deferred]) {
      const all = [...NATIVE, ...WASM].map(({ run }) => {
        // 24 rows: one thread and four take them whole, seven share their segments.
        const [one, ...others] = [1, 2, 4, 7].map((threads) =>
          crossEntropySync(logits, labels, { ...options, ...variant, ...run, threads }),
        )
        for (const other of others) expect(isSame(other, one)).toBe(true)
        const last = tensor(dtype, [1, time, vocab], elements.slice(-time * vocab))
        const ofLast = { ...options, ...variant, ...run, tokenWeights: Array.from(options.tokenWeights!).slice(-time) }
        const alone = crossEntropySync(last, labels.slice(-time), { ...ofLast, threads: 2 })
        expect(alone.losses).toEqual(one.losses.slice(-time))
        const part = gradient(alone)
        expect(part.equals(gradient(one).subarray(-part.length))).toBe(true)
        return { run, one }
      })
      const fused = all.filter(({ run }) => fusesMultiplyAdds(run))
      for (const { one } of fused) expect(isSame(one, fused[0].one)).toBe(true)
    }
  }
})

test('the bits of the output layer do not depend on threads', () => {
  const { hidden, weight, bias } = head('float32', 300)
  const options: LinearCrossEntropyOptions = { labelSmoothing: 0.1, zLoss: 0.01, bias, gradient: true }
  for (const { run } of [...NATIVE, ...WASM]) {
    const [one, two] = [1, 2].map((threads) =>
      linearCrossEntropySync(hidden, weight, LABELS, { ...options, ...run, threads }),
    )
    expect(two).toEqual(one)
  }
})
