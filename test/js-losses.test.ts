/**
 * Stage 3 of the js backend: the gradient of every loss, under every option, against numerical differentiation in
 * float64; known values; and the conventions (ranks, lengths, rewards, kinks) that a derivative alone does not
 * determine.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { jsBackend } from '../lib/backends/js/index.js'
import { LOSSES } from '../lib/backends/js/losses.js'
import { log1mexp, logSigmoid, sigmoid, softplus } from '../lib/backends/js/numbers.js'
import { preferenceLossSync } from '../lib/index.js'
import type { LossConfig, LossStage } from '../lib/job.js'
import { TAKERS } from '../lib/options/loss-options.js'
import type { FDivergence, LossType } from '../lib/types/index.js'

const settings = { threads: 1 }
const lossTypes = Object.keys(LOSSES) as LossType[]
const fixed = { seed: 20240607, numRuns: 25 }

/** A stage whose constants stand beside its other fields. */
type Fields = Partial<LossConfig> & Partial<Omit<LossStage, 'constants'>>
type Inputs = Fields & { chosen: Float64Array; rejected: Float64Array }

const CONSTANTS: LossConfig = {
  terms: [{ lossType: 'sigmoid', weight: 1, labelSmoothing: 0 }],
  beta: 0.1,
  offset: 0,
  gamma: 0.5,
  rewardShift: 0,
  targetMargin: 0,
  dpopLambda: 50,
  discopopTau: 0.05,
  fDivergence: 'reverse_kl',
  alpha: 0.5,
  rewardAlpha: 0,
  sftNormalization: 'tokens',
  average: false,
  gradientScale: 1,
}

function stageOf(inputs: Inputs): LossStage {
  const size = inputs.chosen.length
  const zeros = () => new Float64Array(size)
  const isConstant = ([name]: [string, unknown]) => name in CONSTANTS || name.endsWith('Divisor')
  const given = Object.entries(inputs)
  return {
    constants: { ...CONSTANTS, ...Object.fromEntries(given.filter(isConstant)) },
    chosen: inputs.chosen,
    rejected: inputs.rejected,
    referenceChosen: zeros(),
    referenceRejected: zeros(),
    losses: zeros(),
    chosenRewards: zeros(),
    rejectedRewards: zeros(),
    gradChosen: zeros(),
    gradRejected: zeros(),
    summary: new Float64Array(3),
    ...Object.fromEntries(given.filter((one) => !isConstant(one))),
  }
}

function evaluate(inputs: Inputs): LossStage {
  const loss = stageOf(inputs)
  jsBackend.runSync({ loss }, settings)
  return loss
}

/** One pair under one loss. */
function single(lossType: LossType, chosen: number, rejected: number, rest: Fields & { epsilon?: number } = {}) {
  const { epsilon, ...inputs } = rest
  const stage = evaluate({
    terms: [{ lossType, weight: 1, labelSmoothing: epsilon ?? LOSSES[lossType].defaultLabelSmoothing }],
    chosen: Float64Array.of(chosen),
    rejected: Float64Array.of(rejected),
    chosenTokenCounts: Float64Array.of(1),
    rejectedTokenCounts: Float64Array.of(1),
    ...inputs,
  })
  return { loss: stage.losses[0], chosen: stage.gradChosen[0], rejected: stage.gradRejected[0], stage }
}

/**
 * Ridders' method: central differences at shrinking steps, extrapolated to step 0; stops where rounding takes over.
 * Returns the derivative and how far apart the best two extrapolations were.
 */
function differentiate(f: (x: number) => number, x: number, step: number): { value: number; error: number } {
  const shrink = 1.6
  const central = (h: number) => (f(x + h) - f(x - h)) / (x + h - (x - h))
  let previous = [central(step)]
  let best = { value: previous[0], error: Number.POSITIVE_INFINITY }
  let h = step
  for (let i = 1; i < 12; i++) {
    h /= shrink
    const row = [central(h)]
    let factor = shrink * shrink
    for (let j = 1; j <= i; j++) {
      row.push((row[j - 1] * factor - previous[j - 1]) / (factor - 1))
      factor *= shrink * shrink
      const error = Math.max(Math.abs(row[j] - row[j - 1]), Math.abs(row[j] - previous[j - 1]))
      if (error < best.error) best = { value: row[j], error }
    }
    if (Math.abs(row[i] - previous[i - 1]) > 2 * best.error) break
    previous = row
  }
  return best
}

