/**
 * A reference pass that several ranks share: one file, the same as that of one process, whatever happens on the way.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import {
  readReferenceLogProbs,
  referenceLogProbs,
  type WriteReferenceLogProbsOptions,
  writeReferenceLogProbs,
} from '../lib/adapters/onnxruntime/index.js'
import type { Communicator } from '../lib/types/index.js'
import { onRanks, outcomes, ranksInMemory } from './ranks.js'
import { gaussian, random } from './support.js'

const folder = mkdtempSync(join(tmpdir(), 'reference-ranks-'))
afterAll(() => rmSync(folder, { recursive: true }))

const [time, vocab] = [4, 9]

/** Seven batches of one to three pairs. */
const batches = Array.from({ length: 7 }, (_, i) => {
  const next = random(i)
  const size = 2 * (1 + (i % 3))
  return {
    name: i,
    labels: Int32Array.from({ length: size * time }, () => Math.floor(next() * vocab)),
    logits: {
      type: 'float32',
      dims: [size, time, vocab],
      data: Float32Array.from({ length: size * time * vocab }, () => gaussian(next)),
    },
  }
})
type Batch = (typeof batches)[number]
const PAIRS = batches.reduce((sum, { labels }) => sum + labels.length / time / 2, 0)

let files = 0
const newPath = () => join(folder, `${files++}.jsonl`)

/** A model that takes a moment, and the batches it has been run on. */
function model() {
  const seen: number[] = []
  return {
    seen,
    forward: async ({ name, logits }: Batch) => {
      await new Promise((resolve) => setTimeout(resolve, 1))
      seen.push(name)
      return logits
    },
  }
}

const alone = newPath()
const wanted = await writeReferenceLogProbs(alone, batches, model().forward, { model: 'a' })
const wantedText = readFileSync(alone, 'utf8')

/** The calls of all ranks. */
async function write(path: string, size: number, options: WriteReferenceLogProbsOptions = {}) {
  const seen: number[][] = []
  const results = await onRanks(size, (communicator) => {
    const { forward, seen: own } = model()
    seen[communicator.rank] = own
    return writeReferenceLogProbs(path, batches, forward, { model: 'a', communicator, ...options })
  })
  return { seen, results }
}

const failed = (rank: number, size: number, message = '') => ({
  status: 'rejected',
  reason: {
    code: 'ERR_RANK_FAILED',
    message: expect.stringContaining(`rank ${rank} of ${size} has failed: ${message}`),
  },
})

describe('one file', () => {
  test.each([1, 2, 3, 4, 9])('of %i ranks, each of which has done its part', async (size) => {
    const path = newPath()
    const { seen, results } = await write(path, size)
    for (const result of results) expect(result).toEqual(wanted)
    expect(readFileSync(path, 'utf8')).toBe(wantedText)
    for (const [r, own] of seen.entries())
      expect(own).toEqual(batches.map(({ name }) => name).filter((i) => i % size === r))
    // A complete file is only read.
    const again = await write(path, size + 1)
    expect(again.seen.flat()).toEqual([])
    expect(again.results[size]).toEqual(wanted)
  })

  test.each([
    [2, 3],
    [3, 1],
    [1, 4],
    [4, 2],
  ])('begun by %i ranks, of which one fails, and ended by %i', async (before, after) => {
    const path = newPath()
    const bad = before - 1
    const found = await outcomes(before, (communicator) =>
      writeReferenceLogProbs(
        path,
        batches,
        async (batch: Batch) => {
          if (communicator.rank === bad && batch.name >= 3) throw new Error('out of memory')
          return batch.logits
        },
        { model: 'a', communicator },
      ),
    )
    for (const [r, outcome] of found.entries()) {
      expect(outcome).toMatchObject(
        r === bad ? { reason: { message: 'out of memory' } } : failed(bad, before, 'out of memory'),
      )
    }
    // Of whole rounds: the first one has failed with four ranks, and nothing is written.
    if (before < 4) await expect(readReferenceLogProbs(path)).rejects.toThrow(/is not complete/)
    const done = before < 4 ? readFileSync(path, 'utf8').trimEnd().split('\n').length - 1 : 0
    expect(done).toBe(before === 1 ? 3 : before % 4)
    const steps: boolean[] = []
    const { seen, results } = await write(path, after, { onProgress: ({ resumed }) => steps.push(resumed) })
    expect(seen.flat().sort()).toEqual(batches.map(({ name }) => name).slice(done))
    expect(steps.filter(Boolean)).toHaveLength(done * after)
    for (const result of results) expect(result).toEqual(wanted)
    expect(readFileSync(path, 'utf8')).toBe(wantedText)
  })

  test('when a rank is gone, the others end, and what was written is gone on with', async () => {
    const path = newPath()
    const { ranks, lose } = ranksInMemory(2)
    const running = ranks.map((communicator) =>
      writeReferenceLogProbs(
        path,
        batches,
        async (batch: Batch) => {
          if (batch.name === 3) {
            lose(1)
            return new Promise<never>(() => {})
          }
          return batch.logits
        },
        { model: 'a', communicator },
      ),
    )
    await expect(running[0]).rejects.toThrow('rank 1 is gone')
    writeFileSync(path, '{"fingerprint":"cut sh', { flag: 'a' })
    const { seen, results } = await write(path, 3)
    expect(seen.flat().sort()).toEqual([2, 3, 4, 5, 6])
    expect(results[2]).toEqual(wanted)
    expect(readFileSync(path, 'utf8')).toBe(wantedText)
  })

  test('with keepBatches every rank has all batches with their references', async () => {
    const { results } = await write(newPath(), 2, { keepBatches: true })
    for (const { batches: kept } of results as { batches?: (Batch & { reference: { chosen: Float64Array } })[] }[]) {
      expect(kept!.map(({ name }) => name)).toEqual(batches.map(({ name }) => name))
      expect(kept!.flatMap(({ reference }) => [...reference.chosen])).toEqual([...wanted.chosen])
    }
  })
})

