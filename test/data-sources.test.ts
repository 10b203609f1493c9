/**
 * What records are read from: blobs, responses, web streams and servers, each read no further than asked, and a clear
 * error for each that cannot be read.
 */
import { once } from 'node:events'
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { isDeepStrictEqual } from 'node:util'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { sameJson } from '../lib/check/json.js'
import { emitWarning } from '../lib/check/warning.js'
import { type RecordSource, readPreferences, readUnpairedPreferences } from '../lib/data/index.js'
import * as inBrowser from '../lib/data/location.browser.js'
import './fixed-seed.js'

const record = (i: number) => ({ prompt: `p${i}`, chosen: `c${i}`, rejected: `é漢😀${i}` })
const RECORDS = [0, 1, 2].map(record)
const TEXT = RECORDS.map((each) => `${JSON.stringify(each)}\n`).join('')
const BYTES = new TextEncoder().encode(TEXT)

async function all(source: RecordSource) {
  const records: unknown[] = []
  for await (const each of readPreferences(source)) records.push(each)
  return records
}

/** The error of a source, after no record. */
async function errorOf(source: unknown) {
  const first = readPreferences(source as RecordSource).next()
  return (await first.then(
    () => expect.unreachable('a record'),
    (reason) => reason,
  )) as Error & { code?: string }
}

/** A web stream of these chunks, and whether it was cancelled. */
function streamOf<T>(chunks: readonly T[]) {
  const state = { cancelled: false, pulled: 0 }
  const stream = new ReadableStream<T>(
    {
      pull(controller) {
        if (state.pulled === chunks.length) controller.close()
        else controller.enqueue(chunks[state.pulled++])
      },
      cancel() {
        state.cancelled = true
      },
    },
    { highWaterMark: 0 },
  )
  return { stream, state }
}

/** Pieces of seven bytes, which cut characters and lines. */
const PIECES = Array.from({ length: Math.ceil(BYTES.length / 7) }, (_, i) => BYTES.subarray(7 * i, 7 * i + 7))

describe('reads', () => {
  test('a Blob and a File', async () => {
    expect(await all(new Blob([BYTES]))).toEqual(RECORDS)
    expect(await all(new File([TEXT], 'pairs.jsonl'))).toEqual(RECORDS)
  })

  test('a Response', async () => {
    expect(await all(new Response(BYTES))).toEqual(RECORDS)
    expect(await all(new Response(streamOf(PIECES).stream))).toEqual(RECORDS)
  })

  test('a web stream of bytes, of text, and one that unzips', async () => {
    expect(await all(streamOf(PIECES).stream)).toEqual(RECORDS)
    expect(await all(streamOf([...TEXT].map(String)).stream)).toEqual(RECORDS)
    const zipped = new Blob([gzipSync(BYTES)])
    expect(await all(zipped.stream().pipeThrough(new DecompressionStream('gzip')))).toEqual(RECORDS)
    expect((await errorOf(zipped)).message).toMatch(/^data is compressed with gzip.*DecompressionStream/)
  })

  test('a web stream that is no async iterable, as in Safari', async () => {
    const { stream } = streamOf(PIECES)
    Object.defineProperty(stream, Symbol.asyncIterator, { value: undefined })
    expect(await all(stream)).toEqual(RECORDS)
  })

  test('an unpaired source in the same way', async () => {
    const line = { prompt: 'p', completion: 'c', label: true }
    const records: unknown[] = []
    for await (const each of readUnpairedPreferences(new Blob([JSON.stringify(line)]))) records.push(each)
    expect(records).toEqual([line])
  })
})

describe('a web stream', () => {
  test('is read no further than asked; then it is cancelled and free', async () => {
    const { stream, state } = streamOf([...TEXT.matchAll(/.*\n/g)].map(([line]) => line))
    for await (const each of readPreferences(stream)) {
      expect(each).toEqual(RECORDS[0])
      expect(stream.locked).toBe(true)
      break
    }
    expect([state, stream.locked]).toEqual([{ cancelled: true, pulled: 1 }, false])
  })

  test('is cancelled after a line that is no record, too', async () => {
    const { stream, state } = streamOf(['{}\n', TEXT])
    expect((await errorOf(stream)).message).toMatch(/^data:1\.chosen must be text/)
    expect([state, stream.locked]).toEqual([{ cancelled: true, pulled: 1 }, false])
  })

  test('is free at its end, and not cancelled', async () => {
    const { stream, state } = streamOf(PIECES)
    await all(stream)
    expect([state.cancelled, stream.locked]).toEqual([false, false])
  })

  test('hands on its error after the records before it', async () => {
    const broken = new Error('the line is dead')
    let pulled = 0
    const stream = new ReadableStream<string>({
      pull(controller) {
        if (pulled++ === 0) controller.enqueue(TEXT)
        else controller.error(broken)
      },
    })
    const given: unknown[] = []
    const reading = async () => {
      for await (const each of readPreferences(stream)) given.push(each)
    }
    await expect(reading()).rejects.toBe(broken)
    expect([given, stream.locked]).toEqual([RECORDS, false])
  })
})

