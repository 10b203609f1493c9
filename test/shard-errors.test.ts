/**
 * What goes wrong where a vocabulary is shared: labels that no rank has for its own, ranks that differ or fail, and what is
 * said of each; and how many bytes are sent.
 */
import { describe, expect, test } from 'vitest'
import { HEADER_BYTES } from '../lib/call/agreement.js'
import {
  crossEntropy,
  crossEntropySync,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  linearCrossEntropy,
  linearSequenceLogProbs,
  sequenceLogProbs,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { CrossEntropyOptions, FusedOptions } from '../lib/options/index.js'
import type { Communicator, HeadGradients, Logits, ShardOptions } from '../lib/types/index.js'
import { spyOnWarnings } from './platform.js'
import { onRanks, onRanksSync, outcomes, type Rank } from './ranks.js'
import { columnsOf, copyOfColumns, joined, wordsOf } from './shards.js'
import { CUDA, gaussian, hex, JS, NATIVE, random, values, WASM } from './support.js'

const next = random(8)
const VOCAB = 30
const BORDERS = [0, 11, 30]
const logits: Logits = {
  data: Float32Array.from({ length: 4 * 3 * VOCAB }, () => gaussian(next)),
  shape: [4, 3, VOCAB],
}
const labels = Int32Array.of(1, 12, 29, 0, 10, 11, 3, -100, 5, 8, 20, 21)

/** The options of a rank that has columns between two borders. */
const own = ({ rank }: Communicator, borders = BORDERS, vocab = borders.at(-1) as number) => ({
  shard: { start: borders[rank], vocab },
})
const part = ({ rank }: Communicator, borders = BORDERS) => copyOfColumns(logits, borders[rank], borders[rank + 1])

const ce = (rank: Communicator, options: CrossEntropyOptions = {}) =>
  crossEntropy(part(rank), labels, { gradient: true, communicator: rank, ...own(rank), ...options })

const reasonsOf = (found: PromiseSettledResult<unknown>[]) =>
  found.map((outcome) => (outcome as PromiseRejectedResult).reason)

const BACKENDS = [...NATIVE.slice(0, 1), ...CUDA, ...WASM, JS]

describe.each(BACKENDS)('$name', ({ run }) => {
  test('a padded vocabulary: columns after the last token are never labels, and have no probability', async () => {
    // Two ranks of 16 columns, the last two of which are padding, full of what must not be read.
    const wanted = crossEntropySync(logits, labels, { gradient: true, ...run })
    const padded = Float32Array.from({ length: 12 * 32 }, (_, i) => {
      const [row, column] = [Math.floor(i / 32), i % 32]
      return column < VOCAB ? (logits.data as Float32Array)[row * VOCAB + column] : [Number.NaN, 1e30][column - VOCAB]
    })
    const whole: Logits = { data: padded, shape: [4, 3, VOCAB], strides: [96, 32, 1] }
    const borders = [0, 16, 30]
    // Every rank has active rows whose label, seen from its own first column, is -1, or the first column of its padding.
    const own = Int32Array.from(labels)
    own[1] = 15
    own[2] = 16
    const reference = crossEntropySync(logits, own, { gradient: true, ...run })
    for (const [given, expected] of [
      [labels, wanted],
      [own, reference],
    ] as const) {
      const parts = await onRanks(2, (rank) =>
        crossEntropy(columnsOf(whole, borders[rank.rank], borders[rank.rank + 1]), given, {
          gradient: true,
          communicator: rank,
          shard: { start: borders[rank.rank], vocab: VOCAB },
          ...run,
        }),
      )
      for (const { loss } of parts) expect(Math.abs(loss - expected.loss)).toBeLessThan(1e-6)
      const gradient = values(
        joined(
          parts.map(({ gradLogits }) => gradLogits as Logits),
          borders,
        ),
      )
      for (const [i, x] of values(expected.gradLogits!).entries()) expect(Math.abs(gradient[i] - x)).toBeLessThan(1e-7)
    }
  })

  test.each([30, 31, 5, 11])(
    'a label that does not count stays so where a column has its number: %i',
    async (ignoreIndex) => {
      // The last rank's columns are 11 to 30, in its memory with two of padding after them: 30 and 31.
      const given = Int32Array.from(labels, (label) => (label < 0 || label === ignoreIndex ? ignoreIndex : label))
      const options = { gradient: true, ignoreIndex, ...run } as const
      const wanted = crossEntropySync(logits, given, options)
      const parts = await onRanks(2, (rank) => {
        const { data, shape } = part(rank)
        const columns = shape[2]
        const padded = new Float32Array(12 * (columns + 2)).fill(Number.NaN)
        for (let row = 0; row < 12; row++) {
          padded.set((data as Float32Array).subarray(row * columns, (row + 1) * columns), row * (columns + 2))
        }
        const strides = [3 * (columns + 2), columns + 2, 1]
        return crossEntropy({ data: padded, shape, strides }, given, { ...options, communicator: rank, ...own(rank) })
      })
      const gradient = values(
        joined(
          parts.map(({ gradLogits }) => gradLogits as Logits),
          BORDERS,
        ),
      )
      for (const { loss, tokenCounts } of parts) {
        expect(Math.abs(loss - wanted.loss)).toBeLessThan(1e-6)
        expect(tokenCounts).toEqual(wanted.tokenCounts)
      }
      for (const [i, x] of values(wanted.gradLogits!).entries()) expect(Math.abs(gradient[i] - x)).toBeLessThan(1e-7)
    },
  )

  test('smoothing spreads over the whole vocabulary, not over the columns of a rank', async () => {
    const options = { labelSmoothing: 0.3, ...run }
    const wanted = crossEntropySync(logits, labels, options)
    for (const { loss } of await onRanks(2, (rank) => ce(rank, options))) {
      expect(Math.abs(loss - wanted.loss)).toBeLessThan(1e-6)
    }
  })

  test('a rank without the label of a row has the gradient of its other columns', async () => {
    const wanted = values(crossEntropySync(logits, labels, { gradient: true, normalizer: 'sum', ...run }).gradLogits!)
    // All labels are on rank 0.
    const low = Int32Array.from(labels, (label) => (label < 0 ? label : label % 11))
    const parts = await onRanks(2, (rank) =>
      crossEntropy(part(rank), low, { gradient: true, normalizer: 'sum', communicator: rank, ...own(rank), ...run }),
    )
    const elsewhere = values(parts[1].gradLogits!)
    for (let row = 0; row < 12; row++) {
      const isActive = row % 3 < 2 && low[row + 1] >= 0
      // Softmax does not know the label.
      const isOther = isActive && labels[row + 1] < 11
      for (let v = 0; v < 19; v++) {
        const x = elsewhere[row * 19 + v]
        expect(isActive ? x > 0 : x === 0).toBe(true)
        if (isOther) expect(Math.abs(x - wanted[row * VOCAB + 11 + v])).toBeLessThan(1e-7)
      }
    }
  })

  test('no token counts anywhere, or no label is on a rank: all take part', async () => {
    spyOnWarnings()
    const none = new Int32Array(12).fill(-100)
    const options: FusedOptions = { reference: { chosen: [-1, -2], rejected: [-2, -2] }, gradient: true, ...run }
    const wanted = fusedPreferenceLossSync(logits, none, options)
    const parts = await onRanks(2, (rank) =>
      fusedPreferenceLoss(part(rank), none, { ...options, communicator: rank, ...own(rank) }),
    )
    for (const { loss, gradLogits } of parts) {
      expect(loss).toBe(wanted.loss)
      expect(values(gradLogits!).every((x) => Object.is(x, 0))).toBe(true)
    }
    const one = none.with(4, 2)
    const alone = sequenceLogProbsSync(logits, one, run)
    for (const { logProbs } of await onRanks(2, (rank) =>
      sequenceLogProbs(part(rank), one, { communicator: rank, ...own(rank), ...run }),
    )) {
      for (const [s, x] of alone.logProbs.entries()) expect(Math.abs(logProbs[s] - x)).toBeLessThan(1e-6)
    }
  })

  test('the loss and its gradient have no factor of the number of ranks, however unequal their shares', async () => {
    const wanted = crossEntropySync(logits, labels, { gradient: true, ...run })
    for (const borders of [
      [0, 30],
      [0, 15, 30],
      [0, 1, 29, 30],
      [0, 1, 2, 3, 4, 5, 6, 30],
    ]) {
      const size = borders.length - 1
      const parts = await onRanks(size, (rank) =>
        crossEntropy(part(rank, borders), labels, {
          gradient: true,
          communicator: rank,
          ...own(rank, borders),
          ...run,
        }),
      )
      for (const { loss, losses } of parts) {
        expect(Math.abs(loss - wanted.loss)).toBeLessThan(1e-6)
        expect(hex(losses)).toBe(hex(parts[0].losses))
      }
      const gradient = values(
        joined(
          parts.map(({ gradLogits }) => gradLogits as Logits),
          borders,
        ),
      )
      for (const [i, x] of values(wanted.gradLogits!).entries()) expect(Math.abs(gradient[i] - x)).toBeLessThan(1e-7)
    }
  })
})

describe('ranks that do not have the vocabulary among them', () => {
  const shares = (borders: [number, number][], vocab = VOCAB) =>
    outcomes(borders.length, (rank) => {
      const [start, end] = borders[rank.rank]
      const shard = { start, vocab }
      return crossEntropy(copyOfColumns(logits, start, end), labels, { communicator: rank, shard })
    })

  test.each([
    // Logits that have been gathered already would give loss + log 2.
    [
      'all have all columns',
      [
        [0, 30],
        [0, 30],
      ],
      'gives columns 0 to 30 to more than one rank',
    ],
    [
      'they overlap',
      [
        [0, 16],
        [15, 30],
      ],
      'gives columns 15 to 16 to more than one rank',
    ],
    [
      'there is a gap',
      [
        [0, 10],
        [12, 30],
      ],
      'gives columns 10 to 12 to no rank',
    ],
    [
      'the first is missing',
      [
        [1, 10],
        [10, 30],
      ],
      'gives columns 0 to 1 to no rank',
    ],
    [
      'the last is missing',
      [
        [0, 10],
        [10, 29],
      ],
      'gives columns 29 to 30 to no rank',
    ],
  ] as [string, [number, number][], string][])('%s', async (_, borders, message) => {
    for (const reason of reasonsOf(await shares(borders))) {
      expect(reason).toMatchObject({ code: 'ERR_INVALID_ARG_VALUE', message: expect.stringContaining(message) })
    }
  })

  test('a rank without a column has an error of its own, and the others name it', async () => {
    const [first, second] = reasonsOf(
      await shares([
        [0, 30],
        [30, 30],
      ]),
    )
    expect(second).toMatchObject({ code: 'ERR_OUT_OF_RANGE', message: expect.stringContaining('logits.shape[2]') })
    expect(first).toMatchObject({ code: 'ERR_RANK_FAILED', message: expect.stringContaining('rank 1') })
  })

  test('in any order of ranks the result is the same', async () => {
    const [there, back] = await Promise.all([
      shares([
        [0, 7],
        [7, 22],
        [22, 30],
      ]),
      shares([
        [22, 30],
        [0, 7],
        [7, 22],
      ]),
    ])
    const losses = [...there, ...back].map(
      (outcome) => (outcome as PromiseFulfilledResult<{ loss: number }>).value.loss,
    )
    expect(new Set(losses).size).toBe(1)
  })
})

describe('a rank that cannot take part', () => {
  /** One rank has other options; the reasons why each has thrown. */
  const withOdd = async (odd: (rank: Rank) => Promise<unknown>, of = ce) =>
    reasonsOf(await outcomes(3, (rank) => (rank.rank === 1 ? odd(rank) : of(threeWays(rank), {}))))
  const THREE = [0, 11, 20, 30]
  const threeWays = (rank: Rank) => rank
  const call = (rank: Communicator, options: CrossEntropyOptions & ShardOptions = {}, given = labels) =>
    crossEntropy(part(rank, THREE), given, { gradient: true, communicator: rank, ...own(rank, THREE), ...options })
  const fails = (odd: (rank: Rank) => Promise<unknown>) => withOdd(odd, call)

  test('has its own error; the others name it', async () => {
    const bad = Int32Array.from(labels).with(4, 30)
    const started = performance.now()
    const reasons = await fails((rank) => call(rank, {}, bad))
    expect(performance.now() - started).toBeLessThan(2000)
    expect(reasons[1].code).toBe('ERR_LABEL_OUT_OF_RANGE')
    for (const r of [0, 2]) {
      expect(reasons[r]).toMatchObject({
        code: 'ERR_RANK_FAILED',
        message: `rank 1 of 3 has failed: ERR_LABEL_OUT_OF_RANGE: ${reasons[1].message}`,
      })
    }
  })

  test('is one whose signal is aborted, before the call or in it', async () => {
    for (const abort of [
      () => AbortSignal.abort(new Error('enough')),
      () => {
        const controller = new AbortController()
        queueMicrotask(() => controller.abort(new Error('enough')))
        return controller.signal
      },
    ]) {
      const reasons = await fails((rank) => call(rank, { signal: abort() }))
      expect(reasons[1].message).toBe('enough')
      for (const r of [0, 2]) {
        expect(reasons[r]).toMatchObject({
          code: 'ERR_RANK_FAILED',
          message: 'rank 1 of 3 has failed: enough',
        })
      }
    }
  })

  test('does not leave the others alone once states are gathered, whatever its signal says', async () => {
    const losses = await onRanks(2, async (rank) => {
      const controller = new AbortController()
      let gathers = 0
      const aborting: Communicator = {
        ...rank,
        async allGather(send, receive) {
          await rank.allGather(send, receive)
          if (++gathers === 2 && rank.rank === 1) controller.abort()
        },
      }
      const { loss } = await ce(aborting, { signal: controller.signal, backend: 'js' })
      expect(controller.signal.aborted).toBe(rank.rank === 1)
      return loss
    })
    expect(losses[0]).toBe(losses[1])
  })

  test('nothing has been written by then', async () => {
    const given = { ...part({ rank: 0 } as Rank), shape: [4, 3, 11] }
    const before = hex(given.data as Float32Array)
    const found = await outcomes(2, (rank) =>
      rank.rank === 1
        ? ce(rank, { labelSmoothing: 7 })
        : crossEntropy(given, labels, { gradient: 'in-place', communicator: rank, ...own(rank) }),
    )
    expect(reasonsOf(found)[0].code).toBe('ERR_RANK_FAILED')
    expect(hex(given.data as Float32Array)).toBe(before)
  })

  test.each([
    ['other labels', (rank) => call(rank, {}, labels.with(0, 2).with(1, 3)), 'labels or token options'],
    ['another loss', (rank) => call(rank, { labelSmoothing: 0.1 }), 'the loss or its constants'],
    ['another gradient', (rank) => call(rank, { gradient: false }), 'the gradients or coefficients of the call'],
    ['other outputs', (rank) => call(rank, { outputs: ['logSumExp'] }), 'the outputs or sizes of the call'],
    ['other segments', (rank) => call(rank, { segments: 'merged' }), 'the function it calls'],
    ['another backend', (rank) => call(rank, { backend: 'js' }), 'the function it calls'],
  ] as [string, (rank: Rank) => Promise<unknown>, string][])('has %s', async (_, odd, subject) => {
    for (const reason of await fails(odd)) {
      expect(reason.code).toBe('ERR_INVALID_ARG_VALUE')
      expect(reason.message).toContain(`in ${subject}`)
      expect(reason.message).toMatch(/^communicator rank \d differs from rank \d/)
    }
  })

  test('in backward of an output layer', async () => {
    const hidden: Logits = { data: new Float32Array(24).fill(0.5), shape: [4, 3, 2] }
    const weight = { data: Float32Array.from({ length: 60 }, () => gaussian(next)), shape: [30, 2] }
    const found = await outcomes(2, async (rank) => {
      const [start, end] = [BORDERS[rank.rank], BORDERS[rank.rank + 1]]
      const options = { communicator: rank, shard: { start, vocab: VOCAB } }
      const { backward } = await linearSequenceLogProbs(hidden, wordsOf(weight, start, end), labels, options)
      return backward(rank.rank === 0 ? [1, 1, 1, 1] : [1, 1, 1])
    })
    expect(reasonsOf(found).map(({ code }) => code)).toEqual(['ERR_RANK_FAILED', 'ERR_SHAPE_MISMATCH'])
  })
})

describe('options that cannot be', () => {
  const size1: Communicator = {
    rank: 0,
    size: 1,
    async allGather(send, receive) {
      receive.set(send)
    },
    async allReduceSum() {},
    async barrier() {},
    abort() {},
  }
  const whole = { start: 0, vocab: VOCAB }
  test.each([
    [{ shard: whole }, 'options.shard needs options.communicator'],
    [{ segments: 'exact' }, 'options.segments needs options.shard'],
    [{ communicator: size1 }, 'options.communicator needs options.shard'],
    [{ communicator: 5, shard: whole }, 'options.communicator must be a Communicator; got 5'],
    [{ communicator: { ...size1, size: 0 }, shard: whole }, 'options.communicator.size must be an integer >= 1; got 0'],
    [{ communicator: { ...size1, rank: 1 }, shard: whole }, 'options.communicator.rank must be an integer in [0, 1)'],
    [
      { communicator: { ...size1, allGather: 1 }, shard: whole },
      'options.communicator.allGather must be a function; got 1',
    ],
    [{ communicator: size1, shard: { start: 1, vocab: 30 } }, 'options.shard.start must be at most 30 less the 30'],
    [{ communicator: size1, shard: { start: 0 } }, 'options.shard.vocab must be an integer'],
    [{ communicator: size1, shard: { ...whole, end: 3 } }, 'options.shard.end is not an option'],
    [{ communicator: size1, shard: whole, segments: 'most' }, "options.segments must be one of 'exact', 'merged'"],
  ])('%j', async (options, message) => {
    await expect(crossEntropy(logits, labels, options as CrossEntropyOptions)).rejects.toThrow(message)
  })

  test('a Sync function needs the Sync members', () => {
    const options = { communicator: size1, shard: whole }
    const call = () => crossEntropySync(logits, labels, options)
    expect(call).toThrow('options.communicator.allGatherSync is missing: a Sync function needs it')
  })

  test('one rank alone has the call that has no ranks', async () => {
    const got = await crossEntropy(logits, labels, { communicator: size1, shard: whole, gradient: true })
    const wanted = crossEntropySync(logits, labels, { gradient: true })
    expect([got.loss, hex(got.gradLogits!.data as Float32Array)]).toEqual([
      wanted.loss,
      hex(wanted.gradLogits!.data as Float32Array),
    ])
  })
})

describe('the bytes that each rank sends are those of docs/distributed.md', () => {
  const bytesOf = ({ collectives }: Rank) => collectives.map(({ kind, bytes }) => [kind, bytes])
  // 7 positions predict a label that counts: 2 of 3 in each sequence, but for one.
  const ACTIVE = 7
  const mostLabels = (borders: readonly number[]) => {
    const targets = [...labels].filter((label, i) => i % 3 > 0 && label >= 0)
    expect(targets).toHaveLength(ACTIVE)
    return Math.max(
      ...borders.slice(1).map((end, r) => targets.filter((label) => label >= borders[r] && label < end).length),
    )
  }

  test.each([
    [{}, 0],
    [{ labelSmoothing: 0.1 }, 1],
    [{ outputs: ['tokenLogProbs', 'logSumExp'] }, 0],
    [{ outputs: ['tokenEntropies', 'sumSquaredProbs', 'tokenArgmax', 'tokenMeanLogits'] }, 4],
    [{ labelSmoothing: 0.1, classWeights: new Float64Array(VOCAB).fill(1) }, 1],
  ] as [CrossEntropyOptions, number][])(
    '%j: 16 a token and segment, and 8 for each of %i by-products',
    async (options, more) => {
      const sent = await onRanks(2, async (rank) => {
        await ce(rank, options)
        return bytesOf(rank)
      })
      const message = HEADER_BYTES + ACTIVE * (16 + 8 * more) + 4 * mostLabels(BORDERS)
      const wanted = [
        ['allGather', HEADER_BYTES],
        ['allGather', message],
      ]
      expect(sent).toEqual([wanted, wanted])
    },
  )

  test('a rank with several segments, with one state of each row, and two stages', async () => {
    const vocab = 40_000
    const borders = [0, 30_000, 40_000]
    const many: Logits = { data: new Float32Array(12 * vocab), shape: [4, 3, vocab] }
    const call = async (options: FusedOptions & ShardOptions) => {
      const [sent] = await onRanks(2, async (rank) => {
        const mine = columnsOf(many, borders[rank.rank], borders[rank.rank + 1])
        const reference = { logits: mine }
        await fusedPreferenceLoss(mine, labels, { reference, communicator: rank, ...own(rank, borders), ...options })
        return bytesOf(rank)
      })
      return sent[1][1]
    }
    // 13 376 columns a segment: rank 0 has a part of three of them.
    const ofLabels = 4 * mostLabels(borders)
    expect(await call({})).toBe(HEADER_BYTES + 2 * (ACTIVE * 16 * 3 + ofLabels))
    expect(await call({ segments: 'merged' })).toBe(HEADER_BYTES + 2 * (ACTIVE * 16 + ofLabels))
    expect(await call({ weighting: 'wpo' })).toBe(HEADER_BYTES + ACTIVE * (16 + 24) * 3 + 2 * ofLabels)
  })

  test('an output layer: the gradient of hidden, 4 bytes for each feature of a token', async () => {
    const hidden: Logits = { data: new Float32Array(12 * 5).fill(1), shape: [4, 3, 5] }
    const weight = { data: new Float32Array(150).fill(0.1), shape: [30, 5] }
    const call = (gradient: HeadGradients | object) =>
      onRanks(2, async (rank) => {
        const [start, end] = [BORDERS[rank.rank], BORDERS[rank.rank + 1]]
        await linearCrossEntropy(hidden, wordsOf(weight, start, end), labels, {
          communicator: rank,
          shard: { start, vocab: 30 },
          gradient: gradient as { hidden?: true },
        })
        return bytesOf(rank)
      })
    const states = HEADER_BYTES + ACTIVE * 16 + 4 * mostLabels(BORDERS)
    expect((await call({ weight: true }))[0]).toEqual([
      ['allGather', HEADER_BYTES],
      ['allGather', states],
    ])
    expect((await call({ hidden: true, weight: true }))[1]).toEqual([
      ['allGather', HEADER_BYTES],
      ['allGather', states],
      ['allReduceSum', 4 * 5 * ACTIVE],
      ['allGather', HEADER_BYTES],
    ])
  })
})

test('Sync forms of ranks on one thread', () => {
  const wanted = crossEntropySync(logits, labels)
  const losses = onRanksSync(
    2,
    (rank) => crossEntropySync(part(rank), labels, { communicator: rank, ...own(rank) }).loss,
  )
  expect(losses[0]).toBe(losses[1])
  expect(Math.abs(losses[0] - wanted.loss)).toBeLessThan(1e-6)
})
