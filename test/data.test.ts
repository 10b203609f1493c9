/**
 * Preference data: the shapes records come in, files larger than what is read of them, broken lines, truncation, and
 * batches that go into the loss as they are.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pathToFileURL } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import {
  type BatchOptions,
  type ChatTemplate,
  type PreferenceBatch,
  type PreferenceRecord,
  preferenceBatches,
  type ReadOptions,
  readPreferences,
} from '../lib/data.js'
import { fusedPreferenceLossSync, sequenceLogProbsSync } from '../lib/index.js'
import { random } from './support.js'

const folder = mkdtempSync(join(tmpdir(), 'fused-preference-loss-data-'))
afterAll(() => rmSync(folder, { recursive: true }))

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

/** What was given before the end, and the error it ended with. */
async function until<T>(items: AsyncIterable<T>) {
  const given: T[] = []
  try {
    for await (const item of items) given.push(item)
  } catch (error) {
    return { given, error: error as Error & { code?: string; file?: string; line?: number } }
  }
  return { given, error: undefined }
}

const json = (...values: unknown[]) => values.map((value) => `${JSON.stringify(value)}\n`).join('')
const read = (text: string | Buffer, options?: ReadOptions) => readPreferences(Readable.from([text]), options)
const record = (i: number) => ({ prompt: `p${i}`, chosen: `c${i}`, rejected: `r${i}` })

