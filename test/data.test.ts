/**
 * Preference data: the shapes of records, files larger than the part that is read, broken lines, truncation, and
 * batches that go into the loss unchanged.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pathToFileURL } from 'node:url'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import {
  type BatchOptions,
  type ChatMessage,
  type ChatTemplate,
  type PreferenceBatch,
  type PreferenceRecord,
  preferenceBatches,
  type ReadOptions,
  readPreferences,
} from '../lib/data/index.js'
import { linesOf } from '../lib/data/json-lines.js'
import { fusedPreferenceLossSync, sequenceLogProbsSync } from '../lib/index.js'
import './fixed-seed.js'
import { random } from './support.js'

const folder = mkdtempSync(join(tmpdir(), 'fused-preference-loss-data-'))
afterAll(() => rmSync(folder, { recursive: true }))

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

/** The records before the end, and the error at the end. */
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

  describe('wherever a stream is cut', () => {
    // Characters of one to four bytes, one of them at the very end of a line, escapes, and separators JSON allows.
    const awkward = { prompt: 'é漢😀', chosen: '\u2028\u2029\u0085', rejected: '👩‍👩‍👧\n"😀' }
    const whole = `\ufeff${JSON.stringify(awkward)}\r\n\n \t\r\n${JSON.stringify({ ...record(1), '😀': '\ufeff' })}`
    const records = [awkward, { ...record(1), '😀': '\ufeff' }]
    const places = async (chunks: (string | Uint8Array)[]) => {
      const seen: unknown[] = []
      for await (const line of linesOf(Readable.from(chunks), 'data')) seen.push(line)
      return seen
    }

    test('its records are those of the whole', async () => {
      expect(await all(read(whole))).toEqual(records)
      const lines = await places([whole])
      expect(lines).toMatchObject([
        { number: 1, ended: true },
        { number: 4, ended: false },
      ])
      const bytes = Buffer.from(whole)
      for (let cut = 0; cut <= whole.length; cut++) {
        expect(await places([whole.slice(0, cut), whole.slice(cut)])).toEqual(lines)
      }
      for (let cut = 0; cut <= bytes.length; cut++) {
        expect(await places([bytes.subarray(0, cut), bytes.subarray(cut)])).toEqual(lines)
      }
      expect(await places(whole.split(''))).toEqual(lines)
      expect(await places(Array.from(bytes, (byte) => Uint8Array.of(byte)))).toEqual(lines)
    })

    test('for any text, cut anywhere into any number of pieces of text and bytes', async () => {
      const text = fc.string({ unit: 'binary', maxLength: 12 })
      const values = fc.array(fc.record({ prompt: text, chosen: text, rejected: text }), { maxLength: 4 })
      const separator = fc.constantFrom('\n', '\r\n', '\n\n', '\n \t\n')
      const cuts = fc.array(fc.nat({ max: 400 }), { maxLength: 8 })
      await fc.assert(
        fc.asyncProperty(values, separator, cuts, fc.boolean(), async (values, separator, cuts, raw) => {
          const whole = values.map((value) => JSON.stringify(value) + separator).join('')
          const source = raw ? Buffer.from(whole) : whole
          const edges = [0, ...cuts.filter((cut) => cut < source.length), source.length].sort((a, b) => a - b)
          const pieces = edges.slice(1).map((end, i) => source.slice(edges[i], end))
          expect(await all(readPreferences(Readable.from(pieces)))).toEqual(values)
        }),
      )
    })

    test('a lone half of a surrogate pair stays what it is', async () => {
      const text = `{ "prompt": "\ud83d", "chosen": "\ude00", "rejected": "" }`
      for (let cut = 0; cut <= text.length; cut++) {
        const [given] = await all(readPreferences(Readable.from([text.slice(0, cut), text.slice(cut)])))
        expect(given).toEqual({ prompt: '\ud83d', chosen: '\ude00', rejected: '' })
      }
    })

    test('a line of text and bytes', async () => {
      const [a, b] = ['{ "prompt": "é😀", "chos', 'en": "漢", "rejected": "" }']
      const pieces = [a.slice(0, 14), a.slice(14), Buffer.from(b).subarray(0, 8), Buffer.from(b).subarray(8), '\n']
      expect(await all(readPreferences(Readable.from(pieces)))).toEqual([{ prompt: 'é😀', chosen: '漢', rejected: '' }])
    })

    test('a stream may fill the same memory again', async () => {
      const bytes = Buffer.from(json(record(0), record(1), record(2)))
      async function* reusing() {
        const buffer = Buffer.alloc(10)
        for (let start = 0; start < bytes.length; start += 10) {
          yield buffer.subarray(0, bytes.copy(buffer, 0, start))
          buffer.fill('!')
        }
      }
      expect(await all(readPreferences(reusing()))).toEqual([0, 1, 2].map(record))
    })
  })

  test('a byte order mark, even alone on the first line', async () => {
    const text = json(record(0), record(1))
    for (const first of ['\ufeff', '\ufeff\n', '\ufeff \r\n\n']) {
      for (const chunks of [[first + text], [first, text], [Buffer.from(first + text)], [Buffer.from(first), text]]) {
        expect(await all(readPreferences(Readable.from(chunks)))).toEqual([record(0), record(1)])
      }
    }
    // As in files that were concatenated from others.
    expect(await all(read(`${json(record(0))}\ufeff${json(record(1))}`))).toEqual([record(0), record(1)])
  })

  describe('what is not JSON Lines', () => {
    const text = json(record(0), record(1))
    const utf16 = Buffer.from(text, 'utf16le')
    const array = JSON.stringify([record(0)], null, 2)
    test.each<[string, (string | Buffer)[], RegExp]>([
      ['gzip', [gzipSync(text)], /^data is compressed with gzip: unzip it, or .*createGunzip/],
      ['gzip read as text', [gzipSync(text).toString('utf8')], /^data is compressed with gzip/],
      ['zip', [Buffer.from('PK\x03\x04....')], /^data is a compressed file/],
      ['zstd', [Buffer.of(0x28, 0xb5, 0x2f, 0xfd, 1)], /^data is a compressed file/],
      ['xz', [Buffer.of(0xfd, ...Buffer.from('7zXZ'), 0)], /^data is a compressed file/],
      ['bzip2', [Buffer.from('BZh9')], /^data is a compressed file/],
      ['Parquet', ['PAR1...'], /^data is a Parquet or Arrow file: convert it/],
      ['Arrow', [Buffer.from('ARROW1')], /^data is a Parquet or Arrow file/],
      ['UTF-16', [utf16], /^data is UTF-16: convert it to UTF-8/],
      ['UTF-16 with its mark', [Buffer.concat([Buffer.of(0xff, 0xfe), utf16])], /^data is UTF-16/],
      ['big-endian UTF-16', [Buffer.from(utf16).swap16()], /^data is UTF-16/],
      ['and with its mark', [Buffer.concat([Buffer.of(0xfe, 0xff), Buffer.from(utf16).swap16()])], /^data is UTF-16/],
      ['UTF-16 read as text', [Buffer.concat([Buffer.of(0xff, 0xfe), utf16]).toString()], /^data is UTF-16/],
      ['an array', [array], /^data is one JSON array, not JSON Lines: .*jq/],
      ['an array on a line', [JSON.stringify([record(0)])], /^data is one JSON array/],
      ['an array after a mark and blank lines', [Buffer.from(`\ufeff\n \r\n${array}`)], /^data is one JSON array/],
    ])('%s is refused, with what to do, also with onError: skip', async (_, chunks, message) => {
      for (const onError of ['throw', 'skip'] as const) {
        const cut = chunks.flatMap((chunk) => [chunk.slice(0, 1), chunk.slice(1, 4), chunk.slice(4)])
        for (const pieces of [chunks, cut]) {
          const warn = (warning: Error) => expect.unreachable(warning.message)
          const { given, error } = await until(readPreferences(Readable.from(pieces), { onError, onWarning: warn }))
          expect(given).toEqual([])
          expect(error).toMatchObject({ code: 'ERR_INVALID_ARG_VALUE', message: expect.stringMatching(message) })
        }
      }
    })

    test('of a path, by its name', async () => {
      const path = join(folder, 'pairs.jsonl.gz')
      writeFileSync(path, gzipSync(text))
      const { error } = await until(readPreferences(path))
      expect(error!.message).toContain(`${path} is compressed with gzip`)
    })

    test('a stream of anything but bytes and text', async () => {
      for (const chunk of [record(0), 5, Float32Array.of(1), [1, 2]]) {
        const { error } = await until(readPreferences(Readable.from([chunk])))
        expect(error).toMatchObject({
          code: 'ERR_INVALID_ARG_TYPE',
          message: expect.stringMatching(/^data: every chunk must be bytes or text \(objects go to preferenceBatches/),
        })
      }
    })
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
    const others = { score: 3, chosen_model: 'a' }
    const text = json({ ...others, chosen: opening + chosen, rejected: opening + rejected })
    expect(await all(read(text))).toEqual([{ ...others, prompt: opening, chosen, rejected }])
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

    test('the other fields stay', async () => {
      const line = { chosen: [user, say('So.')], rejected: [user, say('Not.')], score: 3 }
      expect(await all(read(json(line), { chatTemplate }))).toEqual([{ ...expected, score: 3 }])
    })

    test('a prompt that is text, in both lists or before them (UltraFeedback)', async () => {
      const system = { role: 'system', content: 'Be brief.' }
      const inside = { prompt: 'Why?', chosen: [user, say('So.')], rejected: [user, say('Not.')] }
      const padded = { ...inside, prompt: ' Why?\n' }
      const before = { prompt: 'Why?', chosen: [say('So.')], rejected: [say('Not.')] }
      const records = await all(read(json(inside, padded, before), { chatTemplate }))
      expect(records).toEqual([expected, expected, expected])
      const long = [system, user, say('Because.'), user]
      const longer = { prompt: 'Why?', chosen: [...long, say('So.')], rejected: [...long, say('Not.')] }
      expect(await all(read(json(longer), { chatTemplate }))).toEqual([
        {
          ...expected,
          prompt: '<system>Be brief.</><user>Why?</><assistant>Because.</><user>Why?</><assistant>',
        },
      ])
      for (const prompt of ['How?', 'Because.']) {
        const { error } = await until(read(json({ ...longer, prompt }), { chatTemplate }))
        expect(error).toMatchObject({
          code: 'ERR_INVALID_ARG_VALUE',
          message: expect.stringMatching(
            /^data:1\.prompt is text that no turn before the completions has: leave it out/,
          ),
        })
      }
      const half = { ...inside, chosen: [say('So.')] }
      expect((await until(read(json(half), { chatTemplate }))).error?.message).toMatch(/share no first turn/)
    })

    /** Shows every field of a turn. */
    const everything: ChatTemplate = (messages, { addGenerationPrompt }) =>
      messages.map((message) => `<${message.role}>${JSON.stringify(message)}`).join('') +
      (addGenerationPrompt ? '<assistant>' : '')

    test.each<[string, object, object]>([
      [
        'tool_calls',
        { tool_calls: [{ function: { name: 'f', arguments: { x: [1] } } }] },
        { tool_calls: [{ function: { name: 'f', arguments: { x: [2] } } }] },
      ],
      ['name', { name: 'a' }, { name: 'b' }],
      ['reasoning_content', { reasoning_content: 'hm' }, {}],
      ['tool_call_id', {}, { tool_call_id: '1' }],
      ['any other field', { weight: 0 }, { weight: null }],
    ])('turns that differ in %s alone are not the same', async (_, a, b) => {
      const [first, second] = [
        { ...say('Let me see.'), ...a },
        { ...say('Let me see.'), ...b },
      ]
      const line = { chosen: [user, first, say('So.')], rejected: [user, second, say('So.')] }
      expect(await all(read(json(line), { chatTemplate: everything }))).toEqual([
        {
          prompt: `<user>${JSON.stringify(user)}<assistant>`,
          chosen: `${JSON.stringify(first)}<assistant>${JSON.stringify(say('So.'))}`,
          rejected: `${JSON.stringify(second)}<assistant>${JSON.stringify(say('So.'))}`,
        },
      ])
    })

    test('fields in another order are the same', async () => {
      const turned = { content: user.content, role: user.role }
      const line = { chosen: [user, say('So.')], rejected: [turned, say('Not.')] }
      expect(await all(read(json(line), { chatTemplate }))).toEqual([expected])
    })

    // The result for text of the same turns, with the marker of HH-RLHF.
    const asText: ChatTemplate = (messages, { addGenerationPrompt }) =>
      messages.map(({ role, content }) => `\n\n${role === 'user' ? 'Human' : 'Assistant'}: ${content}`).join('') +
      (addGenerationPrompt ? '\n\nAssistant:' : '')
    const then = { role: 'user', content: 'And then?' }
    const other = { role: 'user', content: 'Or else?' }
    test.each<[string, ChatMessage[], ChatMessage[], string, string]>([
      ['are the same', [user, say('So.')], [user, say('So.')], ' So.', ' So.'],
      [
        'are the same and have several turns',
        [user, say('So.'), then, say('Then.')],
        [user, say('So.'), then, say('Then.')],
        ' Then.',
        ' Then.',
      ],
      [
        'one of which ends where the other goes on',
        [user, say('So.')],
        [user, say('So.'), then, say('Then.')],
        ' So.',
        ' So.\n\nHuman: And then?\n\nAssistant: Then.',
      ],
      [
        'part at a turn of the user',
        [user, say('So.'), then, say('Then.')],
        [user, say('So.'), other, say('Else.')],
        ' So.\n\nHuman: And then?\n\nAssistant: Then.',
        ' So.\n\nHuman: Or else?\n\nAssistant: Else.',
      ],
      [
        'of which one goes on with the user',
        [user, say('So.'), say('Then.')],
        [user, say('So.'), other, say('Else.')],
        ' So.\n\nAssistant: Then.',
        ' So.\n\nHuman: Or else?\n\nAssistant: Else.',
      ],
      [
        'of which the other does',
        [user, say('So.'), then, say('Then.')],
        [user, say('So.'), say('Else.')],
        ' So.\n\nHuman: And then?\n\nAssistant: Then.',
        ' So.\n\nAssistant: Else.',
      ],
    ])('that %s are split as text is', async (_, chosen, rejected, chosenText, rejectedText) => {
      const [record] = await all(read(json({ chosen, rejected }), { chatTemplate: asText }))
      const generation = { addGenerationPrompt: false }
      const texts = { chosen: asText(chosen, generation), rejected: asText(rejected, generation) }
      expect(await all(read(json(texts)))).toEqual([record])
      expect(record).toMatchObject({ chosen: chosenText, rejected: rejectedText })
    })

    test('the assistant may have another name, and others others', async () => {
      const model = (content: string) => ({ role: 'model', content })
      const tool = (content: string) => ({ role: 'Tool', content })
      const line = {
        chosen: [user, model('Look.'), tool('1'), model('One.')],
        rejected: [user, model('Look.'), tool('2'), model('Two.')],
      }
      const [record] = await all(
        read(json(line), { chatTemplate: (m, o) => chatTemplate(m, o).replaceAll('model', 'assistant') }),
      )
      expect(record).toEqual({
        prompt: '<user>Why?</><assistant>',
        chosen: 'Look.</><Tool>1</><assistant>One.</>',
        rejected: 'Look.</><Tool>2</><assistant>Two.</>',
      })
    })

    test('a completion without turns is an empty one, as in text', async () => {
      const apart = { prompt: [user], chosen: [say('So.')], rejected: [] }
      const whole = { chosen: [user, say('So.')], rejected: [user] }
      const empty = { ...expected, rejected: '' }
      expect(await all(read(json(apart, whole), { chatTemplate }))).toEqual([empty, empty])
    })

    test('a template that changes its list changes no other text', async () => {
      const greedy: ChatTemplate = (messages, options) => {
        const mine = messages as ChatMessage[]
        const text = chatTemplate([...mine], options)
        mine.length = 0
        return text
      }
      const line = { prompt: [user], chosen: [say('So.')], rejected: [say('Not.')] }
      expect(await all(read(json(line), { chatTemplate: greedy }))).toEqual([expected])
    })

    const apart = { prompt: [user], chosen: [say('a')], rejected: [say('b')] }
    test.each<[string, object, ReadOptions, RegExp]>([
      ['no template', apart, {}, /options\.chatTemplate/],
      ['completions of text and lists', { ...apart, rejected: 'b' }, { chatTemplate }, /^data:1 mixes text/],
      [
        'a list for a prompt of texts',
        { ...apart, chosen: 'a', rejected: 'b' },
        { chatTemplate },
        /^data:1 mixes text/,
      ],
      [
        'no shared turn',
        { chosen: [say('a')], rejected: [say('b')] },
        { chatTemplate },
        /^data:1 .*share no first turn/,
      ],
      ['a shared answer alone', { chosen: [say('a')], rejected: [say('a')] }, { chatTemplate }, /share no first turn/],
      ['a rejected without turns', { chosen: [user, say('a')], rejected: [] }, { chatTemplate }, /share no first turn/],
      ['an empty prompt', { ...apart, prompt: [] }, { chatTemplate }, /^data:1\.prompt is an empty list: leave it out/],
      [
        'conversations that part before the assistant speaks',
        { chosen: [then, user, say('a')], rejected: [then, other, say('b')] },
        { chatTemplate },
        /^data:1\.chosen follows the prompt with a turn of 'user'/,
      ],
      [
        'a prompt that the lists have too',
        { ...apart, chosen: [user, say('a')], rejected: [user, say('b')] },
        { chatTemplate },
        /^data:1\.chosen follows the prompt with a turn of 'user'.*leave out a prompt that the lists begin with/,
      ],
      [
        'no content',
        { ...apart, chosen: [{ role: 'x' }] },
        { chatTemplate },
        /^data:1\.chosen\[0\]\.content must be text/,
      ],
      [
        'content that is null',
        { ...apart, rejected: [{ role: 'assistant', content: null }] },
        { chatTemplate },
        /^data:1\.rejected\[0\]\.content must be text \('' where a turn only calls tools\); got null/,
      ],
      [
        'content in parts',
        { ...apart, prompt: [{ role: 'user', content: [{ type: 'text', text: 'Why?' }] }] },
        { chatTemplate },
        /^data:1\.prompt\[0\]\.content must be text \(join its parts\); got an array of length 1/,
      ],
      [
        'no role',
        { ...apart, chosen: [{ from: 'gpt', content: 'a' }] },
        { chatTemplate },
        /^data:1\.chosen\[0\]\.role/,
      ],
      [
        'text for a message',
        { ...apart, chosen: ['a'] },
        { chatTemplate },
        /^data:1\.chosen\[0\] must be \{ role, content/,
      ],
      ['null for a message', { ...apart, chosen: [null] }, { chatTemplate }, /^data:1\.chosen\[0\] must be .*got null/],
      [
        'a list for a message',
        { ...apart, chosen: [[]] },
        { chatTemplate },
        /^data:1\.chosen\[0\] must be .*got an array/,
      ],
      [
        'a template that is not one text after the other',
        apart,
        { chatTemplate: (messages: readonly unknown[]) => String(messages.length) },
        /^options\.chatTemplate makes a text of data:1\.chosen that does not begin with its prompt's/,
      ],
    ])('%s is refused, or skipped', async (_, line, options, message) => {
      const { error } = await until(read(json(line), options))
      expect(error?.message).toMatch(message)
      expect(error).toMatchObject({ code: expect.stringMatching(/^ERR_INVALID_ARG/), file: 'data', line: 1 })
      const skipping: ReadOptions = { ...options, onError: 'skip', onWarning: () => {} }
      expect(await all(read(json(line), skipping))).toEqual([])
    })

    test('what a template refuses is skipped; a fault in it ends the reading', async () => {
      const line = json(apart)
      const throwing =
        (error: unknown): ChatTemplate =>
        () => {
          throw error
        }
      const undefinedName = undefined as unknown as { length: number }
      const cases: [ChatTemplate, boolean, RegExp][] = [
        [
          throwing(new Error('roles must alternate')),
          true,
          /^options\.chatTemplate throws at data:1\.prompt: Error: roles/,
        ],
        [throwing('roles'), true, /^options\.chatTemplate throws at data:1\.prompt: 'roles'/],
        [throwing(undefined), true, /throws at data:1\.prompt: undefined/],
        [throwing(Object.freeze(new Error('frozen'))), true, /throws at data:1\.prompt: Error: frozen/],
        [() => String(undefinedName.length), false, /throws at data:1\.prompt: TypeError: Cannot read/],
        [throwing(new RangeError('r')), false, /throws at data:1\.prompt: RangeError: r/],
        [throwing(new ReferenceError('r')), false, /throws at data:1\.prompt: ReferenceError: r/],
        [throwing(new SyntaxError('r')), false, /throws at data:1\.prompt: SyntaxError: r/],
        [
          (() => [1, 2, 3]) as never,
          false,
          /^options\.chatTemplate\(data:1\.prompt\) must be text, not token ids \(tokenize: false\).*got an array of length 3/,
        ],
        [(async () => 'text') as never, false, /no promise; got an instance of Promise/],
        [(() => {}) as never, false, /must be text.*; got undefined/],
      ]
      for (const [template, skipped, message] of cases) {
        const { error } = await until(read(line, { chatTemplate: template }))
        const expected = {
          code: expect.stringMatching(/^ERR_INVALID_ARG/),
          message: expect.stringMatching(message),
          file: 'data',
          line: 1,
        }
        expect(error).toMatchObject(expected)
        const warnings: Error[] = []
        const options: ReadOptions = { chatTemplate: template, onError: 'skip', onWarning: (w) => warnings.push(w) }
        const skipping = await until(read(json(record(0)) + line + json(record(1)), options))
        expect(skipping.given).toEqual(skipped ? [record(0), record(1)] : [record(0)])
        expect([...warnings, skipping.error].filter(Boolean)).toMatchObject([{ line: 2 }])
        expect(warnings).toHaveLength(skipped ? 1 : 0)
      }
      const cause = new Error('roles must alternate')
      expect((await until(read(line, { chatTemplate: throwing(cause) }))).error?.cause).toBe(cause)
      // The place within the record.
      const picky: ChatTemplate = (messages, options) => {
        if (messages.at(-1)?.content === 'b') throw new Error('no b')
        return chatTemplate(messages, options)
      }
      expect((await until(read(line, { chatTemplate: picky }))).error?.message).toContain(
        'at data:1.rejected: Error: no b',
      )
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
    expect(error).toMatchObject({ file: 'pairs', line: 2 })
    const path = join(folder, 'named.jsonl')
    writeFileSync(path, '{}\n')
    expect((await until(readPreferences(path, { name: 'train' }))).error).toMatchObject({
      file: 'train',
      message: expect.stringMatching(/^train:1\.chosen must be text/),
    })
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
      ['x', { name: 5 }, 'ERR_INVALID_ARG_TYPE'],
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
      sequenceLengths: [5, 3, 7, 2],
      pairs: [0, 2, 1, 3],
      empty: [],
      truncated: [],
      identical: [],
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
      sequenceLengths: [5, 3, 7, 2],
      pairs: [0, 2, 1, 3],
      empty: [],
      truncated: [],
      identical: [],
    })
  })

  test('special tokens, the padding and its multiple', async () => {
    const [batch] = await all(batches([xyz], { bosId: 50, eosId: 60, padId: 70, padToMultipleOf: 4 }))
    expect(plain(batch)).toMatchObject({
      inputIds: [50, 24, 25, 26, 60, 70, 70, 70, 50, 24, 25, 60, 70, 70, 70, 70],
      labels: [N, N, 25, 26, 60, N, N, N, N, N, 25, 60, N, N, N, N],
      shape: [2, 8],
      sequenceLengths: [5, 4],
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
    const rows = ({ inputIds, sequenceLengths, shape: [, time] }: PreferenceBatch) =>
      Array.from(sequenceLengths, (length, s) =>
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
      const [batch] = await all(batches([long], { onWarning: () => {}, ...options }))
      expect(rows(batch)).toEqual(texts)
      expect(batch.truncated).toEqual(truncated)
      if (options.maxLength) expect(Math.max(...batch.sequenceLengths)).toBeLessThanOrEqual(options.maxLength)
    })
  })

  test('the end token has its room beside the prompt', async () => {
    const short = { prompt: 'abcdef', chosen: 'gh', rejected: 'm' }
    const cases: [Partial<BatchOptions>, number[], number[]][] = [
      [{ maxLength: 8, eosId: 26 }, [2, 3, 4, 5, 6, 7, 8, 26], [2, 3, 4, 5, 6, 13, 26, 0]],
      [{ maxLength: 9, eosId: 26 }, [1, 2, 3, 4, 5, 6, 7, 8, 26], [1, 2, 3, 4, 5, 6, 13, 26, 0]],
      // The longer completion counts, whichever it is; where the token is there already, no room is needed for another.
      [{ maxLength: 8, eosId: 8 }, [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 13, 8]],
    ]
    for (const [options, chosen, rejected] of cases) {
      const turned = { ...short, chosen: short.rejected, rejected: short.chosen }
      const made = await all(batches([short, turned], { onWarning: () => {}, batchSize: 1, ...options }))
      expect(made.map(({ inputIds }) => Array.from(inputIds))).toEqual([
        [...chosen, ...rejected],
        [...rejected, ...chosen],
      ])
    }
  })

  describe('special tokens that are there already', () => {
    /** A character a token, but these, as with a model's own tokenizer. */
    const SPECIAL = ['<s>', '</s>', '<pad>']
    const withSpecial = (text: string) =>
      Array.from(text.matchAll(/<s>|<\/s>|<pad>|./gs), ([c]) =>
        SPECIAL.includes(c) ? 1000 + SPECIAL.indexOf(c) : c.charCodeAt(0),
      )
    const [BOS, EOS] = [1000, 1001]
    const show = ({ inputIds, sequenceLengths, shape: [, time] }: PreferenceBatch) =>
      Array.from(sequenceLengths, (length, s) =>
        Array.from(
          inputIds.subarray(s * time, s * time + length),
          (id) => SPECIAL[id - 1000] ?? String.fromCharCode(id),
        ).join(''),
      )
    const shown = async (record: PreferenceRecord, options: Partial<BatchOptions>) => {
      const warnings: string[] = []
      const onWarning = ({ message }: Error) => warnings.push(message)
      const [batch] = await all(batches([record, record], { tokenizer: withSpecial, onWarning, ...options }))
      const [a, b, c, d] = show(batch)
      expect([b, d]).toEqual([a, c])
      return { sequences: [a, c], warnings, batch }
    }

    test.each<[string, PreferenceRecord, string[], (string | RegExp)[]]>([
      ['none', { prompt: 'p', chosen: 'c', rejected: 'r' }, ['<s>pc</s>', '<s>pr</s>'], []],
      [
        'the end token',
        { prompt: 'p', chosen: 'c</s>', rejected: 'r</s>' },
        ['<s>pc</s>', '<s>pr</s>'],
        [/^records\[0\]\.chosen ends with options\.eosId, so none is added: leave eosId out/],
      ],
      [
        'the end token of one',
        { prompt: 'p', chosen: 'c', rejected: 'r</s>' },
        ['<s>pc</s>', '<s>pr</s>'],
        [/^records\[0\]\.rejected ends with/],
      ],
      [
        'the end token and the line feed of a chat template',
        { prompt: 'p', chosen: 'c</s>\n', rejected: 'r</s> \r\n' },
        ['<s>pc</s>\n', '<s>pr</s> \r\n'],
        [/^records\[0\]\.chosen ends with options\.eosId, so/],
      ],
      [
        'the end token inside, which does not end it',
        { prompt: 'p</s>', chosen: '</s>c\n', rejected: 'r</s>r' },
        ['<s>p</s></s>c\n</s>', '<s>p</s>r</s>r</s>'],
        [],
      ],
      [
        'the end token twice, before a line feed',
        { prompt: 'p', chosen: 'c</s></s>\n', rejected: 'r</s>' },
        ['<s>pc</s></s>\n', '<s>pr</s>'],
        [/^records\[0\]\.chosen ends with options\.eosId twice, so none/],
      ],
      [
        'the end token twice',
        { prompt: 'p', chosen: 'c</s></s>', rejected: 'r</s>' },
        ['<s>pc</s></s>', '<s>pr</s>'],
        [/^records\[0\]\.chosen ends with options\.eosId twice, so none/],
      ],
      [
        'the first token',
        { prompt: '<s>p', chosen: 'c', rejected: 'r' },
        ['<s>pc</s>', '<s>pr</s>'],
        [/^records\[0\]\.prompt begins with options\.bosId, so none is added: .*leave it to bosId/],
      ],
      [
        'the first token twice',
        { prompt: '<s><s>p', chosen: 'c', rejected: 'r' },
        ['<s><s>pc</s>', '<s><s>pr</s>'],
        [/^records\[0\]\.prompt begins with options\.bosId twice, so none/],
      ],
      [
        'the first token of a completion',
        { prompt: 'p', chosen: '<s>c', rejected: '<s>r' },
        ['<s>p<s>c</s>', '<s>p<s>r</s>'],
        [/^records\[0\]\.chosen begins with options\.bosId, which then stands amid the sequence: .*no special tokens/],
      ],
    ])('%s', async (_, record, sequences, messages) => {
      const result = await shown(record, { bosId: BOS, eosId: EOS })
      expect(result.sequences).toEqual(sequences)
      expect(result.warnings).toEqual(messages.map((message) => expect.stringMatching(message)))
    })

    test('a warning for each kind of token', async () => {
      const record = { prompt: '<s>p', chosen: '<s>c</s>', rejected: 'r<pad>' }
      const { warnings } = await shown(record, { bosId: BOS, eosId: EOS, ignoreIndex: 1002 })
      expect(warnings).toHaveLength(4)
    })

    test('they are nobody’s business without the option', async () => {
      const record = { prompt: '<s><s>p', chosen: 'c</s></s>', rejected: '<s>r</s>\n' }
      const { sequences, warnings } = await shown(record, {})
      expect(sequences).toEqual(['<s><s>pc</s></s>', '<s><s>p<s>r</s>\n'])
      expect(warnings).toEqual([])
    })

    test('white space that is the end token', async () => {
      const lineFeed = '\n'.charCodeAt(0)
      const { sequences } = await shown({ prompt: 'p', chosen: 'c\n', rejected: 'r' }, { eosId: lineFeed })
      expect(sequences).toEqual(['pc\n', 'pr\n'])
    })

    test('one token that begins and ends', async () => {
      const record = { prompt: 'p', chosen: 'c', rejected: '' }
      const { sequences, batch, warnings } = await shown(record, { bosId: EOS, eosId: EOS })
      expect(sequences).toEqual(['</s>pc</s>', '</s>p</s>'])
      expect(batch.empty).toEqual([2, 3])
      expect(warnings).toHaveLength(2)
      const ended = await shown({ ...record, rejected: '</s>' }, { bosId: EOS, eosId: EOS })
      expect(ended.sequences).toEqual(sequences)
      // Nothing besides the end token.
      expect(ended.batch.empty).toEqual([2, 3])
      expect(ended.warnings.filter((message) => message.includes('amid'))).toEqual([])
    })

    test('the first token is kept, whoever has put it there', async () => {
      for (const prompt of ['abcdef', '<s>abcdef']) {
        const record = { prompt, chosen: 'uvw', rejected: 'xyz' }
        expect((await shown(record, { bosId: BOS, maxLength: 6 })).sequences).toEqual(['<s>efuvw', '<s>efxyz'])
      }
    })

    test('a token of a completion that is also ignoreIndex', async () => {
      const record = { prompt: '<pad>p', chosen: 'c', rejected: 'r<pad>r' }
      const { warnings } = await shown(record, { ignoreIndex: 1002 })
      expect(warnings).toEqual([
        expect.stringMatching(/^records\[0\]\.rejected has the token 1002, .*options\.ignoreIndex/),
      ])
    })
  })

  describe('pairs that teach nothing', () => {
    const same = { prompt: 'abc', chosen: 'de', rejected: 'de' }
    const late = { prompt: 'abc', chosen: 'ghijklmno', rejected: 'ghijklmnz' }

    test('are warned of once, counted and kept', async () => {
      const path = join(folder, 'identical.jsonl')
      writeFileSync(path, json(abc, same, xyz, same, same))
      const warnings: Error[] = []
      const onWarning = (warning: Error) => warnings.push(warning)
      for (const layout of ['padded', 'packed'] as const) {
        warnings.length = 0
        const made = await all(batches(readPreferences(path), { onWarning, layout, batchSize: 3 }))
        expect(made.map(({ identical }) => identical)).toEqual([[1], [0, 1]])
        expect(made.map(({ records }) => records.length)).toEqual([3, 2])
        const message = expect.stringMatching(
          /identical\.jsonl:2: chosen and rejected have the same tokens: the pair teaches nothing; .*onIdentical: 'skip'/,
        )
        expect(warnings).toMatchObject([{ message, record: same }])
      }
    })

    test('for they were cut before they differ', async () => {
      const warnings: Error[] = []
      const options = { maxLength: 11, onWarning: (warning: Error) => warnings.push(warning) }
      const [batch] = await all(batches([late, abc], options))
      expect([batch.identical, batch.truncated]).toEqual([[0], [0, 2]])
      expect(warnings).toMatchObject([
        { message: expect.stringMatching(/same tokens once cut to maxLength 11: the pair/) },
      ])
      const vocab = 30
      const logits = { data: new Float32Array(batch.inputIds.length * vocab), shape: [...batch.shape, vocab] }
      const reference = { chosen: [0, 0], rejected: [0, 0] }
      const { losses } = fusedPreferenceLossSync(logits, batch.labels, { reference })
      expect(losses[0]).toBeCloseTo(Math.LN2, 12)
      // One token more, and they differ.
      expect((await all(batches([late], { maxLength: 12, maxPromptLength: 3 })))[0].identical).toEqual([])
    })

    test('are left out on request, each with a warning', async () => {
      const warnings: Error[] = []
      const options: Partial<BatchOptions> = { onIdentical: 'skip', onWarning: (warning) => warnings.push(warning) }
      const made = await all(batches([same, abc, same, xyz, abc], options))
      expect(made.map(({ records }) => records)).toEqual([[abc, xyz], [abc]])
      expect(made.map(({ identical }) => identical)).toEqual([[], []])
      expect(warnings.map(({ message }) => message)).toEqual(
        [0, 2].map((i) => expect.stringMatching(`^records\\[${i}\\]: .*teaches nothing; it is left out`)),
      )
      expect(await all(batches([same], options))).toEqual([])
    })

    test('are those whose completions are both empty, too, but no others', async () => {
      const options = { onWarning: () => {}, eosId: 60, batchSize: 5 }
      const records = [
        { prompt: 'a', chosen: '', rejected: '' },
        { prompt: 'a', chosen: 'b', rejected: 'bc' },
        { prompt: 'a', chosen: 'bc', rejected: 'b' },
        { prompt: 'a', chosen: 'bc', rejected: 'bd' },
        { prompt: 'a', chosen: 'cb', rejected: 'db' },
      ]
      expect((await all(batches(records, options)))[0].identical).toEqual([0])
    })
  })

  test('for any records and limits: what is left is a part of what came, and fits', async () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 10 })
    const records = fc.array(fc.record({ prompt: text, chosen: text, rejected: text }), { minLength: 1, maxLength: 4 })
    const limit = fc.option(fc.integer({ min: 3, max: 24 }), { nil: undefined })
    const flag = fc.boolean()
    await fc.assert(
      fc.asyncProperty(records, limit, limit, flag, flag, flag, async (records, maxLength, most, bos, eos, packed) => {
        const maxPromptLength = most === undefined || maxLength === undefined ? most : Math.min(most, maxLength - 1)
        const options: Partial<BatchOptions> = {
          ...{ maxLength, maxPromptLength, bosId: bos ? 50 : undefined, eosId: eos ? 60 : undefined, batchSize: 3 },
          ...{ layout: packed ? 'packed' : 'padded', onWarning: () => {} },
        }
        const made = await all(batches(records, options))
        expect(made.flatMap((batch) => batch.records)).toEqual(records)
        for (const batch of made) {
          const pairs = batch.records.length
          const sequences = Array.from(batch.sequenceLengths, (length, s) => {
            const start = batch.sequenceOffsets?.[s] ?? s * batch.shape[1]
            const [ids, labels] = [batch.inputIds, batch.labels].map((all) =>
              Array.from(all.subarray(start, start + length)),
            )
            const record = batch.records[s % pairs]
            const prompt = labels.filter((label) => label === N).length
            const completion = ids.slice(prompt)
            expect(labels.slice(prompt)).toEqual(completion)
            const whole = [...tokenizer(s < pairs ? record.chosen : record.rejected), ...(eos ? [60] : [])]
            expect(completion).toEqual(whole.slice(0, completion.length))
            const opening = bos ? ids.slice(1, prompt) : ids.slice(0, prompt)
            if (bos) expect(ids[0]).toBe(50)
            const from = record.prompt.length - opening.length
            expect(opening).toEqual(tokenizer(record.prompt.slice(from)))
            expect(length).toBeLessThanOrEqual(maxLength ?? length)
            expect(prompt).toBeLessThanOrEqual(maxPromptLength ?? prompt)
            // No token is cut if there is room for it.
            if (completion.length < whole.length) expect(length).toBe(maxLength)
            expect(batch.truncated.includes(s)).toBe(from > 0 || completion.length < whole.length)
            return ids.join()
          })
          const same = batch.records.flatMap((_, i) => (sequences[i] === sequences[pairs + i] ? [i] : []))
          expect(batch.identical).toEqual(same)
        }
      }),
    )
  })

  test('a batch may have 70 000 pairs', async () => {
    const many = Array.from({ length: 70_000 }, () => xyz)
    const [batch, ...rest] = await all(batches(many, { batchSize: 70_000 }))
    expect(rest).toEqual([])
    expect(batch.shape).toEqual([140_000, 3])
    expect(Array.from(batch.pairs.subarray(-2))).toEqual([69_999, 139_999])
    expect(Array.from(batch.labels.subarray(-3))).toEqual([N, 25, N])
  })

  test('empty completions are warned about, reported and kept', async () => {
    const path = join(folder, 'empty.jsonl')
    writeFileSync(path, json(abc, { ...xyz, rejected: '' }))
    const warnings: Error[] = []
    const options = { onWarning: (warning: Error) => warnings.push(warning) }
    for (const [extra, last] of [
      [{}, [24, 0, 0, 0, 0, 0, 0]],
      [{ eosId: 60 }, [24, 60, 0, 0, 0, 0, 0, 0]],
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
    // Every one, also of the chosen.
    warnings.length = 0
    const [batch] = await all(
      batches(
        [
          { ...abc, chosen: '' },
          { ...xyz, chosen: '' },
        ],
        options,
      ),
    )
    expect(batch.empty).toEqual([0, 1])
    expect(warnings.map(({ message }) => message)).toEqual(
      [0, 1].map((i) => expect.stringMatching(`^records\\[${i}\\]\\.chosen is an empty completion`)),
    )
  })

  test('what a tokenizer throws has its place', async () => {
    const cause = new TypeError('no such token')
    const failing = (text: string) => {
      if (text === 'r1') throw cause
      return tokenizer('a')
    }
    const { error } = await until(batches(read(json(record(0), record(1))), { tokenizer: failing }))
    const message = 'options.tokenizer throws at data:2.rejected: TypeError: no such token'
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG_VALUE', message, cause })
  })

  test('a sequence without any token still has its place', async () => {
    const nothing = { prompt: '', chosen: 'a', rejected: '' }
    const [batch] = await all(batches([nothing], { layout: 'packed', onWarning: () => {} }))
    expect(plain(batch)).toMatchObject({
      inputIds: [1, 0],
      labels: [1, N],
      sequenceOffsets: [0, 1, 2],
      sequenceLengths: [1, 0],
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
    ['no room beside bosId', [abc], { maxLength: 2, bosId: 1 }, 'ERR_OUT_OF_RANGE', /options\.maxLength/],
    ['no room for bosId', [abc], { maxPromptLength: 0, bosId: 1 }, 'ERR_OUT_OF_RANGE', /options\.maxPromptLength/],
    ['an end token by name', [abc], { eosId: '</s>' }, 'ERR_INVALID_ARG_TYPE', /options\.eosId must be an integer/],
    ['no end token', [abc], { eosId: null }, 'ERR_INVALID_ARG_TYPE', /options\.eosId .*got null/],
    ['an end token below 0', [abc], { eosId: -1 }, 'ERR_OUT_OF_RANGE', /options\.eosId/],
    ['half a first token', [abc], { bosId: 0.5 }, 'ERR_OUT_OF_RANGE', /options\.bosId/],
    ['an unknown way with identical pairs', [abc], { onIdentical: 'drop' }, 'ERR_INVALID_ARG_VALUE', /'keep', 'skip'/],
    [
      'messages',
      [{ ...abc, chosen: [{ role: 'user' }] }],
      {},
      'ERR_INVALID_ARG_TYPE',
      /chosen must be text \(readPref/,
    ],
    [
      'more tokens than can be counted',
      [abc],
      { padToMultipleOf: 2 ** 30 },
      'ERR_OUT_OF_RANGE',
      /options\.batchSize must be so small that a batch has at most 2147483647 tokens; got 1/,
    ],
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
    expect(result.layout).toEqual({ pairs, shift: true, ...(layout === 'packed' && { sequenceOffsets }) })
    results.push(result)
  }
  const [{ layout: _, ...padded }, { layout: __, ...packed }] = results
  expect(packed).toEqual(padded)
  // By hand: the rejected 'y' after 'x', then the end.
  const logProb = (from: number, to: number) => {
    const row = Array.from(table.subarray(from * vocab, (from + 1) * vocab))
    return row[to] - Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0))
  }
  expect(results[0].rejectedLogProbs[1]).toBeCloseTo(logProb(24, 25) + logProb(25, 29), 5)
})