function expectGradient(inputs: Inputs, step: number): void {
  const stage = evaluate(inputs)
  const pairCount = inputs.chosen.length
  for (const name of ['chosen', 'rejected'] as const) {
    const gradient = name === 'chosen' ? stage.gradChosen : stage.gradRejected
    for (let i = 0; i < pairCount; i++) {
      const loss = (x: number) => {
        const moved = inputs[name].slice()
        moved[i] = x
        return evaluate({ ...inputs, [name]: moved }).summary[0]
      }
      const { value } = differentiate(loss, inputs[name][i], step)
      // The error from rounding the loss itself, divided by the smallest useful step.
      const rounding = (16 * Number.EPSILON * (Math.abs(stage.summary[0]) + 1e-3)) / (step / 8)
      const error = Math.abs(value - gradient[i])
      expect(error, `${name}[${i}]: ${gradient[i]} against ${value}`).toBeLessThanOrEqual(
        1e-7 * Math.abs(gradient[i]) + rounding,
      )
    }
  }
}

/** P log-probs whose differences, however pairs are matched, are no closer than differentiation steps are wide. */
const pairs = fc
  .record({
    noise: fc.array(fc.double({ min: -0.1, max: 0.1, noNaN: true }), { minLength: 12, maxLength: 12 }),
    orders: fc.tuple(...[0, 1, 2].map(() => fc.shuffledSubarray([0, 1, 2], { minLength: 3, maxLength: 3 }))),
    chosenTokenCounts: fc.array(fc.integer({ min: 2, max: 9 }), { minLength: 3, maxLength: 3 }),
    rejectedTokenCounts: fc.array(fc.integer({ min: 2, max: 9 }), { minLength: 3, maxLength: 3 }),
    pairWeights: fc.option(fc.array(fc.double({ min: 0.2, max: 2, noNaN: true }), { minLength: 3, maxLength: 3 }), {
      nil: undefined,
    }),
  })
  .map(({ noise, orders, chosenTokenCounts, rejectedTokenCounts, pairWeights }) => ({
    chosen: Float64Array.from([0, 1, 2], (i) => -3 - 0.9 * orders[0][i] + noise[i]),
    rejected: Float64Array.from([0, 1, 2], (i) => -4 + 3 * orders[1][i] - 6 + noise[3 + i]),
    referenceChosen: Float64Array.from([0, 1, 2], (i) => -3.4 + noise[6 + i]),
    referenceRejected: Float64Array.from([0, 1, 2], (i) => -6.3 - 0.4 * orders[2][i] + noise[9 + i]),
    chosenTokenCounts: Float64Array.from(chosenTokenCounts),
    rejectedTokenCounts: Float64Array.from(rejectedTokenCounts),
    pairWeights: pairWeights && Float64Array.from(pairWeights),
  }))

const each = (min: number, max: number) =>
  fc
    .array(fc.double({ min, max, noNaN: true }), { minLength: 3, maxLength: 3 })
    .map((values) => Float64Array.from(values))

/** Constants of single pairs; ε is in the range of every loss. */
const pairConstants = fc.record({
  beta: each(0.05, 0.6),
  labelSmoothing: each(0.001, 0.45),
  offset: each(-1, 1),
  targetMargin: each(-2, 2),
})

const constants = fc.record({
  beta: fc.double({ min: 0.05, max: 0.6, noNaN: true }),
  offset: fc.double({ min: -1, max: 1, noNaN: true }),
  targetMargin: fc.double({ min: -2, max: 2, noNaN: true }),
  dpopLambda: fc.double({ min: 0, max: 5, noNaN: true }),
  sftNormalization: fc.constantFrom('tokens' as const, 'sequences' as const, 'sum' as const),
  gamma: fc.double({ min: 0, max: 1.5, noNaN: true }),
  rewardShift: fc.double({ min: -1, max: 1, noNaN: true }),
  discopopTau: fc.double({ min: 0.2, max: 1.5, noNaN: true }),
  average: fc.boolean(),
})

function smoothingOf(lossType: LossType) {
  const range = LOSSES[lossType].labelSmoothing
  const random = fc.double({ min: 0.001, max: range === 'half' ? 0.45 : 0.95, noNaN: true })
  return range === 'open' ? random : fc.oneof(fc.constant(0), random)
}

/** False where a loss is within reach of its kink. */
function awayFromKinks(lossType: LossType, inputs: Inputs, options: { beta: number; offset: number }): boolean {
  const { chosen, rejected, pairConstants: own } = inputs
  const referenceChosen = inputs.referenceChosen as Float64Array
  const referenceRejected = inputs.referenceRejected as Float64Array
  if (lossType === 'dpop') return chosen.every((x, i) => Math.abs(x - referenceChosen[i]) > 0.1)
  if (lossType !== 'hinge') return true
  return chosen.every((x, i) => {
    const beta = own?.beta?.[i] ?? options.beta
    const offset = own?.offset?.[i] ?? options.offset
    return Math.abs(1 + offset - beta * (x - rejected[i] - referenceChosen[i] + referenceRejected[i])) > 0.1
  })
}

