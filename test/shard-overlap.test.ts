/**
 * The gradient of an output layer's input where ranks share the layer: its chunks are added up while the job works on the
 * rest, with the bits of the call that adds them up when it has ended.
 */
import { afterEach, describe, expect, test, vi } from 'vitest'
import { loadNative } from '../lib/backends/cpu/index.js'
import { HEADER_BYTES } from '../lib/call/agreement.js'
import { HiddenShares, rowsOfChunk } from '../lib/call/hidden-shares.js'
import * as api from '../lib/index.js'
import type { Backend } from '../lib/job.js'
import type { HeadWeight } from '../lib/types/index.js'
import { products, standIn } from './blas.js'
import { onRanks, outcomes, type Rank, ranksInMemory } from './ranks.js'
import { cutFunctions, together } from './sharded.js'
import { type Borders, joinedArrays, joinedWords, wordsOf } from './shards.js'
import { gaussian, hex, logitsOf, NATIVE, random, tooFar, values, WASM } from './support.js'

// biome-ignore lint/suspicious/noExplicitAny: options and results of any function
type Any = any

afterEach(() => {
  vi.restoreAllMocks()
  vi.unstubAllGlobals()
})

const next = random(33)
const normal = (count: number) => Float64Array.from({ length: count }, () => gaussian(next))

// Whole segments of 384 words.
const BORDERS: Record<number, Borders> = { 2: [0, 768, 1300], 4: [0, 384, 768, 1152, 1300] }
const [BATCH, TIME, WIDTH, VOCAB] = [6, 600, 8, 1300]
const labels = Int32Array.from({ length: BATCH * TIME }, (_, i) => (i % 17 === 5 ? -100 : (i * 397) % VOCAB))
const hidden = logitsOf('float32', [BATCH, TIME, WIDTH], normal(BATCH * TIME * WIDTH))
const weight: HeadWeight = {
  ...logitsOf('float32', [VOCAB, WIDTH], normal(VOCAB * WIDTH)),
  shape: [VOCAB, WIDTH],
}
const bias = Float32Array.from(normal(VOCAB))
/** Tokens that count: all but the first of each sequence predict the label after them. */
const ACTIVE = labels.filter((label, i) => i % TIME > 0 && label >= 0).length
const CHUNK = rowsOfChunk(WIDTH)
const CHUNKS = [CHUNK, CHUNK, CHUNK, ACTIVE - 3 * CHUNK]

/** The preference loss of a rank. Pairs whose weights are 0 take no part in the gradient. */
const call = (functions: Any, more: object, sync = false): Any =>
  functions[`fusedLinearPreferenceLoss${sync ? 'Sync' : ''}`](hidden, weight, labels, {
    ...{ lossType: 'cpo', bias, gradient: true, pairWeights: [1, 0, 2] },
    ...more,
  })

/** The arguments of one rank in the place of those of the whole vocabulary. */
const ofRank = (rank: Rank) => ({
  fusedLinearPreferenceLoss: (hidden: Any, weight: HeadWeight, labels: Any, options: Any): Promise<Any> => {
    const borders = BORDERS[rank.size]
    const [start, end] = [borders[rank.rank], borders[rank.rank + 1]]
    return api.fusedLinearPreferenceLoss(hidden, wordsOf(weight, start, end), labels, {
      ...options,
      bias: options.bias.subarray(start, end),
      communicator: rank,
      shard: { start, vocab: VOCAB },
    })
  },
})

const Floats = Float32Array // of which a test takes the name
/** Memory for a gradient of the hidden states. */
const hiddenOf = (value: number) => new Floats(BATCH * TIME * WIDTH).fill(value)

const bitsOf = ({ data }: { data: unknown }) => hex(data as Float32Array)

