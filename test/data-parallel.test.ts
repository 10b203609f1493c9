/**
 * Data parallel training: over ranks with uneven batches, one of them without a token that counts and one without any batch,
 * losses, gradients, constants and metrics are those of the one large batch.
 */
import { describe, expect, test } from 'vitest'
import {
  averageGradients,
  type CountedBatch,
  globalCounts,
  globalCountsSync,
  globalKl,
  globalKlSync,
  globalPreferenceLoss,
  globalPreferenceLossSync,
  globalRunningRewardMean,
  globalRunningRewardMeanSync,
  globalStepMetrics,
  globalStepMetricsSync,
  sumGradients,
  sumGradientsSync,
} from '../lib/distributed/index.js'
import {
  fusedLinearPreferenceLoss,
  fusedLinearUnpairedPreferenceLoss,
  linearCrossEntropy,
  linearSequenceLogProbs,
  preferenceLossSync,
  runningRewardMean,
} from '../lib/index.js'
import { type StepOptions, stepMetrics } from '../lib/metrics/index.js'
import type { LossOptions } from '../lib/options/index.js'
import type { Communicator, HeadGradients, PairLogProbs } from '../lib/types/index.js'
import { onRanks, onRanksSync, outcomes, type Rank } from './ranks.js'
import { gaussian, random, tooFar } from './support.js'

const [time, vocab, width] = [7, 23, 5]
const next = random(21)
const floats = (length: number, scale = 1) => Float32Array.from({ length }, () => scale * gaussian(next))
const weight = { data: floats(vocab * width), shape: [vocab, width] }
const bias = floats(vocab, 0.1)
const outputs = ['tokenEntropies', 'tokenArgmax', 'tokenMeanLogits'] as const

/** The sequences of pair i are 2 i, chosen, and 2 i + 1; those of pair 3 have no token that counts. */
const PAIRS = 7
const SEQUENCES = 2 * PAIRS
const hidden = floats(SEQUENCES * time * width, 2)
const labels = Int32Array.from({ length: SEQUENCES * time }, (_, i) => {
  const pair = Math.floor(i / time / 2)
  return pair === 3 || i % time < pair % 3 || next() < 0.2 ? -100 : Math.floor(next() * vocab)
})
const reference = floats(SEQUENCES, 3).map((x) => x - 15)
/** The pairs of each of four ranks: many, the one without tokens, none, and the rest. */
const SHARES = [
  [0, 3],
  [3, 4],
  [4, 4],
  [4, 7],
]
const LENGTHS = Int32Array.from({ length: SEQUENCES }, (_, s) => 2 + (s % 5))

/** The pairs from `first` to `end` as a batch; chosen sequences first. */
function batchOf(first: number, end: number) {
  const order = [0, 1].flatMap((side) => Array.from({ length: end - first }, (_, i) => 2 * (first + i) + side))
  const pick = <T extends Float32Array | Int32Array>(values: T, size: number) => {
    const picked = new (values.constructor as new (length: number) => T)(order.length * size)
    for (const [i, s] of order.entries()) picked.set(values.subarray(s * size, (s + 1) * size), i * size)
    return picked
  }
  const size = end - first
  const logProbs = pick(reference, 1)
  return {
    labels: pick(labels, time),
    shape: [order.length, time],
    pairs: Int32Array.from({ length: order.length }, (_, i) => (i >> 1) + (i & 1) * size),
    desirable: order.map((s) => s % 3 === 0),
    sequenceLengths: pick(LENGTHS, 1),
    hidden: { data: pick(hidden, time * width), shape: [order.length, time, width] },
    reference: { chosen: logProbs.subarray(0, size), rejected: logProbs.subarray(size) },
    logProbs,
  }
}

type Batch = ReturnType<typeof batchOf>
const whole = batchOf(0, PAIRS)
const batchOfRank = ({ rank }: Communicator) =>
  SHARES[rank][0] === SHARES[rank][1] ? undefined : batchOf(...(SHARES[rank] as [number, number]))
const paired = ({ desirable: _, ...batch }: Batch) => batch
const unpaired = ({ pairs: _, ...batch }: Batch) => batch
const single = ({ labels, shape }: Batch) => ({ labels, shape })
const counted = <T extends CountedBatch>(rank: Communicator, kind: (batch: Batch) => T) => {
  const batch = batchOfRank(rank)
  return batch && kind(batch)
}