describe('readPreferences', () => {
  test('prompt, chosen and rejected, with the other fields as they are', async () => {
    const records = [record(0), { ...record(1), score: 3 }]
    expect(await all(read(`\n${json(records[0])}  \r\n${JSON.stringify(records[1])}`))).toEqual(records)
  })

  test('from a path, a URL and text in pieces, without keeping the file in memory', async () => {
    const path = join(folder, 'pairs.jsonl')
    // Longer than a piece of a stream, with characters of several bytes on the seams, and separators JSON allows.
    const records = Array.from({ length: 3000 }, (_, i) => ({
      ...record(i),
      prompt: `\u2028é漢😀${'x'.repeat(i % 97)}`,
    }))
    writeFileSync(path, json(...records))
    expect(await all(readPreferences(path))).toEqual(records)
    expect(await all(readPreferences(pathToFileURL(path)))).toEqual(records)
    const bytes = Buffer.from(json(...records.slice(0, 50)))
    const pieces = Array.from({ length: Math.ceil(bytes.length / 7) }, (_, i) => bytes.subarray(7 * i, 7 * i + 7))
    expect(await all(readPreferences(Readable.from(pieces)))).toEqual(records.slice(0, 50))
  })

  test('a stream without end is read only as far as asked', async () => {
    let made = 0
    async function* endless() {
      for (;;) yield json(record(made++))
    }
    const given: PreferenceRecord[] = []
    for await (const item of readPreferences(endless())) if (given.push(item) === 3) break
    expect(given).toEqual([0, 1, 2].map(record))
    expect(made).toBeLessThan(6)
  })

  test('the prompt of HH-RLHF is what both begin with, to the last turn of the assistant', async () => {
    const opening = '\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:'
    const [chosen, rejected] = [
      ' I think so.\n\nHuman: So?\n\nAssistant: So.',
      ' I think not.\n\nHuman: So?\n\nAssistant: Not.',
    ]
    const text = json({ chosen: opening + chosen, rejected: opening + rejected })
    expect(await all(read(text))).toEqual([{ prompt: opening, chosen, rejected }])
    const { error } = await until(read(json({ chosen: 'Yes', rejected: 'No' })))
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG_VALUE', message: expect.stringContaining('data:1.prompt') })
  })

  describe('conversations', () => {
    const chatTemplate: ChatTemplate = (messages, { addGenerationPrompt }) =>
      messages.map(({ role, content }) => `<${role}>${content}</>`).join('') +
      (addGenerationPrompt ? '<assistant>' : '')
    const user = { role: 'user', content: 'Why?' }
    const say = (content: string) => ({ role: 'assistant', content })
    const expected = { prompt: '<user>Why?</><assistant>', chosen: 'So.</>', rejected: 'Not.</>' }

    test('with a prompt, and with the turns both begin with', async () => {
      const apart = { prompt: [user], chosen: [say('So.')], rejected: [say('Not.')] }
      const whole = { chosen: [user, say('So.')], rejected: [user, say('Not.')] }
      expect(await all(read(json(apart, whole), { chatTemplate }))).toEqual([expected, expected])
    })

    test.each([
      ['no template', { prompt: [user], chosen: [say('a')], rejected: [say('b')] }, {}, /options\.chatTemplate/],
      ['text and lists', { prompt: 'Why?', chosen: [say('a')], rejected: [say('b')] }, { chatTemplate }, /mixes text/],
      ['no shared turn', { chosen: [say('a')], rejected: [say('b')] }, { chatTemplate }, /share no first turn/],
      [
        'no content',
        { prompt: [user], chosen: [{ role: 'x' }], rejected: [say('b')] },
        { chatTemplate },
        /chosen\[0\]/,
      ],
      [
        'a template that is not one text after the other',
        { prompt: [user], chosen: [say('a')], rejected: [say('b')] },
        { chatTemplate: (messages: readonly unknown[]) => String(messages.length) },
        /does not begin with its prompt/,
      ],
    ])('%s is refused', async (_, line, options, message) => {
      const { error } = await until(read(json(line), options))
      expect(error?.message).toMatch(message)
      expect(error?.code).toMatch(/^ERR_INVALID_ARG/)
    })
  })

  const broken: [string, string | Buffer, RegExp][] = [
    ['a record without rejected', json({ prompt: 'p', chosen: 'c' }), /:3\.rejected must be text .*got undefined/],
    ['a prompt that is a number', json({ ...record(0), prompt: 7 }), /:3\.prompt must be text .*got 7/],
    ['a line cut in the middle', '{"prompt": "p", "chos\n', /:3 is not valid JSON \(.+\)$/],
    ['a list', '[1]\n', /:3 must be an object; got an array/],
    ['bytes that are not UTF-8', Buffer.from([0x22, 0xff, 0x22, 10]), /:3 is not valid JSON/],
  ]
  test.each(broken)('%s ends the reading, or is skipped', async (_, line, message) => {
    const path = join(folder, 'broken.jsonl')
    writeFileSync(
      path,
      Buffer.concat([Buffer.from(`${json(record(0))}\n`), Buffer.from(line), Buffer.from(json(record(1)))]),
    )
    const { given, error } = await until(readPreferences(path))
    expect(given).toEqual([record(0)])
    expect(error).toMatchObject({ file: path, line: 3, code: expect.stringMatching(/^ERR_INVALID_ARG/) })
    expect(error!.message).toMatch(message)
    expect(error!.message).toContain(`${path}:3`)

    const warnings: Error[] = []
    const options: ReadOptions = { onError: 'skip', onWarning: (warning) => warnings.push(warning) }
    expect(await all(readPreferences(path, options))).toEqual([record(0), record(1)])
    expect(warnings).toMatchObject([{ file: path, line: 3, message: error!.message }])
  })

  test('a last line cut short says so', async () => {
    const { given, error } = await until(read(`${json(record(0))}{"prompt": "p`, { name: 'pairs' }))
    expect(given).toEqual([record(0)])
    expect(error!.message).toMatch(/^pairs:2 is not valid JSON .*cut short/)
  })

  test('wrong use, and a file that is not there', async () => {
    const cases: [unknown, unknown, string][] = [
      [join(folder, 'none.jsonl'), {}, 'ENOENT'],
      [folder, {}, 'EISDIR'],
      [[record(0)], {}, 'ERR_INVALID_ARG_TYPE'],
      ['x', { onErorr: 'skip' }, 'ERR_INVALID_ARG_VALUE'],
      ['x', { onError: 'ignore' }, 'ERR_INVALID_ARG_VALUE'],
      ['x', { chatTemplate: 'chatml' }, 'ERR_INVALID_ARG_TYPE'],
      ['x', { onWarning: true }, 'ERR_INVALID_ARG_TYPE'],
    ]
    for (const [source, options, code] of cases) {
      const { error } = await until(readPreferences(source as string, options as ReadOptions))
      expect(error?.code).toBe(code)
    }
  })

  test('without a listener a skipped line is a warning of the process', () => {
    const path = join(folder, 'warned.jsonl')
    writeFileSync(path, `${json(record(0))}nonsense\n`)
    const code = `
      import { readPreferences } from 'fused-preference-loss/data'
      for await (const record of readPreferences(process.argv[1], { onError: 'skip' })) console.log(record.prompt)`
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code, path], {
      encoding: 'utf8',
    })
    expect(stdout).toBe('p0\n')
    expect(stderr).toMatch(/\[FUSED_PREFERENCE_LOSS_DATA\].*warned\.jsonl:2 is not valid JSON/)
  })
})

