/**
 * The build for browsers in pages of headless Chromium: with and without isolation from other origins, under a strict
 * Content-Security-Policy, in a worker, and where the WebAssembly or the workers cannot be had. The tests of the core run
 * in Chromium by `npm run test:browser`.
 */
import { existsSync, readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { ALONE, THREADS } from '../lib/backends/wasm/modules.js'
import { fusedPreferenceLossSync } from '../lib/index.js'
import { CHROMIUM, LAUNCH } from '../scripts/chromium.mjs'
import { WASM } from './support.js'

const left = [...(CHROMIUM ? [] : ['Chromium']), ...(WASM.length > 0 ? [] : ['WebAssembly module'])]
if (left.length > 0) console.warn(`browser.test.ts: no ${left.join(', no ')} here; pages are not tested`)

const ISOLATED = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' }
const STRICT = "default-src 'self'; script-src 'self'"
const WASM_ALLOWED = { 'Content-Security-Policy': `${STRICT} 'wasm-unsafe-eval'` }
const WASM_FORBIDDEN = { 'Content-Security-Policy': STRICT }
const MODULE = `/prebuilds/wasm/${ALONE}`
const THREADS_MODULE = `/prebuilds/wasm/${THREADS}`
const WORKER = '/dist/browser/shared/worker.mjs'

const [ROWS, VOCAB] = [40, 5000]
/** A call that is worth workers. */
const call = (run: object = {}) => {
  const data = Float32Array.from({ length: 2 * ROWS * VOCAB }, (_, i) => ((i * 7919) % 4099) / 512)
  const labels = Int32Array.from({ length: 2 * ROWS }, (_, i) => (i * 31) % VOCAB)
  return [{ data, shape: [2, ROWS, VOCAB] }, labels, { lossType: 'cpo', gradient: true, ...run }] as const
}

/** One number of all bits of a result: the same here and, as it is part of PROGRAM, in pages. */
function answer({ loss, gradLogits }: ReturnType<typeof fusedPreferenceLossSync>) {
  const { buffer, byteOffset, length } = gradLogits!.data as Float32Array
  let hash = 0
  for (const word of new Int32Array(buffer, byteOffset, length)) hash = (Math.imul(hash, 31) + word) | 0
  return { loss, hash }
}
/** What a call gives here. */
const wanted = (backend: 'wasm' | 'js') => answer(fusedPreferenceLossSync(...call({ backend })))

/** What pages and their workers have. */
const PROGRAM = `
  import * as fpl from '/dist/browser/index.mjs'
  const [ROWS, VOCAB] = [${ROWS}, ${VOCAB}]
  const call = ${call}
  const answer = ${answer}
  /** Many rows at one place in memory, for a call that takes a while. */
  const long = (run, time = 4000) => {
    const data = new Float32Array(VOCAB)
    return [{ data, shape: [2, time, VOCAB], strides: [0, 0, 1] }, new Int32Array(2 * time), { lossType: 'cpo', ...run }]
  }
  const { fusedPreferenceLoss, fusedPreferenceLossSync, loadWasm, getBackends, close } = fpl
  const told = ({ code, message }) => ({ code, message })
  const problem = (promise) => promise.then(() => 'none', told)
  const thrown = (run) => { try { run(); return 'none' } catch (error) { return told(error) } }
  /** How often the event loop turns until the promise is there. */
  const turnsDuring = async (promise) => {
    let turns = 0
    let over = false
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = () => { turns++; if (!over) port2.postMessage(0) }
    port2.postMessage(0)
    await promise
    over = true
    return turns
  }
`
const TYPES: Record<string, string> = { html: 'text/html', mjs: 'text/javascript', wasm: 'application/wasm' }
interface Answer {
  status?: number
  body?: string | Uint8Array
}
interface Circumstances {
  headers?: Record<string, string>
  /** Answers in the place of files. */
  instead?: Record<string, Answer>
}

describe.skipIf(left.length > 0 && !process.env.CI)('in Chromium', () => {
  let browser: Browser
  let server: Server
  let page: Page
  let headers: Record<string, string> = {}
  let answers: Record<string, Answer> = {}
  let requests: string[] = []
  const fileOf = (path: string) => fileURLToPath(new URL(`..${path}`, import.meta.url))

  beforeAll(async () => {
    server = createServer(({ url = '' }, response) => {
      requests.push(url)
      const { status = 200, body } =
        answers[url] ?? (existsSync(fileOf(url)) ? { body: readFileSync(fileOf(url)) } : { status: 404 })
      const type = TYPES[url.slice(url.lastIndexOf('.') + 1)] ?? 'text/html'
      response.writeHead(status, { 'Content-Type': type, ...headers }).end(body)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    browser = await chromium.launch(LAUNCH)
  })
  afterEach(() => page.close())
  afterAll(async () => {
    await browser.close()
    server.closeAllConnections()
    server.close()
  })

  /** What a script returns in a new page, and what the page has said meanwhile. */
  async function run(script: string, circumstances: Circumstances = {}) {
    headers = circumstances.headers ?? {}
    requests = []
    answers = {
      '/': { body: '<!doctype html><script type="module" src="/script.mjs"></script>' },
      '/script.mjs': { body: `${PROGRAM}\nglobalThis.result = (async () => {${script}})()` },
      '/favicon.ico': { status: 204 },
      ...circumstances.instead,
    }
    page = await browser.newPage()
    const said: string[] = []
    page.on('console', (message) => said.push(`${message.type()}: ${message.text()}`))
    page.on('pageerror', (error) => said.push(String(error)))
    await page.goto(`http://localhost:${(server.address() as AddressInfo).port}/`)
    return { result: await page.evaluate<unknown>('result'), said }
  }

  /** The same in a worker of a page. */
  const runInWorker = (script: string, circumstances: Circumstances = {}) =>
    run(
      `return new Promise((resolve, reject) => {
        const worker = new Worker('/worker.mjs', { type: 'module' })
        worker.onmessage = ({ data }) => resolve(data)
        worker.onerror = ({ message }) => reject(new Error(message))
      })`,
      {
        ...circumstances,
        instead: {
          ...circumstances.instead,
          '/worker.mjs': { body: `${PROGRAM}\npostMessage(await (async () => {${script}})())` },
        },
      },
    )

  describe('a page that is isolated from other origins', () => {
    const isolated = { headers: ISOLATED }

    test('shares memory with workers, whose bits are those of Node.js, until close ends them', async () => {
      const { result, said } = await run(
        `const { path, ...info } = await loadWasm()
         globalThis.answers = { info }
         for (const threads of [1, 2, 3]) {
           answers[threads] = answer(await fusedPreferenceLoss(...call({ threads })))
           answers['Sync ' + threads] = answer(fusedPreferenceLossSync(...call({ threads })))
         }
         return answers`,
        isolated,
      )
      const { info, ...bits } = result as Record<string, unknown>
      expect(info).toEqual({ available: true, simd: true, threads: expect.any(Number) })
      expect(bits).toEqual(
        Object.fromEntries(['1', 'Sync 1', '2', 'Sync 2', '3', 'Sync 3'].map((name) => [name, wanted('wasm')])),
      )
      // One that runs the jobs, and two helpers.
      await expect.poll(() => page.workers().length, { timeout: 10_000 }).toBe(3)
      await page.evaluate(`import('/dist/browser/index.mjs').then(({ close }) => close())`)
      await expect.poll(() => page.workers().length, { timeout: 10_000 }).toBe(0)
      expect(requests).toEqual(expect.arrayContaining([MODULE, THREADS_MODULE, WORKER]))
      expect(said).toEqual([])
    })

    test('never waits on its main thread, which turns while workers compute', async () => {
      const { result, said } = await run(
        `await loadWasm()
         const running = fusedPreferenceLoss(...call({ threads: 2 }))
         // It may not wait: the engine would throw.
         const meanwhile = []
         for (let i = 0; i < 3; i++) {
           await new Promise((resolve) => setTimeout(resolve, 1))
           meanwhile.push(answer(fusedPreferenceLossSync(...call({ threads: 3 }))))
         }
         meanwhile.push(answer(await running))
         const turns = await turnsDuring(fusedPreferenceLoss(...long({ threads: 2 }, 20000)))
         return { meanwhile, turns }`,
        isolated,
      )
      expect(result).toEqual({ meanwhile: Array(4).fill(wanted('wasm')), turns: expect.any(Number) })
      expect((result as { turns: number }).turns).toBeGreaterThan(5)
      expect(said).toEqual([])
    })

    test('computes on its own thread where workers cannot start, with one warning', async () => {
      const { result, said } = await run(
        `const answers = []
         for (let i = 0; i < 3; i++) answers.push(answer(await fusedPreferenceLoss(...call({ threads: 2 }))))
         return [...answers, answer(fusedPreferenceLossSync(...call({ threads: 2 })))]`,
        { ...isolated, instead: { [WORKER]: { status: 404 } } },
      )
      expect(result).toEqual(Array(4).fill(wanted('wasm')))
      expect(said.filter((line) => line.startsWith('warning: '))).toEqual([
        expect.stringMatching(/^warning: .*runs its WebAssembly on one thread, as a worker could not be used: \S/),
      ])
    })

    test('does so without the module for threads, too', async () => {
      const { result, said } = await run(
        `return [answer(await fusedPreferenceLoss(...call())), answer(await fusedPreferenceLoss(...call({ threads: 2 })))]`,
        { ...isolated, instead: { [THREADS_MODULE]: { status: 404 } } },
      )
      expect(result).toEqual(Array(2).fill(wanted('wasm')))
      expect(said.filter((line) => line.startsWith('warning: '))).toEqual([
        expect.stringMatching(/on one thread.*threads\.wasm: HTTP status 404/),
      ])
    })
  })

  describe('a page that is not', () => {
    test('computes on one thread, with the same bits, and turns between chunks, without a warning', async () => {
      const { result, said } = await run(
        `const first = answer(await fusedPreferenceLoss(...call({ threads: 3 })))
         const { threads } = getBackends().wasm
         const sync = answer(fusedPreferenceLossSync(...call()))
         // Timers wait for 4 ms, and in hidden pages for a second.
         globalThis.setTimeout = () => { throw new Error('a timer') }
         const turns = await turnsDuring(fusedPreferenceLoss(...long({}, 20000)))
         return { first, sync, threads, turns }`,
      )
      const { turns, ...rest } = result as { turns: number }
      expect(rest).toEqual({ first: wanted('wasm'), sync: wanted('wasm'), threads: 1 })
      expect(turns).toBeGreaterThan(10)
      expect(page.workers()).toEqual([])
      expect(requests).not.toContain(THREADS_MODULE)
      expect(said).toEqual([])
    })
  })

  test.each([
    ['isolated', { ...ISOLATED, ...WASM_ALLOWED }],
    ['not isolated', WASM_ALLOWED],
  ])('a strict Content-Security-Policy that allows WebAssembly is kept, %s', async (_, headers) => {
    const { result, said } = await run('return answer(await fusedPreferenceLoss(...call({ threads: 2 })))', { headers })
    expect(result).toEqual(wanted('wasm'))
    expect(said).toEqual([])
  })

  describe('in a worker of a page, which may wait', () => {
    test('Sync calls have helpers, and the bits are the same', async () => {
      const { result, said } = await runInWorker(
        `let workers = 0
         const { Worker } = globalThis
         globalThis.Worker = class extends Worker {
           constructor(...given) { super(...given); workers++ }
         }
         await loadWasm()
         const answers = []
         for (const threads of [1, 2, 3]) {
           answers.push(answer(fusedPreferenceLossSync(...call({ threads }))))
           answers.push(answer(await fusedPreferenceLoss(...call({ threads }))))
         }
         await close()
         return { answers, workers }`,
        { headers: ISOLATED },
      )
      expect(result).toEqual({ answers: Array(6).fill(wanted('wasm')), workers: 3 })
      expect(said).toEqual([])
    })
  })

  describe('a WebAssembly that does not load', () => {
    const altered = () => {
      const bytes = Buffer.from(readFileSync(fileOf(MODULE)))
      bytes.write('tokens.tarjets', bytes.indexOf('tokens.targets'))
      return bytes
    }
    test.each<[string, () => Circumstances, RegExp]>([
      ['forbidden by the policy of the page', () => ({ headers: WASM_FORBIDDEN }), /Content Security Policy/],
      ['a module that is not there', () => ({ instead: { [MODULE]: { status: 404 } } }), /\.wasm: HTTP status 404/],
      ['other bytes', () => ({ instead: { [MODULE]: { body: 'Call me Ishmael.' } } }), /\.wasm: .*magic/],
      [
        'a module of another version',
        () => ({ instead: { [MODULE]: { body: altered() } } }),
        /another version of this package/,
      ],
    ])('%s: promises fall to js with one warning, and what needs it says why', async (_, circumstances, reason) => {
      const { result, said } = await run(
        `const before = thrown(() => fusedPreferenceLossSync(...call()))
         const answers = []
         for (let i = 0; i < 2; i++) answers.push(answer(await fusedPreferenceLoss(...call())))
         answers.push(answer(fusedPreferenceLossSync(...call())))
         return {
           before,
           answers,
           reason: getBackends().wasm.reason,
           loading: await problem(loadWasm()),
           wasm: await problem(fusedPreferenceLoss(...call({ backend: 'wasm' }))),
           sync: thrown(() => fusedPreferenceLossSync(...call({ backend: 'wasm' }))),
         }`,
        circumstances(),
      )
      const unavailable = { code: 'ERR_BACKEND_UNAVAILABLE', message: expect.stringMatching(reason) }
      expect(result).toEqual({
        before: { code: 'ERR_BACKEND_UNAVAILABLE', message: expect.stringContaining('`await loadWasm()` before it') },
        answers: Array(3).fill(wanted('js')),
        reason: expect.stringMatching(reason),
        loading: unavailable,
        wasm: unavailable,
        sync: unavailable,
      })
      const warnings = said.filter((line) => line.startsWith('warning: '))
      expect(warnings).toEqual([expect.stringMatching(/in plain JavaScript, hundreds of times slower/)])
      expect(warnings[0]).toMatch(reason)
    })
  })

  test.each([
    ['isolated', ISOLATED],
    ['not isolated', {}],
  ])('a signal that is aborted in mid-call: nothing is written, %s', async (_, headers) => {
    const { result } = await run(
      `await loadWasm()
       const [logits, labels, options] = long({ threads: 1 })
       const gradient = new Float32Array(2 * 4000 * VOCAB).fill(7)
       const controller = new AbortController()
       const running = fusedPreferenceLoss(logits, labels, { ...options, gradient, signal: controller.signal })
       setTimeout(() => controller.abort(new Error('enough')), 5)
       const { message } = await problem(running)
       const after = answer(await fusedPreferenceLoss(...call()))
       return { message, untouched: gradient.every((value) => value === 7), after }`,
      { headers },
    )
    expect(result).toEqual({ message: 'enough', untouched: true, after: wanted('wasm') })
  })

  test('data and metrics are read and made without any WebAssembly', async () => {
    const lines = [0, 1].map((i) => `{"prompt":"p${i}","chosen":"é","rejected":"r"}\n`).join('')
    const { result, said } = await run(
      `const { readPreferences } = await import('/dist/browser/data/index.mjs')
       const { metricsLine } = await import('/dist/browser/metrics/index.mjs')
       const prompts = []
       for await (const { prompt } of readPreferences('/pairs.jsonl')) prompts.push(prompt)
       return { prompts, line: metricsLine({ step: 1, loss: NaN }) }`,
      { instead: { '/pairs.jsonl': { body: lines } } },
    )
    expect(result).toEqual({ prompts: ['p0', 'p1'], line: '{"step":1,"loss":"NaN"}\n' })
    expect(requests.filter((url) => url.endsWith('.wasm'))).toEqual([])
    expect(said).toEqual([])
  })
})
