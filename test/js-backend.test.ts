/**
 * Stages 1, 2 and 4 of the js backend, and the job as a whole: against a plain oracle, at the edges of IEEE
 * arithmetic, and through the 16-bit formats. The losses have their own file, js-losses.test.ts.
 */
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { jsBackend } from '../lib/backends/js/index.js'
import { decodeBfloat16, decodeFloat16, encodeBfloat16, encodeFloat16 } from '../lib/backends/js/numbers.js'
import { turn } from '../lib/backends/turn.js'
import { fusedLinearPreferenceLoss } from '../lib/index.js'
import type { ForwardStage, GradientStage, Job, Rows, Tokens } from '../lib/job.js'
import type { DType, HostArray } from '../lib/types/index.js'

const settings = { threads: 1 }
const fixed = { seed: 424242, numRuns: 40 }
const { NaN: nan, POSITIVE_INFINITY: inf } = Number

interface Case {
  rows: number[][]
  targets: number[]
  /** Row counts of the sequences; one sequence when absent. */
  sequences?: number[]
  tokens?: Partial<Tokens>
  /** d loss / d logProb of each sequence; 1 when absent. */
  coefficients?: number[]
  dtype?: DType
}

const decode = { float32: (x: number) => x, float16: decodeFloat16, bfloat16: decodeBfloat16 }
const encode = { float32: (x: number) => x, float16: encodeFloat16, bfloat16: encodeBfloat16 }

/** Rows of one batch, with `gap` unused elements after each and 3 before the first. */
function rowsOf(values: number[][], dtype: DType = 'float32', gap = 2): Rows {
  const vocab = values[0].length
  const stride = vocab + gap
  const storage = new (dtype === 'float32' ? Float32Array : Uint16Array)(3 + values.length * stride).fill(7)
  const data = storage.subarray(3)
  for (const [t, row] of values.entries()) data.set(row.map(encode[dtype]), t * stride)
  return { data, dtype, batch: 1, time: values.length, vocab, batchStride: values.length * stride, timeStride: stride }
}

function valuesOf({ data, dtype, time, timeStride, vocab }: Rows): number[][] {
  const row = (t: number) =>
    Array.from({ length: vocab }, (_, i) => decode[dtype]((data as HostArray)[t * timeStride + i]))
  return Array.from({ length: time }, (_, t) => row(t))
}

function jobOf({ rows, targets, sequences = [rows.length], tokens = {}, coefficients, dtype = 'float32' }: Case) {
  const offsets = Int32Array.from([0, ...sequences.map((_, s) => sequences.slice(0, s + 1).reduce((a, b) => a + b))])
  const active = (s: number) => targets.slice(offsets[s], offsets[s + 1]).filter((target) => target >= 0).length
  const logits = rowsOf(rows, dtype)
  const outputs = () => new Float32Array(rows.length).fill(-7)
  const states = new Float64Array(4 * rows.length)
  return {
    tokens: {
      targets: Int32Array.from(targets),
      offsets,
      counts: Int32Array.from(sequences, (_, s) => active(s)),
      temperature: 1,
      average: false,
      emptyLogProb: 0,
      ...tokens,
    },
    policy: {
      logits,
      logProbs: new Float64Array(sequences.length),
      logWeights: new Float64Array(sequences.length),
      states,
      tokenLogProbs: outputs(),
      tokenEntropies: outputs(),
      tokenArgmax: new Int32Array(rows.length).fill(-7),
      logSumExp: outputs(),
      sumSquaredProbs: outputs(),
    },
    gradient: {
      logits,
      out: rowsOf(
        rows.map((row) => row.map(() => 5)),
        dtype,
        1,
      ),
      states,
      coefficients: Float64Array.from(coefficients ?? sequences.map(() => 1)),
    },
  } satisfies Job & {
    tokens: Tokens
    policy: Required<
      Omit<ForwardStage, 'segments' | 'head' | 'plainLogProbs' | 'entropies' | 'swept' | 'tokenMeanLogits'>
    >
    gradient: GradientStage
  }
}

function evaluate(problem: Case) {
  const job = jobOf(problem)
  jsBackend.runSync(job, settings)
  return { ...job.policy, gradient: valuesOf(job.gradient.out), job }
}

/** One row predicting `label`. */
function one(row: number[], label: number, rest: Partial<Case> = {}) {
  const { job, gradient, ...policy } = evaluate({ rows: [row], targets: [label], ...rest })
  return {
    logProb: policy.logProbs[0],
    tokenLogProb: policy.tokenLogProbs[0],
    entropy: policy.tokenEntropies[0],
    argmax: policy.tokenArgmax[0],
    logSumExp: policy.logSumExp[0],
    sumSquaredProbs: policy.sumSquaredProbs[0],
    logWeight: policy.logWeights[0],
    gradient: gradient[0],
  }
}