/** Sums in another order. */
function expectNear(got: Any, wanted: Any): void {
  const [a, b] = [values(got), values(wanted)]
  const largest = b.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
  expect(largest).toBeGreaterThan(0)
  const relative = got.dtype === 'float32' ? 2e-6 : 2 ** -8
  expect(tooFar(a, b, () => relative * largest)).toBe(undefined)
}

test('a chunk is sent when its last row is finished, and not before', async () => {
  const targets = Int32Array.from({ length: 3000 }, (_, row) => (row % 4 === 1 ? -1 : 7))
  const active = [...targets.keys()].filter((row) => targets[row] >= 0)
  const sent: [number, number[]][] = []
  let row = 0
  const [communicator] = ranksInMemory(1).ranks
  communicator.allReduceSum = async (chunk) => void sent.push([row, [...chunk]])
  const shares = new HiddenShares(communicator, targets, 1)
  for (; row < targets.length; row++) {
    shares.own[row] = row
    shares.begin(row + 1)
    await new Promise(setImmediate)
  }
  await shares.end().run()
  const chunks = [active.slice(0, 1056), active.slice(1056, 2112), active.slice(2112)]
  expect(sent).toEqual(chunks.map((rows) => [rows.at(-1), rows]))
})

test('the call is of four chunks', () => {
  expect(CHUNK).toBe(1056)
  expect([8192, 4096, 512].map(rowsOfChunk)).toEqual([96, 192, 1056])
  expect(CHUNKS[3]).toBeGreaterThan(0)
  expect(CHUNKS[3]).toBeLessThan(CHUNK)
})

describe.each([...NATIVE.slice(0, 1), ...WASM])('$name', ({ run }) => {
  test.each([2, 4])('on %i ranks promises have the bits of the Sync form, and those of one process', async (size) => {
    for (const more of [{}, { gradientDType: 'bfloat16', logitsBudget: 0 }]) {
      const cut = { ranks: size, even: true, borders: BORDERS[size], segments: 'exact', copies: false } as const
      const sync = call(cutFunctions(api as Any, [cut]), { ...run, ...more }, true)
      const results = await onRanks<Any>(size, (rank) => call(ofRank(rank), { ...run, ...more }))
      const got = together(results)
      expect(bitsOf(got.gradHidden)).toBe(bitsOf(sync.gradHidden))
      const alone = call(api, { ...run, ...more }, true)
      const gradWeight = joinedWords(
        results.map((result) => result.gradWeight),
        BORDERS[size],
      )
      expect(bitsOf(gradWeight)).toBe(bitsOf(alone.gradWeight))
      expect(hex(joinedArrays(results.map((result) => result.gradBias)) as Float32Array)).toBe(hex(alone.gradBias))
      expectNear(got.gradHidden, alone.gradHidden)
    }
  })

  test('each rank sends one message a chunk, whatever takes no part, and one at a time', async () => {
    const sent = await onRanks(2, async (rank) => {
      let pending = 0
      const one = async (step: () => Promise<void>) => {
        expect(++pending).toBe(1)
        await step()
        pending--
      }
      const { allGather, allReduceSum } = rank
      rank.allGather = (send, receive) => one(() => allGather(send, receive))
      rank.allReduceSum = (data) => one(() => allReduceSum(data))
      await call(ofRank(rank), run)
      return rank.collectives
    })
    const [, states] = sent[0]
    const wanted = [
      { kind: 'allGather', bytes: HEADER_BYTES },
      states,
      ...CHUNKS.map((rows) => ({ kind: 'allReduceSum', bytes: 4 * WIDTH * rows })),
      { kind: 'allGather', bytes: HEADER_BYTES },
    ]
    expect(sent).toEqual([wanted, wanted])
  })
})

const BLAS = products({ name: 'a stand-in', path: standIn() })

test.runIf(NATIVE.length > 0)('with the products of a BLAS, gradients are those of one process', async () => {
  const run = { ...BLAS.run, logitsBudget: 0 } // several chunks of logits
  const results = await onRanks(2, (rank) => call(ofRank(rank), run))
  expectNear(together(results).gradHidden, call(api, run, true).gradHidden)
})