describe('what is wrong on one rank ends the call on all', () => {
  const call = (path: string, communicator: Communicator, options: object, data: unknown = batches) =>
    writeReferenceLogProbs(path, data as Batch[], model().forward, { model: 'a', communicator, ...options })

  test.each([
    ['an option', { temperature: -1 }, { code: 'ERR_OUT_OF_RANGE' }],
    ['an unknown option', { tempo: 1 }, { code: 'ERR_INVALID_ARG_VALUE' }],
    ['a signal', { signal: AbortSignal.abort(new Error('enough')) }, { message: 'enough' }],
  ])('%s', async (_, options, reason) => {
    const path = newPath()
    const found = await outcomes(3, (communicator) => call(path, communicator, communicator.rank === 1 ? options : {}))
    expect(found).toMatchObject([failed(1, 3), { reason }, failed(1, 3)])
    expect(() => readFileSync(path)).toThrow('ENOENT')
  })

  test('a signal in the middle, a callback that throws, and data that end with an error', async () => {
    const stopped = new AbortController()
    const later = await outcomes(2, (communicator) =>
      call(newPath(), communicator, {
        ...(communicator.rank === 1 && { signal: stopped.signal }),
        onProgress: ({ batches }: { batches: number }) => batches === 3 && stopped.abort(new Error('enough')),
      }),
    )
    expect(later).toMatchObject([failed(1, 2, 'enough'), { reason: { message: 'enough' } }])
    const onProgress = () => {
      throw new Error('a pipe is broken')
    }
    const thrown = await outcomes(2, (communicator) =>
      call(newPath(), communicator, communicator.rank === 0 ? { onProgress } : {}),
    )
    expect(thrown).toMatchObject([{ reason: { message: 'a pipe is broken' } }, failed(0, 2)])
    async function* broken() {
      yield* batches.slice(0, 3)
      throw new Error('a line is no JSON')
    }
    const data = await outcomes(2, (communicator) =>
      call(newPath(), communicator, {}, communicator.rank === 1 ? broken() : batches),
    )
    expect(data).toMatchObject([failed(1, 2, 'a line is no JSON'), { reason: { message: 'a line is no JSON' } }])
  })

  test('other data, other options, fewer batches, another model', async () => {
    const other = batches.map((batch, i) =>
      i === 4 ? { ...batch, labels: batch.labels.map((id) => (id + 1) % vocab) } : batch,
    )
    for (const [data, options, done] of [
      [other, {}, 4],
      [batches.slice(0, 6), {}, 6],
      [batches, { temperature: 2 }, 0],
      [batches, { model: 'b' }, 0],
    ] as const) {
      const path = newPath()
      const found = await outcomes(2, ({ rank, ...rest }) =>
        call(path, { rank, ...rest }, rank === 1 ? options : {}, rank === 1 ? data : batches),
      )
      for (const outcome of found) {
        const message = expect.stringContaining('which all ranks must share')
        expect(outcome).toMatchObject({ reason: { code: 'ERR_INVALID_ARG_VALUE', message } })
      }
      // What was written before the difference showed is right.
      const { seen, results } = await write(path, 2)
      expect(seen.flat()).toHaveLength(batches.length - done)
      expect(results).toEqual([wanted, wanted])
    }
  })

  test('a file that another call is writing, and a folder that does not exist', async () => {
    const path = newPath()
    const owner = { pid: process.ppid, host: (await import('node:os')).hostname(), started: 0, id: 'x' }
    writeFileSync(`${path}.lock`, JSON.stringify(owner))
    for (const place of [path, join(folder, 'nowhere', 'a.jsonl')]) {
      const found = await outcomes(2, (communicator) => call(place, communicator, {}))
      expect(found).toMatchObject([
        { reason: { code: 'ERR_INVALID_ARG_VALUE' } },
        failed(0, 2, 'ERR_INVALID_ARG_VALUE'),
      ])
    }
  })

  test('a file that one rank does not see', async () => {
    const path = newPath()
    await expect(
      writeReferenceLogProbs(
        path,
        batches,
        ({ name, logits }: Batch) => {
          if (name === 2) throw new Error('stop')
          return logits
        },
        { model: 'a' },
      ),
    ).rejects.toThrow('stop')
    const found = await outcomes(2, (communicator) =>
      call(communicator.rank === 1 ? newPath() : path, communicator, {}),
    )
    for (const outcome of found)
      expect(outcome).toMatchObject({ reason: { message: expect.stringContaining('which all ranks must see') } })
  })

  test('no batch at all', async () => {
    const found = await outcomes(2, (communicator) => call(newPath(), communicator, {}, []))
    for (const outcome of found) expect(outcome).toMatchObject({ status: 'rejected' })
  })

  test('a communicator that is none', async () => {
    await expect(call(newPath(), { rank: 0 } as Communicator, {})).rejects.toMatchObject({
      code: 'ERR_INVALID_ARG_TYPE',
    })
  })
})

test('in memory', async () => {
  const progress: number[] = []
  const results = await onRanks(3, (communicator) =>
    referenceLogProbs(batches, model().forward, { communicator, onProgress: ({ pairs }) => progress.push(pairs) }),
  )
  for (const result of results) expect(result).toEqual(wanted)
  expect(progress.filter((pairs) => pairs === PAIRS)).toHaveLength(3)
  const found = await outcomes(2, (communicator) =>
    referenceLogProbs(batches, model().forward, { communicator, shift: communicator.rank as never }),
  )
  for (const outcome of found) expect(outcome.status).toBe('rejected')
})