/** The same by the textbook's formula, which is accurate enough for moderate logits. */
function oracle({ rows, targets, sequences = [rows.length], tokens = {}, coefficients }: Case) {
  const { temperature = 1, average = false, emptyLogProb = 0, weights } = tokens
  let end = 0
  return sequences.map((length, s) => {
    const start = end
    end += length
    const count = targets.slice(start, end).filter((target) => target >= 0).length
    let logProb = 0
    let logWeight = 0
    const gradient: number[][] = []
    for (let row = start; row < end; row++) {
      const [x, label] = [rows[row], targets[row]]
      if (label < 0) {
        gradient.push(x.map(() => 0))
        continue
      }
      const exps = x.map((value) => Math.exp(Math.fround(value) / temperature))
      const sum = exps.reduce((a, b) => a + b)
      const probs = exps.map((e) => e / sum)
      const weight = weights === undefined ? 1 : weights[row]
      logProb += weight * Math.log(probs[label])
      logWeight += Math.log(probs[label]) - Math.log(probs.reduce((a, p) => a + p * p, 0))
      const factor = ((coefficients?.[s] ?? 1) * weight) / temperature / (average ? count : 1)
      gradient.push(probs.map((p, i) => factor * ((i === label ? 1 : 0) - p)))
    }
    return {
      logProb: count === 0 ? emptyLogProb : average ? logProb / count : logProb,
      logWeight: count === 0 ? 0 : logWeight / count,
      gradient,
    }
  })
}

const logit = fc.double({ min: -15, max: 15, noNaN: true })

const cases: fc.Arbitrary<Case> = fc
  .record({
    vocab: fc.integer({ min: 1, max: 7 }),
    sequences: fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 3 }),
    temperature: fc.constantFrom(1, 0.7, 2),
    average: fc.boolean(),
    weighted: fc.boolean(),
  })
  .filter(({ sequences }) => sequences.some((length) => length > 0))
  .chain(({ vocab, sequences, temperature, average, weighted }) => {
    const rowCount = sequences.reduce((a, b) => a + b)
    const perRow = <T>(value: fc.Arbitrary<T>) => fc.array(value, { minLength: rowCount, maxLength: rowCount })
    return fc.record({
      rows: perRow(fc.array(logit, { minLength: vocab, maxLength: vocab })),
      targets: perRow(fc.integer({ min: -1, max: vocab - 1 })),
      sequences: fc.constant(sequences),
      coefficients: fc.array(fc.double({ min: -2, max: 2, noNaN: true }), {
        minLength: sequences.length,
        maxLength: sequences.length,
      }),
      tokens: perRow(fc.double({ min: 0, max: 2, noNaN: true })).map((weights) => ({
        temperature,
        average,
        weights: weighted ? Float64Array.from(weights) : undefined,
      })),
    })
  })

describe('against the oracle', () => {
  it('log-probs, WPO weights and gradients', () => {
    const property = fc.property(cases, (problem) => {
      const result = evaluate(problem)
      const expected = oracle(problem)
      expected.forEach(({ logProb, logWeight }, s) => {
        expect(Math.abs(result.logProbs[s] - logProb)).toBeLessThanOrEqual(1e-13 * (1 + Math.abs(logProb)))
        expect(Math.abs(result.logWeights[s] - logWeight)).toBeLessThanOrEqual(1e-13 * (1 + Math.abs(logWeight)))
      })
      for (const [r, row] of expected.flatMap(({ gradient }) => gradient).entries()) {
        for (const [i, value] of row.entries()) {
          expect(Math.abs(result.gradient[r][i] - value)).toBeLessThanOrEqual(1e-7 * Math.abs(value) + 1e-14)
        }
      }
    })
    fc.assert(property, fixed)
  })

  it('by-products', () => {
    const row = fc.array(logit, { minLength: 1, maxLength: 8 })
    const property = fc.property(row, fc.nat(), fc.constantFrom(1, 0.5, 3), (x, seed, temperature) => {
      const label = seed % x.length
      const result = one(x, label, { tokens: { temperature } })
      const scaled = x.map((value) => Math.fround(value) / temperature)
      const sum = scaled.reduce((a, value) => a + Math.exp(value), 0)
      const probs = scaled.map((value) => Math.exp(value) / sum)
      const entropy = probs.reduce((a, p) => (p === 0 ? a : a - p * Math.log(p)), 0)
      const close = (value: number, wanted: number) =>
        expect(Math.abs(value - wanted)).toBeLessThanOrEqual(2e-7 * Math.abs(wanted) + 1e-14)
      close(result.tokenLogProb, result.logProb)
      close(result.entropy, entropy)
      close(result.logSumExp, Math.log(sum))
      close(
        result.sumSquaredProbs,
        probs.reduce((a, p) => a + p * p, 0),
      )
      expect(result.argmax).toBe(scaled.indexOf(Math.max(...scaled)))
    })
    fc.assert(property, { ...fixed, numRuns: 100 })
  })

  it('every 16-bit logit is read exactly, and the gradient rounded once from float32', () => {
    for (const dtype of ['float16', 'bfloat16'] as const) {
      const x = [1.5, -0.25, 3, 0.125]
      const half = one(x, 2, { dtype })
      const full = one(x, 2)
      expect(half.logProb).toBe(full.logProb)
      expect(half.gradient).toEqual(full.gradient.map((value) => decode[dtype](encode[dtype](value))))
    }
  })
})

