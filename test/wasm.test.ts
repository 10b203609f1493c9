/**
 * The wasm backend: its bits are those of the cpu backend's baseline, whatever the memory, the threads and the form of the
 * call; its memory stays small; and what goes wrong is said.
 */
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { turn } from '../lib/backends/turn.js'
import type { WasmBackend } from '../lib/backends/wasm/backend.js'
import { Crew } from '../lib/backends/wasm/crew.js'
import { Engine, OutOfMemory } from '../lib/backends/wasm/engine.js'
import { findWasm } from '../lib/backends/wasm/index.js'
import { ALONE, checkEngine } from '../lib/backends/wasm/modules.js'
import { platform } from '../lib/backends/wasm/platform.js'
import { WorkerLost } from '../lib/backends/wasm/runner.js'
import { WebAssembly } from '../lib/backends/wasm/webassembly.js'
import { close, fusedPreferenceLoss, fusedPreferenceLossSync, getBackends, preferenceLossSync } from '../lib/index.js'
import type { RunOptions } from '../lib/types/index.js'
import { bytesOf, IS_BROWSER, runProgram } from './platform.js'
import {
  DIST,
  DTYPES,
  fillRow,
  firstDifference,
  LOSS_TYPES,
  NATIVE,
  random,
  type Spec,
  STYLES,
  WASM,
} from './support.js'
import { CALLS, LAYERS, numbersOf, resultSync } from './wasm-calls.js'

const loaded = findWasm()
const isBuilt = 'backend' in loaded
const backend = isBuilt ? loaded.backend : (undefined as unknown as WasmBackend)
const BASELINE = NATIVE.find(({ run }) => run.instructionSet === 'baseline')
const [wasm] = WASM.map(({ run }) => run)

function expectSame(result: unknown, wanted: unknown): void {
  const all = numbersOf(result)
  const others = numbersOf(wanted)
  expect(all.map(([path]) => path)).toEqual(others.map(([path]) => path))
  expect(all.length).toBeGreaterThan(2)
  for (const [i, [path, numbers]] of all.entries()) {
    expect({ path, difference: firstDifference(numbers, others[i][1]) }).toEqual({ path, difference: -1 })
  }
}