/** One token a character, from 1 on. */
const tokenizer = (text: string) => Array.from(text, (c) => c.charCodeAt(0) - 96)
const abc = { prompt: 'abc', chosen: 'de', rejected: 'fghi' }
const xyz = { prompt: 'x', chosen: 'yz', rejected: 'y' }
const batches = (
  records: Iterable<PreferenceRecord> | AsyncIterable<PreferenceRecord>,
  options: Partial<BatchOptions> = {},
) => preferenceBatches(records, { tokenizer, batchSize: 2, ...options })
const plain = ({ records: _, ...batch }: PreferenceBatch) =>
  Object.fromEntries(Object.entries(batch).map(([key, value]) => [key, Array.from(value)]))
const N = -100

describe('preferenceBatches', () => {
  test('padded: chosen first, prompts and padding masked', async () => {
    const [batch, ...rest] = await all(batches([abc, xyz]))
    expect(rest).toEqual([])
    expect(plain(batch)).toEqual({
      inputIds: [
        [1, 2, 3, 4, 5, 0, 0],
        [24, 25, 26, 0, 0, 0, 0],
        [1, 2, 3, 6, 7, 8, 9],
        [24, 25, 0, 0, 0, 0, 0],
      ].flat(),
      labels: [
        [N, N, N, 4, 5, N, N],
        [N, 25, 26, N, N, N, N],
        [N, N, N, 6, 7, 8, 9],
        [N, 25, N, N, N, N, N],
      ].flat(),
      shape: [4, 7],
      lengths: [5, 3, 7, 2],
      pairs: [0, 2, 1, 3],
      empty: [],
      truncated: [],
    })
    expect(batch.inputIds).toBeInstanceOf(Int32Array)
    expect(batch.records).toEqual([abc, xyz])
    expect(batch.records[0]).toBe(abc)
  })

  test('packed: one behind the other', async () => {
    const [batch] = await all(batches([abc, xyz], { layout: 'packed', ignoreIndex: -1 }))
    expect(plain(batch)).toEqual({
      inputIds: [1, 2, 3, 4, 5, 24, 25, 26, 1, 2, 3, 6, 7, 8, 9, 24, 25],
      labels: [-1, -1, -1, 4, 5, -1, 25, 26, -1, -1, -1, 6, 7, 8, 9, -1, 25],
      shape: [17],
      sequenceOffsets: [0, 5, 8, 15, 17],
      lengths: [5, 3, 7, 2],
      pairs: [0, 2, 1, 3],
      empty: [],
      truncated: [],
    })
  })

  test('special tokens, the padding and its multiple', async () => {
    const [batch] = await all(batches([xyz], { bosId: 50, eosId: 60, padId: 70, padToMultipleOf: 4 }))
    expect(plain(batch)).toMatchObject({
      inputIds: [50, 24, 25, 26, 60, 70, 70, 70, 50, 24, 25, 60, 70, 70, 70, 70],
      labels: [N, N, 25, 26, 60, N, N, N, N, N, 25, 60, N, N, N, N],
      shape: [2, 8],
      lengths: [5, 4],
    })
  })

  test('a typed array of ids, batches of the wanted size, and a smaller last one', async () => {
    const five = Array.from({ length: 5 }, () => abc)
    const made = await all(batches(five, { tokenizer: (text) => Int32Array.from(tokenizer(text)) }))
    expect(made.map(({ records }) => records.length)).toEqual([2, 2, 1])
    expect(made[2].shape).toEqual([2, 7])
    expect(await all(batches([]))).toEqual([])
  })

  describe('truncation', () => {
    const long = { prompt: 'abcdef', chosen: 'ghijkl', rejected: 'mn' }
    const rows = ({ inputIds, lengths, shape: [, time] }: PreferenceBatch) =>
      Array.from(lengths, (length, s) =>
        String.fromCharCode(...inputIds.subarray(s * time, s * time + length).map((id) => id + 96)),
      )

    test.each<[string, Partial<BatchOptions>, string[], number[]]>([
      ['nothing where all fits', { maxLength: 12 }, ['abcdefghijkl', 'abcdefmn'], []],
      ['the start of the prompt first', { maxLength: 11 }, ['bcdefghijkl', 'bcdefmn'], [0, 1]],
      [
        'then, with half the length left to it, the end of the completion',
        { maxLength: 8 },
        ['cdefghij', 'cdefmn'],
        [0, 1],
      ],
      ['to almost nothing', { maxLength: 2 }, ['fg', 'fm'], [0, 1]],
      ['a prompt to its own limit', { maxPromptLength: 3 }, ['defghijkl', 'defmn'], [0, 1]],
      ['to both limits', { maxLength: 7, maxPromptLength: 2 }, ['efghijk', 'efmn'], [0, 1]],
      ['no prompt at all', { maxPromptLength: 0 }, ['ghijkl', 'mn'], [0, 1]],
      ['a prompt within its limit is left alone', { maxLength: 9, maxPromptLength: 6 }, ['abcdefghi', 'abcdefmn'], [0]],
      ['but never the first token', { maxLength: 6, bosId: 122 - 96 }, ['zefghi', 'zefmn'], [0, 1]],
      [
        'an end token that does not fit',
        { maxLength: 7, maxPromptLength: 3, eosId: 26 },
        ['defghij', 'defmnz'],
        [0, 1],
      ],
    ])('%s', async (_, options, texts, truncated) => {
      const [batch] = await all(batches([long], options))
      expect(rows(batch)).toEqual(texts)
      expect(batch.truncated).toEqual(truncated)
      if (options.maxLength) expect(Math.max(...batch.lengths)).toBeLessThanOrEqual(options.maxLength)
    })
  })

  test('empty completions are warned about, reported and kept', async () => {
    const path = join(folder, 'empty.jsonl')
    writeFileSync(path, json(abc, { ...xyz, rejected: '' }))
    const warnings: Error[] = []
    const options = { onWarning: (warning: Error) => warnings.push(warning) }
    for (const [extra, last] of [
      [{}, [24, 0, 0, 0, 0, 0, 0]],
      [{ eosId: 9 }, [24, 9, 0, 0, 0, 0, 0, 0]],
    ] as const) {
      const [batch] = await all(batches(readPreferences(path), { ...options, ...extra }))
      expect(Array.from(batch.inputIds.subarray(-last.length))).toEqual(last)
      expect(batch.empty).toEqual([3])
    }
    expect(warnings).toHaveLength(2)
    expect(warnings[0]).toMatchObject({
      message: expect.stringContaining(`${path}:2.rejected`),
      record: { prompt: 'x' },
    })
  })

  test('a sequence without any token still has its place', async () => {
    const nothing = { prompt: '', chosen: 'a', rejected: '' }
    const [batch] = await all(batches([nothing], { layout: 'packed', onWarning: () => {} }))
    expect(plain(batch)).toMatchObject({
      inputIds: [1, 0],
      labels: [1, N],
      sequenceOffsets: [0, 1, 2],
      lengths: [1, 0],
    })
  })

  test('an error in the records comes after the batch of those before it', async () => {
    const text = json(abc, xyz, abc, { prompt: 'p', chosen: 'c' })
    const { given, error } = await until(batches(read(text)))
    expect(given.map(({ records }) => records)).toEqual([[abc, xyz], [abc]])
    expect(error!.message).toContain('data:4.rejected')
    const skipping = read(json(abc, { prompt: 'p' }, xyz), { onError: 'skip', onWarning: () => {} })
    expect((await all(batches(skipping))).map(({ records }) => records)).toEqual([[abc, xyz]])
  })

  test.each<[string, unknown, Record<string, unknown>, string, RegExp]>([
    [
      'a record without rejected',
      [abc, { prompt: 'p', chosen: 'c' }],
      {},
      'ERR_INVALID_ARG_TYPE',
      /records\[1\]\.rejected/,
    ],
    ['no record', [null], {}, 'ERR_INVALID_ARG_TYPE', /records\[0\]/],
    ['no tokenizer', [abc], { tokenizer: undefined }, 'ERR_INVALID_ARG_TYPE', /options\.tokenizer/],
    [
      'text for ids',
      [abc],
      { tokenizer: (text: string) => text },
      'ERR_INVALID_ARG_TYPE',
      /tokenizer\(records\[0\]\.prompt/,
    ],
    [
      'a bad id',
      [abc],
      { tokenizer: () => [1, 0.5] },
      'ERR_OUT_OF_RANGE',
      /prompt\)\[1\] must be a token id; got 0\.5/,
    ],
    ['no batch size', [abc], { batchSize: undefined }, 'ERR_INVALID_ARG_TYPE', /options\.batchSize/],
    ['a batch of nothing', [abc], { batchSize: 0 }, 'ERR_OUT_OF_RANGE', /options\.batchSize/],
    ['an unknown option', [abc], { maxLenght: 5 }, 'ERR_INVALID_ARG_VALUE', /did you mean 'maxLength'/],
    ['an unknown layout', [abc], { layout: 'paked' }, 'ERR_INVALID_ARG_VALUE', /'packed'/],
    ['no room for a completion', [abc], { maxLength: 4, maxPromptLength: 4 }, 'ERR_OUT_OF_RANGE', /maxPromptLength/],
    ['no room at all', [abc], { maxLength: 1 }, 'ERR_OUT_OF_RANGE', /options\.maxLength/],
  ])('%s is refused', async (_, records, options, code, message) => {
    const { error } = await until(batches(records as PreferenceRecord[], options as Partial<BatchOptions>))
    expect(error?.code).toBe(code)
    expect(error?.message).toMatch(message)
  })
})

