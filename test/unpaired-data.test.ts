/**
 * Unpaired records and their batches: TRL's `{ prompt, completion, label }`, mismatched completions, and the metrics of a
 * step over them.
 */
import { describe, expect, test } from 'vitest'
import {
  type ChatTemplate,
  type ReadOptions,
  readUnpairedPreferences,
  type SequenceBatch,
  type UnpairedBatch,
  type UnpairedBatchOptions,
  type UnpairedRecord,
  unpairedBatches,
} from '../lib/data/index.js'
import { fusedUnpairedPreferenceLossSync, sequenceLogProbsSync } from '../lib/index.js'
import { stepMetrics } from '../lib/metrics/index.js'
import { gaussian, random } from './support.js'

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

const json = (...values: unknown[]) => values.map((value) => `${JSON.stringify(value)}\n`).join('')
const read = (text: string, options?: ReadOptions) => readUnpairedPreferences(new Blob([text]), options)
const chatTemplate: ChatTemplate = (messages, { addGenerationPrompt }) =>
  messages.map(({ role, content }) => `<${role}>${content}`).join('') + (addGenerationPrompt ? '<assistant>' : '')

describe('readUnpairedPreferences', () => {
  test('texts, with labels of both kinds and other fields as they are', async () => {
    const records = [
      { prompt: 'a', completion: 'b', label: true },
      { prompt: 'a', completion: 'c', label: 0, id: 7 },
      { prompt: '', completion: 'd', label: 1 },
    ]
    expect(await all(read(json(...records)))).toEqual([
      records[0],
      { ...records[1], label: false },
      { ...records[2], label: true },
    ])
  })

  test('conversations', async () => {
    const turns = [
      { role: 'system', content: 'S' },
      { role: 'user', content: 'U' },
    ]
    const answer = [{ role: 'assistant', content: 'A' }]
    const given = json(
      { prompt: turns, completion: answer, label: true },
      { prompt: 'U', completion: answer, label: false },
      { prompt: turns, completion: [], label: false },
    )
    expect(await all(read(given, { chatTemplate }))).toEqual([
      { prompt: '<system>S<user>U<assistant>', completion: 'A', label: true },
      { prompt: '<user>U<assistant>', completion: 'A', label: false },
      { prompt: '<system>S<user>U<assistant>', completion: '', label: false },
    ])
  })

  const answer = [{ role: 'assistant', content: 'A' }]
  test.each([
    [{ completion: 'b', label: true }, 'data:1.prompt must be text or a list of { role, content }; got undefined'],
    [{ prompt: 'a', label: true }, 'data:1.completion must be text or a list of { role, content }; got undefined'],
    [{ prompt: 'a', completion: 'b' }, 'data:1.label must be true or false, or 1 or 0; got undefined'],
    [{ prompt: 'a', completion: 'b', label: 2 }, 'data:1.label must be true or false, or 1 or 0; got 2'],
    [{ prompt: 'a', completion: 'b', label: 'true' }, "data:1.label must be true or false, or 1 or 0; got 'true'"],
    [{ prompt: answer, completion: 'b', label: 1 }, 'data:1 has a list of messages for the prompt and text for the'],
    [{ prompt: [], completion: answer, label: 1 }, 'data:1.prompt is an empty list: there must be a turn to answer'],
    [
      { prompt: 'a', completion: [{ role: 'user', content: 'b' }], label: 1 },
      "data:1.prompt is text, and the completion begins with a turn of 'user'",
    ],
    [{ prompt: answer, completion: [{ role: 'assistant' }], label: 1 }, 'data:1.completion[0].content must be text'],
  ])('refuses %j', async (record, message) => {
    await expect(all(read(json(record), { chatTemplate }))).rejects.toMatchObject({
      code: expect.stringMatching(/^ERR_/),
      message: expect.stringContaining(message),
      file: 'data',
      line: 1,
    })
  })

  test('a conversation needs a template, and bad lines can be skipped', async () => {
    const lines = json({ prompt: 'a', completion: answer, label: 1 }, { prompt: 'a', completion: 'b', label: 1 })
    await expect(all(read(lines))).rejects.toThrow('data:1.completion is a list of messages: give options.chatTemplate')
    const told: string[] = []
    const options: ReadOptions = { onError: 'skip', onWarning: ({ message }) => told.push(message) }
    expect(await all(read(lines, options))).toHaveLength(1)
    expect(told).toHaveLength(1)
  })
})

/** A character is a token. */
const tokenizer = (text: string) => Array.from(text, (c) => c.charCodeAt(0))
const textOf = (ids: ArrayLike<number>) => String.fromCharCode(...Array.from(ids))
const RECORDS: UnpairedRecord[] = [
  { prompt: 'one', completion: 'AB', label: true },
  { prompt: 'three', completion: 'CDEF', label: false },
  { prompt: 'x', completion: 'G', label: true },
  { prompt: 'last', completion: 'HI', label: false },
]
const batches = (records: UnpairedRecord[], options?: Partial<UnpairedBatchOptions>) =>
  all(unpairedBatches(records, { tokenizer, batchSize: 3, ...options }))

