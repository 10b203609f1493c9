/**
 * Stage 3 on the device, by itself: the losses of pairs, of single sequences and of single tokens, their derivatives and
 * the way into pairs and back, against the js backend, which has them in float64 and was written from the formulas.
 */
import { afterAll, describe, expect, test } from 'vitest'
import { preferenceLoss } from '../../lib/backends/js/preference-loss.js'
import { tokenLoss } from '../../lib/backends/js/token-loss.js'
import { unpairedPreferenceLoss } from '../../lib/backends/js/unpaired-preference-loss.js'
import {
  LOSS_TYPES,
  LOSS_WORKGROUP,
  pairShaders,
  tokenLossShaders,
  unpairedShaders,
} from '../../lib/backends/webgpu/loss-shaders.js'
import { pairInputs, takePairResults } from '../../lib/backends/webgpu/pair-inputs.js'
import { tokenLossInputs } from '../../lib/backends/webgpu/token-loss-inputs.js'
import { fromTwoFloats, twoFloats } from '../../lib/backends/webgpu/two-floats.js'
import { takeUnpairedResults, unpairedInputs } from '../../lib/backends/webgpu/unpaired-inputs.js'
import type { ForwardStage, Job, LossConfig, LossStage, TokenLossStage, UnpairedLossStage } from '../../lib/job.js'
import type { LossType, UnpairedLossType } from '../../lib/types/index.js'
import { gaussian, random } from '../support.js'
import { DEVICE } from './device.js'
import { Dispatches } from './dispatches.js'

const { NaN: nan, POSITIVE_INFINITY: inf } = Number
const next = random(20)
const dispatches = new Dispatches(DEVICE!)
afterAll(() => dispatches.free())

/** Results are within this of those in float64, relative to themselves, … */
const RELATIVE = 2e-12
/** … or to the terms of a difference, all of them of a size near 1, … */
const OF_TERMS = 2e-14
/** … as far as float32 goes. */
const SMALLEST = 1e-36
const LARGEST = 3.4e38

/** Losses, or slopes of losses, that are differences of terms which may be nearly equal, or squares of these. */
const CANCELLING: readonly LossType[] = [
  ...(['nca_pair', 'apo_down', 'rpo_sq', 'rpo_bwd_kl', 'rpo_fwd_kl', 'exo_pair', 'discopop'] as const),
  ...(['ipo', 'ipo_norm', 'ipo_reward', 'sppo_hard'] as const),
]

/** `terms`: the sizes of the terms of each, or of all. */
function expectNear(
  got: ArrayLike<number>,
  wanted: ArrayLike<number>,
  what: string,
  terms?: ArrayLike<number> | number,
) {
  expect(got.length).toBe(wanted.length)
  for (let i = 0; i < wanted.length; i++) {
    const value = Math.abs(wanted[i]) > LARGEST ? Math.sign(wanted[i]) * inf : wanted[i]
    const size = (typeof terms === 'object' ? terms[i] : terms) ?? 0
    const bound = RELATIVE * Math.abs(value) + OF_TERMS * size + SMALLEST
    if (Object.is(got[i] + 0, value + 0) || Math.abs(got[i] - value) <= bound) continue
    expect.fail(`${what}[${i}] is ${got[i]}, not ${value} ± ${bound}`)
  }
}

/** Numbers that the device holds exactly. */
const held = (values: ArrayLike<number>) => fromTwoFloats(twoFloats(values))
const numbers = (length: number, value: (i: number) => number) =>
  held(Float64Array.from({ length }, (_, i) => value(i)))

const CONSTANTS: LossConfig = {
  terms: [],
  ...{ beta: 0.3, offset: 0.25, gamma: 0.5, rewardShift: -0.75, targetMargin: 1.5, dpopLambda: 5, discopopTau: 0.5 },
  ...{ fDivergence: 'reverse_kl', alpha: 0.5, rewardAlpha: 0, sftNormalization: 'tokens', average: false },
}