describe('shapes', () => {
  it('strides, batches and rows outside every sequence', () => {
    // Two batches of two rows, the last of each reserved; batch and time stride both padded.
    const data = Float32Array.from([1, 2, 9, 3, 4, 9, 9, 5, 6, 9, 7, 8.5, 9, 9])
    const logits: Rows = { data, dtype: 'float32', batch: 2, time: 2, vocab: 2, batchStride: 7, timeStride: 3 }
    const out: Rows = { ...logits, data: new Float32Array(14).fill(5) }
    const job = jobOf({ rows: [[0], [0], [0], [0]], targets: [0, -1, 1, 1], sequences: [2, 1] })
    jsBackend.runSync(
      { ...job, policy: { ...job.policy, logits }, gradient: { ...job.gradient, logits, out } },
      settings,
    )
    const p = 1 / (1 + Math.exp(1))
    expect(job.policy.logProbs[0]).toBeCloseTo(Math.log(p), 14)
    expect(job.policy.logProbs[1]).toBeCloseTo(Math.log(1 - p), 14)
    const written = Array.from(out.data as Float32Array, (x) => Math.round(x * 1000) / 1000)
    expect(written).toEqual([0.731, -0.731, 5, 0, 0, 5, 5, -0.269, 0.269, 5, 0, 0, 5, 5])
  })

  it('in place, the logits become the gradient and the padding stays', () => {
    const problem: Case = {
      rows: [
        [1, 2, 3],
        [4, 5, 6],
        [0, 1, 0],
      ],
      targets: [0, -1, 1],
      coefficients: [2],
    }
    const expected = evaluate(problem).gradient
    const job = jobOf(problem)
    const before = Array.from(job.policy.logits.data as Float32Array)
    jsBackend.runSync({ ...job, gradient: { ...job.gradient, out: job.policy.logits } }, settings)
    expect(valuesOf(job.policy.logits)).toEqual(expected)
    const after = Array.from(job.policy.logits.data as Float32Array)
    for (const r of [0, 1, 2]) expect(after.slice(r * 5 + 3, r * 5 + 5)).toEqual(before.slice(r * 5 + 3, r * 5 + 5))
  })

  it('a vocabulary of 1 predicts with certainty', () => {
    expect(one([3.5], 0)).toEqual({
      logProb: 0,
      tokenLogProb: 0,
      entropy: 0,
      argmax: 0,
      logSumExp: 3.5,
      sumSquaredProbs: 1,
      logWeight: 0,
      gradient: [0],
    })
    expect(one([3.5], 0, { coefficients: [-1] }).gradient).toEqual([0])
    expect(one([nan], 0).logProb).toBeNaN()
    expect(one([-inf], 0).logProb).toBeNaN()
  })

  it('inactive rows keep the per-token results they had', () => {
    const { tokenLogProbs, tokenEntropies, tokenArgmax, logSumExp, sumSquaredProbs } = evaluate({
      rows: [
        [1, 2],
        [nan, inf],
        [2, 1],
      ],
      targets: [0, -1, 0],
    })
    for (const output of [tokenLogProbs, tokenEntropies, tokenArgmax, logSumExp, sumSquaredProbs]) {
      expect(output[1]).toBe(-7)
      expect(output[0]).not.toBe(-7)
      expect(output[2]).not.toBe(-7)
    }
  })

  it('a sequence without active rows has the log-prob asked for, and no gradient', () => {
    for (const average of [false, true]) {
      for (const emptyLogProb of [0, nan]) {
        const result = evaluate({
          rows: [
            [1, 2],
            [3, 4],
          ],
          targets: [-1, 1],
          sequences: [1, 1],
          coefficients: [nan, 1],
          tokens: { average, emptyLogProb },
        })
        expect(result.logProbs[0]).toBe(emptyLogProb)
        expect(result.logWeights[0]).toBe(0)
        expect(result.gradient[0]).toEqual([0, 0])
      }
    }
  })

  it('a row has the same bits wherever it stands', () => {
    const row = [0.3, -1.7, 2.9, 11.1, -30]
    const alone = one(row, 2)
    const { tokenLogProbs, gradient } = evaluate({
      rows: [[9, 8, 7, 6, 5], row, row],
      targets: [0, 2, 2],
      sequences: [1, 2],
    })
    expect([tokenLogProbs[1], tokenLogProbs[2]]).toEqual([alone.tokenLogProb, alone.tokenLogProb])
    expect([gradient[1], gradient[2]]).toEqual([alone.gradient, alone.gradient])
  })
})