describe('the gradient of a loss', () => {
  for (const lossType of lossTypes) {
    it(`${lossType} is what differences of the loss say`, () => {
      const property = fc.property(pairs, constants, smoothingOf(lossType), (inputs, options, labelSmoothing) => {
        fc.pre(awayFromKinks(lossType, inputs, options))
        expectGradient({ ...inputs, ...options, terms: [{ lossType, weight: 1, labelSmoothing }] }, 0.04)
      })
      fc.assert(property, fixed)
    })

    it(`${lossType} with constants of each pair is what differences of the loss say`, () => {
      const property = fc.property(pairs, constants, pairConstants, (drawn, options, own) => {
        const inputs = { ...drawn, pairConstants: own }
        fc.pre(awayFromKinks(lossType, inputs, options))
        const stage = { ...inputs, ...options, terms: [{ lossType, weight: 1, labelSmoothing: 0.3 }] }
        expectGradient(stage, 0.04)
        // Each pair is as it is alone with these numbers as those of all.
        if (lossType.startsWith('aot') || (lossType === 'sft' && options.sftNormalization === 'tokens')) return
        const { losses, gradChosen, gradRejected, chosenRewards } = evaluate(stage)
        for (let i = 0; i < 3; i++) {
          const one = (values: Float64Array | undefined) => values?.slice(i, i + 1)
          const { chosen, rejected, referenceChosen, referenceRejected, chosenTokenCounts, rejectedTokenCounts } = drawn
          const lists = { chosen, rejected, referenceChosen, referenceRejected, chosenTokenCounts, rejectedTokenCounts }
          const alone = evaluate({
            ...options,
            ...(Object.fromEntries(Object.entries(lists).map(([name, list]) => [name, one(list)])) as typeof lists),
            beta: own.beta[i],
            offset: own.offset[i],
            targetMargin: own.targetMargin[i],
            pairWeights: one(drawn.pairWeights),
            terms: [{ lossType, weight: 1, labelSmoothing: own.labelSmoothing[i] }],
          })
          expect(losses[i]).toBe(alone.losses[0])
          expect(chosenRewards[i]).toBe(alone.chosenRewards[0])
          expect(gradChosen[i]).toBe(alone.gradChosen[0] / 3)
          expect(gradRejected[i]).toBe(alone.gradRejected[0] / 3)
        }
      })
      fc.assert(property, fixed)
    })
  }

  for (const lossType of TAKERS.rewardAlpha) {
    it(`${lossType} of AlphaPO's rewards is what differences of the loss say`, () => {
      const alphas = fc.constantFrom(-0.8, -0.2, 1e-13, 1e-3, 0.25)
      const property = fc.property(pairs, constants, alphas, (drawn, options, rewardAlpha) => {
        const inputs = { ...drawn, referenceChosen: undefined, referenceRejected: undefined }
        const zeros = { referenceChosen: new Float64Array(3), referenceRejected: new Float64Array(3) }
        // The rewards' differences are not known here, so the hinge is kept on its slope.
        const scaled = { ...options, beta: lossType === 'hinge' ? options.beta / 100 : options.beta / 4, rewardAlpha }
        if (lossType === 'hinge') scaled.offset = 0
        expectGradient({ ...inputs, ...zeros, ...scaled, terms: [{ lossType, weight: 1, labelSmoothing: 0 }] }, 0.04)
      })
      fc.assert(property, fixed)
    })
  }

  for (const lossType of lossTypes.filter((name) => LOSSES[name].divergence)) {
    for (const fDivergence of ['forward_kl', 'js', 'alpha'] as const) {
      it(`${lossType} under ${fDivergence} is what differences of the loss say`, () => {
        const alphas = fc.constantFrom(-0.5, 0.3, 0.5, 0.999999, 1, 1 + 1e-13, 1.7)
        const property = fc.property(
          pairs,
          constants,
          smoothingOf(lossType),
          alphas,
          (inputs, options, labelSmoothing, alpha) => {
            const scaled = { ...options, beta: options.beta / 4, alpha, fDivergence }
            // The scores' differences are not known here, so the hinge is kept on its slope.
            if (lossType === 'hinge') {
              scaled.beta /= 400
              scaled.offset = 0
            }
            expectGradient({ ...inputs, ...scaled, terms: [{ lossType, weight: 1, labelSmoothing }] }, 0.04)
          },
        )
        fc.assert(property, { ...fixed, numRuns: 10 })
      })
    }
  }

  it('of a weighted list is what differences of the loss say', () => {
    const lists: LossType[][] = [
      ['sigmoid', 'sft'],
      ['simpo', 'cpo', 'sft'],
      ['orpo', 'sft'],
      ['aot_unpaired', 'nca_pair', 'apo_down'],
    ]
    const property = fc.property(pairs, constants, fc.constantFrom(...lists), (inputs, options, list) => {
      const terms = list.map((lossType, i) => ({ lossType, weight: 1 - 0.3 * i, labelSmoothing: 0.1 * i }))
      expectGradient({ ...inputs, ...options, terms }, 0.04)
    })
    fc.assert(property, fixed)
  })

  it('is a gradient at the default discopop temperature too', () => {
    const inputs = { chosen: Float64Array.of(-3, -2), rejected: Float64Array.of(-3.1, -1.7) }
    expectGradient({ ...inputs, terms: [{ lossType: 'discopop', weight: 1, labelSmoothing: 0 }] }, 0.04)
  })
})