function expectNear(got: ArrayLike<number>, wanted: ArrayLike<number>, relative: number): void {
  const largest = Math.max(...Array.from(wanted, Math.abs))
  expect(largest).toBeGreaterThan(0)
  expect(tooFar(got, wanted, () => relative * largest)).toBe(undefined)
}

interface Result extends Pick<HeadGradients, 'gradWeight' | 'gradBias'> {
  loss: number
}

/** Gradients of weight and bias, added up over the ranks, and the sum of the losses: those of the whole batch. */
async function expectWhole(
  wanted: Result,
  ofRank: (rank: Rank, batch: Batch | undefined) => Promise<Result | undefined>,
) {
  const found = await onRanks(4, async (rank) => {
    const result = await ofRank(rank, batchOfRank(rank))
    const gradients = [
      (result?.gradWeight?.data ?? new Float32Array(vocab * width)) as Float32Array,
      (result?.gradBias ?? new Float32Array(vocab)) as Float32Array,
    ]
    await sumGradients(rank, gradients)
    return { loss: result?.loss ?? 0, gradients }
  })
  expectNear([found.reduce((sum, { loss }) => sum + loss, 0)], [wanted.loss], 1e-12)
  for (const { gradients } of found) {
    expect(gradients).toEqual(found[0].gradients)
    expectNear(gradients[0], wanted.gradWeight!.data as Float32Array, 1e-6)
    expectNear(gradients[1], wanted.gradBias as Float32Array, 1e-6)
  }
}

const gradient = { weight: true, bias: true } as const

