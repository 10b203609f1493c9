/**
 * Losses of single tokens and deferred scales on the cuda backend, whose rows are read and written in one go where all is
 * in device memory. Arrays of the host go through the stages one after the other: both give the same bits. That the
 * numbers are right is tested on every backend: cross-entropy.test.ts, gradient-options.test.ts.
 */
import { describe, expect, it } from 'vitest'
import { DeviceBuffer, prepareFusedPreferenceLoss, Stream } from '../lib/cuda/index.js'
import { crossEntropySync, fusedPreferenceLossSync, fusedUnpairedPreferenceLossSync } from '../lib/index.js'
import type { DType, LogitsGradient } from '../lib/types/index.js'
import { cudaProcess } from './cuda-process.js'
import { read } from './device-memory.js'
import { TESTS_GPU } from './platform.js'
import { bytes, CUDA, DTYPES, encode, gaussian, OUTPUTS, random, storage } from './support.js'

const RUN = { backend: 'cuda' } as const
const [BATCH, TIME] = [4, 7]
const CAPPED = { logitScale: 1.3, logitSoftcap: 4, temperature: 0.8 }
/** Of the host's stand-in a multiprocessor has several short rows at a time, or one long one, which has segments. */
const VOCABULARIES = [1027, 70_001]

/** Random logits in host memory, and labels with a masked prompt. */
function problem(dtype: DType, vocab: number) {
  const next = random(vocab)
  const data = storage(dtype, BATCH * TIME * vocab)
  for (let i = 0; i < data.length; i++) data[i] = encode[dtype](3 * gaussian(next))
  const labels = Int32Array.from({ length: BATCH * TIME }, (_, i) => (i % TIME < 2 ? -100 : Math.floor(next() * vocab)))
  // First and last columns, and the neighbours of a segment's end.
  labels.set([0, vocab - 1, Math.min(16_383, vocab - 2), Math.min(16_384, vocab - 1)], TIME - 4)
  return { data, labels, shape: [BATCH, TIME, vocab] }
}

type Problem = ReturnType<typeof problem>
type Call = (
  logits: Problem['data'] | DeviceBuffer,
  labels: Int32Array | DeviceBuffer,
  options: object,
) => LogitsGradient

function callsOf(dtype: DType, { shape }: Problem): Record<string, Call> {
  const next = random(5)
  const classWeights = Float32Array.from({ length: shape[2] }, (_, v) => ((v + 1) % 5) / 2)
  const tokenWeights = Float64Array.from({ length: BATCH * TIME }, (_, i) => (i % 6 === 5 ? 0 : 2 * next()))
  const logitsOf = (data: Problem['data'] | DeviceBuffer) => ({ data, dtype, shape })
  const reference = { chosen: [-30, -31], rejected: [-29, -32] }
  return {
    crossEntropy: (data, labels, options) =>
      crossEntropySync(logitsOf(data), labels, { ...options, tokenWeights, dft: true, zLoss: 0.01 }) as LogitsGradient,
    'crossEntropy, weighted classes': (data, labels, options) =>
      crossEntropySync(logitsOf(data), labels, { ...options, classWeights }) as LogitsGradient,
    'crossEntropy, deferred': (data, labels, options) =>
      crossEntropySync(logitsOf(data), labels, { ...options, tokenWeights, deferredScale: true }) as LogitsGradient,
    'fusedPreferenceLoss, deferred': (data, labels, options) =>
      fusedPreferenceLossSync(logitsOf(data), labels, {
        ...options,
        reference,
        tokenWeights,
        lossType: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight: 0.3 }],
        deferredScale: true,
      }) as LogitsGradient,
    'fusedUnpairedPreferenceLoss, deferred': (data, labels, options) =>
      fusedUnpairedPreferenceLossSync(logitsOf(data), labels, {
        ...options,
        reference: { logProbs: [-30, -31, -29, -32] },
        desirable: [1, 0, 0, 1],
        kl: 0.1,
        deferredScale: true,
      }) as LogitsGradient,
  }
}

const bytesOf = (memory: unknown, like: Problem['data']) => bytes(read(memory, like))

/** A result without its gradient, for comparisons to the bit. */
const numbers = ({ gradLogits, ...result }: LogitsGradient) => result

