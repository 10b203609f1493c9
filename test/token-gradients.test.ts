/**
 * `backward` through per-token results: log-probs, log-sum-exp, entropies and mean logits, on every backend. The golden cases of golden/tokens.jsonl are PyTorch's, in float64.
 */
import { describe, expect, test } from 'vitest'
import * as library from '../lib/index.js'
import type { SequenceOptions, TokenOutput } from '../lib/options/index.js'
import type { Logits, ResultGradients, SequenceLogProbs } from '../lib/types/index.js'
import * as calls from './calls.js'
import { element, type LogitsSpec, logitsOf } from './golden/inputs.js'
import { TESTS_GPU } from './platform.js'
import {
  ALL_TARGETS,
  bytes,
  DTYPES,
  decode,
  encode,
  fusesMultiplyAdds,
  goldenCases,
  NATIVE,
  logitsOf as tensor,
  ulp,
  ulpsOf,
  values,
  WAITING,
  WASM,
} from './support.js'

type Name = keyof ResultGradients
type Gradients = Partial<Record<Name, number[]>>

interface Case {
  name: string
  logits: LogitsSpec
  labels: number[]
  options: SequenceOptions
  gradients: Gradients
  expected: Partial<Record<TokenOutput, (number | string)[]>> & {
    gradient: { at?: number[]; values: number[]; magnitudes: number[] }
  }
}

const CASES = await goldenCases<Case>('tokens')

const OUTPUTS: TokenOutput[] = ['tokenLogProbs', 'logSumExp', 'tokenEntropies', 'tokenMeanLogits']

// As docs/numerics.md has it: of the sum of the magnitudes of a derivative's terms.
const GRADIENT_ABSOLUTE = 1e-36
// Of soft-capped logits: the tanh is within 4 ULP, its slope within 5 and, where multiply-adds are not fused, 2 for each cap
// in the logit.
const EPSILON = 2 ** -23
const TANH_ULPS = 4
const SLOPE_ULPS = 5
const SLOPE_ABSOLUTE = 1e-36

describe.each(CASES)('$name', ({ logits: spec, labels, options, gradients, expected }) => {
  const { logitSoftcap: cap = null, logitScale = 1, temperature = 1 } = options
  /** By how much the numbers that count may be off. */
  const off = cap === null ? 0 : (TANH_ULPS * EPSILON * cap) / temperature

  test.each(ALL_TARGETS)('$name', async ({ run }) => {
    const logits = logitsOf(spec)
    const dtype = spec.dtype
    const got = await calls.sequenceLogProbs(logits, Int32Array.from(labels), { ...options, ...run, outputs: OUTPUTS })
    for (const name of OUTPUTS) {
      const wanted = expected[name]!.map(Number)
      expect(got[name]).toHaveLength(wanted.length)
      for (const [i, x] of wanted.entries()) {
        const bound = name === 'tokenMeanLogits' ? ulp(x) : 2 * ulpsOf(run).logProb * ulp(Math.max(Math.abs(x), 1))
        const ofLogits = name === 'tokenEntropies' ? 2 * (x + 1) * off : 2 * off
        if (x !== got[name]![i]) expect(Math.abs(got[name]![i] - x)).toBeLessThanOrEqual(bound + ofLogits)
      }
    }
    const { at, values: wanted, magnitudes } = expected.gradient
    const gradient = (await got.backward(gradients)).gradLogits
    for (const [k, x] of wanted.entries()) {
      const index = at === undefined ? k : at[k]
      let bound = ulpsOf(run).gradient * ulp(magnitudes[k]) + GRADIENT_ABSOLUTE
      if (cap !== null) {
        const caps = Math.min(Math.abs(element(logits, index) * logitScale) / cap, 43)
        const slopeUlps = SLOPE_ULPS + (fusesMultiplyAdds(run) ? 0 : 2 * caps)
        bound += magnitudes[k] * (slopeUlps * EPSILON + 4 * off) + SLOPE_ABSOLUTE
      }
      const value = element(gradient, index)
      const [low, high] =
        dtype === 'float32'
          ? [x - bound, x + bound]
          : [x - bound, x + bound].map((end) => decode[dtype](encode[dtype](end)))
      const share = Math.abs(value - x) / bound
      if (!(value >= low && value <= high)) expect.fail(`[${index}] is ${value}, not ${x}: ${share} bounds off`)
    }
  })
})