describe('gradients add up to those of the one large batch', () => {
  test.each([
    ['DPO', { lossType: 'sigmoid' }],
    ['sft', { lossType: 'sft' }],
    ['both', { lossType: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight: 0.3 }] }],
  ] as [string, LossOptions][])('pairs: %s', async (_, loss) => {
    const call = ({ hidden, labels, pairs, reference }: Batch, normalizer?: LossOptions['normalizer']) =>
      fusedLinearPreferenceLoss(hidden, weight, labels, { ...loss, bias, pairs, reference, gradient, normalizer })
    await expectWhole(await call(whole), async (rank, batch) => {
      const normalizer = await globalCounts(rank, batch && paired(batch))
      expect(normalizer).toEqual({ pairs: PAIRS, tokens: expect.any(Number) })
      return batch && call(batch, normalizer)
    })
  })

  test('KTO, with κ over all ranks', async () => {
    const mismatched = ({ logProbs }: Batch) => ({
      klLogProbs: logProbs.map((x, i) => x + Math.sin(i + logProbs[0]) + 0.7),
      referenceKlLogProbs: logProbs,
    })
    const all = SHARES.filter(([first, end]) => end > first).map(([first, end]) => mismatched(batchOf(first, end)))
    const call = ({ hidden, labels, logProbs, desirable }: Batch, kl: number, normalizer?: { sequences: number }) =>
      fusedLinearUnpairedPreferenceLoss(hidden, weight, labels, {
        ...{ lossType: 'kto', bias, reference: { logProbs }, desirable, kl, gradient },
        ...(normalizer && { normalizer }),
      })
    const differences = all.flatMap(({ klLogProbs, referenceKlLogProbs }) =>
      [...klLogProbs].map((x, i) => x - referenceKlLogProbs[i]),
    )
    const kl = differences.reduce((sum, x) => sum + x, 0) / differences.length
    expect(kl).toBeGreaterThan(0.1)
    // The mean of the ranks' means is another number.
    const means = all.map(
      ({ klLogProbs, referenceKlLogProbs }) =>
        klLogProbs.reduce((sum, x, i) => sum + x - referenceKlLogProbs[i], 0) / klLogProbs.length,
    )
    expect(Math.abs(means.reduce((a, b) => a + b) / means.length - kl)).toBeGreaterThan(1e-3)
    await expectWhole(await call(whole, kl), async (rank, batch) => {
      const normalizer = await globalCounts(rank, batch && unpaired(batch))
      expect(normalizer).toEqual({ sequences: SEQUENCES })
      const own = await globalKl(rank, batch && mismatched(batch))
      expect(own).toBeCloseTo(kl, 12)
      return batch && call(batch, own, normalizer)
    })
  })

  test.each([false, true])('cross-entropy, with weights of classes: %s', async (weighs) => {
    const classWeights = weighs ? Array.from({ length: vocab }, (_, v) => (v % 4) / 2) : undefined
    const call = ({ hidden, labels }: Batch, normalizer?: { tokens: number }) =>
      linearCrossEntropy(hidden, weight, labels, { bias, classWeights, gradient, ...(normalizer && { normalizer }) })
    await expectWhole(await call(whole), async (rank, batch) => {
      const normalizer = await globalCounts(rank, batch && single(batch), { classWeights })
      return batch && call(batch, normalizer)
    })
  })

  test.each([
    { lossType: 'aot' },
    { lossType: 'aot_unpaired' },
    { lossType: 'aot', labelSmoothing: 0.2, pairWeights: Array.from({ length: PAIRS }, (_, i) => i / 3) },
    { lossType: 'sigmoid_norm', beta: Array.from({ length: PAIRS }, (_, i) => 0.1 + i / 50) },
    { lossType: [{ lossType: 'ipo' }, { lossType: 'sft', weight: 0.1 }] },
  ] as LossOptions[])('a loss of the whole batch: %o', async (loss) => {
    const share = (value: unknown, first: number, end: number) =>
      Array.isArray(value) && typeof value[0] === 'number' ? value.slice(first, end) : value
    const optionsOf = (first: number, end: number) =>
      Object.fromEntries(Object.entries(loss).map(([name, value]) => [name, share(value, first, end)])) as LossOptions
    const wanted = await fusedLinearPreferenceLoss(whole.hidden, weight, whole.labels, {
      ...loss,
      ...{ bias, pairs: whole.pairs, reference: whole.reference, gradient },
    })
    await expectWhole(wanted, async (rank, batch) => {
      const options = optionsOf(...(SHARES[rank.rank] as [number, number]))
      if (!batch) {
        const { loss, losses } = await globalPreferenceLoss(rank, undefined, options)
        expect([loss, losses]).toEqual([expect.closeTo(wanted.loss, 12), new Float64Array(0)])
        return
      }
      const sums = await linearSequenceLogProbs(batch.hidden, weight, batch.labels, { bias })
      const half = batch.shape[0] / 2
      const { chosen, rejected } = batch.reference
      const found = await globalPreferenceLoss(
        rank,
        {
          chosen: sums.logProbs.subarray(0, half),
          rejected: sums.logProbs.subarray(half),
          ...{ referenceChosen: chosen, referenceRejected: rejected },
          chosenTokenCounts: sums.tokenCounts.subarray(0, half),
          rejectedTokenCounts: sums.tokenCounts.subarray(half),
        },
        options,
      )
      expect([found.loss, found.margin, found.accuracy]).toEqual(
        [wanted.loss, wanted.margin, wanted.accuracy].map((value) => expect.closeTo(value, 12)),
      )
      const [first, end] = SHARES[rank.rank]
      expectNear(found.chosenRewards, wanted.chosenRewards.subarray(first, end), 1e-12)
      const gradients = await sums.backward([...found.gradLogProbs.chosen, ...found.gradLogProbs.rejected], {
        gradient,
      })
      return { ...gradients, loss: rank.rank === 0 ? found.loss : 0 }
    })
  })
})