describe.runIf(CUDA.length > 0).each(DTYPES)('rows that are read and written in one go, %s', (dtype) => {
  it.each(VOCABULARIES)('have the bits of one stage after the other, of %d logits', (vocab) => {
    const given = problem(dtype, vocab)
    const { data, labels } = given
    // Long rows take their time: fewer calls.
    const calls = Object.entries(callsOf(dtype, given)).filter((_, i) => vocab === VOCABULARIES[0] || i % 3 === 0)
    for (const [name, call] of calls) {
      for (const options of [{}, { outputs: OUTPUTS }, CAPPED]) {
        const wanted = call(data, labels, { ...RUN, ...options, gradient: true })
        const gradient = bytesOf(wanted.gradLogits.data, data)
        const off = 'outputs' in options ? 1 : 3
        const padded = storage(dtype, data.length + off)
        padded.set(data, off)
        const apart = DeviceBuffer.from(padded).slice(off * data.BYTES_PER_ELEMENT)
        const out = DeviceBuffer.from(storage(dtype, data.length).fill(7))
        for (const [from, ids] of [
          [DeviceBuffer.from(data), labels],
          [apart, DeviceBuffer.from(labels)],
        ] as const) {
          expect(numbers(call(from, ids, { ...options, gradient: out })), name).toEqual(numbers(wanted))
          expect(bytesOf(out, data).equals(gradient), name).toBe(true)
          expect(numbers(call(from, ids, { ...options, gradient: 'in-place' })), name).toEqual(numbers(wanted))
          expect(bytesOf(from, data).equals(gradient), name).toBe(true)
        }
      }
    }
  })

  it('are written as zeros or left alone where they predict nothing, and nothing beside them', () => {
    const vocab = 1027
    const given = problem(dtype, vocab)
    const { data, labels } = given
    for (const [row, label] of labels.subarray(1).entries()) {
      if (label < 0 || row % TIME === TIME - 1) data.fill(encode[dtype](Number.NaN), row * vocab, (row + 1) * vocab)
    }
    for (const [name, call] of Object.entries(callsOf(dtype, given))) {
      for (const ids of [labels, DeviceBuffer.from(labels)]) {
        for (const zeroInactive of [true, false]) {
          const around = DeviceBuffer.from(storage(dtype, data.length + 12).fill(7))
          const offset = 6 * data.BYTES_PER_ELEMENT
          const gradient = around.slice(offset, offset + data.byteLength)
          const { rowScale } = call(DeviceBuffer.from(data), ids, { gradient, zeroInactive })
          if (name.includes('deferred')) expect([rowScale![0], Number.isFinite(rowScale!.at(-1))]).toEqual([0, true])
          const written = storage(dtype, data.length + 12)
          around.copyTo(written)
          const row = (r: number) => written.subarray(6 + r * vocab, 6 + (r + 1) * vocab)
          expect(row(0).every((x) => x === (zeroInactive ? 0 : 7))).toBe(true)
          expect(row(TIME - 1).every((x) => x === (zeroInactive ? 0 : 7))).toBe(true)
          expect(row(2).some((x) => x !== 0 && x !== 7)).toBe(true)
          expect([...written.subarray(0, 6), ...written.subarray(6 + data.length)]).toEqual(new Array(12).fill(7))
        }
      }
    }
  })
})

