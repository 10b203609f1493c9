/**
 * Logits in memory that threads share, on the wasm backend: workers copy them, and the bits are the same.
 */
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { turn } from '../lib/backends/turn.js'
import type { WasmBackend } from '../lib/backends/wasm/backend.js'
import { findWasm } from '../lib/backends/wasm/index.js'
import { platform } from '../lib/backends/wasm/platform.js'
import { WebAssembly } from '../lib/backends/wasm/webassembly.js'
import {
  crossEntropy,
  crossEntropySync,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  sequenceLogProbs,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { Logits } from '../lib/types/index.js'
import { bytes, DTYPES, fillRow, hex, OUTPUTS, random, storage } from './support.js'

const loaded = findWasm()
const isBuilt = 'backend' in loaded
const backend = isBuilt ? loaded.backend : (undefined as unknown as WasmBackend)

const [ROWS, VOCAB] = [120, 1003]
const labels = Int32Array.from({ length: ROWS }, (_, i) => (i % 7 === 3 ? -100 : (i * 31) % VOCAB))
const wasm = { backend: 'wasm' } as const

type Elements = Float32Array | Uint16Array

/** A copy in memory that threads share. */
function shared<T extends Elements>(array: T): T {
  const View = array.constructor as new (buffer: SharedArrayBuffer, offset: number, length: number) => T
  const copy = new View(new SharedArrayBuffer(array.byteLength + 64), 8, array.length)
  copy.set(array as never)
  return copy
}

function logitsOf(dtype: Logits['dtype'] & string = 'float32') {
  const data = storage(dtype, ROWS * VOCAB)
  const next = random(5)
  for (let row = 0; row < ROWS; row++) fillRow(data, row * VOCAB, VOCAB, dtype, 'model', next)
  return { data, dtype, shape: [2, ROWS / 2, VOCAB] }
}

describe.runIf(isBuilt)('the wasm backend on shared memory', () => {
  const { chunk, slice } = backend ?? {}
  beforeEach(() => {
    Object.assign(backend, { chunk: 3 * 4 * VOCAB })
  })
  afterEach(() => {
    vi.restoreAllMocks()
    Object.assign(backend, { chunk, slice })
  })
  afterAll(() => backend.close())

  /** Bytes that this thread copies during the work, but for small results. */
  async function copiedHere(work: () => unknown): Promise<number> {
    const set = vi.spyOn(Object.getPrototypeOf(Float32Array.prototype), 'set')
    await work()
    const copied = set.mock.calls.map(([from]) => from as ArrayBufferView)
    set.mockRestore()
    return copied
      .filter((from) => !(from instanceof Float64Array) && from.byteLength >= 2 * VOCAB)
      .reduce((sum, { byteLength }) => sum + byteLength, 0)
  }

  test.each(DTYPES)('gives the bits that an array of the same %s gives, for any number of threads', async (dtype) => {
    const logits = logitsOf(dtype)
    const inShared = () => ({ ...logits, data: shared(logits.data) })
    const forward = { ...wasm, outputs: OUTPUTS }
    const wanted = sequenceLogProbsSync(logits, labels, { ...forward, threads: 1 })
    const step = { ...wasm, lossType: 'cpo' } as const
    const gradient = storage(dtype, ROWS * VOCAB)
    const { loss } = fusedPreferenceLossSync(logits, labels, { ...step, threads: 1, gradient })
    for (const threads of [1, 2, 3, 5]) {
      for (const result of [
        sequenceLogProbsSync(inShared(), labels, { ...forward, threads }),
        await sequenceLogProbs(inShared(), labels, { ...forward, threads }),
      ]) {
        expect(result.logProbs).toEqual(wanted.logProbs)
        for (const name of OUTPUTS) expect(result[name]).toEqual(wanted[name])
      }
      const calls = [fusedPreferenceLossSync, fusedPreferenceLoss] as const
      for (const call of calls) {
        const data = shared(logits.data)
        const out = shared(storage(dtype, ROWS * VOCAB).fill(7))
        expect((await call({ ...logits, data }, labels, { ...step, threads, gradient: out })).loss).toBe(loss)
        expect(bytes(out).equals(bytes(gradient))).toBe(true)
        await call({ ...logits, data }, labels, { ...step, threads, gradient: 'in-place' })
        expect(bytes(data).equals(bytes(gradient))).toBe(true)
        const plain = await call(inShared(), labels, { ...step, threads, gradient: true })
        expect(bytes(plain.gradLogits.data as Elements).equals(bytes(gradient))).toBe(true)
      }
    }
  })

  test('rows that lie apart, and a loss of single tokens', async () => {
    const { data, dtype } = logitsOf()
    const strided = { dtype, shape: [2, ROWS / 4, VOCAB], strides: [(ROWS / 2) * VOCAB, 2 * VOCAB, 1] }
    const few = labels.subarray(0, ROWS / 2)
    const gradient = new Float32Array(data.length / 2)
    const options = { ...wasm, labelSmoothing: 0.1 }
    const { loss } = crossEntropySync({ ...strided, data }, few, { ...options, threads: 1, gradient })
    for (const call of [crossEntropySync, crossEntropy]) {
      const out = shared(gradient).fill(7)
      const result = await call({ ...strided, data: shared(data) }, few, { ...options, threads: 3, gradient: out })
      expect(result.loss).toBe(loss)
      expect(bytes(out).equals(bytes(gradient))).toBe(true)
    }
  })

  test('a shared WebAssembly memory', () => {
    const logits = logitsOf()
    const memory = new WebAssembly.Memory({ initial: 20, maximum: 20, shared: true })
    const data = new Float32Array(memory.buffer, 64, ROWS * VOCAB)
    data.set(logits.data)
    const call = (of: Logits, threads: number) => sequenceLogProbsSync(of, labels, { ...wasm, threads }).logProbs
    expect(call({ ...logits, data }, 2)).toEqual(call(logits, 1))
  })

  test('workers copy, not the thread that calls', async () => {
    const logits = logitsOf()
    const inShared = { ...logits, data: shared(logits.data) }
    const out = shared(new Float32Array(ROWS * VOCAB))
    const options = { ...wasm, lossType: 'cpo', gradient: out, shift: false } as const
    await backend.close()
    const start = vi.spyOn(platform, 'startWorker')
    expect(await copiedHere(() => fusedPreferenceLoss(inShared, labels, { ...options, threads: 2 }))).toBe(0)
    expect(start.mock.calls.map(([{ helps }]) => helps)).toEqual([false, false])
    // Where it may wait, a Sync call does what runners have not begun, so this holds once they have come.
    if (!platform.maySleep) return
    const all = await copiedHere(() => fusedPreferenceLossSync(inShared, labels, { ...options, threads: 1 }))
    await vi.waitFor(async () => {
      const here = await copiedHere(() => fusedPreferenceLossSync(inShared, labels, { ...options, threads: 2 }))
      expect(here).toBeLessThan(0.9 * all)
    })
  })

  describe('where workers do not come', () => {
    const logits = logitsOf()
    const call = () => {
      const data = shared(logits.data)
      const options = { ...wasm, lossType: 'cpo', threads: 3, gradient: 'in-place' } as const
      const { loss } = fusedPreferenceLossSync({ ...logits, data }, labels, options)
      return { loss, gradient: hex(data) }
    }

    test('a Sync call does all the work', async () => {
      const wanted = call()
      await backend.close()
      const idle = { post: () => {}, keepAlive: () => {}, end: async () => {} }
      vi.spyOn(platform, 'startWorker').mockReturnValue(idle)
      expect(call()).toEqual(wanted)
      await backend.close()
    })

    test.runIf(platform.maySleep)('one that fails is an error, and the next call works', async () => {
      const wanted = call()
      await backend.close()
      vi.spyOn(platform, 'startWorker').mockImplementation(({ memory }) => ({
        post: (task) => {
          const { cell } = task as { cell: number }
          Atomics.store(new Int32Array(memory.buffer), cell, -3)
        },
        keepAlive: () => {},
        end: async () => {},
      }))
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }))
      vi.restoreAllMocks()
      expect(call()).toEqual(wanted)
    })

    test('one that is gone in the middle of a promise: its part of the work is done here', async () => {
      const wanted = call()
      const data = shared(logits.data)
      const options = { ...wasm, lossType: 'cpo', threads: 3, gradient: 'in-place' } as const
      backend.slice = 0
      const running = fusedPreferenceLoss({ ...logits, data }, labels, options)
      turn()
        .then(turn)
        .then(() => backend.endWorkers())
      expect({ loss: (await running).loss, gradient: hex(data) }).toEqual(wanted)
    })
  })

  test('a call that is aborted in the middle has written nothing', async () => {
    const logits = logitsOf()
    Object.assign(backend, { chunk: 1, slice: 0 })
    const gradient = shared(new Float32Array(ROWS * VOCAB).fill(7))
    const controller = new AbortController()
    const options = { ...wasm, lossType: 'cpo', threads: 2, gradient, signal: controller.signal } as const
    const running = fusedPreferenceLoss({ ...logits, data: shared(logits.data as Float32Array) }, labels, options)
    turn()
      .then(turn)
      .then(() => controller.abort(new Error('enough')))
    await expect(running).rejects.toThrow('enough')
    expect(gradient.every((value) => value === 7)).toBe(true)
  })
})