describe('globalCounts', () => {
  test('counts what the losses divide by', async () => {
    const tokens = whole.labels.filter((label, i) => i % time > 0 && label !== -100).length
    const chosen = whole.labels.filter((label, i) => i < PAIRS * time && i % time > 0 && label !== -100).length
    for (const found of await onRanks(4, (rank) => globalCounts(rank, counted(rank, paired)))) {
      expect(found).toEqual({ pairs: PAIRS, tokens: chosen })
    }
    for (const found of await onRanks(4, (rank) => globalCounts(rank, counted(rank, single)))) {
      expect(found).toEqual({ tokens })
    }
    expect(onRanksSync(4, (rank) => globalCountsSync(rank, counted(rank, single)))).toEqual(
      new Array(4).fill({ tokens }),
    )
  })

  test('minds shift, mask, ignoreIndex and packed sequences', async () => {
    const batch = { labels: Int32Array.of(1, 2, 3, 4, 5, 7), shape: [2, 3] }
    const countOf = async (rank: Rank, given: CountedBatch, options = {}) =>
      (await globalCounts(rank, given, options)).tokens
    const [found] = await onRanks(1, async (rank) => [
      await countOf(rank, batch),
      await countOf(rank, batch, { shift: false }),
      await countOf(rank, batch, { shift: false, ignoreIndex: 7 }),
      await countOf(rank, batch, { mask: [1, 1, 0, 0, 1, 1] }),
      await countOf(rank, { ...batch, shape: [6], sequenceOffsets: [0, 1, 6] }),
    ])
    expect(found).toEqual([4, 6, 5, 3, 4])
  })

  test('a sequence that is chosen in two pairs counts twice, as in sft', async () => {
    const batch = { labels: Int32Array.of(1, 2, 3, 4, -100, 5, 1, 1, 1), shape: [3, 3], pairs: [0, 1, 0, 2] }
    expect(await onRanks(1, (rank) => globalCounts(rank, batch))).toEqual([{ pairs: 2, tokens: 4 }])
  })

  test('where nothing counts anywhere it divides by 1, and the loss is 0', async () => {
    const none = { labels: new Int32Array(4).fill(-100), shape: [2, 2] }
    const found = await onRanks(2, (rank) => globalCounts(rank, none))
    expect(found).toEqual([{ tokens: 1 }, { tokens: 1 }])
  })

  test('costs one exchange', async () => {
    const sent = await onRanks(4, async (rank) => {
      await globalCounts(rank, counted(rank, paired))
      return rank.collectives
    })
    for (const collectives of sent)
      expect(collectives.map(({ kind, bytes }) => [kind, bytes < 1024])).toEqual([['allGather', true]])
  })

  test('batches of different kinds, or none at all, are refused on every rank', async () => {
    const mixed = await outcomes(2, (rank) =>
      globalCounts(rank, rank.rank ? paired(whole) : (unpaired(whole) as never)),
    )
    const none = await outcomes(2, (rank) => globalCounts(rank, undefined))
    for (const [found, message] of [
      [mixed, /is of .* on one rank, of .* on another/],
      [none, /missing on every rank/],
    ] as const) {
      for (const outcome of found) {
        expect(outcome).toMatchObject({
          reason: { code: 'ERR_INVALID_ARG_VALUE', message: expect.stringMatching(message) },
        })
      }
    }
  })
})