/** Sequences in several pairs and in none, some of them −∞ or NaN. */
const PAIRS = Int32Array.of(0, 1, 2, 3, 4, 5, 0, 3, 6, 7, 8, 1, 9, 10, 11, 2, 12, 13, 5, 4, 7, 0, 1, 10, 10, 3)
const [P, S] = [PAIRS.length / 2, 15]

function logProbs(scale: number): Float64Array {
  const values = numbers(S, () => -scale * Math.abs(gaussian(next)))
  values.set([-inf, nan, -0.0, -1e-30], 8)
  return values
}

/** A job with all that stage 3 may be given; `terms` with labelSmoothing. */
function pairedJob(
  types: readonly LossType[],
  constants: Partial<LossConfig> = {},
  more: Partial<LossStage> = {},
): Job {
  const average = constants.average ?? false
  const forward = () => ({ logProbs: logProbs(average ? 2 : 20) }) as ForwardStage
  const counts = Int32Array.from({ length: S }, (_, s) => (s === 6 ? 0 : 1 + ((7 * s) % 23)))
  const policy = { ...forward(), plainLogProbs: logProbs(20), logWeights: numbers(S, () => -Math.abs(gaussian(next))) }
  policy.logProbs[6] = 0
  const gather = (values: ArrayLike<number>, side: 0 | 1) =>
    Float64Array.from({ length: P }, (_, i) => values[PAIRS[2 * i + side]])
  const reference = forward()
  const terms = types.map((lossType, i) => ({
    lossType,
    weight: i === 0 ? 1 : 0.5,
    labelSmoothing: lossType === 'robust' ? 0.499999 : 0.125,
  }))
  return {
    tokens: { plainWeights: new Float64Array(1), counts } as never,
    policy: policy as ForwardStage,
    reference,
    gradient: { coefficients: new Float64Array(S), plainCoefficients: new Float64Array(S) } as never,
    loss: {
      constants: { ...CONSTANTS, gradientScale: 3, ...constants, terms },
      pairs: PAIRS,
      chosen: gather(policy.logProbs, 0),
      rejected: gather(policy.logProbs, 1),
      referenceChosen: gather(reference.logProbs, 0),
      referenceRejected: gather(reference.logProbs, 1),
      chosenTokenCounts: gather(counts, 0),
      rejectedTokenCounts: gather(counts, 1),
      ...outs(),
      ...more,
    },
  }
}

const outs = () => {
  const perPair = () => new Float64Array(P)
  const [losses, chosenRewards, rejectedRewards, gradChosen, gradRejected] = [1, 2, 3, 4, 5].map(perPair)
  return { losses, chosenRewards, rejectedRewards, gradChosen, gradRejected, summary: new Float64Array(3) }
}

const groupsFor = (count: number) => Math.ceil(count / LOSS_WORKGROUP)

/** Runs stage 3 of the job on the device, after what stages 1 and 2 would have left there. */
async function pairsOnDevice(job: Job): Promise<void> {
  const stage = job.loss as LossStage
  const { policy, reference, tokens, gradient } = job
  const given = pairInputs(job)
  if (policy) {
    given.logProbs.set(twoFloats(policy.logProbs))
    if (tokens?.plainWeights) given.logProbs.set(twoFloats(policy.plainLogProbs!), 2 * given.begins.plain)
    if (policy.logWeights) given.logProbs.set(twoFloats(policy.logWeights), 2 * given.begins.logWeights)
  }
  if (reference) given.logProbs.set(twoFloats(reference.logProbs), 2 * given.begins.reference)
  const counts = new Int32Array(2 * S)
  tokens?.counts.forEach((count, s) => {
    counts[2 * s + 1] = count
  })
  const shaders = pairShaders(job)
  const uniform = dispatches.uniform(given.stage)
  const [pairs, sequences, uses] = [given.pairs, counts, given.uses].map((contents) => dispatches.storage(contents))
  const [values, ranks, results, summary, coefficients] = [
    ...[given.logProbs, given.ranks, given.results, given.summary, given.coefficients],
  ].map((contents) => dispatches.storage(contents))
  const bound = [uniform, pairs, values, sequences, ranks]
  if (shaders.rankPairs) await dispatches.run(shaders.rankPairs, bound, groupsFor(P))
  await dispatches.run(shaders.preferenceLoss, [...bound, results], groupsFor(P))
  await dispatches.run(shaders.pairSums, [uniform, results, summary], 1)
  takePairResults(await dispatches.read(results), await dispatches.read(summary), stage)
  if (gradient) {
    await dispatches.run(shaders.pairCoefficients, [uniform, uses, results, coefficients], groupsFor(S))
    const sums = fromTwoFloats(await dispatches.read(coefficients))
    gradient.coefficients.set(sums.subarray(0, S))
    if (tokens?.plainWeights) gradient.plainCoefficients!.set(sums.subarray(S, 2 * S))
  }
  dispatches.free()
}