describe('the value of a loss', () => {
  // d = 2, β = 0.1: the formulas written out again from the papers rather than from the code.
  const s = (z: number) => 1 / (1 + Math.exp(-z))
  const values: Partial<Record<LossType, number>> = {
    sigmoid: -Math.log(s(0.2)),
    hinge: 0.8,
    ipo: 9,
    ipo_norm: 9,
    ipo_reward: (0.2 - 10) ** 2,
    nca_pair: -Math.log(s(-0.3)) - 0.5 * Math.log(s(0.3)) - 0.5 * Math.log(s(0.5)),
    bco_pair: -Math.log(s(-0.3)) - Math.log(s(0.5)),
    sppo_hard: 64 + 0,
    apo_zero: 1 - s(-0.3) + s(-0.5),
    apo_down: s(-0.3) + 1 - s(0.2),
    sigmoid_norm: -Math.log(s(0.2)),
    simpo: -Math.log(s(0.1 * 2 - 0.5)),
    cpo: -Math.log(s(0.2)),
    sft: 3,
    aot: -Math.log(s(0.2)),
    aot_unpaired: -Math.log(s(0.2)),
    robust: -Math.log(s(0.2)),
    discopop: -Math.log(s(0.2)) * (1 - s(4)) + Math.exp(-0.2) * s(4),
    orpo: 0.1 * Math.log(1 + Math.exp(-5) / (1 - Math.exp(-5)) / (Math.exp(-3) / (1 - Math.exp(-3)))),
    exo_pair: s(0.2) * Math.log(s(0.2) / 0.999) + s(-0.2) * Math.log(s(-0.2) / 0.001),
    // c = -3, so that the penalty is 50 · 3.
    dpop: -Math.log(s(0.1 * (2 - 150))),
    rpo_sq: 0.2 ** 2,
    rpo_bwd_kl: 0.5 * Math.log(0.5 / s(0.2)) + 0.5 * Math.log(0.5 / s(-0.2)),
    rpo_fwd_kl: s(0.2) * Math.log(s(0.2) / 0.5) + s(-0.2) * Math.log(s(-0.2) / 0.5),
  }
  it.each(lossTypes)('%s', (lossType) => {
    expect(single(lossType, -3, -5).loss).toBeCloseTo(values[lossType] as number, 12)
  })

  it('with label smoothing', () => {
    const [z, epsilon] = [0.2, 0.25]
    const both = [-Math.log(s(z)), -Math.log(s(-z))]
    expect(single('sigmoid', -3, -5, { epsilon }).loss).toBeCloseTo(0.75 * both[0] + 0.25 * both[1], 12)
    expect(single('cpo', -3, -5, { epsilon }).loss).toBeCloseTo(0.75 * both[0] + 0.25 * both[1], 12)
    expect(single('robust', -3, -5, { epsilon }).loss).toBeCloseTo((0.75 * both[0] - 0.25 * both[1]) / 0.5, 12)
    const exo = s(z) * Math.log(s(z) / 0.75) + s(-z) * Math.log(s(-z) / 0.25)
    expect(single('exo_pair', -3, -5, { epsilon }).loss).toBeCloseTo(exo, 12)
  })

  it('with an offset, a penalty, a target and the other means of sft', () => {
    expect(single('sigmoid', -3, -5, { offset: 0.5 }).loss).toBeCloseTo(-Math.log(s(0.2 - 0.5)), 12)
    expect(single('hinge', -3, -5, { offset: 0.5 }).loss).toBeCloseTo(1 - (0.2 - 0.5), 12)
    expect(single('simpo', -3, -5, { offset: 0.25 }).loss).toBeCloseTo(-Math.log(s(0.2 - 0.5 - 0.25)), 12)
    // A chosen sequence that has gained has no penalty; one that has lost has λ times its loss.
    const gained = { referenceChosen: Float64Array.of(-4), dpopLambda: 2 }
    expect(single('dpop', -3, -5, gained).loss).toBeCloseTo(-Math.log(s(0.1 * (1 + 5))), 12)
    const lost = { referenceChosen: Float64Array.of(-2), dpopLambda: 2 }
    expect(single('dpop', -3, -5, lost).loss).toBeCloseTo(-Math.log(s(0.1 * (-1 + 5 - 2 * 1))), 12)
    expect(single('rpo_sq', -3, -5, { targetMargin: 1.5 }).loss).toBeCloseTo((0.2 - 1.5) ** 2, 12)
    const [kl, p, q] = [(a: number, b: number) => a * Math.log(a / b), s(1.5), s(0.2)]
    const there = { targetMargin: 1.5 }
    expect(single('rpo_bwd_kl', -3, -5, there).loss).toBeCloseTo(kl(p, q) + kl(1 - p, 1 - q), 12)
    expect(single('rpo_fwd_kl', -3, -5, there).loss).toBeCloseTo(kl(q, p) + kl(1 - q, 1 - p), 12)
    const inputs = { rejected: new Float64Array(2), chosenTokenCounts: Float64Array.of(2, 6) }
    const sftOf = (sftNormalization: 'sequences' | 'sum', chosen: number[], average: boolean) => {
      const terms = [{ lossType: 'sft' as const, weight: 1, labelSmoothing: 0 }]
      const stage = evaluate({ ...inputs, terms, chosen: Float64Array.from(chosen), average, sftNormalization })
      return [stage.summary[0], ...stage.gradChosen]
    }
    expect(sftOf('sequences', [-4, -18], false)).toEqual([(2 + 3) / 2, -1 / 4, -1 / 12])
    expect(sftOf('sequences', [-2, -3], true)).toEqual([(2 + 3) / 2, -1 / 2, -1 / 2])
    expect(sftOf('sum', [-4, -18], false)).toEqual([(4 + 18) / 2, -1 / 2, -1 / 2])
    expect(sftOf('sum', [-2, -3], true)).toEqual([(4 + 18) / 2, -1, -3])
  })

  it('with rewards of AlphaPO', () => {
    const reward = (x: number) => (1 - Math.exp(x) ** -0.25) / 0.25
    const z = 0.1 * (reward(-3) - reward(-5))
    expect(single('cpo', -3, -5, { rewardAlpha: 0.25 }).loss).toBeCloseTo(-Math.log(s(z)), 12)
    expect(single('hinge', -3, -5, { rewardAlpha: 0.25 }).loss).toBeCloseTo(1 - z, 12)
    expect(single('ipo', -3, -5, { rewardAlpha: 0.25 }).loss).toBeCloseTo((10 * z - 5) ** 2, 12)
    const lengths = { chosenTokenCounts: Float64Array.of(3), rejectedTokenCounts: Float64Array.of(2) }
    const mean = reward(-1) - reward(-2.5)
    expect(single('ipo_norm', -3, -5, { ...lengths, rewardAlpha: 0.25 }).loss).toBeCloseTo((mean - 5) ** 2, 12)
    const { loss } = single('simpo', -3, -5, { ...lengths, rewardAlpha: 0.25 })
    expect(loss).toBeCloseTo(-Math.log(s(0.1 * mean - 0.5)), 12)
  })

  it('with f-divergences', () => {
    const difference = {
      forward_kl: -Math.exp(3) + Math.exp(5),
      js: Math.log(s(-3)) - Math.log(s(-5)),
      alpha: (Math.exp(0.5 * 3) - Math.exp(0.5 * 5)) / -0.5,
    }
    for (const fDivergence of ['forward_kl', 'js', 'alpha'] as const) {
      const { loss } = single('sigmoid', -3, -5, { fDivergence })
      expect(loss).toBeCloseTo(-Math.log(s(0.1 * difference[fDivergence])), 12)
    }
  })

  it('scores are of sums, and divided by lengths, in the losses that have these', () => {
    const lengths = { chosenTokenCounts: Float64Array.of(3), rejectedTokenCounts: Float64Array.of(2) }
    const difference = {
      reverse_kl: -3 / 3 + 5 / 2,
      forward_kl: -Math.exp(3) / 3 + Math.exp(5) / 2,
      js: Math.log(s(-3)) / 3 - Math.log(s(-5)) / 2,
      alpha: Math.exp(1.5) / -0.5 / 3 - Math.exp(2.5) / -0.5 / 2,
    }
    for (const [fDivergence, d] of Object.entries(difference) as [FDivergence, number][]) {
      const losses = { sigmoid_norm: -Math.log(s(0.1 * d)), ipo_norm: (d - 5) ** 2, ipo: (d - 5) ** 2 }
      for (const [lossType, loss] of Object.entries(losses) as [LossType, number][]) {
        const means = single(lossType, -3 / 3, -5 / 2, { fDivergence, average: true, ...lengths })
        expect(means.loss / loss).toBeCloseTo(1, 12)
        if (lossType === 'ipo') continue // of sums, the paper's
        const sums = single(lossType, -3, -5, { fDivergence, ...lengths })
        expect(sums.loss / loss).toBeCloseTo(1, 12)
        expect((3 * sums.chosen) / means.chosen).toBeCloseTo(1, 12)
        expect((2 * sums.rejected) / means.rejected).toBeCloseTo(1, 12)
      }
    }
  })

  it('identical policy and reference give a margin of exactly 0', () => {
    const logProbs = { chosen: Float64Array.of(-123.456), rejected: Float64Array.of(-654.321) }
    const stage = evaluate({ ...logProbs, referenceChosen: logProbs.chosen, referenceRejected: logProbs.rejected })
    expect(Array.from(stage.summary)).toEqual([Math.LN2, 0, 0])
  })
})