describe('sumGradients', () => {
  const listOf = (rank: number) => [
    Float32Array.from({ length: 5 }, (_, i) => 10 * i + rank),
    Float32Array.of(rank / 3, 0.1),
    new Float32Array(0),
    Float64Array.of(rank, -1, 1e300 * rank),
    Float32Array.from({ length: 9 }, (_, i) => (rank + 1) / (i + 1)),
  ]
  const wanted = listOf(0).map((array, i) =>
    array.map((_, j) => {
      const round = array instanceof Float32Array ? Math.fround : Number
      return round(round(listOf(0)[i][j] + listOf(1)[i][j]) + listOf(2)[i][j])
    }),
  )

  test.each([8, 12, 24, 60, undefined])(
    'in place, the same bits on every rank; buckets of %s bytes',
    async (bucketBytes) => {
      const found = await onRanks(3, async (rank) => {
        const arrays = listOf(rank.rank)
        await sumGradients(rank, arrays, { bucketBytes })
        return { arrays, collectives: rank.collectives }
      })
      for (const { arrays, collectives } of found) {
        expect(arrays).toEqual(wanted)
        const sizes = collectives.slice(1).map(({ kind, bytes }) => (kind === 'allReduceSum' ? bytes : Number.NaN))
        expect(Math.max(...sizes)).toBeLessThanOrEqual(bucketBytes ?? 25 * 2 ** 20)
        expect(sizes.reduce((a, b) => a + b)).toBe(16 * 4 + 3 * 8)
      }
      // Neighbours of one type are sent together.
      const messages = { 8: 12, 12: 9, 24: 5, 60: 3 }[bucketBytes ?? 60]
      expect(found[0].collectives).toHaveLength(1 + messages!)
    },
  )

  test('the Sync form does the same', () => {
    const found = onRanksSync(3, (rank) => {
      const arrays = listOf(rank.rank)
      sumGradientsSync(rank, arrays, { bucketBytes: 24 })
      return arrays
    })
    expect(found).toEqual([wanted, wanted, wanted])
  })

  test('averageGradients divides by the number of ranks', async () => {
    const found = await onRanks(3, async (rank) => {
      const arrays = listOf(rank.rank)
      await averageGradients(rank, arrays, { bucketBytes: 24 })
      return arrays
    })
    const thirds = wanted.map((array) => array.map((x) => x / 3))
    expect(found).toEqual([thirds, thirds, thirds])
  })

  test('views of one memory are written where they lie, neighbours too, and what is around them stays', async () => {
    const found = await onRanks(2, async () => new Float32Array(10).fill(1))
    await onRanks(2, ({ rank, ...rest }) => {
      const views = [found[rank].subarray(6, 8), found[rank].subarray(8, 9), found[rank].subarray(1, 3)]
      return sumGradients({ rank, ...rest }, views)
    })
    expect([...found[1]]).toEqual([1, 2, 2, 1, 1, 1, 2, 2, 2, 1])
  })

  const buffer = new Float32Array(8)
  test.each([
    ['no list', buffer, 'ERR_INVALID_ARG_TYPE', 'arrays must be a list'],
    ['integers', [new Int32Array(2)], 'ERR_INVALID_ARG_TYPE', 'arrays[0] must be a Float32Array'],
    [
      'the same twice',
      [buffer, new Float32Array(1), buffer],
      'ERR_INVALID_ARG_VALUE',
      'arrays[2] shares memory with arrays[0]',
    ],
    [
      'shared elements',
      [buffer.subarray(3), buffer.subarray(0, 4)],
      'ERR_INVALID_ARG_VALUE',
      'arrays[0] shares memory',
    ],
  ])('%s on one rank: its own error there, and one that names it elsewhere', async (_, arrays, code, message) => {
    const good = Float32Array.of(1)
    const found = await outcomes(3, (rank) => sumGradients(rank, (rank.rank === 1 ? arrays : [good]) as Float32Array[]))
    for (const [r, outcome] of found.entries()) {
      const reason =
        r === 1
          ? { code, message: expect.stringContaining(message) }
          : { code: 'ERR_RANK_FAILED', message: expect.stringContaining(`rank 1 of 3 has failed: ${code}`) }
      expect(outcome).toMatchObject({ status: 'rejected', reason })
    }
    expect([...good]).toEqual([1])
  })

  test('arrays of other sizes, other buckets and an aborted signal end the call on every rank', async () => {
    const sizes = await outcomes(2, (rank) => sumGradients(rank, [new Float32Array(2 + rank.rank)]))
    const types = await outcomes(2, (rank) =>
      sumGradients(rank, [rank.rank ? new Float32Array(2) : new Float64Array(2)]),
    )
    const buckets = await outcomes(2, (rank) =>
      sumGradients(rank, [new Float32Array(2)], { bucketBytes: 8 + rank.rank }),
    )
    for (const outcome of [...sizes, ...types, ...buckets])
      expect(outcome).toMatchObject({ reason: { code: 'ERR_INVALID_ARG_VALUE' } })
    const aborted = await outcomes(2, (rank) =>
      sumGradients(rank, [new Float32Array(2)], rank.rank ? { signal: AbortSignal.abort(new Error('enough')) } : {}),
    )
    expect(aborted).toMatchObject([{ reason: { code: 'ERR_RANK_FAILED' } }, { reason: { message: 'enough' } }])
  })
})