test('padded and packed batches go into the loss as they are, with the same result', async () => {
  const vocab = 30
  const next = random(5)
  const table = Float32Array.from({ length: vocab * vocab }, () => 4 * next() - 2)
  const model = ({ inputIds, shape }: PreferenceBatch) => ({
    data: Float32Array.from(
      { length: inputIds.length * vocab },
      (_, i) => table[inputIds[Math.floor(i / vocab)] * vocab + (i % vocab)],
    ),
    shape: [...shape, vocab],
  })
  const results = []
  for (const layout of ['padded', 'packed'] as const) {
    const [batch] = await all(batches([abc, xyz], { layout, eosId: 29 }))
    const { labels, sequenceOffsets, pairs } = batch
    const result = fusedPreferenceLossSync(model(batch), labels, { sequenceOffsets, pairs, lossType: 'cpo' })
    // Every completion token counts, and the end.
    expect(Array.from(result.tokenCounts)).toEqual([3, 3, 5, 2])
    expect(Array.from(sequenceLogProbsSync(model(batch), labels, { sequenceOffsets }).logProbs.subarray(0, 2))).toEqual(
      Array.from(result.chosenLogProbs),
    )
    results.push(result)
  }
  expect(results[1]).toEqual(results[0])
  // By hand: the rejected 'y' after 'x', then the end.
  const logProb = (from: number, to: number) => {
    const row = Array.from(table.subarray(from * vocab, (from + 1) * vocab))
    return row[to] - Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0))
  }
  expect(results[0].rejectedLogProbs[1]).toBeCloseTo(logProb(24, 25) + logProb(25, 29), 5)
})