describe('IEEE edges', () => {
  it('a logit of −inf that is not the label has probability 0', () => {
    const with_ = one([1, -inf, 2], 0)
    const without = one([1, 2], 0)
    expect(with_.gradient).toEqual([without.gradient[0], 0, without.gradient[1]])
    expect({ ...with_, gradient: 0, argmax: 0 }).toEqual({ ...without, gradient: 0, argmax: 0 })
    expect(one([-inf, 4, -inf], 1)).toMatchObject({ logProb: 0, entropy: 0, logSumExp: 4, gradient: [0, 0, 0] })
  })

  it('a label of −inf has log-prob −inf and a finite gradient', () => {
    const result = one([0, -inf, 0], 1, { coefficients: [0.5] })
    expect(result).toMatchObject({ logProb: -inf, tokenLogProb: -inf, gradient: [-0.25, 0.5, -0.25], argmax: 0 })
    expect(result.entropy).toBe(Math.fround(Math.LN2))
    expect(result.sumSquaredProbs).toBe(0.5)
    expect(result.logSumExp).toBe(Math.fround(Math.LN2))
  })

  const hopeless: [string, number[]][] = [
    ['all −inf', [-inf, -inf, -inf]],
    ['NaN at the label', [nan, 1, 2]],
    ['NaN elsewhere', [1, 2, nan]],
    ['+inf at the label', [inf, 1, 2]],
    ['+inf elsewhere', [1, inf, 2]],
    ['both infinities', [-inf, inf, 2]],
  ]
  it.each(hopeless)('%s is NaN for its sequence alone', (_, row) => {
    for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
      const result = evaluate({ rows: [[1, 2, 3], row, [1, 2, 3]], targets: [0, 0, 0], sequences: [1, 2], dtype })
      const { logProbs, tokenLogProbs, tokenEntropies, tokenArgmax, sumSquaredProbs, logSumExp, gradient } = result
      expect(Array.from(logProbs, Number.isNaN)).toEqual([false, true])
      for (const output of [tokenLogProbs, tokenEntropies, sumSquaredProbs, logSumExp]) {
        expect(Array.from(output, Number.isNaN)).toEqual([false, true, false])
      }
      expect(Array.from(tokenArgmax)).toEqual([2, -1, 2])
      expect(gradient.map((values) => values.every(Number.isNaN))).toEqual([false, true, false])
      expect(gradient[2]).toEqual(gradient[0])
    }
  })

  it('a coefficient of 0 gives 0, whatever the row is', () => {
    const { gradient } = evaluate({
      rows: [
        [1, -inf],
        [1, nan],
        [-inf, 1],
      ],
      targets: [0, 0, 0],
      coefficients: [0],
    })
    expect(gradient).toEqual([
      [0, 0],
      [0, 0],
      [0, 0],
    ])
  })

  it('garbage in an inactive row is never read', () => {
    const garbage = evaluate({
      rows: [
        [1, 2],
        [nan, inf],
      ],
      targets: [1, -1],
      coefficients: [3],
    })
    const zero = evaluate({
      rows: [
        [1, 2],
        [0, 0],
      ],
      targets: [1, -1],
      coefficients: [3],
    })
    expect(garbage.logProbs).toEqual(zero.logProbs)
    expect(garbage.gradient).toEqual(zero.gradient)
    expect(garbage.gradient[1]).toEqual([0, 0])
  })

  it('huge logits and extreme temperatures are ordinary', () => {
    const x = [3e38, -3e38, 2.9e38]
    expect(one(x, 0, { tokens: { temperature: 1e-3 } })).toMatchObject({ logProb: 0, argmax: 0, gradient: [0, 0, 0] })
    const least = one(x, 1, { tokens: { temperature: 1e-3 }, coefficients: [1e-3] })
    expect(least.logProb).toBeCloseTo(-(Math.fround(3e38) * 2) / 1e-3, -28)
    expect(least.gradient).toEqual([-1, 1, 0])
    expect(one([1e4, 1e4, 1e4, 1e4], 3).logProb).toBe(-2 * Math.LN2)
    expect(one([-1e4, -1e4], 0, { tokens: { temperature: 1e3 } }).logProb).toBe(-Math.LN2)
  })

  it('near certainty nothing cancels', () => {
    // 1 − p = 2 e^-60 to the last digits, although 1 − 2 e^-60 rounds to 1.
    const rare = 2 * Math.exp(-60)
    const { logProb, gradient, entropy, sumSquaredProbs } = one([60, 0, 0], 0)
    expect(logProb / -rare).toBeCloseTo(1, 14)
    expect(gradient[0] / rare).toBeCloseTo(1, 6)
    expect(gradient[1] / rare).toBeCloseTo(-0.5, 6)
    expect(entropy / (rare * 61)).toBeCloseTo(1, 6)
    expect(sumSquaredProbs).toBe(1)
    // e^-1000 underflows to 0 here; the log-prob is 0, not -0.
    expect(one([1000, 0], 0)).toMatchObject({ logProb: 0, tokenLogProb: 0, gradient: [0, 0] })
    // The same for an unlikely label beside an almost certain other token.
    const unlikely = one([0, 60, 0], 0)
    expect(unlikely.logProb).toBeCloseTo(-60, 12)
    expect(unlikely.gradient).toEqual([1, -1, -Math.fround(Math.exp(-60))])
    expect(unlikely.entropy / (rare * 61)).toBeCloseTo(1, 6)
  })

  it('the first of equal logits is the largest, the label among them', () => {
    expect(one([1, 3, 3, 0], 2).argmax).toBe(1)
    expect(one([1, 3, 3, 0], 1).argmax).toBe(1)
    expect(one([1, 3, 3, 0], 0).argmax).toBe(1)
    expect(one([0, -0], 1).argmax).toBe(0)
  })
})