const named = (url: string, body: string | null, init?: ResponseInit) =>
  Object.defineProperty(new Response(body, init), 'url', { value: url })

describe('errors name', () => {
  test.each<[string, RecordSource, string]>([
    ['a File by its name', new File(['{}'], 'mine.jsonl'), 'mine.jsonl:1.chosen'],
    ['a Blob as data', new Blob(['{}']), 'data:1.chosen'],
    ['a Response by its URL', named('https://host.test/a.jsonl', '{}'), 'https://host.test/a.jsonl:1.chosen'],
    ['a Response without a URL as data', new Response('{}'), 'data:1.chosen'],
  ])('%s', async (_, source, place) => {
    expect((await errorOf(source)).message).toMatch(`${place} must be text`)
  })

  test('all of them as options.name says', async () => {
    for (const source of [new File(['{}'], 'a'), new Blob(['{}']), named('https://host.test/', '{}')]) {
      await expect(readPreferences(source, { name: 'train' }).next()).rejects.toThrow(/^train:1\.chosen/)
    }
  })
})

describe('refuses', () => {
  test.each<[string, unknown, string]>([
    [
      'a status that is not ok',
      named('https://host.test/a', 'Not Found', { status: 404, statusText: 'Not Found' }),
      'https://host.test/a has the status 404 Not Found',
    ],
    ['a status without text', new Response('{}', { status: 500 }), 'data has the status 500'],
    [
      'an opaque response',
      Object.defineProperty(Response.error(), 'type', { value: 'opaque' }),
      "data is an opaque response: fetch it without mode 'no-cors'",
    ],
    ['a response without a body', new Response(null, { status: 204 }), 'data has no body'],
  ])('%s', async (_, source, message) => {
    expect(await errorOf(source)).toMatchObject({ name: 'TypeError', code: 'ERR_INVALID_ARG_VALUE', message })
  })

  test('what has been read already, or is being read', async () => {
    const code = 'ERR_INVALID_ARG_VALUE'
    const response = named('https://host.test/a', TEXT)
    await response.text()
    const read = 'https://host.test/a has been read already: the body of a response can be read once'
    expect(await errorOf(response)).toMatchObject({ code, message: read })
    const { stream, state } = streamOf(PIECES)
    const reader = stream.getReader()
    expect(await errorOf(stream)).toMatchObject({ code, message: 'data is a stream that is read or piped already' })
    expect(state.cancelled).toBe(false)
    reader.releaseLock()
    expect(await all(stream)).toEqual(RECORDS)
  })

  test.each<[string, unknown, string]>([
    ['nothing', undefined, 'undefined'],
    ['null', null, 'null'],
    ['a number', 5, '5'],
    ['bytes', BYTES, `Uint8Array(${BYTES.length})`],
    ['a list of records', RECORDS, 'an array of length 3'],
    ['an object', { path: 'a' }, 'an instance of Object'],
  ])('%s', async (_, source, got) => {
    expect(await errorOf(source)).toMatchObject({
      code: 'ERR_INVALID_ARG_TYPE',
      message: `source must be a path, a URL, a Blob, a Response or a stream of bytes or text; got ${got}`,
    })
  })

  test('a promise, and a chunk of objects', async () => {
    expect(await errorOf(Promise.resolve(new Response(TEXT)))).toMatchObject({
      code: 'ERR_INVALID_ARG_TYPE',
      message: expect.stringMatching(/bytes or text, awaited; got an instance of Promise$/),
    })
    expect((await errorOf(streamOf(RECORDS).stream)).message).toMatch(/^data: every chunk must be bytes or text/)
  })

  test('the page of a server in place of a file', async () => {
    for (const page of ['<!DOCTYPE html><html>', '<!doctype html>\n', '<html lang="en">']) {
      expect(await errorOf(new Response(page))).toMatchObject({
        code: 'ERR_INVALID_ARG_VALUE',
        message: 'data is an HTML page, as a server may send for a file that it does not have',
      })
    }
  })
})