describe.runIf(isBuilt)('the wasm backend', () => {
  const { chunk, slice } = backend ?? {}
  afterEach(() => {
    Object.assign(backend, { chunk, slice })
  })
  afterAll(() => backend.close())

  test('is one of getBackends', () => {
    const { wasm, js } = getBackends()
    expect(wasm).toEqual({ available: true, simd: true, threads: expect.any(Number), path: expect.any(String) })
    expect(js).toEqual({ available: true })
  })

  describe.runIf(BASELINE !== undefined)('gives the bits of the baseline', () => {
    const baseline = { ...BASELINE?.run, threads: 1 }

    test.each(CALLS)('$title, any logits', (call) => {
      for (const dtype of DTYPES) {
        for (const style of STYLES) {
          for (const more of [{}, { packed: true, lengths: [1, 9, 2, 5] }] as Partial<Spec>[]) {
            const spec = { ...more, dtype, style, vocab: 1 + 997 * (1 + STYLES.indexOf(style)) }
            expectSame(resultSync(call, wasm, spec), resultSync(call, baseline, spec))
          }
        }
      }
    })

    test.each(LAYERS)('$title', (call) => {
      expectSame(resultSync(call, wasm), resultSync(call, baseline))
    })

    test.each(LOSS_TYPES)('%s', (lossType) => {
      const pairs = { chosen: [-3, -40, 0], rejected: [-5, -2, -9], referenceChosen: [-4, -4, -1] }
      const lengths = { chosenTokenCounts: [3, 9, 1], rejectedTokenCounts: [4, 2, 2], referenceRejected: [-4, -3, -9] }
      const call = (run: RunOptions) =>
        preferenceLossSync(
          { ...pairs, ...lengths },
          { lossType, ...(lossType.startsWith('rpo_') && { targetMargin: 0.2 }), ...run },
        )
      expectSame(call(wasm), call(baseline))
    })
  })

  test.each([...CALLS, ...LAYERS])('$title: the same bits from any chunks and threads', (call) => {
    backend.chunk = 1 << 24
    const wanted = resultSync(call, { ...wasm, threads: 1 })
    for (const bytes of [1, 20_004, 90_000, 1 << 24]) {
      backend.chunk = bytes
      for (const threads of [1, 2, 5]) expectSame(resultSync(call, { ...wasm, threads }), wanted)
    }
  })

  /** Many rows, each of them a chunk. */
  function manyRows(rows = 200) {
    Object.assign(backend, { chunk: 1, slice: 0 })
    const vocab = 1000
    const data = new Float32Array(rows * vocab)
    const next = random(5)
    for (let row = 0; row < rows; row++) fillRow(data, row * vocab, vocab, 'float32', 'model', next)
    const labels = Int32Array.from({ length: rows }, (_, i) => (i * 31) % vocab)
    return [{ data, shape: [2, rows / 2, vocab] }, labels, { lossType: 'cpo', ...wasm }] as const
  }

  test('a promise gives the same, and leaves the event loop free', async () => {
    const [logits, labels, options] = manyRows()
    const wanted = fusedPreferenceLossSync(logits, labels, { ...options, gradient: true })
    let turns = 0
    let runs = true
    const count = () => {
      turns++
      if (runs) turn().then(count)
    }
    count()
    expectSame(await fusedPreferenceLoss(logits, labels, { ...options, gradient: true }), wanted)
    runs = false
    expect(turns).toBeGreaterThan(20)
  })

  test('promises and Sync calls at the same time', async () => {
    const [logits, labels, options] = manyRows(40)
    const wanted = fusedPreferenceLossSync(logits, labels, { ...options, gradient: true })
    const running = Array.from({ length: 5 }, () => fusedPreferenceLoss(logits, labels, { ...options, gradient: true }))
    expectSame(fusedPreferenceLossSync(logits, labels, { ...options, gradient: true, threads: 2 }), wanted)
    for (const result of await Promise.all(running)) expectSame(result, wanted)
  })

  test('a call that is aborted in the middle has written nothing', async () => {
    const [logits, labels, options] = manyRows()
    const gradient = new Float32Array(logits.data.length).fill(7)
    const controller = new AbortController()
    const running = fusedPreferenceLoss(logits, labels, { ...options, gradient, signal: controller.signal })
    let turns = 0
    const later = () => {
      if (++turns < 8) turn().then(later)
      else controller.abort(new Error('enough'))
    }
    later()
    await expect(running).rejects.toThrow('enough')
    expect(gradient.every((value) => value === 7)).toBe(true)
    expect(fusedPreferenceLossSync(logits, labels, { ...options, gradient }).loss).toBeGreaterThan(0)
  })

  test('the memory stays as it is over many calls, and is freed by close', async () => {
    await backend.close()
    const call = async (i: number) => {
      resultSync(CALLS[i % CALLS.length], { ...wasm, threads: 1 + (i % 2) }, { vocab: 200 + (i % 7) })
      if (i % 10 === 0) await fusedPreferenceLoss(...manyRows(8))
    }
    backend.chunk = chunk
    for (let i = 0; i < 60; i++) await call(i)
    const { byteLength } = backend
    expect(byteLength).toBeGreaterThan(0)
    for (let i = 0; i < 1500; i++) await call(i)
    expect(backend.byteLength).toBe(byteLength)
    await close()
    expect(backend.byteLength).toBe(0)
    expectSame(resultSync(CALLS[1], wasm), resultSync(CALLS[1], { ...wasm, threads: 1 }))
  })

  test('logits of many times the memory of the module', async () => {
    await backend.close()
    backend.chunk = chunk
    const [rows, vocab] = [512, 32_768]
    // Every row begins one logit after the one before it: a small array of 67 MB of logits.
    const data = Float32Array.from({ length: vocab + rows }, (_, i) => ((i * 7919) % 4099) / 512)
    const logits = { data, shape: [2, rows / 2, vocab], strides: [rows / 2, 1, 1] }
    const labels = new Int32Array(rows)
    const run = { lossType: 'cpo', threads: 1 } as const
    const { loss } = fusedPreferenceLossSync(logits, labels, { ...run, ...wasm })
    expect(backend.byteLength).toBeLessThan(8e6)
    const { loss: wanted } = fusedPreferenceLossSync(logits, labels, { ...run, backend: BASELINE ? 'cpu' : 'js' })
    expect(loss).toBeCloseTo(wanted, 6)
  })

  describe('logits in a WebAssembly memory of the caller', () => {
    function inMemory() {
      const [logits, labels, options] = manyRows()
      const memory = new WebAssembly.Memory({ initial: 20, maximum: 40, shared: false })
      const data = new Float32Array(memory.buffer, 64, logits.data.length)
      data.set(logits.data)
      return { memory, logits: { ...logits, data }, plain: logits, labels, options }
    }

    test('are taken from there', () => {
      const { logits, plain, labels, options } = inMemory()
      expectSame(fusedPreferenceLossSync(logits, labels, options), fusedPreferenceLossSync(plain, labels, options))
    })

    test('a memory that grows meanwhile is an error, and not one of the backend', async () => {
      const { memory, logits, labels, options } = inMemory()
      const running = fusedPreferenceLoss(logits, labels, options)
      turn()
        .then(turn)
        .then(() => memory.grow(1))
      await expect(running).rejects.toThrow(/logits\.data/)
      expectSame(resultSync(CALLS[1], wasm), resultSync(CALLS[1], { ...wasm, threads: 1 }))
    })
  })

  describe('what goes wrong', () => {
    afterEach(() => {
      vi.restoreAllMocks()
    })
    const outOfMemory = expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' })

    test('no memory: an error, nothing written, and the next call works', async () => {
      const [logits, labels, options] = manyRows(8)
      const gradient = new Float32Array(logits.data.length).fill(7)
      await backend.close()
      const allocate = vi.spyOn(Engine.prototype, 'allocate').mockImplementation(() => {
        throw new OutOfMemory('none')
      })
      const call = () => fusedPreferenceLossSync(logits, labels, { ...options, gradient, threads: 1 })
      expect(call).toThrow(outOfMemory)
      allocate.mockRestore()
      const trapped = vi.spyOn(Engine.prototype, 'run').mockImplementation(() => {
        throw new WebAssembly.RuntimeError()
      })
      expect(call).toThrow(outOfMemory)
      expect(gradient.every((value) => value === 7)).toBe(true)
      trapped.mockRestore()
      expect(call().loss).toBeGreaterThan(0)
    })

    test('a worker that is gone: its part of the work is done here', async () => {
      const [logits, labels, options] = manyRows()
      const wanted = fusedPreferenceLossSync(logits, labels, { ...options, gradient: true })
      const running = fusedPreferenceLoss(logits, labels, { ...options, gradient: true })
      turn()
        .then(turn)
        .then(() => backend.endWorkers())
      expectSame(await running, wanted)
    })

    test.runIf(platform.sharesMemory)('a worker that has never come: this thread does it all', async () => {
      const [logits, labels, options] = manyRows(80)
      const wanted = fusedPreferenceLossSync(logits, labels, { ...options, gradient: true })
      const run = vi.spyOn(Crew.prototype, 'run').mockImplementation(() => Promise.reject(new WorkerLost()))
      expectSame(await fusedPreferenceLoss(logits, labels, { ...options, gradient: true, threads: 2 }), wanted)
      expect(run).toHaveBeenCalled()
      run.mockRestore()
      const works = vi.spyOn(Crew.prototype, 'works', 'get').mockReturnValue(false)
      expectSame(await fusedPreferenceLoss(logits, labels, { ...options, gradient: true, threads: 2 }), wanted)
      expect(works).toHaveBeenCalled()
    })

    test('an engine without vectors', () => {
      vi.spyOn(WebAssembly, 'validate').mockReturnValue(false)
      expect(checkEngine).toThrow('this engine has no WebAssembly SIMD')
    })

    test('a module of another version', async () => {
      const bytes = await bytesOf(`../prebuilds/wasm/${ALONE}`)
      const at = new TextDecoder('latin1').decode(bytes).indexOf('tokens.targets')
      bytes.set(new TextEncoder().encode('tokens.tarjets'), at)
      expect(() => new Engine(new WebAssembly.Module(bytes), false)).toThrow('belongs to another version')
    })

    test('an instruction set, of which it has none', () => {
      const call = () =>
        preferenceLossSync({ chosen: [-1], rejected: [-2] }, { ...wasm, lossType: 'cpo', instructionSet: 'baseline' })
      expect(call).toThrow("options.instructionSet 'baseline' is not available: the wasm backend has none")
    })
  })
})