describe.runIf(CUDA.length > 0)('rows that are read and written in one go', () => {
  it('are NaN where a label on the device is out of range, and the others are not', () => {
    const vocab = 1027
    const given = problem('float32', vocab)
    const there = given.labels.slice()
    there[4] = vocab
    for (const call of Object.values(callsOf('float32', given))) {
      const logits = DeviceBuffer.from(given.data)
      const run = () => call(logits, DeviceBuffer.from(there), { gradient: 'in-place' })
      expect(run).toThrow(/1 of the labels/)
      const written = new Float32Array(given.data.length)
      logits.copyTo(written)
      expect(written.subarray(3 * vocab, 4 * vocab).every(Number.isNaN)).toBe(true)
      expect(written.subarray(2 * vocab, 3 * vocab).some(Number.isNaN)).toBe(false)
    }
  })

  it('take part by a weight of the second loss alone', () => {
    const { data, labels, shape } = problem('float32', 1027)
    // The last tokens of the longer, chosen sequences count for nothing in the first loss.
    const options = {
      mask: Uint8Array.from({ length: BATCH * TIME }, (_, i) => Number(i < 2 * TIME || i % TIME < 4)),
      ldAlpha: 0,
      reference: { chosen: [-30, -31], rejected: [-29, -32] },
      lossType: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight: 0.3 }],
      deferredScale: true,
    } as const
    const wanted = fusedPreferenceLossSync({ data: data as Float32Array, shape }, labels, {
      ...options,
      ...RUN,
      gradient: true,
    })
    const out = new DeviceBuffer(data.byteLength)
    fusedPreferenceLossSync({ data: DeviceBuffer.from(data), shape }, labels, { ...options, gradient: out })
    expect(bytesOf(out, data).equals(bytesOf(wanted.gradLogits.data, data))).toBe(true)
    const last = wanted.rowScale?.[TIME - 2] as number
    expect(Math.abs(last)).toBeGreaterThan(0)
  })

  it('are captured, and give the scale of what the buffers then hold', () => {
    const { data, labels, shape } = problem('bfloat16', 1027)
    const logits = { data, dtype: 'bfloat16', shape } as const
    const options = { lossType: 'cpo', deferredScale: true } as const
    const wanted = fusedPreferenceLossSync(logits, labels, { ...options, ...RUN, gradient: true })
    const there = DeviceBuffer.from(data)
    using stream = new Stream()
    const prepared = prepareFusedPreferenceLoss({ ...logits, data: there }, DeviceBuffer.from(labels), {
      ...options,
      gradient: 'in-place',
    })
    using graph = stream.capture(() => prepared.enqueue(stream))
    for (let i = 0; i < 2; i++) {
      there.copyFrom(data)
      graph.launch(stream)
      const { loss, rowScale } = prepared.read(stream)
      expect([loss, rowScale]).toEqual([wanted.loss, wanted.rowScale])
      expect(bytesOf(there, data).equals(bytesOf(wanted.gradLogits!.data, data))).toBe(true)
    }
    prepared.dispose()
  })

  // A kernel that fails is one that has been started.
  it.runIf(!TESTS_GPU).each([
    ['a cross-entropy', true, `fpl.crossEntropySync(logits, labels, { gradient: 'in-place' })`],
    ['a deferred scale', true, `fusedPreferenceLossSync(logits, labels, { ...loss, deferredScale: true })`],
    [
      'by-products',
      true,
      `fpl.crossEntropySync(logits, labels, { gradient: 'in-place', outputs: ['tokenEntropies'] })`,
    ],
    ['a soft-cap', true, `fusedPreferenceLossSync(logits, labels, { ...loss, deferredScale: true, logitSoftcap: 5 })`],
    [
      'by-products of capped logits',
      false,
      `fpl.crossEntropySync(logits, labels, { gradient: 'in-place', logitSoftcap: 5, outputs: ['tokenEntropies'] })`,
    ],
    ['a known scale', false, 'fusedPreferenceLossSync(logits, labels, loss)'],
    [
      'too few rows',
      false,
      `fpl.crossEntropySync({ ...logits, shape: [1, 3, V] }, labels.slice(0, 3), { gradient: 'in-place' })`,
    ],
    ['smoothed labels', false, `fpl.crossEntropySync(logits, labels, { gradient: 'in-place', labelSmoothing: 0.1 })`],
    [
      'mean logits',
      false,
      `fpl.crossEntropySync(logits, labels, { gradient: 'in-place', outputs: ['tokenMeanLogits'] })`,
    ],
    [
      'another type',
      false,
      `fpl.crossEntropySync(logits, labels, { gradient: new DeviceBuffer(2 * B * T * V), gradientDType: 'float16' })`,
    ],
    [
      'a signal',
      false,
      `await fpl.crossEntropy(logits, labels, { gradient: 'in-place', signal: new AbortController().signal })`,
    ],
  ])('are those of a call with %s: %s', (_, wanted, call) => {
    const started = cudaProcess(
      `
        const logits = { data: there(host.logits), shape }
        const labels = host.labels
        const loss = { gradient: 'in-place', lossType: 'cpo' }
        try {
          ${call}
          tell(false)
        } catch (e) {
          tell(e.message.includes('log-probs and gradient'))
        }
      `,
      { FPL_HOST_FAULT: 'log-probs and gradient' },
    )
    expect(started).toBe(wanted)
  })
})