describe('constants of unpaired losses', () => {
  test('globalKl without completions is 0, and without a reference the mean log-prob', async () => {
    expect(await onRanks(2, (rank) => globalKl(rank, undefined))).toEqual([0, 0])
    const found = await onRanks(2, (rank) =>
      globalKl(rank, rank.rank ? { klLogProbs: [-1, -2, -6] } : { klLogProbs: [-3] }),
    )
    expect(found).toEqual([-3, -3])
    expect(onRanksSync(2, (rank) => globalKlSync(rank, { klLogProbs: [rank.rank] }))).toEqual([0.5, 0.5])
  })

  test('δ is the mean of all rewards so far', async () => {
    const rewards = [
      [[1, 2], [-4]],
      [[0.5], []],
      [[], []],
    ]
    const previous = { mean: 0.25, count: 3 }
    const wanted = runningRewardMean(previous, ...rewards.flat())
    for (const found of await onRanks(3, (rank) => globalRunningRewardMean(rank, previous, ...rewards[rank.rank]))) {
      expect(found).toEqual({ mean: expect.closeTo(wanted.mean, 14), count: 7 })
    }
    const first = onRanksSync(2, (rank) => globalRunningRewardMeanSync(rank, undefined, [rank.rank, 3]))
    expect(first).toEqual(new Array(2).fill({ mean: 1.75, count: 4 }))
    const apart = await outcomes(2, (rank) => globalRunningRewardMean(rank, { mean: rank.rank, count: 1 }, [1]))
    for (const outcome of apart)
      expect(outcome).toMatchObject({ reason: { message: expect.stringContaining('previous') } })
  })

  test('bad numbers on one rank end the call on every rank', async () => {
    const found = await outcomes(2, (rank) => globalKl(rank, { klLogProbs: [rank.rank ? Number.NaN : 1] }))
    expect(found).toMatchObject([{ reason: { code: 'ERR_RANK_FAILED' } }, { reason: { code: 'ERR_OUT_OF_RANGE' } }])
  })
})

describe('globalPreferenceLoss', () => {
  const pairsOf = (rank: number): PairLogProbs => ({
    chosen: [-1 - rank, -3],
    rejected: [-2, -5 * rank],
    referenceChosen: [-1, -2],
    referenceRejected: [-3, -4],
  })

  test('the Sync form does the same, with the messages that are documented', async () => {
    const options = { lossType: 'aot' } as const
    const found = await onRanks(2, async (rank) => ({
      result: await globalPreferenceLoss(rank, pairsOf(rank.rank), options),
      sent: rank.collectives,
    }))
    expect(onRanksSync(2, (rank) => globalPreferenceLossSync(rank, pairsOf(rank.rank), options))).toEqual(
      found.map(({ result }) => result),
    )
    expect(found[0].sent[1]).toEqual({ kind: 'allGather', bytes: 2 * 4 * 8 })
    expect(found[0].result.loss).not.toBeCloseTo(preferenceLossSync(pairsOf(0), options).loss, 3)
  })

  test('another loss, another set of arrays or a bad number on one rank end the call on every rank', async () => {
    const losses = await outcomes(2, (rank) =>
      globalPreferenceLoss(rank, pairsOf(rank.rank), { beta: rank.rank ? 0.1 : 0.2 }),
    )
    const sets = await outcomes(2, (rank) =>
      globalPreferenceLoss(rank, pairsOf(rank.rank), rank.rank ? { beta: [0.1, 0.2] } : {}),
    )
    const none = await outcomes(2, (rank) => globalPreferenceLoss(rank, undefined))
    for (const outcome of [...losses, ...sets, ...none])
      expect(outcome).toMatchObject({ reason: { code: 'ERR_INVALID_ARG_VALUE' } })
    const bad = await outcomes(2, (rank) =>
      globalPreferenceLoss(rank, pairsOf(rank.rank), { beta: rank.rank ? -1 : 0.1 }),
    )
    expect(bad).toMatchObject([{ reason: { code: 'ERR_RANK_FAILED' } }, { reason: { code: 'ERR_OUT_OF_RANGE' } }])
  })
})

