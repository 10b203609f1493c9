/**
 * Loading the WebAssembly: its sources, and where it has to be fetched, as in browsers, what calls do before it is there
 * and when it cannot be had.
 */
import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { findWasm } from '../lib/backends/wasm/index.js'
import { ALONE, sourceOf, type THREADS } from '../lib/backends/wasm/modules.js'
import { platform } from '../lib/backends/wasm/platform.js'
import type { Platform } from '../lib/backends/wasm/platform-type.js'
import { WebAssembly } from '../lib/backends/wasm/webassembly.js'
import { getBackends, loadWasm } from '../lib/index.js'
import { WASM } from './support.js'

const unavailable = (message: string) =>
  expect.objectContaining({ code: 'ERR_BACKEND_UNAVAILABLE', message: expect.stringContaining(message) })

test('only a source is a source', async () => {
  for (const module of [42, true, null]) {
    const wanted = { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' }
    await expect(loadWasm({ module } as object)).rejects.toMatchObject(wanted)
    await expect(loadWasm({ threadsModule: module } as object)).rejects.toMatchObject(wanted)
  }
  await expect(loadWasm({ modul: '' } as object)).rejects.toThrow(/modul/)
})

describe.runIf(WASM.length > 0)('the module', () => {
  const path = () => (findWasm() as { info: { path: string } }).info.path
  const bytes = () => readFileSync(path())

  test('is there in Node.js without being asked for', async () => {
    expect(await loadWasm()).toEqual(getBackends().wasm)
    expect(await loadWasm({ module: 'nowhere' })).toEqual(getBackends().wasm)
  })

  test.each<[string, () => unknown]>([
    ['bytes', bytes],
    ['an ArrayBuffer', () => bytes().buffer.slice(bytes().byteOffset, bytes().byteOffset + bytes().length)],
    ['a Response', () => new Response(bytes(), { headers: { 'content-type': 'application/wasm' } })],
    ['a Response of no type', () => new Response(bytes())],
    ['the promise of a Response', async () => new Response(bytes())],
    ['a Blob', () => new Blob([bytes()])],
    ['a URL', () => new URL(`data:application/wasm;base64,${bytes().toString('base64')}`)],
    ['a module', () => new WebAssembly.Module(bytes())],
    ['the promise of a module', async () => new WebAssembly.Module(bytes())],
  ])('from %s', async (_, source) => {
    const { module } = await sourceOf(source())
    expect(module).toBeInstanceOf(WebAssembly.Module)
  })

  test.each([
    ['a path', () => path()],
    ['a file URL', () => pathToFileURL(path())],
    ['the text of one', () => pathToFileURL(path()).href],
    ['nothing: the package', () => undefined],
  ])('in Node.js from %s', async (_, source) => {
    const found = await platform.fetchModule(ALONE, source())
    expect(found.path).toBe(path())
    expect(found.module).toBeInstanceOf(WebAssembly.Module)
  })

  test.each(['package.json', 'nowhere.wasm'])('nor in Node.js from %s, whose name the error has', async (path) => {
    await expect(platform.fetchModule(ALONE, path)).rejects.toThrow(new RegExp(`^${path}: `))
  })

  test.each<[string, unknown, RegExp]>([
    ['other bytes', new Uint8Array(8), /magic/],
    ['a page that is not there', new Response('', { status: 404 }), /HTTP status 404/],
    ['a page', new Response('<!doctype html>', { headers: { 'Content-Type': 'text/html' } }), /a page of HTML/],
    ['a page in its place', new Response('<!doctype html>'), /magic/],
    ['a URL that cannot be fetched', 'http://localhost:1/x.wasm', /^http:\/\/localhost:1\/x\.wasm: /],
    ['anything else', { module: 1 }, /neither bytes, a Response, a URL nor a WebAssembly\.Module/],
  ])('not from %s', async (_, source, problem) => {
    await expect(sourceOf(source)).rejects.toThrow(problem)
  })
})

describe.runIf(WASM.length > 0)('where it has to be fetched', () => {
  afterEach(() => {
    vi.doUnmock('../lib/backends/wasm/platform.js')
    vi.doUnmock('../lib/backends/cpu/index.js')
    vi.restoreAllMocks()
    vi.resetModules()
  })

  /** The package as it is in a browser, with these modules to fetch. */
  async function packageWith(fetchModule: Platform['fetchModule']) {
    vi.resetModules()
    const surroundings: Platform = { ...platform, findModule: () => undefined, fetchModule, sharesMemory: false }
    vi.doMock('../lib/backends/wasm/platform.js', () => ({ platform: surroundings }))
    vi.doMock('../lib/backends/cpu/index.js', () => import('../lib/backends/cpu/index.browser.js'))
    Reflect.deleteProperty(globalThis, Symbol.for('fused-preference-loss.warnings'))
    return import('../lib/index.js')
  }

  const logits = { data: Float32Array.from({ length: 4 * 3 * 10 }, (_, i) => Math.sin(i)), shape: [4, 3, 10] }
  const labels = new Int32Array(12).fill(3)
  const options = { lossType: 'simpo', gradient: true } as const
  const fetchHere = vi.fn(async (name: typeof ALONE | typeof THREADS) => platform.findModule(name)!)

  test('a promise fetches it, once; Sync calls come after that, and no warning', async () => {
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    fetchHere.mockClear()
    const fpl = await packageWith(fetchHere)
    expect(fpl.getBackends().wasm).toEqual({ available: false, reason: expect.stringContaining('await loadWasm()') })
    expect(() => fpl.fusedPreferenceLossSync(logits, labels, options)).toThrow(
      unavailable('`await loadWasm()` before it'),
    )
    expect(fetchHere).not.toHaveBeenCalled()
    const calls = [1, 2].map(() => fpl.fusedPreferenceLoss(logits, labels, options))
    const [one, other] = await Promise.all(calls)
    expect(fetchHere).toHaveBeenCalledTimes(1)
    const wanted = fpl.fusedPreferenceLossSync(logits, labels, { ...options, backend: 'js' })
    expect(one.loss).toBeCloseTo(wanted.loss, 6)
    expect(other).toEqual(one)
    expect(fpl.fusedPreferenceLossSync(logits, labels, options)).toEqual(one)
    expect(fpl.getBackends().wasm).toMatchObject({ available: true, simd: true })
    expect(warned).not.toHaveBeenCalled()
  })

  test('loadWasm fetches it; what was a promise then has a backwardSync', async () => {
    const fpl = await packageWith(fetchHere)
    const arriving = fpl.sequenceLogProbs(logits, labels)
    expect(await fpl.loadWasm()).toMatchObject({ available: true })
    const { gradLogits } = (await arriving).backwardSync([1, 1, 1, 1])
    const { gradLogits: wanted } = fpl.sequenceLogProbsSync(logits, labels).backwardSync([1, 1, 1, 1])
    expect(gradLogits).toEqual(wanted)
  })

  test('a call that is aborted while it is fetched has written nothing', async () => {
    let arrive = () => {}
    const gate = new Promise<void>((resolve) => {
      arrive = resolve
    })
    const fpl = await packageWith(async (name) => {
      await gate
      return platform.findModule(name)!
    })
    const gradient = new Float32Array(logits.data.length).fill(7)
    const controller = new AbortController()
    const running = fpl.fusedPreferenceLoss(logits, labels, { ...options, gradient, signal: controller.signal })
    controller.abort(new Error('enough'))
    arrive()
    await expect(running).rejects.toThrow('enough')
    expect(gradient.every((value) => value === 7)).toBe(true)
  })

  test('where it cannot be had, js serves, with one warning; and it may be tried again', async () => {
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    let isThere = false
    const fpl = await packageWith(async (name) => {
      if (!isThere) throw new Error('HTTP status 404')
      return platform.findModule(name)!
    })
    await expect(fpl.loadWasm()).rejects.toEqual(unavailable('the wasm backend is not available: HTTP status 404'))
    await expect(fpl.fusedPreferenceLoss(logits, labels, { ...options, backend: 'wasm' })).rejects.toEqual(
      unavailable("options.backend 'wasm' is not available: HTTP status 404"),
    )
    const wanted = fpl.fusedPreferenceLossSync(logits, labels, { ...options, backend: 'js' })
    expect(await fpl.fusedPreferenceLoss(logits, labels, options)).toEqual(wanted)
    expect(fpl.fusedPreferenceLossSync(logits, labels, options)).toEqual(wanted)
    expect(warned.mock.calls.map(([message]) => message)).toEqual([
      expect.stringMatching(/in plain JavaScript, hundreds of times slower: browsers .*\n.*HTTP status 404$/),
    ])
    isThere = true
    expect(await fpl.loadWasm()).toMatchObject({ available: true })
    const { loss } = fpl.fusedPreferenceLossSync(logits, labels, options)
    expect(loss).toBe(fpl.fusedPreferenceLossSync(logits, labels, { ...options, backend: 'wasm' }).loss)
  })
})
