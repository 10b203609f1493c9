/**
 * Values of single pairs and sequences: β, ε, offsets, targets and weights are a number or one for each, in every function
 * of losses and on every backend and instruction set. Values are compared in golden.test.ts.
 */
import { describe, expect, test } from 'vitest'
import {
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLossSync,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLossSync,
  linearSequenceLogProbsSync,
  preferenceLoss,
  preferenceLossSync,
  sequenceLogProbsSync,
  unpairedPreferenceLossSync,
} from '../lib/index.js'
import type { LossOptions, UnpairedLossOptions, UnpairedPreferenceOptions } from '../lib/options/index.js'
import { TAKERS } from '../lib/options/loss-options.js'
import type { LossType } from '../lib/types/index.js'
import { DTYPES, gaussian, hex, LOSS_TYPES, logitsOf, neededBy, random, TARGETS, values } from './support.js'

const PAIRS = 3
const [TIME, VOCAB, WIDTH] = [5, 9, 4]
const SEQUENCES = 2 * PAIRS
const next = random(909)
const normal = (length: number, scale = 1) => Float64Array.from({ length }, () => scale * gaussian(next))
const LABELS = Int32Array.from({ length: SEQUENCES * TIME }, (_, i) => (i % 7 === 4 ? -100 : (5 * i + 2) % VOCAB))
const REFERENCE = { chosen: [-9, -6.5, -7], rejected: [-8, -10, -7.5] }
const OWN = {
  beta: [0.1, 0.6, 1.3],
  labelSmoothing: [0.1, 0.3, 0.02],
  offset: [0.4, -0.7, 0],
  targetMargin: [0.8, -0.3, 2],
  pairWeights: [0.5, 2, 1.25],
}

/** Those that a loss takes. */
function ownOf(lossType: LossType, own: LossOptions = OWN): LossOptions {
  const { beta, pairWeights, ...rest } = own
  const taken = Object.entries(rest).filter(([name]) => TAKERS[name as 'offset'].includes(lossType))
  return { beta, pairWeights, ...Object.fromEntries(taken) }
}

/** Everything about a result, for comparisons to the bit. */
const bits = (result: object): unknown =>
  JSON.parse(
    JSON.stringify(result, (_, value) =>
      ArrayBuffer.isView(value) ? hex(value) : typeof value === 'number' ? String(value) : value,
    ),
  )

const logProbs = {
  chosen: [-8, -7.25, -6],
  rejected: [-9, -6, -8.5],
  referenceChosen: REFERENCE.chosen,
  referenceRejected: REFERENCE.rejected,
  chosenTokenCounts: [4, 3, 5],
  rejectedTokenCounts: [2, 4, 3],
}
const pairAt = (i: number) =>
  Object.fromEntries(Object.entries(logProbs).map(([name, list]) => [name, [list[i]]])) as typeof logProbs