describe('globalStepMetrics', () => {
  const step = (batch: Batch | undefined): StepOptions => ({
    step: 4,
    ms: batch ? batch.shape[0] : 1,
    bytes: 1e6 * (batch?.shape[0] ?? 0),
    tokensBefore: 100,
  })
  const wantedOf = (metrics: object) => ({
    ...Object.fromEntries(Object.entries(metrics).map(([name, value]) => [name, expect.closeTo(value, 9)])),
    ms: 6, // the slowest rank's
    'GB/s': expect.closeTo(SEQUENCES / 6, 9),
  })

  test.each([
    ['global counts', true],
    ["each rank's own", false],
  ])('of pairs, divided by %s', async (_, counts) => {
    const lossType = counts ? ([{ lossType: 'sigmoid' }, { lossType: 'sft' }] as const) : 'sigmoid'
    const call = ({ hidden, labels, pairs, reference }: Batch, normalizer?: LossOptions['normalizer']) =>
      fusedLinearPreferenceLoss(hidden, weight, labels, { lossType, bias, pairs, reference, outputs, normalizer })
    const wanted = stepMetrics(await call(whole), paired(whole), step(whole))
    const found = await onRanks(4, async (rank) => {
      const batch = batchOfRank(rank)
      const normalizer = counts ? await globalCounts(rank, batch && paired(batch)) : undefined
      return globalStepMetrics(rank, batch && (await call(batch, normalizer)), batch && paired(batch), step(batch))
    })
    for (const metrics of found) {
      expect(metrics).toEqual(wantedOf(wanted))
      expect(Object.keys(metrics)).toEqual(Object.keys(wanted))
      expect(metrics).toEqual(found[0])
    }
  })

  test('of single sequences', async () => {
    const call = ({ hidden, labels, logProbs, desirable }: Batch) =>
      fusedLinearUnpairedPreferenceLoss(hidden, weight, labels, {
        bias,
        reference: { logProbs },
        desirable,
        outputs,
        kl: 0.3,
      })
    const wanted = stepMetrics(await call(whole), unpaired(whole), step(whole))
    const found = await onRanks(4, async (rank) => {
      const batch = batchOfRank(rank)
      return globalStepMetrics(rank, batch && (await call(batch)), batch && unpaired(batch), step(batch))
    })
    for (const metrics of found) expect(metrics).toEqual(wantedOf(wanted))
  })

  test('a kind of sequence that one rank has not; the Sync form', async () => {
    const call = ({ hidden, labels, logProbs, desirable }: Batch) =>
      fusedLinearUnpairedPreferenceLoss(hidden, weight, labels, { bias, reference: { logProbs }, desirable, kl: 0 })
    const batches = [
      { ...batchOf(0, 1), desirable: [true, true] },
      { ...batchOf(1, 2), desirable: [false, false] },
    ]
    const results = [await call(batches[0]), await call(batches[1])]
    const own = results.map((result, i) => stepMetrics(result, unpaired(batches[i]), { step: 0 }))
    expect(own[0]['rewards/margins']).toBeUndefined()
    const [found, other] = onRanksSync(2, (rank) =>
      globalStepMetricsSync(rank, results[rank.rank], unpaired(batches[rank.rank]), { step: 0 }),
    )
    expect(found).toEqual(other)
    expect(found['rewards/chosen']).toBeCloseTo(own[0]['rewards/chosen']!, 12)
    expect(found['rewards/margins']).toBeCloseTo(own[0]['rewards/chosen']! - own[1]['rewards/rejected']!, 12)
  })

  test('results that are not alike, and another step, are refused on every rank', async () => {
    const call = ({ hidden, labels, pairs, reference }: Batch, some: readonly (typeof outputs)[number][]) =>
      fusedLinearPreferenceLoss(hidden, weight, labels, { bias, pairs, reference, outputs: some })
    const batch = paired(whole)
    const given = await outcomes(2, async (rank) =>
      globalStepMetrics(rank, await call(whole, rank.rank ? outputs : []), batch, { step: 0 }),
    )
    for (const outcome of given) {
      const message = 'result has tokenEntropies, tokenArgmax, tokenMeanLogits on one rank and not on another'
      expect(outcome).toMatchObject({ reason: { code: 'ERR_INVALID_ARG_VALUE', message } })
    }
    const steps = await outcomes(2, async (rank) =>
      globalStepMetrics(rank, await call(whole, []), batch, { step: rank.rank }),
    )
    for (const outcome of steps)
      expect(outcome).toMatchObject({ reason: { message: expect.stringContaining('options.step') } })
    const bad = await outcomes(2, async (rank) =>
      globalStepMetrics(rank, await call(whole, []), rank.rank ? ({} as never) : batch, { step: 0 }),
    )
    expect(bad).toMatchObject([{ reason: { code: 'ERR_RANK_FAILED' } }, { reason: { code: 'ERR_INVALID_ARG_TYPE' } }])
  })
})