async function comparePairs(job: Job): Promise<void> {
  const copy: Job = {
    ...job,
    loss: { ...(job.loss as LossStage), ...outs() },
    gradient: job.gradient && {
      ...job.gradient,
      coefficients: new Float64Array(S),
      plainCoefficients: job.gradient.plainCoefficients && new Float64Array(S),
    },
  }
  preferenceLoss(job)
  await pairsOnDevice(copy)
  const [wanted, got] = [job.loss as LossStage, copy.loss as LossStage]
  const cancels = wanted.constants.terms.some(({ lossType }) => CANCELLING.includes(lossType))
  const terms = cancels || wanted.constants.terms.length > 1 ? 100 : 0
  for (const name of ['losses', 'gradChosen', 'gradRejected'] as const) expectNear(got[name], wanted[name], name, terms)
  for (const name of ['chosenRewards', 'rejectedRewards'] as const) expectNear(got[name], wanted[name], name)
  expectNear(got.summary, wanted.summary, 'summary', P)
  if (job.gradient === undefined) return
  const uses = new Float64Array(S)
  PAIRS.forEach((sequence, use) => {
    uses[sequence] += 100 * Math.abs((use % 2 === 0 ? wanted.gradChosen : wanted.gradRejected)[use >> 1])
  })
  expectNear(copy.gradient!.coefficients, job.gradient.coefficients, 'coefficients', uses)
  expectNear(copy.gradient!.plainCoefficients!, job.gradient.plainCoefficients!, 'plainCoefficients')
}

describe('pairs', () => {
  test.each(LOSS_TYPES)('%s', async (lossType) => {
    await comparePairs(pairedJob([lossType]))
  })

  test.each(['forward_kl', 'js', 'alpha'] as const)('%s', async (fDivergence) => {
    for (const average of [false, true]) {
      await comparePairs(pairedJob([average ? 'ipo' : 'hinge'], { fDivergence, average, alpha: -0.5 }))
    }
  })

  test.each(['simpo', 'orpo'] as const)('%s of means', async (lossType) => {
    await comparePairs(pairedJob([lossType], { average: true, rewardAlpha: lossType === 'simpo' ? 0.25 : 0 }))
  })

  test.each(['tokens', 'sequences', 'sum'] as const)('sft, normalized by %s', async (sftNormalization) => {
    await comparePairs(pairedJob(['sft'], { sftNormalization, average: sftNormalization !== 'sequences' }))
  })

  test('constants and weights of each pair, and a sum of losses', async () => {
    const own = {
      pairWeights: numbers(P, (i) => (i % 4 === 1 ? 0 : 0.5 + i / 8)),
      pairConstants: {
        beta: numbers(P, (i) => 0.125 + i / 16),
        labelSmoothing: numbers(P, (i) => i / 32),
        offset: numbers(P, (i) => i / 8 - 0.5),
        targetMargin: numbers(P, (i) => 1 - i / 8),
      },
    }
    await comparePairs(pairedJob(['robust', 'aot', 'rpo_sq', 'aot_unpaired', 'sft'], { pairDivisor: 7 }, own))
  })

  test('log-probs that the host has, without sequences, and nothing but them', async () => {
    const { loss } = pairedJob(['aot', 'aot_unpaired'])
    await comparePairs({ loss: { ...(loss as LossStage), pairs: undefined } })
  })

  test('counts that the device has found', async () => {
    const job = pairedJob(['sft', 'simpo'])
    const stage = { ...(job.loss as LossStage), ...outs() }
    // The host has none of them.
    const none = { chosenTokenCounts: new Float64Array(P), rejectedTokenCounts: new Float64Array(P) }
    await pairsOnDevice({
      ...job,
      loss: Object.assign(stage, none),
      tokens: { ...job.tokens!, labels: {} as never },
    })
    preferenceLoss(job)
    expectNear(stage.losses, job.loss!.losses, 'losses', 1)
    expectNear(stage.gradChosen, job.loss!.gradChosen, 'gradChosen')
  })
})

