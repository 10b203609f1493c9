/**
 * A weight of 0 means "takes no part", whatever it multiplies: impossible tokens (log-prob −∞), NaN, infinite losses.
 * Also the losses at their limits, where a formula contains 0 · ∞ or ∞ − ∞. Runs on every backend and instruction set.
 */
import { describe, expect, test } from 'vitest'
import {
  fusedLinearPreferenceLossSync,
  fusedPreferenceLossSync,
  linearSequenceLogProbsSync,
  preferenceLossSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { LossType, PairLogProbs, WeightedLoss } from '../lib/types/index.js'
import { LOSS_TYPES, logitsOf, neededBy, TARGETS, values } from './support.js'

const { NaN: nan, POSITIVE_INFINITY: inf } = Number

const VOCAB = 5
const TIME = 4

/** Rows of four sequences of four tokens, all different; `set` replaces logits, `[row, word, value]`. */
function fourSequences(set: [row: number, word: number, value: number][] = []) {
  const elements = Float64Array.from({ length: 4 * TIME * VOCAB }, (_, i) => Math.sin(7 * i) * 2)
  for (const [row, word, value] of set) elements[row * VOCAB + word] = value
  return logitsOf('float32', [4, TIME, VOCAB], elements)
}

/** What row r predicts without a shift. */
const LABELS = Int32Array.from({ length: 4 * TIME }, (_, row) => (3 * row + 1) % VOCAB)
const REFERENCE = { chosen: [-7, -6], rejected: [-8, -9] }
const rowsOf = (gradient: Float64Array, first: number, end: number) => gradient.subarray(first * VOCAB, end * VOCAB)
const isZero = (list: ArrayLike<number>) => Array.from(list).every((x) => x === 0)
const allFinite = (list: ArrayLike<number>) => Array.from(list).every(Number.isFinite)
const without = (rows: number[]) => Array.from(LABELS, (_, row) => (rows.includes(row) ? 0 : 1))

// Row contents that only a weight of 0 can neutralize.
const HOPELESS: [string, number][] = [
  ['impossible', -inf],
  ['NaN', nan],
]

describe.each(TARGETS)('$name', ({ run }) => {
  describe.each(HOPELESS)('a token that is %s, with weight 0', (_, value) => {
    const row = 6 // of the second chosen sequence
    const bad = fourSequences([[row, LABELS[row], value]])
    const good = fourSequences()
    const tokenWeights = without([row])
    const options = { shift: false, ...run }

    test('is left out of the log-prob and of its gradient', () => {
      const weighted = sequenceLogProbsSync(bad, LABELS, { ...options, tokenWeights })
      const wanted = sequenceLogProbsSync(good, LABELS, { ...options, tokenWeights })
      expect(weighted.logProbs).toEqual(wanted.logProbs)
      expect(weighted.tokenCounts).toEqual(wanted.tokenCounts)
      const gradient = values(weighted.backwardSync([1, -2, 3, 0.5]).gradLogits)
      expect(gradient).toEqual(values(wanted.backwardSync([1, -2, 3, 0.5]).gradLogits))
      expect(isZero(rowsOf(gradient, row, row + 1))).toBe(true)
    })

    test('is left out of losses', () => {
      for (const lossType of ['ipo', 'simpo', 'orpo', 'sft'] as const) {
        for (const averageLogProb of [false, true]) {
          const all = { ...options, lossType, averageLogProb, tokenWeights, reference: REFERENCE, gradient: true }
          const got = fusedPreferenceLossSync(bad, LABELS, all)
          const wanted = fusedPreferenceLossSync(good, LABELS, all)
          expect(got.losses).toEqual(wanted.losses)
          expect(got.gradLogProbs).toEqual(wanted.gradLogProbs)
          expect(values(got.gradLogits!)).toEqual(values(wanted.gradLogits!))
        }
      }
    })

    test('is left out by ldAlpha', () => {
      // The second pair's chosen sequence has all its four tokens, the rejected one only the first two.
      const labels = LABELS.map((label, i) => (i === 14 || i === 15 ? -100 : label))
      const all = { ...options, ldAlpha: 0, reference: REFERENCE, gradient: true }
      const got = fusedPreferenceLossSync(bad, labels, all)
      const wanted = fusedPreferenceLossSync(good, labels, all)
      expect(got.chosenLogProbs).toEqual(wanted.chosenLogProbs)
      expect(allFinite(got.losses)).toBe(true)
      expect(values(got.gradLogits!)).toEqual(values(wanted.gradLogits!))
    })
  })

  test.each(HOPELESS)('a pair with a token that is %s, with weight 0, is left out', (_, value) => {
    // In the losses that sort it still has its rank, see below.
    for (const lossType of LOSS_TYPES.filter((name) => !name.startsWith('aot'))) {
      const pairs = (bad: number): PairLogProbs => ({
        chosen: [-3, bad, -4],
        rejected: [-5, -2, -3],
        referenceChosen: [-4, bad, -3],
        referenceRejected: [-4, -3, -3],
        chosenTokenCounts: [3, 4, 2],
        rejectedTokenCounts: [2, 5, 3],
      })
      const options = { ...neededBy(lossType), lossType, pairWeights: [1, 0, 2], ...run }
      const got = preferenceLossSync(pairs(value), options)
      const wanted = preferenceLossSync(pairs(-3), options)
      expect(got.loss, lossType).toBe(wanted.loss)
      expect(got.losses).toEqual(wanted.losses)
      expect(got.gradLogProbs).toEqual(wanted.gradLogProbs)
      expect([got.losses[1], got.gradLogProbs.chosen[1], got.gradLogProbs.rejected[1]].map(Math.abs)).toEqual([0, 0, 0])
    }
  })

  test('a pair of weight 0 is left out of the sorted losses too', () => {
    for (const lossType of ['aot', 'aot_unpaired'] as const) {
      const pairs = { chosen: [-3, -inf, -4], rejected: [-5, -2, -3] }
      const got = preferenceLossSync(pairs, { lossType, referenceFree: true, pairWeights: [1, 0, 2], ...run })
      expect(allFinite(got.losses), lossType).toBe(true)
      expect(got.losses[1]).toBe(0)
      expect(allFinite([...got.gradLogProbs.chosen, ...got.gradLogProbs.rejected])).toBe(true)
      expect(got.gradLogProbs.chosen[1]).toBe(0)
    }
  })

  test('a loss of weight 0 is left out of a list', () => {
    const pairs = { chosen: [-inf], rejected: [-2], chosenTokenCounts: [3], rejectedTokenCounts: [2] }
    const alone = preferenceLossSync(pairs, { lossType: 'hinge', referenceFree: true, ...run })
    for (const lossType of LOSS_TYPES) {
      const list: WeightedLoss[] = [{ lossType: 'hinge' }, { lossType, weight: 0 }]
      const options = { ...neededBy(lossType), lossType: list, referenceFree: true, ...run }
      const got = preferenceLossSync(pairs, options)
      expect(got.losses, lossType).toEqual(alone.losses)
      expect(got.gradLogProbs).toEqual(alone.gradLogProbs)
    }
  })

  test('wpo leaves out a pair that the policy cannot produce', () => {
    const bad = fourSequences([[6, LABELS[6], -inf]])
    const options = { shift: false, ...run, weighting: 'wpo' as const, reference: REFERENCE, gradient: true }
    for (const lossType of ['sigmoid', 'ipo', 'sppo_hard', 'sft'] as const) {
      const got = fusedPreferenceLossSync(bad, LABELS, { ...options, lossType })
      const wanted = fusedPreferenceLossSync(fourSequences(), LABELS, { ...options, lossType })
      expect(got.losses[0]).toBe(wanted.losses[0])
      expect([got.losses[1], got.gradLogProbs.chosen[1], got.gradLogProbs.rejected[1]].map(Math.abs)).toEqual([0, 0, 0])
      const gradient = values(got.gradLogits!)
      // Sequences 0 and 2 are the first pair, 1 and 3 the second.
      expect(rowsOf(gradient, 0, TIME)).toEqual(rowsOf(values(wanted.gradLogits!), 0, TIME))
      expect(isZero(rowsOf(gradient, TIME, 2 * TIME)) && isZero(rowsOf(gradient, 3 * TIME, 4 * TIME))).toBe(true)
    }
  })

  test('a pair of weight 0 gives no gradient to rows of NaN', () => {
    const bad = fourSequences([[0, LABELS[0], nan]])
    const sums = sequenceLogProbsSync(bad, LABELS, { shift: false, ...run })
    const gradient = values(sums.backwardSync([0, 1, 1, 1]).gradLogits)
    expect(isZero(rowsOf(gradient, 0, TIME)) && allFinite(gradient)).toBe(true)
    expect(
      values(sums.backwardSync([1, 1, 1, 1]).gradLogits)
        .subarray(0, VOCAB)
        .every(Number.isNaN),
    ).toBe(true)
  })

  describe('label smoothing of 0 and 1', () => {
    test.each(['sigmoid', 'aot', 'aot_unpaired', 'simpo', 'cpo'] as LossType[])('%s at either end', (lossType) => {
      const call = (chosen: number, rejected: number, labelSmoothing: number) => {
        const pairs = { chosen: [chosen], rejected: [rejected], chosenTokenCounts: [1], rejectedTokenCounts: [1] }
        const margin = lossType === 'simpo' ? { gamma: 0 } : {}
        const options = { lossType, labelSmoothing, referenceFree: true, beta: 0.25, ...margin, ...run }
        const { loss, gradLogProbs } = preferenceLossSync(pairs, options)
        return [loss, gradLogProbs.chosen[0], gradLogProbs.rejected[0]].map((x) => x + 0)
      }
      expect(call(-inf, -1, 0)).toEqual([inf, -0.25, 0.25])
      expect(call(-1, -inf, 0)).toEqual([0, 0, 0])
      expect(call(-inf, -1, 1)).toEqual([0, 0, 0])
      expect(call(-1, -inf, 1)).toEqual([inf, 0.25, -0.25])
      expect(call(-inf, -1, 0.5)).toEqual([inf, -0.125, 0.125])
      expect(call(-1, -inf, 0.5)).toEqual([inf, 0.125, -0.125])
      expect(call(-1, -1, 1)).toEqual([Math.LN2, 0.125, -0.125])
    })
  })

  test('discopop has its limits at infinity', () => {
    for (const discopopTau of [0.05, 1, 2]) {
      const options = { lossType: 'discopop', discopopTau, referenceFree: true, beta: 0.3, ...run } as const
      const impossible = preferenceLossSync({ chosen: [-inf], rejected: [-1] }, options)
      expect([impossible.loss, impossible.gradLogProbs.chosen[0], impossible.gradLogProbs.rejected[0]]).toEqual([
        inf,
        -0.3,
        0.3,
      ])
      const certain = preferenceLossSync({ chosen: [-1], rejected: [-inf] }, options)
      const ends = [certain.loss, certain.gradLogProbs.chosen[0], certain.gradLogProbs.rejected[0]]
      expect(ends.map(Math.abs)).toEqual([0, 0, 0])
    }
  })

  test('a capped score keeps its derivative of 0 where the loss is infinite', () => {
    // Near α = 1 the capped score divided by α − 1 is beyond float64.
    const options = { lossType: 'ipo', fDivergence: 'alpha', alpha: 1 - 1e-6, referenceFree: true, ...run } as const
    const { loss, gradLogProbs } = preferenceLossSync({ chosen: [-1e9], rejected: [-1] }, options)
    expect(loss).toBe(inf)
    expect(gradLogProbs.chosen[0] + 0).toBe(0)
  })

  describe('robust near ε = 1/2', () => {
    // From the paper's formula in 60 digits, β = 0.1: ε, Δ, loss, derivative.
    test.each([
      [0.49999, 0.001, -1.8068528181875545, -2499.9999974975],
      [0.499999999, 0.001, -24999.306172087716, -24999999.319267027],
      [0.499999999, 40, -999999970.7526311, -24999999.27106815],
      [0.499999999, -3, 74999998.66216382, -24999999.326713778],
      [0.4999999999999991, 0.001, -28147497670.372456, -28147497671065.6],
      [0.49999999999999994, 0.001, -450359962736.35645, -450359962737049.6],
    ])('ε = %d, Δ = %d', (labelSmoothing, margin, value, slope) => {
      const options = { lossType: 'robust', labelSmoothing, beta: 0.1, referenceFree: true, ...run } as const
      const { loss, gradLogProbs } = preferenceLossSync({ chosen: [0], rejected: [-margin] }, options)
      expect(Math.abs(loss / value - 1)).toBeLessThan(3e-16)
      expect(Math.abs(gradLogProbs.chosen[0] / slope - 1)).toBeLessThan(3e-16)
      expect(gradLogProbs.rejected[0]).toBe(-gradLogProbs.chosen[0])
    })
  })

  describe('orpo', () => {
    const orpo = (pairs: PairLogProbs, beta = 0.5) => preferenceLossSync(pairs, { lossType: 'orpo', beta, ...run })
    const logOdds = (p: number) => Math.log(p / (1 - p))

    test('gives even odds to a sequence without tokens', () => {
      const chosen = [Math.log(0.8) * 3, 0, 0]
      const rejected = [0, Math.log(0.3) * 2, 0]
      const { losses, gradLogProbs } = orpo({
        chosen,
        rejected,
        chosenTokenCounts: [3, 0, 0],
        rejectedTokenCounts: [0, 2, 0],
      })
      const softplus = (x: number) => Math.log1p(Math.exp(x))
      expect(losses[0]).toBeCloseTo(0.5 * softplus(-logOdds(0.8)), 14)
      expect(losses[1]).toBeCloseTo(0.5 * softplus(logOdds(0.3)), 14)
      expect(losses[2]).toBe(0.5 * Math.LN2)
      // σ(−log odds) / (1 − p), over the length and the three pairs.
      expect(gradLogProbs.chosen[0]).toBeCloseTo((-0.5 * 0.2) / 0.2 / 9, 14)
      expect(gradLogProbs.rejected[1]).toBeCloseTo((0.5 * 0.3) / 0.7 / 6, 14)
      const empty = [gradLogProbs.chosen[1], gradLogProbs.chosen[2], gradLogProbs.rejected[0], gradLogProbs.rejected[2]]
      expect(empty.map(Math.abs)).toEqual([0, 0, 0, 0])
    })

    test('knows a sequence without tokens by its length, of means too', () => {
      const labels = LABELS.map((label, row) => (row < TIME ? -100 : label))
      for (const averageLogProb of [false, true]) {
        const options = { shift: false, lossType: 'orpo', gradient: true, averageLogProb, ...run } as const
        const got = fusedPreferenceLossSync(fourSequences(), labels, options)
        expect(allFinite(got.losses)).toBe(true)
        const p = Math.exp(got.rejectedLogProbs[0] / (averageLogProb ? 1 : TIME))
        expect(got.losses[0]).toBeCloseTo(0.1 * Math.log1p(Math.exp(logOdds(p))), 12)
        expect(allFinite(values(got.gradLogits!))).toBe(true)
        // Without its length, a mean of 0 is a certain sequence.
        const certain = { averageLogProb: true, lossType: 'orpo', beta: 0.1, ...run } as const
        expect(preferenceLossSync({ chosen: [0], rejected: [-1] }, certain).loss).toBeLessThan(1e-300)
      }
      const none = fusedPreferenceLossSync(fourSequences(), new Int32Array(4 * TIME).fill(-100), {
        lossType: 'orpo',
        gradient: true,
        ...run,
      })
      expect(none.loss).toBe(0.1 * Math.LN2)
      expect(isZero(values(none.gradLogits!))).toBe(true)
      const unknown = fusedPreferenceLossSync(fourSequences(), labels, {
        shift: false,
        lossType: 'orpo',
        emptySequence: 'nan',
        ...run,
      })
      expect(unknown.losses[0]).toBeNaN()
      expect(unknown.losses[1]).not.toBeNaN()
    })

    test('is finite where every token is certain', () => {
      for (const beta of [0.1, 10, 200]) {
        for (const [chosenGap, rejectedGap] of [
          [740, 740],
          [2000, 2000],
          [740, 2000],
          [2000, 740],
          [2000, 3],
          [3, 2000],
          [706, 706],
          [705, 709],
          [200, 200],
          [700, 703],
        ]) {
          const certain = fourSequences(
            Array.from({ length: 4 * TIME }, (_, row) => {
              const gap = row < 2 * TIME ? chosenGap : rejectedGap
              return Array.from({ length: VOCAB }, (_, word): [number, number, number] => [
                row,
                word,
                word === LABELS[row] ? gap : 0,
              ])
            }).flat(),
          )
          const options = { shift: false, lossType: 'orpo', beta, gradient: true, ...run } as const
          const { losses, gradLogProbs, gradLogits } = fusedPreferenceLossSync(certain, LABELS, options)
          // The gradient of a row's words is the label's with the other sign, shared among four words.
          const rows = values(gradLogits!)
          for (let row = 0; row < 4 * TIME; row++) {
            const label = rows[row * VOCAB + LABELS[row]]
            const other = rows[row * VOCAB + ((LABELS[row] + 1) % VOCAB)]
            expect(Math.abs(label + 4 * other)).toBeLessThanOrEqual(1e-6 * Math.abs(label))
            const gap = row < 2 * TIME ? chosenGap : rejectedGap
            if (chosenGap === rejectedGap && gap < 704) expect(Math.abs(label)).toBeGreaterThan((0.1 * beta) / TIME)
          }
          const all = [...losses, ...gradLogProbs.chosen, ...gradLogProbs.rejected, ...values(gradLogits!)]
          expect(allFinite(all), `${chosenGap}, ${rejectedGap}, β ${beta}`).toBe(true)
          if (chosenGap === rejectedGap) {
            for (const loss of losses) expect(Math.abs(loss / (beta * Math.LN2) - 1)).toBeLessThan(1e-12)
          }
        }
      }
    })

    test('keeps its digits as certainty grows', () => {
      // Both certain but for w and l: log odds ratio log(l / w), slopes −β / (w + l) and β w / l of that.
      for (const [w, l] of [
        [1e-3, 1e-5],
        [1e-12, 1e-9],
        [1e-200, 3e-200],
        [1e-300, 1e-302],
        [1e-304, 2e-304],
      ]) {
        const pairs = {
          chosen: [Math.log1p(-w)],
          rejected: [Math.log1p(-l)],
          chosenTokenCounts: [1],
          rejectedTokenCounts: [1],
        }
        const { loss, gradLogProbs } = orpo(pairs)
        const near = (got: number, wanted: number) => expect(Math.abs(got / wanted - 1)).toBeLessThan(1e-12)
        const [a, b] = [-Math.expm1(pairs.chosen[0]), -Math.expm1(pairs.rejected[0])]
        const ratio = (1 - b) / (1 - a) // e^(y - x)
        near(loss, 0.5 * Math.log1p((a * ratio) / b))
        near(gradLogProbs.chosen[0], -0.5 / (a + b / ratio))
        near(gradLogProbs.rejected[0], (0.5 * (a / (a + b / ratio))) / b)
      }
    })

    test('takes the limit at a chosen mean of 0', () => {
      const { loss, gradLogProbs } = orpo({
        chosen: [0],
        rejected: [-1],
        chosenTokenCounts: [1],
        rejectedTokenCounts: [1],
      })
      expect(loss).toBeLessThan(1e-300)
      expect(gradLogProbs.chosen[0]).toBeCloseTo(-0.5 / Math.expm1(1), 14)
      expect(Math.abs(gradLogProbs.rejected[0])).toBeLessThan(1e-300)
      const both = orpo({ chosen: [-0], rejected: [-0], chosenTokenCounts: [1], rejectedTokenCounts: [1] })
      expect([both.loss, ...both.gradLogProbs.chosen, ...both.gradLogProbs.rejected].map(Math.abs)).toEqual([
        0.5 * Math.LN2,
        0,
        0,
      ])
    })

    test('is NaN of what is no log-prob', () => {
      for (const [chosen, rejected] of [
        [0.5, -1],
        [-1, 0.5],
        [inf, -1],
        [nan, -1],
        [-1, nan],
      ]) {
        const pairs = { chosen: [chosen], rejected: [rejected], chosenTokenCounts: [1], rejectedTokenCounts: [1] }
        const { loss, gradLogProbs } = orpo(pairs)
        expect([loss, gradLogProbs.chosen[0], gradLogProbs.rejected[0]]).toEqual([nan, nan, nan])
      }
    })
  })

  describe('the functions of the output layer', () => {
    const WIDTH = 3
    const weight = {
      data: Float32Array.from({ length: VOCAB * WIDTH }, (_, i) => Math.cos(3 * i)),
      shape: [VOCAB, WIDTH],
    }
    const hiddenOf = (row: number, value: number | undefined) => {
      const data = Float32Array.from({ length: 4 * TIME * WIDTH }, (_, i) => Math.sin(5 * i))
      if (value !== undefined) data.fill(value, row * WIDTH, (row + 1) * WIDTH)
      return { data, shape: [4, TIME, WIDTH] }
    }
    const row = 6
    const tokenWeights = without([row])
    const options = { shift: false, ...run }

    test.each([
      ['NaN', nan],
      ['infinite', inf],
    ])('leave out a row of hidden states that are %s, with weight 0', (_, value) => {
      for (const accumulate of [false, true]) {
        const call = (bad: number | undefined) =>
          linearSequenceLogProbsSync(hiddenOf(row, bad), weight, LABELS, { ...options, tokenWeights })
        const request = () => ({
          hidden: new Float32Array(4 * TIME * WIDTH).fill(7),
          weight: new Float32Array(VOCAB * WIDTH).fill(7),
        })
        const [got, wanted] = [value, undefined].map((bad) => {
          const sums = call(bad)
          return { sums, gradients: sums.backwardSync([1, -2, 3, 0.5], { gradient: request(), accumulate }) }
        })
        expect(got.sums.logProbs).toEqual(wanted.sums.logProbs)
        expect(got.gradients.gradWeight!.data).toEqual(wanted.gradients.gradWeight!.data)
        expect(got.gradients.gradHidden!.data).toEqual(wanted.gradients.gradHidden!.data)
        const hidden = got.gradients.gradHidden!.data as Float32Array
        const expected = accumulate ? 7 : 0
        expect(Array.from(hidden.subarray(row * WIDTH, (row + 1) * WIDTH))).toEqual([expected, expected, expected])
      }
    })

    test('leave out an impossible token, and a pair of weight 0', () => {
      // A bias of −∞ makes a word impossible, which only row 6 predicts.
      const labels = LABELS.map((label, r) => (r === row ? 0 : label === 0 ? 1 : label))
      const bias = Float32Array.of(-inf, 0, 0.5, -0.5, 1)
      const all = { ...options, bias, reference: REFERENCE, gradient: true } as const
      const weighted = fusedLinearPreferenceLossSync(hiddenOf(0, undefined), weight, labels, { ...all, tokenWeights })
      const masked = fusedLinearPreferenceLossSync(hiddenOf(0, undefined), weight, labels, {
        ...all,
        mask: tokenWeights,
      })
      expect(weighted.losses).toEqual(masked.losses)
      expect(weighted.gradWeight!.data).toEqual(masked.gradWeight!.data)
      expect(weighted.gradBias).toEqual(masked.gradBias)
      expect(weighted.gradHidden!.data).toEqual(masked.gradHidden!.data)
      const wpo = fusedLinearPreferenceLossSync(hiddenOf(0, undefined), weight, labels, {
        ...all,
        lossType: 'ipo',
        weighting: 'wpo',
      })
      expect(wpo.losses[1]).toBe(0)
      expect(allFinite([wpo.loss, ...(wpo.gradWeight!.data as Float32Array)])).toBe(true)
    })
  })
})