describe('conventions', () => {
  it('the derivative of hinge at its kink is 0', () => {
    expect(single('hinge', -2, -4, { beta: 0.5 })).toMatchObject({ loss: 0, chosen: 0 })
    expect(single('hinge', -2, -3.999, { beta: 0.5 }).chosen).toBe(-0.5)
  })

  it('means need no length, but for scores of their sums', () => {
    const pairs = { chosen: [-1], rejected: [-2], referenceChosen: [-1.5], referenceRejected: [-1] }
    for (const lossType of ['ipo', 'ipo_norm', 'sigmoid_norm', 'simpo', 'orpo'] as const) {
      const { loss } = preferenceLossSync(pairs, { lossType, averageLogProb: true, backend: 'js' })
      expect(loss).toBeGreaterThan(0)
    }
    // Of sums, the paper's ipo has none.
    expect(preferenceLossSync(pairs, { lossType: 'ipo', fDivergence: 'js', backend: 'js' }).loss).toBeGreaterThan(0)
  })

  it('a length of 0 leaves the value undivided', () => {
    const empty = {
      chosenTokenCounts: Float64Array.of(0),
      rejectedTokenCounts: Float64Array.of(0),
      fDivergence: 'js' as const,
    }
    for (const lossType of ['sigmoid_norm', 'ipo_norm'] as const) {
      for (const average of [false, true]) {
        expect(single(lossType, 0, -2, { ...empty, average })).toMatchObject({
          loss: single(lossType, 0, -2, { fDivergence: 'js' }).loss,
        })
      }
    }
    const none = { chosenTokenCounts: Float64Array.of(0), rejectedTokenCounts: Float64Array.of(0) }
    expect(single('simpo', 0, -2, none).loss).toBe(single('simpo', 0, -2).loss)
    expect(single('sft', 0, -2, none)).toMatchObject({ loss: 0 })
  })

  it('lengths divide sums, and do not divide means', () => {
    const lengths = { chosenTokenCounts: Float64Array.of(4), rejectedTokenCounts: Float64Array.of(2) }
    for (const lossType of ['simpo', 'orpo', 'sigmoid_norm', 'ipo_norm'] as const) {
      const sums = single(lossType, -12, -10, lengths)
      const means = single(lossType, -3, -5, { ...lengths, average: true })
      expect(sums.loss).toBe(means.loss)
      expect(sums.chosen).toBeCloseTo(means.chosen / 4, 15)
      expect(sums.rejected).toBeCloseTo(means.rejected / 2, 15)
    }
  })

  it('sft is a mean over tokens, of sums as of means', () => {
    const terms = [{ lossType: 'sft' as const, weight: 1, labelSmoothing: 0 }]
    const rejected = new Float64Array(2)
    const chosenTokenCounts = Float64Array.of(2, 6)
    const sums = evaluate({ terms, rejected, chosenTokenCounts, chosen: Float64Array.of(-4, -18) })
    const means = evaluate({ terms, rejected, chosenTokenCounts, chosen: Float64Array.of(-2, -3), average: true })
    expect(sums.summary[0]).toBe(22 / 8)
    expect(Array.from(sums.losses)).toEqual([1, 4.5])
    expect(Array.from(sums.gradChosen)).toEqual([-1 / 8, -1 / 8])
    expect(means.summary[0]).toBe(22 / 8)
    expect(Array.from(means.gradChosen)).toEqual([-2 / 8, -6 / 8])
  })

  it('aot matches ranks, and a loss belongs to the pair of its policy rank', () => {
    const terms = [{ lossType: 'aot' as const, weight: 1, labelSmoothing: 0 }]
    const inputs = {
      beta: 1,
      chosen: Float64Array.of(5, 1, 3),
      rejected: new Float64Array(3),
      referenceChosen: Float64Array.of(0, 0.5, -1),
      referenceRejected: new Float64Array(3),
    }
    const stage = evaluate({ terms, ...inputs })
    // Sorted: policy 1 (pair 1), 3 (pair 2), 5 (pair 0); reference -1, 0, 0.5.
    const expected = [5 - 0.5, 1 + 1, 3 - 0].map((d) => softplus(-d))
    expect(Array.from(stage.losses)).toEqual(expected)
  })

  it('aot_unpaired gives each rejected log-prob the gradient of the loss its rank is in, with that pair weight', () => {
    const terms = [{ lossType: 'aot_unpaired' as const, weight: 1, labelSmoothing: 0 }]
    const inputs = {
      beta: 1,
      chosen: Float64Array.of(2, 1),
      rejected: Float64Array.of(-1, 0.5),
      pairWeights: Float64Array.of(3, 5),
    }
    const stage = evaluate({ terms, ...inputs })
    // Ranks: chosen 1 (pair 1) with rejected -1 (pair 0); chosen 2 (pair 0) with rejected 0.5 (pair 1).
    expect(Array.from(stage.losses)).toEqual([3 * softplus(-1.5), 5 * softplus(-2)])
    expect(Array.from(stage.gradChosen)).toEqual([(-3 * sigmoid(-1.5)) / 2, (-5 * sigmoid(-2)) / 2])
    expect(Array.from(stage.gradRejected)).toEqual([(5 * sigmoid(-2)) / 2, (3 * sigmoid(-1.5)) / 2])
  })

  it('equal values keep their order', () => {
    const terms = [{ lossType: 'aot' as const, weight: 1, labelSmoothing: 0 }]
    const chosen = Float64Array.of(1, 1, 0)
    const referenceChosen = Float64Array.of(3, 1, 2)
    const stage = evaluate({ terms, beta: 1, chosen, rejected: new Float64Array(3), referenceChosen })
    expect(Array.from(stage.losses)).toEqual([softplus(1), softplus(2), softplus(1)])
  })

  it('rewards, accuracy and margin are those of the first loss', () => {
    const inputs = {
      beta: 0.5,
      chosen: Float64Array.of(-4, -6),
      rejected: Float64Array.of(-8, -6),
      chosenTokenCounts: Float64Array.of(2, 2),
      rejectedTokenCounts: Float64Array.of(2, 2),
      referenceChosen: Float64Array.of(-5, -5),
      referenceRejected: Float64Array.of(-5, -5),
    }
    const sft = { lossType: 'sft' as const, weight: 0.1, labelSmoothing: 0 }
    const first = (lossType: LossType) =>
      evaluate({ ...inputs, terms: [{ lossType, weight: 1, labelSmoothing: 0 }, sft] })
    const simpo = first('simpo')
    expect(Array.from(simpo.chosenRewards)).toEqual([-1, -1.5])
    expect(Array.from(simpo.summary.subarray(1))).toEqual([0.5, 0.5])
    const sigmoidStage = first('sigmoid')
    expect(Array.from(sigmoidStage.chosenRewards)).toEqual([0.5, -0.5])
    expect(Array.from(sigmoidStage.rejectedRewards)).toEqual([-1.5, -0.5])
    // An equal reward does not count as correct.
    expect(Array.from(sigmoidStage.summary.subarray(1))).toEqual([0.5, 1])
  })

  it('pair weights are factors of losses and gradients', () => {
    const inputs = { chosen: Float64Array.of(-3, -2), rejected: Float64Array.of(-3.5, -1) }
    const plain = evaluate(inputs)
    const weighted = evaluate({ ...inputs, pairWeights: Float64Array.of(0.5, 4) })
    expect(Array.from(weighted.losses)).toEqual([0.5 * plain.losses[0], 4 * plain.losses[1]])
    expect(Array.from(weighted.gradChosen)).toEqual([0.5 * plain.gradChosen[0], 4 * plain.gradChosen[1]])
    expect(weighted.summary[0]).toBe((weighted.losses[0] + weighted.losses[1]) / 2)
    expect(Array.from(weighted.chosenRewards)).toEqual(Array.from(plain.chosenRewards))
  })

  it('the metadata of the table', () => {
    const having = (test: (name: LossType) => boolean) => lossTypes.filter(test).sort()
    expect(lossTypes).toHaveLength(24)
    expect(having((name) => !LOSSES[name].reference)).toEqual(['cpo', 'orpo', 'sft', 'simpo'])
    expect(having((name) => LOSSES[name].lengths === 'sums')).toEqual(['ipo_norm', 'orpo', 'sigmoid_norm', 'simpo'])
    expect(having((name) => LOSSES[name].lengths === 'means')).toEqual(['ipo'])
    expect(having((name) => LOSSES[name].lengths === 'always')).toEqual(['sft'])
    expect(having((name) => LOSSES[name].divergence)).toEqual([
      'discopop',
      'exo_pair',
      'hinge',
      'ipo',
      'ipo_norm',
      'robust',
      'sigmoid',
      'sigmoid_norm',
    ])
    expect(having((name) => LOSSES[name].labelSmoothing === 'half')).toEqual(['robust'])
    expect(having((name) => LOSSES[name].labelSmoothing === 'open')).toEqual(['exo_pair'])
    expect(having((name) => LOSSES[name].defaultLabelSmoothing !== 0)).toEqual(['exo_pair'])
    expect(LOSSES.exo_pair.defaultLabelSmoothing).toBe(1e-3)
  })
})

