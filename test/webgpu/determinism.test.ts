/**
 * On one device, a row's results depend on that row alone: their bits do not depend on the rows around it, on its place in
 * memory, or on the run.
 */
import { describe, expect, test } from 'vitest'
import type { SequenceOptions } from '../../lib/options/index.js'
import type { Logits } from '../../lib/types/index.js'
import * as calls from '../calls.js'
import { DTYPES, encode, gaussian, hex, OUTPUTS, random, storage } from '../support.js'
import { AS_SOFTWARE, DEVICE } from './device.js'

/** Below a tile of a workgroup, about one, and in segments that are put together. */
const VOCABULARIES = [1, 65, 2049, 16_385, 70_000]

const NAN = Number.NaN

describe.each([
  ['as a GPU', DEVICE],
  ['as software', AS_SOFTWARE],
])('%s', (_, gpuDevice) => {
  /** All results of one row, to the bit. */
  async function bitsOf(logits: Logits, labels: Int32Array, row: number, options: SequenceOptions = {}) {
    const given = { shift: false, temperature: 1.7, backend: 'webgpu', gpuDevice, ...options } as const
    const vocab = logits.shape.at(-1)!
    const plain = await calls.sequenceLogProbs(logits, labels, { ...given, outputs: ['tokenLogProbs'] })
    const full = await calls.sequenceLogProbs(logits, labels, { ...given, outputs: OUTPUTS })
    const { gradLogits } = await plain.backward(new Float64Array(plain.logProbs.length).fill(0.75))
    const gradient = gradLogits.data as Float32Array
    return [
      hex(plain.tokenLogProbs!.subarray(row, row + 1)),
      ...OUTPUTS.map((name) => hex(full[name]!.subarray(row, row + 1))),
      hex(gradient.subarray(row * vocab, (row + 1) * vocab)),
    ]
  }

  describe.each(VOCABULARIES)('a row of %i logits', (vocab) => {
    test.each(DTYPES)('%s, among others, anywhere, again', async (dtype) => {
      const next = random(vocab)
      const randomRow = () => storage(dtype, vocab).map(() => encode[dtype](9 * gaussian(next)))
      const row = randomRow()
      const others = [randomRow(), storage(dtype, vocab).fill(encode[dtype](NAN))]
      const label = Math.floor(vocab / 3)
      const wanted = await bitsOf({ data: row, dtype, shape: [1, 1, vocab] }, Int32Array.of(label), 0)
      expect(await bitsOf({ data: row, dtype, shape: [1, 1, vocab] }, Int32Array.of(label), 0)).toEqual(wanted)

      const count = 5
      for (const at of [0, 4]) {
        const data = storage(dtype, count * vocab)
        for (let i = 0; i < count; i++) data.set(i === at ? row : others[i % 2], i * vocab)
        const logits: Logits = { data, dtype, shape: [count, 1, vocab] }
        const labels = Int32Array.from({ length: count }, (_, i) => (i === at ? label : i % vocab))
        expect(await bitsOf(logits, labels, at)).toEqual(wanted)
        const mask = labels.map((_, i) => Number(i === at))
        expect(await bitsOf(logits, labels, at, { mask })).toEqual(wanted)
      }

      // Packed, with padding, at an odd place.
      const data = storage(dtype, 3 * (vocab + 1) + 1)
        .fill(encode[dtype](NAN))
        .subarray(1)
      data.set(row, vocab + 1)
      const packed: Logits = { data, dtype, shape: [3, vocab], strides: [vocab + 1, 1] }
      const sequenceOffsets = [0, 1, 3]
      expect(await bitsOf(packed, Int32Array.of(-100, label, -100), 1, { sequenceOffsets })).toEqual(wanted)
    })
  })
})