describe.each(TARGETS)('$name', ({ run }) => {
  describe.each(LOSS_TYPES)('%s', (lossType) => {
    test('equal values for each are the value for all', () => {
      const all = { beta: 0.3, labelSmoothing: 0.2, offset: 0.5, targetMargin: 1.5, pairWeights: 0.75 }
      const each = Object.fromEntries(Object.entries(all).map(([name, value]) => [name, Array(PAIRS).fill(value)]))
      const wanted = preferenceLossSync(logProbs, { lossType, ...ownOf(lossType, all), ...run })
      const got = preferenceLossSync(logProbs, { lossType, ...ownOf(lossType, each), ...run })
      expect(bits(got)).toEqual(bits(wanted))
    })

    test('each pair is as it is alone', () => {
      // One that sorts the batch, or divides by its tokens, is another loss for one pair.
      if (lossType.startsWith('aot') || lossType === 'sft') return
      const own = ownOf(lossType)
      const got = preferenceLossSync(logProbs, { lossType, ...own, ...run })
      for (let i = 0; i < PAIRS; i++) {
        const numbers = Object.fromEntries(Object.entries(own).map(([name, list]) => [name, (list as number[])[i]]))
        const alone = preferenceLossSync(pairAt(i), { lossType, ...numbers, ...run })
        expect(got.losses[i]).toBe(alone.losses[0])
        expect(got.chosenRewards[i]).toBe(alone.chosenRewards[0])
        expect(got.rejectedRewards[i]).toBe(alone.rejectedRewards[0])
        expect(got.gradLogProbs.chosen[i]).toBe(alone.gradLogProbs.chosen[0] / PAIRS)
        expect(got.gradLogProbs.rejected[i]).toBe(alone.gradLogProbs.rejected[0] / PAIRS)
      }
    })

    test.each(DTYPES)('the fused functions are their stages, one after the other, on %s', (dtype) => {
      const logits = logitsOf(dtype, [SEQUENCES, TIME, VOCAB], normal(SEQUENCES * TIME * VOCAB, 2))
      const options = { lossType, ...ownOf(lossType), ...run }
      const sums = sequenceLogProbsSync(logits, LABELS, run)
      const half = (list: ArrayLike<number>, side: 0 | 1) => Array.from(list).slice(side * PAIRS, (side + 1) * PAIRS)
      const stageOf = ({ logProbs: all, tokenCounts }: { logProbs: Float64Array; tokenCounts: Int32Array }) =>
        preferenceLossSync(
          {
            chosen: half(all, 0),
            rejected: half(all, 1),
            referenceChosen: REFERENCE.chosen,
            referenceRejected: REFERENCE.rejected,
            chosenTokenCounts: half(tokenCounts, 0),
            rejectedTokenCounts: half(tokenCounts, 1),
          },
          options,
        )
      const stage = stageOf(sums)
      const fused = fusedPreferenceLossSync(logits, LABELS, { ...options, reference: REFERENCE, gradient: true })
      expect(fused).toMatchObject(stage)
      const coefficients = [...stage.gradLogProbs.chosen, ...stage.gradLogProbs.rejected]
      expect(values(fused.gradLogits!)).toEqual(values(sums.backwardSync(coefficients).gradLogits))

      if (dtype !== 'float32') return
      const hidden = logitsOf('float32', [SEQUENCES, TIME, WIDTH], normal(SEQUENCES * TIME * WIDTH))
      const weight = logitsOf('float32', [VOCAB, WIDTH], normal(VOCAB * WIDTH))
      const layer = linearSequenceLogProbsSync(hidden, weight, LABELS, run)
      const call = { ...options, reference: REFERENCE, gradient: true as const }
      const linear = fusedLinearPreferenceLossSync(hidden, weight, LABELS, call)
      const linearStage = stageOf(layer)
      expect(linear).toMatchObject(linearStage)
      const slopes = [...linearStage.gradLogProbs.chosen, ...linearStage.gradLogProbs.rejected]
      const { gradHidden, gradWeight } = layer.backwardSync(slopes)
      expect(bits({ gradHidden: linear.gradHidden, gradWeight: linear.gradWeight })).toEqual(
        bits({ gradHidden, gradWeight }),
      )
    })
  })

  test('a loss that sorts has the constants of the pair of its policy log-ratio', () => {
    // Ranks of the policy's log-ratios: pair 1, 0, 2; of the reference's: 2, 0, 1.
    const sorted = {
      chosen: [1, 0, 3].map((x) => x - 10),
      rejected: [-10, -10, -10],
      referenceChosen: [0.5, 2, -1].map((x) => x - 10),
      referenceRejected: [-10, -10, -10],
    }
    const { beta, labelSmoothing, offset, pairWeights } = OWN
    const got = preferenceLossSync(sorted, { lossType: 'aot', beta, labelSmoothing, offset, pairWeights, ...run })
    const differences = [1 - 0.5, 0 - -1, 3 - 2]
    for (let i = 0; i < PAIRS; i++) {
      const z = beta[i] * differences[i] - offset[i]
      const loss = (1 - labelSmoothing[i]) * Math.log1p(Math.exp(-z)) + labelSmoothing[i] * Math.log1p(Math.exp(z))
      expect(got.losses[i]).toBeCloseTo(pairWeights[i] * loss, 14)
    }
  })

  test('weights of pairs are multiplied by those of the policy', () => {
    const logits = logitsOf('float32', [SEQUENCES, TIME, VOCAB], normal(SEQUENCES * TIME * VOCAB, 2))
    const call = (options: LossOptions & { weighting?: 'wpo' }) =>
      fusedPreferenceLossSync(logits, LABELS, { ...options, reference: REFERENCE, gradient: true, ...run })
    const [plain, ofPolicy, both] = [
      call({}),
      call({ weighting: 'wpo' }),
      call({ weighting: 'wpo', pairWeights: [0.5, 2, 0] }),
    ]
    expect(Array.from(ofPolicy.losses)).not.toEqual(Array.from(plain.losses))
    expect(Array.from(both.losses)).toEqual([0.5 * ofPolicy.losses[0], 2 * ofPolicy.losses[1], 0])
    expect(both.gradLogProbs.chosen[1]).toBeCloseTo(2 * ofPolicy.gradLogProbs.chosen[1], 15)
    expect(both.gradLogProbs.chosen[2]).toBe(0)
    const rows = values(both.gradLogits!).subarray(2 * TIME * VOCAB, 3 * TIME * VOCAB)
    expect(rows.every((x) => x === 0)).toBe(true)
    // A call leaves the caller's weights as they are.
    const pairWeights = Float64Array.of(0.5, 2, 0)
    call({ weighting: 'wpo', pairWeights })
    expect(bits(call({ weighting: 'wpo', pairWeights }))).toEqual(bits(both))
    expect(pairWeights).toEqual(Float64Array.of(0.5, 2, 0))
  })

  test('are read when the call is made', async () => {
    const own = Object.fromEntries(
      Object.entries(ownOf('sigmoid')).map(([name, list]) => [name, Float64Array.from(list as number[])]),
    )
    const wanted = preferenceLossSync(logProbs, { ...own, ...run })
    const logits = logitsOf('float32', [SEQUENCES, TIME, VOCAB], normal(SEQUENCES * TIME * VOCAB, 2))
    const fused = fusedPreferenceLossSync(logits, LABELS, { ...own, reference: REFERENCE, ...run })
    const promises = [
      preferenceLoss(logProbs, { ...own, ...run }),
      fusedPreferenceLoss(logits, LABELS, { ...own, reference: REFERENCE, ...run }),
    ]
    for (const list of Object.values(own)) list.fill(7)
    const got = await Promise.all(promises)
    expect(bits(got[0])).toEqual(bits(wanted))
    expect(bits(got[1])).toEqual(bits(fused))
  })

  test('a gradient may not overwrite them', () => {
    const logits = logitsOf('float32', [SEQUENCES, TIME, VOCAB], normal(SEQUENCES * TIME * VOCAB, 2))
    const out = new Float32Array(SEQUENCES * TIME * VOCAB)
    for (const name of ['beta', 'labelSmoothing', 'offset', 'pairWeights'] as const) {
      const options = { [name]: out.subarray(1, 1 + PAIRS).fill(0.5), reference: REFERENCE, gradient: out, ...run }
      expect(() => fusedPreferenceLossSync(logits, LABELS, options)).toThrow(`would overwrite options.${name}`)
    }
    const flags = Array(SEQUENCES).fill(1)
    for (const name of ['beta', 'sequenceWeights', 'targets'] as const) {
      const own = { targets: Array(SEQUENCES).fill(0), [name]: out.subarray(1, 1 + SEQUENCES).fill(0.5) }
      const options = { lossType: 'regression' as const, desirable: flags, referenceFree: true, gradient: out, ...own }
      expect(() => fusedUnpairedPreferenceLossSync(logits, LABELS, { ...options, ...run })).toThrow(
        `would overwrite options.${name}`,
      )
    }
  })

  describe('of single sequences', () => {
    const desirable = [true, false, false, true, true, false]
    const referenceLogProbs = [-9, -6.5, -7, -8, -10, -7.5]
    const own = { beta: [0.1, 0.6, 1.3, 0.3, 0.8, 0.05], sequenceWeights: [0.5, 2, 1.25, 0, 1, 3] }
    const losses: [string, Partial<UnpairedLossOptions>][] = [
      ['kto', { lossType: 'kto', kl: 1.5 }],
      ['apo_zero_unpaired', { lossType: 'apo_zero_unpaired' }],
      ['bco', { lossType: 'bco', rewardShift: 0.3 }],
      ['regression', { lossType: 'regression', targets: [0.5, -1, 2, 0, 0.25, -3] }],
    ]
    const sequences = { logProbs: [-8, -7.25, -6, -9, -6, -8.5], referenceLogProbs }

    test.each(losses)('%s: each is as it is alone', (_, loss) => {
      const common = { ...loss, desirableWeight: 1.3, undesirableWeight: 0.7, ...run }
      const got = unpairedPreferenceLossSync(sequences, { ...common, ...own, desirable })
      for (let i = 0; i < SEQUENCES; i++) {
        const options = {
          ...common,
          ...(loss.targets && { targets: [loss.targets[i]] }),
          beta: own.beta[i],
          sequenceWeights: own.sequenceWeights[i],
          desirable: [desirable[i]],
        }
        const one = { logProbs: [sequences.logProbs[i]], referenceLogProbs: [referenceLogProbs[i]] }
        const alone = unpairedPreferenceLossSync(one, options)
        expect(got.losses[i]).toBe(alone.losses[0])
        expect(got.rewards[i]).toBe(alone.rewards[0])
        expect(got.gradLogProbs[i]).toBe(alone.gradLogProbs[0] / SEQUENCES)
      }
    })

    test.each(losses)('%s: equal values for each are the value for all', (_, loss) => {
      const common = { ...loss, desirable, ...run }
      const all = unpairedPreferenceLossSync(sequences, { ...common, beta: 0.4, sequenceWeights: 0.75 })
      const each = { beta: Array(SEQUENCES).fill(0.4), sequenceWeights: Array(SEQUENCES).fill(0.75) }
      expect(bits(unpairedPreferenceLossSync(sequences, { ...common, ...each }))).toEqual(bits(all))
    })

    test.each(losses)('%s: the fused functions are their stages', (_, loss) => {
      const options = { ...loss, ...own, desirable, ...run }
      const reference = { logProbs: referenceLogProbs }
      for (const dtype of DTYPES) {
        const logits = logitsOf(dtype, [SEQUENCES, TIME, VOCAB], normal(SEQUENCES * TIME * VOCAB, 2))
        const sums = sequenceLogProbsSync(logits, LABELS, run)
        const stage = unpairedPreferenceLossSync({ logProbs: sums.logProbs, referenceLogProbs }, options)
        const fused = fusedUnpairedPreferenceLossSync(logits, LABELS, { ...options, reference, gradient: true })
        expect(fused).toMatchObject(stage)
        expect(values(fused.gradLogits!)).toEqual(values(sums.backwardSync(stage.gradLogProbs).gradLogits))
      }
      const hidden = logitsOf('float32', [SEQUENCES, TIME, WIDTH], normal(SEQUENCES * TIME * WIDTH))
      const weight = logitsOf('float32', [VOCAB, WIDTH], normal(VOCAB * WIDTH))
      const layer = linearSequenceLogProbsSync(hidden, weight, LABELS, run)
      const stage = unpairedPreferenceLossSync({ logProbs: layer.logProbs, referenceLogProbs }, options)
      const call = { ...options, reference, gradient: true as const }
      expect(fusedLinearUnpairedPreferenceLossSync(hidden, weight, LABELS, call)).toMatchObject(stage)
    })

    test('a sequence of weight 0 takes no part, whatever its log-prob is', () => {
      for (const [, loss] of losses) {
        const of = (bad: number) =>
          unpairedPreferenceLossSync({ logProbs: [-5, bad, -7], referenceLogProbs: [-6, -6, -6] }, {
            ...loss,
            ...(loss.targets && { targets: Array.from(loss.targets).slice(0, 3) }),
            desirable: [1, 0, 1],
            sequenceWeights: [1, 0, 2],
            ...run,
          } as UnpairedPreferenceOptions)
        for (const bad of [Number.NaN, Number.NEGATIVE_INFINITY]) {
          const [got, wanted] = [of(bad), of(-6)]
          expect([got.loss, ...got.losses, ...got.gradLogProbs]).toEqual([
            wanted.loss,
            ...wanted.losses,
            ...wanted.gradLogProbs,
          ])
          expect([got.losses[1], got.gradLogProbs[1]].map(Math.abs)).toEqual([0, 0])
        }
      }
    })

    test('regression goes to its targets, whether a sequence is desirable or not', () => {
      const options = { lossType: 'regression' as const, beta: 0.5, ...run }
      const targets = [0.5, -1, 2]
      const given = { logProbs: [-5, -8, -2], referenceLogProbs: [-6, -6, -6] }
      const got = unpairedPreferenceLossSync(given, { ...options, targets, desirable: [1, 1, 0] })
      expect(Array.from(got.losses)).toEqual([0, 0, 0])
      expect(Array.from(got.gradLogProbs, Math.abs)).toEqual([0, 0, 0])
      const off = { ...options, targets: [1.5, -1, 1] }
      const [yes, no] = [
        unpairedPreferenceLossSync(given, { ...off, desirable: [1, 1, 1] }),
        unpairedPreferenceLossSync(given, { ...off, desirable: [0, 0, 0] }),
      ]
      expect(Array.from(yes.losses)).toEqual([1, 0, 1])
      expect(Array.from(yes.gradLogProbs)).toEqual([(2 * 0.5 * -1) / 3, 0, (2 * 0.5 * 1) / 3])
      expect(bits([no.loss, no.losses, no.gradLogProbs])).toEqual(bits([yes.loss, yes.losses, yes.gradLogProbs]))
    })
  })
})

