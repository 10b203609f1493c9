/**
 * How logits reach the memory of the wasm backend: what is copied and how often, and what happens to arrays that are
 * gone, and where there is not memory enough.
 */
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { afterAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { sequenceLogProbs as tensorLogProbs } from '../lib/adapters/tfjs/index.js'
import { turn } from '../lib/backends/turn.js'
import type { WasmBackend } from '../lib/backends/wasm/backend.js'
import { findWasm } from '../lib/backends/wasm/index.js'
import { WebAssembly } from '../lib/backends/wasm/webassembly.js'
import {
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  linearSequenceLogProbsSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import { fillRow, random } from './support.js'

const loaded = findWasm()
const isBuilt = 'backend' in loaded
const backend = isBuilt ? loaded.backend : (undefined as unknown as WasmBackend)

const [ROWS, VOCAB] = [200, 1000]
const BYTES = 4 * ROWS * VOCAB
const RUN = { backend: 'wasm', lossType: 'cpo' } as const
const labels = Int32Array.from({ length: ROWS }, (_, i) => (i * 31) % VOCAB)

function filled(data: Float32Array): Float32Array {
  const next = random(5)
  for (let row = 0; row < ROWS; row++) fillRow(data, row * VOCAB, VOCAB, 'float32', 'model', next)
  return data
}

const logitsIn = (data: Float32Array) => ({ data, shape: [2, ROWS / 2, VOCAB] })

/** A view of a WebAssembly memory, and its memory. */
function inMemory() {
  const memory = new WebAssembly.Memory({ initial: 20, maximum: 40, shared: false })
  return { memory, data: filled(new Float32Array(memory.buffer as ArrayBuffer, 64, ROWS * VOCAB)) }
}

describe.runIf(isBuilt)('the wasm backend', () => {
  const { chunk, slice } = backend ?? {}
  beforeEach(() => {
    Object.assign(backend, { chunk, slice })
  })
  afterAll(() => backend.close())

  /** Bytes of rows that this thread copies from array to array during the work. */
  function bytesCopied(work: () => unknown): number {
    const typedArray = Object.getPrototypeOf(Float32Array.prototype)
    const set = vi.spyOn(typedArray, 'set')
    work()
    const copied = set.mock.calls.map(([from]) => from as ArrayBufferView)
    set.mockRestore()
    return copied
      .filter((from) => from instanceof Float32Array && from.length >= VOCAB)
      .reduce((sum, { byteLength }) => sum + byteLength, 0)
  }

  describe('copies logits once for each pass over them', () => {
    test.each([
      ['an array', () => filled(new Float32Array(ROWS * VOCAB))],
      ['a WebAssembly memory', () => inMemory().data],
    ])('of %s', (_, make) => {
      const logits = logitsIn(make())
      const gradient = new Float32Array(ROWS * VOCAB)
      backend.chunk = 1 << 16
      expect(bytesCopied(() => sequenceLogProbsSync(logits, labels, { backend: 'wasm', shift: false }))).toBe(BYTES)
      // Once for stage 1, once for stage 4, and the gradient; where all fit the module's memory, stage 4 finds them there.
      const step = () => fusedPreferenceLossSync(logits, labels, { ...RUN, gradient, shift: false })
      expect(bytesCopied(step)).toBe(3 * BYTES)
      backend.chunk = BYTES
      expect(bytesCopied(step)).toBe(2 * BYTES)
    })

    test("of TensorFlow.js's heap", async () => {
      await tf.setBackend('wasm')
      const logits = tf.tensor3d(filled(new Float32Array(ROWS * VOCAB)), [2, ROWS / 2, VOCAB])
      const call = () => tensorLogProbs(logits, labels, { backend: 'wasm', shift: false }).dataSync()
      call()
      expect(bytesCopied(call)).toBe(BYTES)
      logits.dispose()
    })
  })

  describe('arrays that are gone in the middle of a call: an error, and nothing written', () => {
    beforeEach(() => {
      Object.assign(backend, { chunk: 1, slice: 0 })
    })
    const soon = (work: () => void) => turn().then(turn).then(work)

    test('logits in a memory that grows', async () => {
      const { memory, data } = inMemory()
      const gradient = new Float32Array(data.length).fill(7)
      const running = fusedPreferenceLoss(logitsIn(data), labels, { ...RUN, gradient })
      soon(() => memory.grow(1))
      await expect(running).rejects.toThrow(/logits\.data.*was detached or resized while the call was using it/)
      expect(gradient.every((value) => value === 7)).toBe(true)
    })

    test('logits that are transferred', async () => {
      const data = filled(new Float32Array(ROWS * VOCAB))
      const gradient = new Float32Array(data.length).fill(7)
      const running = fusedPreferenceLoss(logitsIn(data), labels, { ...RUN, gradient })
      soon(() => structuredClone(data, { transfer: [data.buffer as ArrayBuffer] }))
      await expect(running).rejects.toThrow(/logits\.data.*was detached or resized while the call was using it/)
      expect(gradient.every((value) => value === 7)).toBe(true)
    })

    test('a gradient in a memory that grows', async () => {
      const { memory, data: gradient } = inMemory()
      gradient.fill(7)
      const data = filled(new Float32Array(ROWS * VOCAB))
      const running = fusedPreferenceLoss(logitsIn(data), labels, { ...RUN, gradient })
      soon(() => memory.grow(1))
      await expect(running).rejects.toThrow(/options\.gradient.*was detached or resized while the call was using it/)
      expect(new Float32Array(memory.buffer as ArrayBuffer, 64, ROWS * VOCAB).every((value) => value === 7)).toBe(true)
    })
  })

  test('an output layer larger than its memory: an error, and the next call works', () => {
    const [vocab, width] = [2 ** 21, 520]
    const weight = { data: new Float32Array(vocab * width), shape: [vocab, width] }
    const hidden = { data: new Float32Array(4 * width), shape: [2, 2, width] }
    const call = () => linearSequenceLogProbsSync(hidden, weight, new Int32Array(4), { backend: 'wasm' })
    expect(call).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }))
    expect(sequenceLogProbsSync(logitsIn(inMemory().data), labels, { backend: 'wasm' }).logProbs[0]).toBeLessThan(0)
  })
})