describe('single sequences', () => {
  test.each(['kto', 'apo_zero_unpaired', 'bco', 'regression'] satisfies UnpairedLossType[])('%s', async (lossType) => {
    const stage: UnpairedLossStage = {
      ...{ lossType, beta: 0.3, desirableWeight: 1.25, undesirableWeight: 0.75, kl: 0.5, rewardShift: -0.25 },
      ...{ divisor: 7, gradientScale: 3 },
      desirable: Int32Array.from({ length: S }, (_, s) => s % 2),
      weights: numbers(S, (s) => (s === 9 ? 0 : 1 + s / 4)),
      betas: numbers(S, (s) => 0.1 + s / 16),
      targets: numbers(S, (s) => s / 8 - 1),
      logProbs: logProbs(10),
      referenceLogProbs: numbers(S, () => -10 * Math.abs(gaussian(next))),
      ...{ losses: new Float64Array(S), rewards: new Float64Array(S), gradient: new Float64Array(S) },
      summary: new Float64Array(5),
    }
    const wanted = { ...stage, losses: stage.losses.slice(), rewards: stage.rewards.slice() }
    Object.assign(wanted, { gradient: stage.gradient.slice(), summary: stage.summary.slice() })
    unpairedPreferenceLoss({ unpairedLoss: wanted })
    const job = { unpairedLoss: stage }
    const given = unpairedInputs(job)
    const { unpairedPreferenceLoss: shader, unpairedSums } = unpairedShaders(job)
    const uniform = dispatches.uniform(given.stage)
    const bound = [given.inputs, given.logProbs, given.results].map((contents) => dispatches.storage(contents))
    const [coefficients, summary] = [given.coefficients, given.summary].map((size) => dispatches.storage(size))
    await dispatches.run(shader, [uniform, ...bound, coefficients], groupsFor(S))
    await dispatches.run(unpairedSums, [uniform, ...bound, summary], 1)
    takeUnpairedResults(await dispatches.read(bound[2]), await dispatches.read(summary), stage)
    for (const name of ['losses', 'rewards', 'gradient'] as const) expectNear(stage[name], wanted[name], name)
    expectNear(fromTwoFloats(await dispatches.read(coefficients)).subarray(0, S), wanted.gradient, 'coefficients')
    expectNear(stage.summary, wanted.summary, 'summary', S)
    dispatches.free()
  })
})