describe('far out', () => {
  it('saturated losses stay finite and keep their digits', () => {
    expect(single('sigmoid', 0, -1e4)).toMatchObject({ loss: 0, chosen: 0 })
    expect(single('sigmoid', -400, 0, { beta: 1 }).chosen).toBe(-1)
    expect(single('sigmoid', 0, -400, { beta: 1 }).chosen / Math.exp(-400)).toBeCloseTo(-1, 12)
    expect(single('sigmoid', 0, -400, { beta: 1 }).loss / Math.exp(-400)).toBeCloseTo(1, 12)
  })

  it('an impossible sequence has the limit as its loss', () => {
    expect(single('sigmoid', 0, Number.NEGATIVE_INFINITY).loss).toBe(0)
    const impossible = single('sigmoid', Number.NEGATIVE_INFINITY, 0)
    expect(impossible.loss).toBe(Number.POSITIVE_INFINITY)
    expect(impossible.chosen).toBe(-0.1)
    expect(single('hinge', Number.NEGATIVE_INFINITY, 0).chosen).toBe(-0.1)
  })

  it('exo_pair is its limit at either end', () => {
    const epsilon = 0.25
    expect(single('exo_pair', 0, Number.NEGATIVE_INFINITY, { epsilon })).toMatchObject({ loss: -Math.log1p(-epsilon) })
    const impossible = single('exo_pair', Number.NEGATIVE_INFINITY, 0, { epsilon })
    expect(impossible).toMatchObject({ loss: -Math.log(epsilon), chosen: 0 })
  })

  it('clamped exponentials are flat, not infinite', () => {
    const forward = single('sigmoid', -800, -1, { fDivergence: 'forward_kl', beta: 1e-3 })
    expect(Number.isFinite(forward.loss)).toBe(true)
    expect(forward.chosen + 0).toBe(0)
    const alpha = single('sigmoid', -800, -1, { fDivergence: 'alpha', alpha: 0, beta: 1e-3 })
    expect(Number.isFinite(alpha.loss)).toBe(true)
    expect(alpha.chosen + 0).toBe(0)
    const discopop = single('discopop', -2000, 0, { beta: 1, discopopTau: 2 })
    expect(Number.isFinite(discopop.loss)).toBe(true)
    expect(Number.isFinite(discopop.chosen)).toBe(true)
  })

  it.each(lossTypes)('%s of NaN is NaN, and so is its gradient', (lossType) => {
    const { loss, chosen } = single(lossType, Number.NaN, -2)
    expect(loss).toBeNaN()
    // The gradient of a sum does not depend on the values.
    if (lossType !== 'sft') expect(chosen).toBeNaN()
  })
})