const SHAPE = [2, 4, 37]
const LABELS = Int32Array.of(3, -100, 0, 36, 5, 5, 17, 1)

/** Numbers in [-1, 1), the same each time. */
function numbers(count: number, seed: number): number[] {
  let state = seed
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    return state / 2 ** 31
  })
}
const LOGITS = numbers(2 * 4 * 37, 1).map((x) => 6 * x)
const PER_TOKEN = ['tokenLogProbs', 'logSumExp', 'tokenEntropies', 'tokenMeanLogits'] as const
const ALL: Gradients = { logProbs: [0.5, -2] }
for (const [k, name] of PER_TOKEN.entries()) ALL[name] = numbers(6, 50 + k)

const CAPPED: SequenceOptions = { logitScale: 1.3, logitSoftcap: 4, temperature: 0.8 }

describe.each(ALL_TARGETS)('$name', WAITING, ({ run }) => {
  const forward = (options: SequenceOptions = {}, logits = tensor('float32', SHAPE, LOGITS)) =>
    calls.sequenceLogProbs(logits, LABELS, { outputs: ['tokenEntropies', 'logSumExp'], ...options, ...run })

  test('sequences by name are what an array of numbers is, to the bit', async () => {
    for (const dtype of DTYPES) {
      const sums = await forward({ averageLogProb: true }, tensor(dtype, SHAPE, LOGITS))
      const wanted = bytes((await sums.backward([0.5, -2])).gradLogits.data as Float32Array)
      expect(bytes((await sums.backward({ logProbs: [0.5, -2] })).gradLogits.data as Float32Array).equals(wanted)).toBe(
        true,
      )
      const ofTokens = { tokenLogProbs: [Number.NaN, 0.5 / 2, 0.5 / 2, -2 / 3, -2 / 3, -2 / 3] }
      expect(sums.tokenCounts).toEqual(Int32Array.of(2, 3))
      const gradient = (await sums.backward({ ...ofTokens, logProbs: [0, 0] })).gradLogits
      expect(bytes(gradient.data as Float32Array).equals(wanted)).toBe(true)
    }
  })

  test('what several results give is added up', async () => {
    const sums = await forward()
    const whole = values((await sums.backward(ALL)).gradLogits)
    const parts: Float64Array[] = []
    for (const name of Object.keys(ALL) as Name[]) {
      parts.push(values((await sums.backward({ [name]: ALL[name] })).gradLogits))
    }
    for (const [i, x] of whole.entries()) {
      const total = parts.reduce((sum, part) => sum + part[i], 0)
      expect(Math.abs(x - total)).toBeLessThanOrEqual(1e-6)
    }
  })

  test.each([{}, { logitScale: 1.3 }, CAPPED])('the gradient is the difference of the results, %j', async (options) => {
    const sums = await forward(options)
    const gradient = values((await sums.backward(ALL)).gradLogits)
    const h = 2 ** -6
    const loss = async (at: number, step: number) => {
      const moved = LOGITS.slice()
      moved[at] += step
      const got = await forward({ ...options, outputs: OUTPUTS }, tensor('float32', SHAPE, moved))
      let total = ALL.logProbs![0] * got.logProbs[0] + ALL.logProbs![1] * got.logProbs[1]
      for (const name of PER_TOKEN) {
        for (const [i, slope] of ALL[name]!.entries()) total += slope * got[name]![i]
      }
      return total
    }
    // On the host each row of the cuda backend is a block of threads.
    const stride = run.backend === 'cuda' ? 11 : 3
    for (let at = 0; at < LOGITS.length; at += stride) {
      const slope = ((await loss(at, h)) - (await loss(at, -h))) / (2 * h)
      expect(Math.abs(slope - gradient[at])).toBeLessThan(2e-4)
    }
  })

  test('inactive tokens are ignored, and their rows are zeros', async () => {
    const sums = await forward()
    const wanted = bytes((await sums.backward(ALL)).gradLogits.data as Float32Array)
    const changed: Gradients = { logProbs: ALL.logProbs }
    for (const name of PER_TOKEN) changed[name] = ALL[name]!.with(0, name === 'logSumExp' ? Number.NaN : 1e30)
    const gradient = (await sums.backward(changed)).gradLogits
    expect(bytes(gradient.data as Float32Array).equals(wanted)).toBe(true)
    expect(
      values(gradient)
        .slice(0, 37)
        .every((x) => Object.is(x, 0)),
    ).toBe(true)
  })

  test('a scale is a temperature, and a wide cap is none', async () => {
    const wanted = await forward({ temperature: 0.5 })
    const scaled = await forward({ logitScale: 2 })
    expect(scaled.logProbs).toEqual(wanted.logProbs)
    expect((await scaled.backward(ALL)).gradLogits).toEqual((await wanted.backward(ALL)).gradLogits)
    const capped = await forward({ logitSoftcap: 500, temperature: 0.5 })
    for (const [i, x] of wanted.logProbs.entries()) expect(Math.abs(capped.logProbs[i] - x)).toBeLessThan(0.02)
    expect((await forward({ logitSoftcap: 5 })).logProbs).not.toEqual((await forward()).logProbs)
  })

  test('a soft-cap and its slope are accurate everywhere', async () => {
    // In a vocabulary of 1 the mean logit is the logit: with a temperature of C, the tanh.
    // Each is a block of threads, which a processor may have to run.
    const count = run.backend === 'webgpu' ? 2000 : run.backend === 'cuda' && !TESTS_GPU ? 400 : 20000
    const data = numbers(count, 11).map((x, i) => x * 2 ** ((i % 40) - 30))
    const fused = fusesMultiplyAdds(run)
    let worst = 0 // of the bounds
    for (const cap of [1, 30, 0.3]) {
      const logits = tensor(
        'float32',
        [1, count, 1],
        data.map((x) => x * cap),
      )
      const options: SequenceOptions = {
        shift: false,
        logitSoftcap: cap,
        temperature: cap,
        outputs: ['tokenMeanLogits'],
      }
      const sums = await calls.sequenceLogProbs(logits, new Int32Array(count), { ...options, ...run })
      const slopes = values((await sums.backward({ tokenMeanLogits: new Float64Array(count).fill(cap) })).gradLogits)
      for (const [i, x] of values(logits).entries()) {
        const u = Math.abs(x / cap)
        const e = Math.exp(-2 * u)
        const [tanh, slope] = [Math.tanh(x / cap), (4 * e) / ((1 + e) * (1 + e))]
        const [tanhUlps, slopeUlps] = fused ? [3, SLOPE_ULPS] : [TANH_ULPS, SLOPE_ULPS + 2 * Math.min(u, 43)]
        worst = Math.max(
          worst,
          Math.abs(sums.tokenMeanLogits![i] - tanh) / (tanhUlps * ulp(tanh)),
          Math.abs(slopes[i] - slope) / (slopeUlps * ulp(slope) + SLOPE_ABSOLUTE),
        )
      }
    }
    expect(worst).toBeLessThanOrEqual(1)
  })

  test('far beyond a soft-cap the slope is 0', async () => {
    const data = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 3e38, -3e38, 100, 0]
    const logits = tensor('float32', [1, 1, 6], data)
    const sums = await calls.sequenceLogProbs(logits, Int32Array.of(5), { shift: false, logitSoftcap: 1, ...run })
    const gradient = values((await sums.backward({ tokenMeanLogits: [1e6], tokenLogProbs: [1e6] })).gradLogits)
    expect(gradient.slice(0, 5).map(Math.abs)).toEqual(new Float64Array(5))
    expect(gradient[5]).toBeGreaterThan(1e5)
  })

  test('the argmax of capped logits is found in any block', async () => {
    const vocab = 10000
    for (const top of [0, 4095, 4096, 9000, 9999]) {
      const data = numbers(vocab, 12)
      data[top] = 3
      for (const label of [top, 17, 9001]) {
        const options: SequenceOptions = { shift: false, logitSoftcap: 5, outputs: ['tokenArgmax'] }
        const logits = tensor('float32', [1, 1, vocab], data)
        const sums = await calls.sequenceLogProbs(logits, Int32Array.of(label), { ...options, ...run })
        expect(sums.tokenArgmax![0]).toBe(top)
      }
    }
  })

  test('losses, their gradients and references have the same transforms', async () => {
    const logits = tensor('float32', SHAPE, LOGITS)
    const other = tensor('float32', SHAPE, LOGITS.toReversed())
    const fused = await calls.fusedPreferenceLoss(logits, LABELS, {
      ...CAPPED,
      reference: { logits: other },
      gradient: true,
      outputs: ['tokenMeanLogits'],
      ...run,
    })
    const sums = await forward({ ...CAPPED, outputs: ['tokenMeanLogits'] }, logits)
    const reference = (await forward(CAPPED, other)).logProbs
    expect([fused.chosenLogProbs[0], fused.rejectedLogProbs[0]]).toEqual(Array.from(sums.logProbs))
    expect(fused.tokenMeanLogits).toEqual(sums.tokenMeanLogits)
    const margin = sums.logProbs[0] - reference[0] - (sums.logProbs[1] - reference[1])
    expect(Math.abs(fused.margin - 0.1 * margin)).toBeLessThan(1e-6)
    const { chosen, rejected } = fused.gradLogProbs
    expect(fused.gradLogits).toEqual((await sums.backward([chosen[0], rejected[0]])).gradLogits)
  })

  test('transforms that cannot be are refused', async () => {
    const refused = (options: SequenceOptions, message: string, code = 'ERR_OUT_OF_RANGE') =>
      expect(forward(options)).rejects.toThrow(expect.objectContaining({ code, message }))
    for (const wrong of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      await refused({ logitScale: wrong }, `options.logitScale must be a finite number > 0; got ${wrong}`)
      await refused({ logitSoftcap: wrong }, `options.logitSoftcap must be a finite number > 0; got ${wrong}`)
    }
    expect((await forward({ logitSoftcap: null })).logProbs).toEqual((await forward()).logProbs)
    const folded = 'such that the temperature divided by it is in [1e-3, 1e3]'
    await refused({ logitScale: 2000 }, `options.logitScale must be ${folded}; got 2000`)
    await refused({ logitSoftcap: 2000 }, `options.logitSoftcap must be ${folded}; got 2000`)
    const far = 'options.logitScale must be within a factor of 1e6 of logitSoftcap; got 10000000'
    await refused({ logitScale: 1e7, logitSoftcap: 1 }, far)
  })

  test('a row all of whose derivatives are 0 is not looked at', async () => {
    const logits = LOGITS.slice()
    logits.fill(Number.NaN, 37, 74)
    const sums = await forward({}, tensor('float32', SHAPE, logits))
    const zeros = (name: Name) => ALL[name]!.with(1, 0)
    const given: Gradients = Object.fromEntries(PER_TOKEN.map((name) => [name, zeros(name)]))
    const gradient = values((await sums.backward(given)).gradLogits)
    expect(gradient.slice(37, 74).every((x) => Object.is(x, 0))).toBe(true)
    expect(gradient.every((x) => !Number.isNaN(x))).toBe(true)
    // Any other is NaN as its results are, but for the mean logit's: a constant.
    expect(
      values((await sums.backward({ logSumExp: ALL.logSumExp! })).gradLogits)
        .slice(37, 74)
        .every(Number.isNaN),
    ).toBe(true)
    expect(
      values((await sums.backward({ tokenEntropies: ALL.tokenEntropies! })).gradLogits)
        .slice(37, 74)
        .every(Number.isNaN),
    ).toBe(true)
    const constant = Math.fround(ALL.tokenMeanLogits![1] / 37)
    const ofMean = values((await sums.backward({ tokenMeanLogits: ALL.tokenMeanLogits! })).gradLogits).slice(37, 74)
    expect(ofMean.every((x) => Math.abs(x - constant) <= ulp(constant))).toBe(true)
  })

  test('where d logSumExp is d logProb, only the label is left', async () => {
    const sums = await forward({ temperature: 0.5 })
    const slopes = numbers(6, 9)
    const gradient = values((await sums.backward({ tokenLogProbs: slopes, logSumExp: slopes })).gradLogits)
    const wanted = new Float64Array(gradient.length)
    for (const row of [1, 2, 4, 5, 6]) wanted[37 * row + LABELS[row + 1]] = 2 * slopes[row < 4 ? row : row - 1]
    for (const [i, x] of wanted.entries()) expect(Math.abs(gradient[i] - x)).toBeLessThanOrEqual(ulp(x))
  })

  test.each([{ temperature: 0.7 }, CAPPED])(
    'the output layer has what its logits have, multiplied on, %j',
    async (given) => {
      const [rows, width, vocab] = [8, 5, 37]
      const sixteenths = (count: number, seed: number) => numbers(count, seed).map((x) => Math.round(16 * x) / 16)
      const hidden = sixteenths(rows * width, 3)
      const weight = sixteenths(vocab * width, 4)
      const bias = sixteenths(vocab, 5)
      const logits = new Float64Array(rows * vocab)
      for (let r = 0; r < rows; r++) {
        for (let v = 0; v < vocab; v++) {
          for (let d = 0; d < width; d++) logits[r * vocab + v] += hidden[r * width + d] * weight[v * width + d]
          logits[r * vocab + v] += bias[v]
        }
      }
      // Before the last products a GPU rounds the logits' gradient to 16 bits, if these are the hidden states':
      // cuda-tokens.test.ts.
      for (const dtype of run.backend === 'cuda' ? (['float32'] as const) : DTYPES) {
        const gradient = values(
          (await (await forward(given, tensor('float32', SHAPE, logits))).backward(ALL)).gradLogits,
        )
        const options = { ...given, outputs: OUTPUTS, ...run }
        // In a buffer the bias would be of the weight's type.
        const { linearSequenceLogProbs } = dtype === 'float32' ? calls : library
        const sums = await linearSequenceLogProbs(
          tensor(dtype, [2, 4, width], hidden),
          tensor(dtype, [vocab, width], weight),
          LABELS,
          { ...options, bias: Float32Array.from(bias) },
        )
        const explicit = await forward({ ...given, outputs: OUTPUTS }, tensor('float32', SHAPE, logits))
        for (const name of OUTPUTS) {
          for (const [i, x] of explicit[name]!.entries()) expect(Math.abs(sums[name]![i] - x)).toBeLessThan(1e-5)
        }
        const { gradHidden, gradWeight, gradBias } = await sums.backward(ALL)
        const near = (got: ArrayLike<number>, i: number, term: (k: number) => number, count: number) => {
          let sum = 0
          for (let k = 0; k < count; k++) sum += term(k)
          expect(Math.abs(got[i] - sum)).toBeLessThan(3e-6)
        }
        const ofHidden = values(gradHidden!)
        const ofWeight = values(gradWeight as Logits)
        for (let d = 0; d < width; d++) {
          for (let r = 0; r < rows; r++) {
            near(ofHidden, r * width + d, (v) => gradient[r * vocab + v] * weight[v * width + d], vocab)
          }
          for (let v = 0; v < vocab; v++) {
            near(ofWeight, v * width + d, (r) => gradient[r * vocab + v] * hidden[r * width + d], rows)
          }
        }
        for (let v = 0; v < vocab; v++) near(gradBias as Float32Array, v, (r) => gradient[r * vocab + v], rows)
      }
    },
  )

  test('what cannot be is refused, and nothing written', async () => {
    const logits = tensor('float32', SHAPE, LOGITS)
    const before = bytes(logits.data as Float32Array).slice()
    const sums = await calls.sequenceLogProbs(logits, LABELS, { outputs: ['tokenLogProbs'], ...run })
    const backward = (gradient: unknown) => sums.backward(gradient as ResultGradients, { gradient: 'in-place' })
    const six = [1, 1, 1, 1, 1, 1]
    const refused = (gradient: unknown, code: string, message: string) =>
      expect(backward(gradient)).rejects.toThrow(
        expect.objectContaining({ code, message: expect.stringContaining(message) }),
      )
    await refused({ tokenEntropies: six }, 'ERR_INVALID_ARG_VALUE', "needs 'tokenEntropies' among options.outputs")
    await refused({ tokenLogProbs: [1, 2] }, 'ERR_SHAPE_MISMATCH', 'gradient.tokenLogProbs must have length 6')
    await refused({ logSumExp: [...six, 1, 1] }, 'ERR_SHAPE_MISMATCH', 'gradient.logSumExp must have length 6')
    await refused({ logProbs: six }, 'ERR_SHAPE_MISMATCH', 'gradient.logProbs must have length 2')
    await refused({ tokenMeanLogits: [1, 2, 3, 4, 5, '6'] }, 'ERR_INVALID_ARG_TYPE', 'gradient.tokenMeanLogits[5]')
    await refused({ tokenLogProb: six }, 'ERR_INVALID_ARG_VALUE', 'gradient.tokenLogProb is not an option')
    await refused({}, 'ERR_INVALID_ARG_VALUE', 'gradient has none of logProbs, tokenLogProbs')
    await refused(undefined, 'ERR_INVALID_ARG_TYPE', 'gradient must be an array of numbers')
    await refused(3, 'ERR_INVALID_ARG_TYPE', 'gradient must be an array of numbers')
    expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)

    const own = new Float32Array(2 * 4 * 37)
    const shared = { tokenLogProbs: own.subarray(0, 6) }
    // On WebGPU they are in host memory, and the gradient is not.
    if (run.backend !== 'webgpu') {
      await expect(sums.backward(shared, { gradient: own })).rejects.toThrow('would overwrite gradient.tokenLogProbs')
    }
    await backward({ tokenLogProbs: six })
    await expect(backward({ tokenLogProbs: six })).rejects.toThrow('an earlier call has overwritten the logits')
  })

  test.each([{}, CAPPED])('in place, to an array and to a new one are the same, %j', async (options) => {
    for (const dtype of DTYPES) {
      const logits = tensor(dtype, SHAPE, LOGITS)
      const sums = await forward(options, logits)
      const wanted = bytes((await sums.backward(ALL)).gradLogits.data as Float32Array)
      const out = tensor(dtype, SHAPE, new Float64Array(LOGITS.length).fill(7)).data as Float32Array
      await sums.backward(ALL, { gradient: out })
      expect(bytes(out).equals(wanted)).toBe(true)
      await sums.backward(ALL, { gradient: 'in-place' })
      expect(bytes(logits.data as Float32Array).equals(wanted)).toBe(true)
    }
  })
})