describe('a whole job', () => {
  /** Three sequences; the first is chosen over both others. */
  function wholeJob(wpo: boolean) {
    const random = fc.sample(fc.array(logit, { minLength: 5, maxLength: 5 }), { seed: 7, numRuns: 12 })
    const problem: Case = {
      rows: random.slice(0, 6),
      targets: [1, 4, 0, -1, 3, 2],
      sequences: [2, 2, 2],
      coefficients: [nan, nan, nan],
    }
    const job = jobOf(problem)
    const reference = jobOf({ ...problem, rows: random.slice(6) })
    const logits = job.policy.logits
    const zeros = () => new Float64Array(2)
    const loss = {
      constants: {
        terms: [{ lossType: 'sigmoid' as const, weight: 1, labelSmoothing: 0 }],
        beta: 0.1,
        offset: 0,
        gamma: 0.5,
        rewardShift: 0,
        targetMargin: 0,
        dpopLambda: 50,
        discopopTau: 0.05,
        fDivergence: 'reverse_kl' as const,
        alpha: 0.5,
        rewardAlpha: 0,
        sftNormalization: 'tokens' as const,
        average: false,
      },
      pairs: Int32Array.of(0, 1, 0, 2),
      chosen: zeros(),
      rejected: zeros(),
      referenceChosen: zeros(),
      referenceRejected: zeros(),
      chosenTokenCounts: Float64Array.of(2, 2),
      rejectedTokenCounts: Float64Array.of(1, 2),
      pairWeights: undefined as Float64Array | undefined,
      losses: zeros(),
      chosenRewards: zeros(),
      rejectedRewards: zeros(),
      gradChosen: zeros(),
      gradRejected: zeros(),
      summary: new Float64Array(3),
    }
    if (!wpo) Object.assign(job.policy, { logWeights: undefined })
    return { ...job, reference: { logits: reference.policy.logits, logProbs: new Float64Array(3) }, loss, logits }
  }

  it('gathers sequences into pairs and scatters the gradient back, summed over pairs', () => {
    const job = wholeJob(false)
    jsBackend.runSync(job, settings)
    const { loss, policy, reference, gradient } = job
    expect(Array.from(loss.chosen)).toEqual([policy.logProbs[0], policy.logProbs[0]])
    expect(Array.from(loss.rejected)).toEqual([policy.logProbs[1], policy.logProbs[2]])
    expect(Array.from(loss.referenceRejected)).toEqual([reference.logProbs[1], reference.logProbs[2]])
    expect(Array.from(gradient.coefficients)).toEqual([
      loss.gradChosen[0] + loss.gradChosen[1],
      loss.gradRejected[0],
      loss.gradRejected[1],
    ])
  })

  it('gives the gradient of its loss with respect to the logits', () => {
    const job = wholeJob(false)
    jsBackend.runSync(job, settings)
    const gradient = valuesOf(job.gradient.out)
    const data = job.logits.data as Float32Array
    for (const [row, i] of [
      [0, 1],
      [1, 0],
      [2, 3],
      [4, 3],
      [5, 4],
      [3, 0],
    ]) {
      const index = row * job.logits.timeStride + i
      const at = (step: number) => {
        const moved = wholeJob(false)
        ;(moved.logits.data as Float32Array)[index] += step
        const width = (moved.logits.data as Float32Array)[index] - data[index]
        jsBackend.runSync(moved, settings)
        return { loss: moved.loss.summary[0], width }
      }
      const [above, below] = [at(1 / 256), at(-1 / 256)]
      const difference = (above.loss - below.loss) / (above.width - below.width)
      expect(Math.abs(difference - gradient[row][i])).toBeLessThanOrEqual(1e-5 * Math.abs(gradient[row][i]) + 1e-9)
    }
  })

  it('weighs pairs by WPO when the policy stage has weights', () => {
    const job = wholeJob(true)
    jsBackend.runSync(job, settings)
    const { logWeights } = job.policy
    const weights = [1, 2].map((rejected) => Math.exp(logWeights[0] + logWeights[rejected]))
    const given = wholeJob(true)
    given.loss.pairWeights = Float64Array.of(0.5, 3)
    jsBackend.runSync(given, settings)
    const plain = wholeJob(false)
    jsBackend.runSync(plain, settings)
    expect(Array.from(job.loss.losses)).toEqual(Array.from(plain.loss.losses, (loss, i) => loss * weights[i]))
    const both = [0.5 * weights[0], 3 * weights[1]]
    expect(Array.from(given.loss.losses)).toEqual(Array.from(plain.loss.losses, (loss, i) => loss * both[i]))
    expect(given.loss.pairWeights).toEqual(Float64Array.of(0.5, 3))
  })

  it('run and runSync give the same bits', async () => {
    const [sync, async] = [wholeJob(true), wholeJob(true)]
    jsBackend.runSync(sync, settings)
    await jsBackend.run(async, settings)
    expect(async).toEqual(sync)
  })

  it('backward alone uses the states of an earlier forward', () => {
    const job = jobOf({
      rows: [
        [1, 2, 3],
        [3, 2, 2],
      ],
      targets: [0, 2],
      coefficients: [0.5],
    })
    const expected = evaluate({
      rows: [
        [1, 2, 3],
        [3, 2, 2],
      ],
      targets: [0, 2],
      coefficients: [0.5],
    }).gradient
    jsBackend.runSync({ tokens: job.tokens, policy: job.policy }, settings)
    jsBackend.runSync({ tokens: job.tokens, gradient: job.gradient }, settings)
    expect(valuesOf(job.gradient.out)).toEqual(expected)
  })
})