describe('a server', () => {
  let server: Server
  let base: string
  const answers = new Map<string, (response: ServerResponse) => void>()
  beforeAll(async () => {
    server = createServer((request, response) => answers.get(request.url!)!(response)).listen(0, '127.0.0.1')
    await once(server, 'listening')
    base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  })
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })
  answers.set('/pairs.jsonl', (response) => response.end(BYTES))
  answers.set('/wrong.jsonl', (response) => response.end('{}\n'))

  test('is asked for a URL, as an object or as text', async () => {
    expect(await all(new URL('/pairs.jsonl', base))).toEqual(RECORDS)
    expect(await all(`${base}/pairs.jsonl`)).toEqual(RECORDS)
    expect(await all(`${base}/pairs.jsonl`.replace('http', 'HTTP'))).toEqual(RECORDS)
    expect(await all(await fetch(`${base}/pairs.jsonl`))).toEqual(RECORDS)
    for (const source of [new URL('/wrong.jsonl', base), `${base}/wrong.jsonl`, await fetch(`${base}/wrong.jsonl`)]) {
      expect((await errorOf(source)).message).toMatch(`${base}/wrong.jsonl:1.chosen must be text`)
    }
  })

  test('is left alone when the reading stops', async () => {
    const closed = new Promise<void>((resolve) => {
      answers.set('/endless.jsonl', (response) => {
        const write = () => {
          if (!response.destroyed) response.write(TEXT, () => setImmediate(write))
        }
        response.on('close', resolve)
        write()
      })
    })
    for await (const each of readPreferences(`${base}/endless.jsonl`)) {
      expect(each).toEqual(RECORDS[0])
      break
    }
    await closed
  })

  test('that is not there is named, with the cause', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}/pairs.jsonl`
    other.close()
    await once(other, 'close')
    const error = await errorOf(url)
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG_VALUE', message: `${url} cannot be fetched (fetch failed)` })
    expect(error.cause).toBeInstanceOf(TypeError)
  })

  test('a URL of another kind is refused', async () => {
    expect((await errorOf(new URL('ftp://host.test/a'))).code).toBe('ERR_INVALID_URL_SCHEME')
  })
})

describe('fetch', () => {
  afterEach(() => vi.unstubAllGlobals())

  test('is told that nobody reads the page of an error', async () => {
    const { stream, state } = streamOf(PIECES)
    vi.stubGlobal('fetch', async () => new Response(stream, { status: 503, statusText: 'Service Unavailable' }))
    const { message } = await errorOf('https://host.test/a')
    expect([message, state.cancelled]).toEqual(['https://host.test/a has the status 503 Service Unavailable', true])
  })

  test('takes text in a browser relative to the page', async () => {
    const asked: unknown[] = []
    vi.stubGlobal('fetch', async (url: unknown) => {
      asked.push(url)
      return new Response(TEXT)
    })
    const url = new URL('https://host.test/a')
    expect([inBrowser.nameOf('pairs.jsonl'), inBrowser.nameOf(url)]).toEqual(['pairs.jsonl', 'https://host.test/a'])
    expect(await (inBrowser.open('pairs.jsonl', 'a') as Promise<Response>).then((response) => response.text())).toBe(
      TEXT,
    )
    await inBrowser.open(url, 'a')
    expect(asked).toEqual(['pairs.jsonl', url])
  })
})

test('where there is no process, warnings go to the console', () => {
  const warn = vi.spyOn(console, 'warn').mockImplementation(() => {})
  for (const host of [undefined, {}]) {
    const { process: own } = globalThis
    globalThis.process = host as never
    try {
      emitWarning('look at this', 'FUSED_PREFERENCE_LOSS_DATA')
    } finally {
      globalThis.process = own
    }
  }
  expect(warn.mock.calls).toEqual([['look at this'], ['look at this']])
  warn.mockRestore()
})

test('values of JSON are the same when isDeepStrictEqual says so', () => {
  const json = fc.jsonValue({ maxDepth: 3 })
  fc.assert(
    fc.property(json, json, (a, b) => {
      expect(sameJson(JSON.parse(JSON.stringify(a)), a)).toBe(isDeepStrictEqual(JSON.parse(JSON.stringify(a)), a))
      expect(sameJson(a, b)).toBe(isDeepStrictEqual(a, b))
    }),
  )
  const pairs: [unknown, unknown][] = [
    [
      { a: 1, b: [2] },
      { b: [2], a: 1 },
    ],
    [{ a: 1 }, { a: 1, b: undefined }],
    [
      { a: 1, b: 1 },
      { a: 1, c: 1 },
    ],
    [[1, 2], [1]],
    [[], {}],
    [{}, null],
    [0, -0],
    [{ toString: 1 }, {}],
    [{ a: 1 }, Object.assign(Object.create(null), { a: 1 })],
    [{}, new Map()],
    [[null], new Array(1)],
    [{ a: 1 }, { a: 1, [Symbol('b')]: 2 }],
  ]
  for (const [a, b] of pairs) expect([a, b, sameJson(a, b)]).toEqual([a, b, isDeepStrictEqual(a, b)])
})