test.each([{ temperature: 0.9 }, CAPPED])(
  'with %j the bits depend on neither threads, batch nor, with fused multiply-adds, instruction set',
  (given) => {
    const vocab = 40000
    const elements = numbers(2 * 2 * vocab, 8).map((x) => 12 * x)
    const labels = Int32Array.of(7, 39999, 12, 16384)
    const slopes: Gradients = { logProbs: [1, -0.5] }
    for (const [k, name] of PER_TOKEN.entries()) slopes[name] = numbers(4, 70 + k)
    const options: SequenceOptions = { ...given, shift: false, outputs: ['tokenEntropies', 'tokenMeanLogits'] }
    for (const dtype of DTYPES) {
      const means: Float32Array[] = []
      const wholes = [...NATIVE, ...WASM].map(({ run }) => {
        const call = (threads: number) =>
          library.sequenceLogProbsSync(tensor(dtype, [2, 2, vocab], elements), labels, { ...options, ...run, threads })
        const read = (sums: SequenceLogProbs, given: Gradients) =>
          bytes(sums.backwardSync(given).gradLogits.data as Float32Array)
        const one = call(1)
        const two = call(2)
        const whole = read(one, slopes)
        expect(read(two, slopes).equals(whole)).toBe(true)
        means.push(one.tokenMeanLogits!, two.tokenMeanLogits!)
        const second = tensor(dtype, [1, 2, vocab], elements.slice(2 * vocab))
        const alone = library.sequenceLogProbsSync(second, labels.slice(2), { ...options, ...run, threads: 2 })
        const own = Object.fromEntries(PER_TOKEN.map((key) => [key, slopes[key]!.slice(2)]))
        expect(read(alone, { ...own, logProbs: [-0.5] }).equals(whole.subarray(whole.length / 2))).toBe(true)
        return { run, whole }
      })
      // Of the logits themselves, the sum has the same bits everywhere.
      for (const mean of given.logitSoftcap ? means.slice(0, 2) : means) expect(mean).toEqual(means[0])
      const fused = wholes.filter(({ run }) => fusesMultiplyAdds(run))
      for (const { whole } of fused) expect(whole.equals(fused[0].whole)).toBe(true)
    }
  },
)