describe.runIf(isBuilt && !IS_BROWSER)('a process of its own', () => {
  const run = async (flags: string[], code: string) => {
    const { stdout, stderr } = await runProgram(`import * as fpl from ${JSON.stringify(DIST.href)}\n${code}`, ...flags)
    return { stdout: JSON.parse(stdout), stderr }
  }
  const CALL = `
    const vocab = 5000, data = Float32Array.from({ length: 40 * vocab }, (_, i) => Math.sin(i) * 9)
    const labels = Int32Array.from({ length: 40 }, (_, i) => i)
    const call = (options) => [{ data, shape: [4, 10, vocab] }, labels, { lossType: 'cpo', gradient: true, ...options }]
  `

  test('ends when it has nothing to do, though workers have run', async () => {
    const { stdout } = await run(
      [],
      `${CALL}
       const one = fpl.fusedPreferenceLossSync(...call({ backend: 'wasm', threads: 3 })).loss
       const other = (await fpl.fusedPreferenceLoss(...call({ backend: 'wasm', threads: 2 }))).loss
       console.log(JSON.stringify({ one, other, same: one === other }))`,
    )
    expect(stdout.same).toBe(true)
  })

  test('runs on wasm where no addon may be loaded, with one warning', async () => {
    const { stdout, stderr } = await run(
      ['--no-addons'],
      `${CALL}
       const { loss } = fpl.fusedPreferenceLossSync(...call({}))
       await fpl.fusedPreferenceLoss(...call({}))
       const wanted = fpl.fusedPreferenceLossSync(...call({ backend: 'wasm' })).loss
       console.log(JSON.stringify({ same: loss === wanted, backends: fpl.getBackends() }))`,
    )
    expect(stdout.same).toBe(true)
    expect(stdout.backends.cpu.available).toBe(false)
    expect(stdout.backends.wasm.available).toBe(true)
    expect(stderr.match(/FUSED_PREFERENCE_LOSS_\w+/g)).toEqual(['FUSED_PREFERENCE_LOSS_NO_BINARY'])
    expect(stderr).toContain('in WebAssembly, a few times slower: No native binary loads')
  })
})