describe('bad values of single sequences', () => {
  const sequences = { logProbs: [-5, -7], referenceLogProbs: [-6, -6] }
  const wrong: [string, object, string, string][] = [
    ['β too short', { beta: [0.1] }, 'ERR_SHAPE_MISMATCH', 'options.beta must have length 2, one per sequence; got 1'],
    ['β 0', { beta: [0.1, 0] }, 'ERR_OUT_OF_RANGE', 'options.beta[1] must be a finite number > 0; got 0'],
    ['β a string', { beta: '0.1' }, 'ERR_INVALID_ARG_TYPE', 'options.beta must be a finite number > 0 or an array'],
    ['weights below 0', { sequenceWeights: [1, -1] }, 'ERR_OUT_OF_RANGE', 'options.sequenceWeights[1]'],
    ['a weight below 0', { sequenceWeights: -1 }, 'ERR_OUT_OF_RANGE', 'options.sequenceWeights must be'],
    ['weights NaN', { sequenceWeights: [Number.NaN, 1] }, 'ERR_OUT_OF_RANGE', 'options.sequenceWeights[0]'],
    ['weights too long', { sequenceWeights: [1, 1, 1] }, 'ERR_SHAPE_MISMATCH', 'options.sequenceWeights'],
    ['targets of bco', { targets: [1, 2] }, 'ERR_INVALID_ARG_VALUE', 'the losses that take it: regression'],
    ['no targets', { lossType: 'regression' }, 'ERR_INVALID_ARG_VALUE', 'options.targets are needed'],
    ['targets too short', { lossType: 'regression', targets: [1] }, 'ERR_SHAPE_MISMATCH', 'options.targets'],
    ['targets a number', { lossType: 'regression', targets: 1 }, 'ERR_INVALID_ARG_TYPE', 'options.targets'],
    [
      'targets infinite',
      { lossType: 'regression', targets: [1, Number.POSITIVE_INFINITY] },
      'ERR_OUT_OF_RANGE',
      'options.targets[1] must be a finite number; got Infinity',
    ],
    ['κ of regression', { lossType: 'regression', targets: [1, 2], kl: 1 }, 'ERR_INVALID_ARG_VALUE', 'options.kl'],
  ]
  test.each(wrong)('%s', (_, options, code, message) => {
    const call = () => unpairedPreferenceLossSync(sequences, { lossType: 'bco', desirable: [1, 0], ...options })
    expect(call).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }))
  })
})

test('the losses that need a target say so', () => {
  for (const lossType of TAKERS.targetMargin) {
    expect(() => preferenceLossSync(logProbs, { lossType })).toThrow(
      `options.targetMargin is needed by lossType '${lossType}'`,
    )
    expect(() => preferenceLossSync(logProbs, { lossType, ...neededBy(lossType) })).not.toThrow()
  }
})