describe('logarithms', () => {
  it('log1mexp keeps its digits at both ends', () => {
    expect(log1mexp(-1e-20)).toBeCloseTo(Math.log(1e-20), 12)
    expect(log1mexp(-50) / -Math.exp(-50)).toBeCloseTo(1, 14)
    expect(log1mexp(-Math.LN2)).toBeCloseTo(-Math.LN2, 15)
    expect(log1mexp(Number.NEGATIVE_INFINITY) + 0).toBe(0)
    expect(log1mexp(0)).toBe(Number.NEGATIVE_INFINITY)
  })

  it('softplus, logSigmoid and sigmoid agree over the whole range', () => {
    for (let z = -740; z <= 740; z += 3.7) {
      expect(softplus(-z)).toBe(-logSigmoid(z) + 0)
      expect(sigmoid(z) / Math.exp(logSigmoid(z))).toBeCloseTo(1, 10)
      expect(sigmoid(z) + sigmoid(-z)).toBeCloseTo(1, 15)
    }
    expect([softplus(Number.NEGATIVE_INFINITY), sigmoid(Number.NEGATIVE_INFINITY)]).toEqual([0, 0])
    expect([softplus(Number.POSITIVE_INFINITY), sigmoid(Number.POSITIVE_INFINITY)]).toEqual([
      Number.POSITIVE_INFINITY,
      1,
    ])
  })
})