/** A clock that advances by 5 ms on every read: a slice of work is then two rows, however fast the engine is. */
function slowClock(): void {
  let now = 0
  vi.spyOn(performance, 'now').mockImplementation(() => (now += 5))
}

describe('a run beside others', () => {
  const big = () => {
    const row = Array.from({ length: 20 }, (_, i) => Math.sin(i))
    return jobOf({
      rows: Array.from({ length: 100 }, () => row),
      targets: Array.from({ length: 100 }, (_, t) => t % 20),
    })
  }
  const reason = new Error('enough')
  beforeEach(slowClock)
  afterEach(() => {
    vi.restoreAllMocks()
  })

  it('aborted before it has begun: rejects with the reason, nothing written', async () => {
    const already = big()
    await expect(jsBackend.run(already, { ...settings, signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect(already.policy.tokenLogProbs[0]).toBe(-7)

    const small = jobOf({ rows: [[1, 2]], targets: [0] })
    const early = new AbortController()
    const short = jsBackend.run(small, { ...settings, signal: early.signal })
    early.abort(reason)
    await expect(short).rejects.toBe(reason)
    expect(small.policy.tokenLogProbs[0]).toBe(-7)
  })

  it('aborted in its midst: rejects with the reason in that turn, no gradient written', async () => {
    const controller = new AbortController()
    const job = big()
    const running = jsBackend.run(job, { ...settings, signal: controller.signal })
    await turn()
    await turn()
    controller.abort(reason)
    await expect(running).rejects.toBe(reason)
    expect(valuesOf(job.gradient.out).every((row) => row.every((x) => x === 5))).toBe(true)
    const done = job.policy.tokenLogProbs.filter((logProb) => logProb !== -7).length
    expect(done).toBeGreaterThan(0)
    expect(done).toBeLessThanOrEqual(4)
  })

  it('aborted before the last slice of the forward: no gradient written', async () => {
    const controller = new AbortController()
    const job = big()
    const running = jsBackend.run(job, { ...settings, signal: controller.signal })
    while (job.policy.tokenLogProbs[97] === -7) await turn()
    controller.abort(reason)
    await expect(running).rejects.toBe(reason)
    expect(valuesOf(job.gradient.out).every((row) => row.every((x) => x === 5))).toBe(true)
  })

  it('is not aborted once the gradient is being written', async () => {
    const job = big()
    const controller = new AbortController()
    const running = jsBackend.run(job, { ...settings, signal: controller.signal })
    while ((job.gradient.out.data as Float32Array)[0] === 5) await turn()
    controller.abort(reason)
    expect(valuesOf(job.gradient.out)[99][0]).toBe(5)
    await running
    expect(valuesOf(job.gradient.out).every((row) => row.every((x) => x !== 5))).toBe(true)
  })

  it('lets the event loop turn in every stage', async () => {
    const job = big()
    let over = false
    const running = jsBackend.run(job, settings).finally(() => {
      over = true
    })
    const seen = new Set<string>()
    while (!over) {
      const forward = job.policy.tokenLogProbs.filter((logProb) => logProb !== -7).length
      seen.add(`${forward} rows read, ${valuesOf(job.gradient.out).filter(([x]) => x !== 5).length} written`)
      await turn()
    }
    await running
    // Two rows a slice, 100 read and then 100 written.
    expect(seen.size).toBeGreaterThanOrEqual(98)
  })

  it('lets the event loop turn while the gradients of an output layer are made', async () => {
    // Those of the weight are written 64 words at a time.
    const [rows, width, vocab] = [2, 2, 64 * 50]
    const data = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i))
    const hidden = { data: data(2 * rows * width), shape: [2, rows, width] }
    const weight = { data: data(vocab * width), shape: [vocab, width] }
    const made = new Float32Array(vocab * width)
    let over = false
    const running = fusedLinearPreferenceLoss(hidden, weight, new Int32Array(2 * rows), {
      ...{ lossType: 'cpo', shift: false, backend: 'js', gradient: { weight: made } },
    }).finally(() => {
      over = true
    })
    const seen = new Set<number>()
    while (!over) {
      seen.add(made.findLastIndex((x) => x !== 0))
      await turn()
    }
    await running
    expect(seen.size).toBeGreaterThanOrEqual(50)
  })
})

describe('16-bit formats', () => {
  it('every float16 is decoded exactly and encoded to itself', () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = decodeFloat16(bits)
      const exponent = (bits >>> 10) & 31
      if (exponent === 31 && (bits & 0x3ff) !== 0) {
        if (!Number.isNaN(value) || !Number.isNaN(decodeFloat16(encodeFloat16(value)))) expect.fail(`NaN ${bits}`)
      } else if (encodeFloat16(value) !== bits || Math.fround(value) !== value) expect.fail(`${bits}: ${value}`)
    }
    const known = { 15360: 1, 49152: -2, 31743: 65504, 1024: 2 ** -14, 1: 2 ** -24, 13653: 0.333251953125 }
    for (const [bits, value] of Object.entries(known)) expect(decodeFloat16(Number(bits))).toBe(value)
    expect([decodeFloat16(0x7c00), decodeFloat16(0xfc00), decodeFloat16(0x8000)]).toEqual([inf, -inf, -0])
  })

  it('every bfloat16 is decoded exactly and encoded to itself', () => {
    const view = new DataView(new ArrayBuffer(4))
    for (let bits = 0; bits < 0x10000; bits++) {
      view.setUint16(0, bits)
      const value = decodeBfloat16(bits)
      if (!Object.is(value, view.getFloat32(0))) expect.fail(`${bits}: ${value}`)
      if (Number.isNaN(value)) {
        if (!Number.isNaN(decodeBfloat16(encodeBfloat16(value)))) expect.fail(`NaN ${bits}`)
      } else if (encodeBfloat16(value) !== bits) expect.fail(`${bits}: ${value}`)
    }
  })

  it.each([
    ['float16', encodeFloat16, decodeFloat16, 0x7c00] as const,
    ['bfloat16', encodeBfloat16, decodeBfloat16, 0x7f80] as const,
  ])('%s rounds to the nearest, and halves to even, between all neighbours', (_, encodeBits, decodeBits, infinity) => {
    for (let bits = 0; bits < infinity - 1; bits++) {
      const [low, high] = [decodeBits(bits), decodeBits(bits + 1)]
      const middle = (low + high) / 2
      const even = bits & 1 ? bits + 1 : bits
      const nearer = [low + (high - low) * 0.4375, low + (high - low) * 0.5625].map(Math.fround)
      // float32 cannot divide the gap of the smallest bfloat16, so the rounding to float32 comes first.
      if (Math.fround(middle) === middle && encodeBits(middle) !== even) expect.fail(`middle of ${bits}`)
      if (Math.fround(-middle) === -middle && encodeBits(-middle) !== (even | 0x8000)) expect.fail(`middle of -${bits}`)
      if (encodeBits(nearer[0]) !== bits || encodeBits(nearer[1]) !== bits + 1) expect.fail(`beside ${bits}`)
    }
    const largest = decodeBits(infinity - 1)
    const step = largest - decodeBits(infinity - 2)
    expect(encodeBits(largest + step / 2)).toBe(infinity)
    expect(encodeBits(-largest - step / 2)).toBe(infinity | 0x8000)
    expect(encodeBits(largest + step * 0.49)).toBe(infinity - 1)
    expect(encodeBits(1e300)).toBe(infinity)
    expect(encodeBits(-1e-300)).toBe(0x8000)
  })

  it('the rounding to float32 comes first', () => {
    // Just above half way between two float16 (and bfloat16) neighbours, by less than float32 can hold.
    expect(encodeFloat16(1 + 2 ** -11 + 2 ** -40)).toBe(0x3c00)
    expect(encodeFloat16(1 + 2 ** -11 + 2 ** -23)).toBe(0x3c01)
    expect(encodeBfloat16(1 + 2 ** -8 + 2 ** -40)).toBe(0x3f80)
    expect(encodeBfloat16(1 + 2 ** -8 + 2 ** -23)).toBe(0x3f81)
  })

  it('NaN with any payload stays NaN', () => {
    const view = new DataView(new ArrayBuffer(4))
    for (const bits of [0x7f800001, 0x7fc00000, 0x7fffffff, 0xffc00000, 0xff800001]) {
      view.setUint32(0, bits)
      const value = view.getFloat32(0)
      expect([decodeFloat16(encodeFloat16(value)), decodeBfloat16(encodeBfloat16(value))]).toEqual([nan, nan])
    }
  })

  it('a Float16Array is read where the runtime has one', () => {
    // Other runtimes get an object of the same shape: only the bits count.
    const Native = (globalThis as { Float16Array?: new (length: number) => ArrayBufferView }).Float16Array
    const data = Native === undefined ? new FakeFloat16Array(4) : new Native(4)
    new Uint16Array(data.buffer, data.byteOffset, 4).set([1, -2, 0.5, 3].map(encodeFloat16))
    const logits = {
      data,
      dtype: 'float16',
      batch: 1,
      time: 1,
      vocab: 4,
      batchStride: 4,
      timeStride: 4,
    } as unknown as Rows
    const job = jobOf({ rows: [[0]], targets: [3] })
    jsBackend.runSync(
      { ...job, policy: { ...job.policy, logits }, gradient: { ...job.gradient, logits, out: logits } },
      settings,
    )
    const expected = one([1, -2, 0.5, 3], 3, { dtype: 'float16' })
    expect(job.policy.logProbs[0]).toBe(expected.logProb)
    const written = new Uint16Array(data.buffer, data.byteOffset, 4)
    expect(Array.from(written, decodeFloat16)).toEqual(expected.gradient)
  })
})

/** Bits, and the length of their array. */
class FakeFloat16Array {
  readonly buffer: ArrayBuffer
  readonly byteOffset = 0
  constructor(readonly length: number) {
    this.buffer = new ArrayBuffer(2 * length)
  }
}