/** The sequences of a batch as `prompt|completion`. */
function written({ inputIds, labels, sequenceLengths, shape, sequenceOffsets }: SequenceBatch): string[] {
  return Array.from(sequenceLengths, (length, s) => {
    const first = sequenceOffsets ? sequenceOffsets[s] : s * shape[1]
    const ids = inputIds.subarray(first, first + length)
    const marked = labels.subarray(first, first + length)
    const prompt = marked.filter((label) => label === -100).length
    expect(Array.from(marked.subarray(prompt))).toEqual(Array.from(ids.subarray(prompt)))
    return `${textOf(ids.subarray(0, prompt))}|${textOf(ids.subarray(prompt))}`
  })
}

describe('unpairedBatches', () => {
  test.each(['padded', 'packed'] as const)(
    '%s: sequences, and each prompt with the completion before',
    async (layout) => {
      const [first, second] = await batches(RECORDS, { layout })
      expect(written(first)).toEqual(['one|AB', 'three|CDEF', 'x|G'])
      expect(written(first.mismatched!)).toEqual(['one|G', 'three|AB', 'x|CDEF'])
      expect(first.desirable).toEqual([true, false, true])
      expect(first.records).toEqual(RECORDS.slice(0, 3))
      expect(first.shape).toEqual(layout === 'padded' ? [3, 9] : [16])
      expect(first.mismatched!.shape).toEqual(layout === 'padded' ? [3, 7] : [16])
      expect([first.empty, first.truncated]).toEqual([[], []])
      // Of one record, whose completion belongs to its prompt.
      expect(written(second)).toEqual(['last|HI'])
      expect(second.mismatched).toBe(undefined)
    },
  )

  test('limits cut the start of the prompt and the end of the completion, of mismatched ones for themselves', async () => {
    const told: string[] = []
    const onWarning: UnpairedBatchOptions['onWarning'] = ({ message }) => told.push(message)
    const records = [
      { prompt: 'abcdef', completion: 'AB', label: true },
      { prompt: 'gh', completion: 'CDEFGHI', label: true },
      { prompt: 'k', completion: '', label: false },
    ]
    const options = { maxLength: 7, bosId: 35, eosId: 33, onWarning }
    const [batch] = await batches(records, options)
    expect(written(batch)).toEqual(['#def|AB!', '#gh|CDEF', '#k|!'])
    expect(batch.truncated).toEqual([0, 1])
    expect(batch.empty).toEqual([2])
    expect(written(batch.mismatched!)).toEqual(['#bcdef|!', '#gh|AB!', '#k|CDEFG'])
    expect(told).toEqual(['records[2].completion is an empty completion: it gives the model nothing to learn from'])
    const [limited] = await batches(records, { ...options, maxPromptLength: 2 })
    expect(written(limited)).toEqual(['#f|AB!', '#h|CDEFG', '#k|!'])
  })

  test('what they make goes into the loss as it is, KTO’s κ included', async () => {
    const vocab = 128
    const next = random(5)
    const table = Float32Array.from({ length: 2 * vocab * vocab }, () => gaussian(next))
    // A is surely followed by B, and C, of an undesirable completion, by D.
    for (const id of [65, 67]) table[id * vocab + id + 1] = 9
    const logitsOf = ({ inputIds, shape }: SequenceBatch, model: number) => {
      const data = new Float32Array(inputIds.length * vocab)
      for (const [i, id] of inputIds.entries()) {
        const row = (model * vocab + id) * vocab
        data.set(table.subarray(row, row + vocab), i * vocab)
      }
      return { data, shape: [...shape, vocab] }
    }
    const results = []
    for (const layout of ['padded', 'packed'] as const) {
      const [batch] = (await batches(RECORDS, { layout, batchSize: 4 })) as [UnpairedBatch]
      const { labels, desirable, sequenceOffsets } = batch
      const kl = batch.mismatched!
      const sums = [0, 1].map((model) =>
        sequenceLogProbsSync(
          logitsOf(kl, model),
          kl.labels,
          kl.sequenceOffsets && { sequenceOffsets: kl.sequenceOffsets },
        ),
      )
      const result = fusedUnpairedPreferenceLossSync(logitsOf(batch, 0), labels, {
        desirable,
        sequenceOffsets,
        reference: { logits: logitsOf(batch, 1) },
        klLogProbs: sums[0].logProbs,
        referenceKlLogProbs: sums[1].logProbs,
        outputs: ['tokenEntropies', 'tokenArgmax'],
      })
      const mean = (list: ArrayLike<number>) => Array.from(list).reduce((a, b) => a + b) / list.length
      expect(result.kl).toBeCloseTo(Math.max(0, mean(sums[0].logProbs) - mean(sums[1].logProbs)), 12)
      expect(result.tokenCounts).toEqual(Int32Array.of(2, 4, 1, 2))
      const metrics = stepMetrics(result, batch, { step: 3, tokensBefore: 100, ms: 2, bytes: 4e6 })
      const { meanRewards, meanLogProbs } = result
      const right = [0, 2].map((s) => {
        const first = sequenceOffsets ? sequenceOffsets[s] : s * batch.shape[1]
        let hits = 0
        for (let t = first; t < first + batch.sequenceLengths[s] - 1; t++) {
          if (labels[t + 1] < 0) continue
          const row = table.subarray(batch.inputIds[t] * vocab, (batch.inputIds[t] + 1) * vocab)
          hits += Number(row.indexOf(Math.max(...row)) === labels[t + 1])
        }
        return hits
      })
      expect(right).toEqual([1, 0])
      expect(metrics).toEqual({
        step: 3,
        loss: result.loss,
        kl: result.kl,
        'rewards/chosen': meanRewards.desirable,
        'rewards/rejected': meanRewards.undesirable,
        'rewards/margins': meanRewards.desirable! - meanRewards.undesirable!,
        'logps/chosen': meanLogProbs.desirable,
        'logps/rejected': meanLogProbs.undesirable,
        entropy: result.tokenEntropies!.reduce((a, b) => a + b, 0) / 9,
        mean_token_accuracy: (right[0] + right[1]) / 3,
        num_tokens: 100 + 22,
        ms: 2,
        'GB/s': 2,
      })
      results.push([result.loss, result.kl, ...result.losses])
    }
    expect(results[0]).toEqual(results[1])
  })

  test.each([
    [{ prompt: 'a', completion: 'b' }, 'records[0].label must be true or false, or 1 or 0; got undefined'],
    [{ prompt: 'a', label: true }, 'records[0].completion must be text (readUnpairedPreferences makes it of lists of'],
    [{ prompt: 5, completion: 'b', label: true }, 'records[0].prompt must be text'],
    [null, 'records[0] must be a record; got null'],
  ])('refuses the record %j', async (record, message) => {
    await expect(batches([record as unknown as UnpairedRecord])).rejects.toThrow(message)
  })

  test('refuses options that are about pairs, and wrong ones', async () => {
    const wrong = (options: object) => batches(RECORDS, options as UnpairedBatchOptions)
    await expect(wrong({ onIdentical: 'skip' })).rejects.toThrow('options.onIdentical is not an option')
    await expect(wrong({ batchSize: 0 })).rejects.toThrow('options.batchSize must be an integer')
    await expect(wrong({ tokenizer: 1 })).rejects.toThrow('options.tokenizer must be a function')
  })

  test('records that end with an error give those before it as a batch', async () => {
    const given: string[][] = []
    const run = async () => {
      const lines = `${json(...RECORDS.slice(0, 2))}{ "prompt": 1 }`
      for await (const batch of unpairedBatches(read(lines), { tokenizer, batchSize: 3 })) given.push(written(batch))
    }
    await expect(run()).rejects.toThrow('data:3')
    expect(given).toEqual([['one|AB', 'three|CDEF']])
  })
})