describe('single tokens', () => {
  const [R, V] = [70, 9]
  const cases: Record<string, Partial<TokenLossStage>> = {
    plain: {},
    smoothed: { labelSmoothing: 0.125 },
    'with a z-loss and DFT': { labelSmoothing: 0.25, zLoss: 1e-3, dft: true },
    'with weights of smoothed classes': {
      ...{ labelSmoothing: 0.125, zLoss: 0.5, meanClassWeight: 0.875 },
      classWeights: Float32Array.from({ length: V }, (_, v) => (v === 2 ? 0 : v / 4)),
    },
    'with classes and a divisor of the device': {
      ...{ divisor: 0, weightsOfLabels: numbers(V, (v) => (v === 3 ? 0 : v / 4)) },
    },
  }
  test.each(Object.keys(cases))('%s', async (name) => {
    const stage: TokenLossStage = {
      ...{ labelSmoothing: 0, zLoss: 0, dft: false, divisor: 13, gradientScale: 3 },
      ...cases[name],
      losses: new Float64Array(R),
      summary: new Float64Array(1),
    }
    const targets = Int32Array.from({ length: R }, (_, row) => (row % 7 === 3 ? -1 : row % V))
    const weights = numbers(R, (row) => (row % 11 === 5 ? 0 : 0.5 + row / 64))
    const rows = { logProbs: numbers(R, () => -5 * Math.abs(gaussian(next))) } as Record<string, Float64Array>
    rows.logProbs.set([-inf, nan, 0, -1e-20], 7)
    rows.meanLogits = numbers(R, () => 3 * gaussian(next))
    // As states have it: total · 2^exponent.
    const totals = Float32Array.from({ length: R }, () => 0.5 + next())
    const exponents = Int32Array.from({ length: R }, () => Math.round(6 * gaussian(next)))
    rows.logSumExp = Float64Array.from(totals, (total, row) => Math.log(total) + exponents[row] * Math.LN2)
    const job = { tokens: { targets, weights }, tokenLoss: stage, gradient: {} } as unknown as Job

    const byLabel = (row: number) => (targets[row] < 0 ? 0 : (stage.weightsOfLabels?.[targets[row]] ?? 1))
    const labelSum = targets.reduce((sum, _, row) => sum + byLabel(row), 0)
    const all = weights.map((weight, row) => (stage.weightsOfLabels ? weight * byLabel(row) : weight))
    const wanted = {
      ...stage,
      divisor: stage.divisor || labelSum,
      losses: new Float64Array(R),
      summary: new Float64Array(1),
    }
    const slopes = { logProb: new Float64Array(R), logSumExp: new Float64Array(R), meanLogit: new Float64Array(R) }
    tokenLoss(wanted, { targets, weights: all } as never, rows as never, slopes)

    const given = tokenLossInputs(job, R)
    const shaders = tokenLossShaders(job)
    const [params, sumParams] = [given.params, given.sumParams].map((contents) => dispatches.uniform(contents))
    const factors = new Float32Array(4 * R)
    const states = new Float32Array(5 * R)
    for (let row = 0; row < R; row++) {
      factors.set(twoFloats([weights[row], nan]), 4 * row)
      states.set(twoFloats([rows.logProbs[row]]), 5 * row)
      states[5 * row + 2] = totals[row]
      new Int32Array(states.buffer)[5 * row + 4] = exponents[row]
    }
    const read = [targets, factors, given.classWeights.length > 0 ? given.classWeights : 16]
    const [labels, ofTokens, classes] = read.map((contents) => dispatches.storage(contents))
    // The losses take the place of the means.
    const [stateBuffer, divisor, losses, slopeBuffer, summary] = [
      ...[states, given.divisor, twoFloats(rows.meanLogits), 24 * R, given.summary],
    ].map((contents) => dispatches.storage(contents))
    if (shaders.tokenDivisor) await dispatches.run(shaders.tokenDivisor, [sumParams, labels, classes, divisor], 1)
    const bound = [params, labels, ofTokens, classes, stateBuffer, divisor, losses, slopeBuffer]
    await dispatches.run(shaders.tokenLoss, bound, groupsFor(R))
    await dispatches.run(shaders.tokenSums, [sumParams, losses, divisor, summary], 1)

    expect(shaders.tokenDivisor === undefined).toBe(stage.divisor !== 0)
    expectNear(fromTwoFloats(await dispatches.read(losses)).subarray(0, R), wanted.losses, 'losses', 1)
    expectNear(fromTwoFloats(await dispatches.read(summary)).subarray(0, 1), wanted.summary, 'summary', R)
    // One NaN is enough for a row.
    rows.logProbs.forEach((logProb, row) => {
      if (Number.isNaN(logProb)) slopes.logSumExp[row] = slopes.meanLogit[row] = 0
    })
    const got = fromTwoFloats(await dispatches.read(slopeBuffer))
    for (const [field, slope] of [slopes.logProb, slopes.logSumExp, slopes.meanLogit].entries()) {
      const values = slope.map((_, row) => got[3 * row + field])
      expectNear(values, slope, `slope ${field}`, 1)
    }
    dispatches.free()
  })
})