describe.runIf(NATIVE.length > 0)('while the job runs', () => {
  const cpu = { backend: 'cpu' } as const
  const backend = () => (loadNative() as { backend: Backend }).backend

  /** Puts `work` in the place of rank 1's job of stage 4, if it is given; returns which ranks' jobs are running. */
  const watchJobs = (work?: (run: () => Promise<void>) => Promise<void>) => {
    const running = [false, false]
    const original = backend().run.bind(backend())
    vi.spyOn(backend(), 'run').mockImplementation(async (job, settings) => {
      const rank = job.tokens!.shard!.start > 0 ? 1 : 0
      const run = () => original(job, settings)
      running[rank] = true
      try {
        await (work && rank === 1 && job.headGradient ? work(run) : run())
      } finally {
        running[rank] = false
      }
    })
    return running
  }

  test.each([NATIVE[0], BLAS])('the first chunks are on their way: $name', async ({ run }) => {
    const running = watchJobs()
    const seen: boolean[][] = []
    // A busy machine may let the job end before this thread hears of its rows.
    for (let attempt = 0; attempt < 10 && !seen.some(([first]) => first); attempt++) {
      await onRanks(2, async (rank) => {
        const { allReduceSum } = rank
        const during: boolean[] = []
        rank.allReduceSum = (data) => {
          during.push(running[rank.rank])
          return allReduceSum(data)
        }
        await call(ofRank(rank), { ...run, logitsBudget: 0, threads: 1 })
        seen.push(during)
      })
    }
    expect(seen.some(([first]) => first)).toBe(true)
    for (const during of seen) expect(during).toHaveLength(CHUNKS.length)
  })

  test.each([
    ['at once', async () => {}],
    ['when all is done', (run: () => Promise<void>) => run()],
  ])('a rank whose job fails %s has its own error; the others name it, and have written nothing', async (_, work) => {
    watchJobs(async (run) => {
      await work(run)
      throw new Error('out of memory')
    })
    const into = hiddenOf(7)
    const found = await outcomes(2, (rank) => call(ofRank(rank), { ...cpu, gradient: { hidden: into } }))
    const messages = found.map((outcome) => (outcome as PromiseRejectedResult).reason.message)
    expect(messages).toEqual(['rank 1 of 2 has failed: out of memory', 'out of memory'])
    expect(into.every((x) => x === 7)).toBe(true)
  })

  test('a rank without memory for its share has its own error; the others name it', async () => {
    let shares = 0
    class Limited extends Float32Array {
      constructor(...given: [ArrayBuffer]) {
        if (Number(given[0]) === BATCH * TIME * WIDTH && ++shares === 2) throw new RangeError('memory is short')
        super(...given)
      }
    }
    vi.stubGlobal('Float32Array', Limited)
    const found = await outcomes(2, (rank) => call(ofRank(rank), { ...cpu, gradient: { hidden: hiddenOf(9) } }))
    const messages = found.map((outcome) => (outcome as PromiseRejectedResult).reason.message)
    expect(messages).toEqual(['rank 1 of 2 has failed: memory is short', 'memory is short'])
  })

  test('a rank that is lost is an error for all, when their jobs have ended', async () => {
    const running = watchJobs()
    const { ranks, lose } = ranksInMemory(2)
    const { allReduceSum } = ranks[1]
    let sums = 0
    ranks[1].allReduceSum = (data) => {
      if (++sums === 2) lose(1)
      return allReduceSum(data)
    }
    const found = await Promise.all(
      ranks.map(async (rank) => {
        try {
          await call(ofRank(rank), cpu)
        } catch (error) {
          return [(error as Error).message, running[rank.rank]]
        }
      }),
    )
    expect(found).toEqual([0, 1].map(() => ['rank 1 is gone', false]))
  })
})