describe('stepMetrics', () => {
  const logits = { data: new Float32Array(2 * 3 * 4), shape: [2, 3, 4] }
  const labels = new Int32Array(6).fill(1)
  const of = (desirable: number[]) =>
    fusedUnpairedPreferenceLossSync(logits, labels, { desirable, kl: 1, reference: { logProbs: [-2, -3] } })

  test('leaves out what there is nothing of', () => {
    const chosen = stepMetrics(of([1, 1]), { labels }, { step: 0 })
    expect(Object.keys(chosen)).toEqual(['step', 'loss', 'kl', 'rewards/chosen', 'logps/chosen'])
    const rejected = stepMetrics(of([0, 0]), { labels }, { step: 0 })
    expect(Object.keys(rejected)).toEqual(['step', 'loss', 'kl', 'rewards/rejected', 'logps/rejected'])
    expect(rejected.kl).toBe(1)
  })

  test.each([
    [{ desirable: [1, 1] }, 'batch.desirable must be what the call had'],
    [{ pairs: [0, 1] }, 'batch.pairs must be what the call had'],
    [{ sequenceOffsets: [0, 3, 6] }, 'batch.sequenceOffsets must be what the call had'],
  ])('refuses %o', (batch, message) => {
    expect(() => stepMetrics(of([1, 0]), { labels, ...batch }, { step: 0 })).toThrow(message)
    expect(stepMetrics(of([1, 0]), { labels, desirable: [true, false] }, { step: 0 }).step).toBe(0)
  })

  test('refuses what is no result', () => {
    const { meanRewards: _, ...rest } = of([1, 0])
    expect(() => stepMetrics(rest as never, { labels }, { step: 0 })).toThrow('result.accuracy must be a number')
    const { kl: __, ...without } = of([1, 0])
    expect(() => stepMetrics(without as never, { labels }, { step: 0 })).toThrow('result.kl must be a number')
    expect(() => stepMetrics({ ...of([1, 0]), layout: undefined } as never, { labels }, { step: 0 })).toThrow(
      'result.layout must be',
    )
  })
})
