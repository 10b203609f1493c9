/**
 * Device memory, streams, graphs and the failures of a GPU. Without a GPU the kernels run on the host, where the
 * runtime can be told to fail.
 */
import { spawnSync } from 'node:child_process'
import { beforeAll, describe, expect, it } from 'vitest'
import { DeviceBuffer, Event, getDevices, prepareFusedPreferenceLoss, Stream } from '../lib/cuda/index.js'
import {
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  getBackends,
  preferenceLossSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { FusedOptions } from '../lib/options/index.js'
import type { DeviceMemory, DType, Logits, PreferenceLoss } from '../lib/types/index.js'
import { read, thrown } from './device-memory.js'
import { bytes, CUDA, DIST, DTYPES, encode, gaussian, OUTPUTS, random, storage } from './support.js'

const CUDA_DIST = new URL('./cuda/index.mjs', DIST)
const onHost = !process.env.FPL_TEST_GPU

const [B, T, V] = [4, 6, 1027]

/** Random logits in host memory, labels with a masked prompt, and options. */
function problem(dtype: DType, seed = 1) {
  const next = random(seed)
  const data = storage(dtype, B * T * V)
  for (let i = 0; i < data.length; i++) data[i] = encode[dtype](3 * gaussian(next))
  const labels = Int32Array.from({ length: B * T }, (_, i) => (i % T < 2 ? -100 : Math.floor(next() * V)))
  const logits: Logits = { data, dtype, shape: [B, T, V] }
  const options: FusedOptions = { reference: { chosen: [-20, -21], rejected: [-19, -22] }, outputs: OUTPUTS }
  return { logits, labels, options, data }
}

/** A copy on the device. */
function onDevice({ data, dtype, shape }: Logits): { logits: Logits; buffer: DeviceBuffer } {
  const buffer = DeviceBuffer.from(data as Float32Array)
  return { logits: { data: buffer, dtype, shape }, buffer }
}

describe.runIf(CUDA.length > 0)('the cuda backend', () => {
  it('says what GPU it found', () => {
    const { cuda } = getBackends()
    expect(cuda.available).toBe(true)
    expect(cuda.devices).toEqual(getDevices())
    expect(cuda.devices?.[0].computeCapability).toMatch(/^\d+\.\d$/)
  })

  it('has a logit scale', () => {
    const { logits, labels } = problem('float32')
    const run = { backend: 'cuda' } as const
    const scaled = sequenceLogProbsSync(logits, labels, { ...run, logitScale: 0.5 })
    expect(scaled.logProbs).toEqual(sequenceLogProbsSync(logits, labels, { ...run, temperature: 2 }).logProbs)
  })

  describe.each(DTYPES)('%s', (dtype) => {
    it('gives the same bits for device memory as for arrays', () => {
      const { logits, labels, options, data } = problem(dtype)
      const wanted = fusedPreferenceLossSync(logits, labels, { ...options, backend: 'cuda', gradient: true })
      const there = onDevice(logits)
      const labelsThere = DeviceBuffer.from(labels)
      const got = fusedPreferenceLossSync(there.logits, labelsThere, { ...options, gradient: true })
      expect(got.loss).toBe(wanted.loss)
      expect(got.tokenCounts).toEqual(wanted.tokenCounts)
      expect(got.tokenLogProbs).toEqual(wanted.tokenLogProbs)
      expect(got.tokenArgmax).toEqual(wanted.tokenArgmax)
      const gradient = read(got.gradLogits?.data, data)
      expect(bytes(gradient).equals(bytes(wanted.gradLogits?.data as Float32Array))).toBe(true)
      expect(bytes(read(there.buffer, data)).equals(bytes(data))).toBe(true)
    })

    it('gives the same bits wherever a row starts', () => {
      const { logits, labels, options, data } = problem(dtype)
      const wanted = fusedPreferenceLossSync(logits, labels, { ...options, backend: 'cuda', gradient: true })
      for (const off of [1, 2, 3, 5]) {
        const padded = storage(dtype, data.length + off)
        padded.set(data, off)
        const buffer = DeviceBuffer.from(padded)
        const part = { ptr: buffer.ptr, byteOffset: off * data.BYTES_PER_ELEMENT, byteLength: data.byteLength }
        const got = fusedPreferenceLossSync({ ...logits, data: part }, labels, { ...options, gradient: true })
        expect(got.loss).toBe(wanted.loss)
        expect(got.tokenEntropies).toEqual(wanted.tokenEntropies)
        const gradient = read(got.gradLogits?.data, data)
        expect(bytes(gradient).equals(bytes(wanted.gradLogits?.data as Float32Array))).toBe(true)
      }
    })

    it('writes rows of several pieces, with the label anywhere, wherever logits and gradient begin', () => {
      // Beside whole tiles there is a part of one, and beside whole Quads there are the ends.
      const vocab = 20_011
      const next = random(7)
      const labels = Int32Array.of(0, 1, 4096, 8192, 16_383, 16_384, vocab - 2, vocab - 1, -100, 9)
      const rows = labels.length
      const data = storage(dtype, rows * vocab)
      for (let i = 0; i < data.length; i++) data[i] = encode[dtype](3 * gaussian(next))
      const shape = [rows, 1, vocab]
      const options: FusedOptions = {
        shift: false,
        lossType: 'cpo',
        pairs: [0, 1, 2, 3, 4, 5, 6, 7, 9, 0],
      }
      const wanted = fusedPreferenceLossSync({ data, dtype, shape }, labels, {
        ...options,
        backend: 'cpu',
        gradient: true,
      })
      const expected = wanted.gradLogits?.data as Float32Array | Uint16Array
      const size = data.BYTES_PER_ELEMENT
      const at = (array: Float32Array | Uint16Array, off: number) => {
        const padded = storage(dtype, array.length + off).fill(7)
        padded.set(array, off)
        const buffer = DeviceBuffer.from(padded)
        return buffer.slice(off * size, off * size + array.byteLength)
      }
      let first: Float32Array | Uint16Array | undefined
      for (const [from, to] of [
        [0, 0],
        [1, 1],
        [1, 0],
        [0, 3],
        [5, 2],
      ]) {
        const out = at(data.slice().fill(7), to)
        fusedPreferenceLossSync({ data: at(data, from), dtype, shape }, labels, { ...options, gradient: out })
        const got = read(out, data)
        first ??= got
        expect(bytes(got).equals(bytes(first))).toBe(true)
      }
      // Numbers next to each other, or a few apart, have bits next to each other.
      const bits = (array: Float32Array | Uint16Array) =>
        Float64Array.from(dtype === 'float32' ? new Int32Array(array.buffer, array.byteOffset, array.length) : array)
      const [found, right] = [bits(first as Float32Array), bits(expected)]
      const off = found.reduce((most, x, i) => Math.max(most, Math.abs(x - right[i])), 0)
      expect(off).toBeLessThanOrEqual(dtype === 'float32' ? 8 : 1)
    })

    it('writes the gradient in place, into a buffer, and into part of one, and nowhere else', () => {
      const { logits, labels, options, data } = problem(dtype)
      const wanted = fusedPreferenceLossSync(logits, labels, { ...options, backend: 'cuda', gradient: true })
      const there = onDevice(logits)
      const margin = 3
      const around = storage(dtype, data.length + 2 * margin).fill(7)
      const out = DeviceBuffer.from(around)
      const size = data.BYTES_PER_ELEMENT
      const inside = out.slice(margin * size, margin * size + data.byteLength)
      fusedPreferenceLossSync(there.logits, labels, { ...options, gradient: inside })
      const written = around.slice()
      out.copyTo(written)
      const gradient = wanted.gradLogits?.data as Float32Array
      expect(bytes(written.subarray(margin, margin + data.length)).equals(bytes(gradient))).toBe(true)
      for (const i of [0, 1, 2]) expect([written[i], written[written.length - 1 - i]]).toEqual([7, 7])

      fusedPreferenceLossSync(there.logits, labels, { ...options, gradient: 'in-place' })
      expect(bytes(read(there.buffer, data)).equals(bytes(gradient))).toBe(true)
    })
  })

  it('gives a row the same bits whether its segments have blocks of their own or not', () => {
    // Few rows are split over blocks, and that many, of which the host does not know how many count, are not.
    const rows = 24 * getDevices()[0].multiprocessors
    const vocab = 40_000
    const next = random(5)
    const row = new Float32Array(vocab).map(() => 3 * gaussian(next))
    const few = sequenceLogProbsSync({ data: row, shape: [1, vocab] }, Int32Array.of(33_333), {
      backend: 'cuda',
      shift: false,
      sequenceOffsets: [0, 1],
    })
    const many = DeviceBuffer.from(row)
    const strided = { data: many, shape: [1, rows, vocab], strides: [0, 0, 1] }
    const labels = new Int32Array(rows).fill(-100)
    labels[17] = 33_333
    const got = sequenceLogProbsSync(strided, DeviceBuffer.from(labels), { shift: false })
    expect(got.logProbs[0]).toBe(few.logProbs[0])
  })

  it('gives the same log-probs with by-products as without', () => {
    for (const dtype of DTYPES) {
      const { logits, labels } = problem(dtype)
      const { logProbs } = sequenceLogProbsSync(logits, labels, { backend: 'cuda' })
      expect(sequenceLogProbsSync(logits, labels, { backend: 'cuda', outputs: OUTPUTS }).logProbs).toEqual(logProbs)
    }
  })

  it('takes labels of 64 bits and a mask on the device', () => {
    const { logits, labels, options } = problem('float32')
    const mask = Uint8Array.from({ length: labels.length }, (_, i) => (i % 5 === 0 ? 0 : 3))
    const wanted = fusedPreferenceLossSync(logits, labels, { ...options, backend: 'cuda', mask: [...mask] })
    const there = onDevice(logits)
    const wide = DeviceBuffer.from(BigInt64Array.from(labels, BigInt))
    const got = fusedPreferenceLossSync(there.logits, wide, { ...options, mask: DeviceBuffer.from(mask) })
    expect(got.loss).toBe(wanted.loss)
    expect(got.tokenCounts).toEqual(wanted.tokenCounts)
    expect(got.tokenLogProbs).toEqual(wanted.tokenLogProbs)
  })

  it('reports labels on the device that are out of range, and reads no logits for them', () => {
    const { logits, labels, options } = problem('float32')
    labels[T - 1] = V
    labels[2 * T - 1] = -7
    const there = onDevice(logits)
    const error = thrown(() => fusedPreferenceLossSync(there.logits, DeviceBuffer.from(labels), options))
    expect(error.code).toBe('ERR_LABEL_OUT_OF_RANGE')
    expect(error.message).toContain('2 of the labels')
  })

  it('takes memory with room to spare', () => {
    const { logits, labels, options, data } = problem('float32')
    const wanted = fusedPreferenceLossSync(logits, labels, { ...options, backend: 'cuda' })
    const more = new Float32Array(data.length + 33).fill(7)
    more.set(data as Float32Array)
    const there = { ...logits, data: DeviceBuffer.from(more) }
    expect(fusedPreferenceLossSync(there, labels, options)).toEqual(wanted)
  })

  it('refuses labels and masks on the device that do not fit', () => {
    const { logits, labels, options } = problem('float32')
    const there = onDevice(logits)
    const rows = labels.length
    const memory = DeviceBuffer.from(new Int32Array(2 * rows + 2))
    const at = (byteLength: number, byteOffset = 0, device = memory.device) => ({
      ptr: memory.ptr,
      byteLength,
      byteOffset,
      device,
    })
    const call = (ids: Int32Array | DeviceMemory, more: FusedOptions = {}, tensor = there.logits) =>
      thrown(() => fusedPreferenceLossSync(tensor, ids, { ...options, ...more }))
    const given = at(4 * rows)
    const cases: [{ code?: string; message: string }, string, string][] = [
      [
        call(at(4 * rows + 4)),
        'ERR_SHAPE_MISMATCH',
        `labels must have ${4 * rows} bytes of int32 or ${8 * rows} of int64`,
      ],
      [call(at(8 * rows + 8)), 'ERR_SHAPE_MISMATCH', 'labels must have'],
      [call(at(4 * rows - 4)), 'ERR_SHAPE_MISMATCH', 'labels must have'],
      [call(at(4 * rows, 2)), 'ERR_INVALID_ARG_VALUE', 'a multiple of the element size, 4'],
      [call(at(8 * rows, 4)), 'ERR_INVALID_ARG_VALUE', 'a multiple of the element size, 8'],
      [call(at(4 * rows, 0, 1)), 'ERR_INVALID_ARG_VALUE', 'labels.device is 1, but the memory is on device 0'],
      [call(given, {}, logits), 'ERR_INVALID_ARG_VALUE', 'labels are device memory, so logits, or hidden and weight'],
      [call(given, { mask: at(rows + 1) }), 'ERR_SHAPE_MISMATCH', `options.mask must have ${rows} bytes`],
      [call(given, { mask: at(rows - 1) }), 'ERR_SHAPE_MISMATCH', `options.mask must have ${rows} bytes`],
      [
        call(given, { mask: at(rows, 0, 1) }),
        'ERR_INVALID_ARG_VALUE',
        'options.mask.device is 1, but the memory is on device 0',
      ],
      [call(given, { mask: new Uint8Array(rows) }), 'ERR_INVALID_ARG_TYPE', 'options.mask must be device memory'],
      [
        call(labels, { gradient: { ...at(4 * B * T * V), device: 1 } }),
        'ERR_INVALID_ARG_VALUE',
        'options.gradient.device is 1, but the memory is on device 0',
      ],
      [call(labels, { mask: at(rows) }), 'ERR_INVALID_ARG_TYPE', 'options.mask must be in host memory'],
    ]
    for (const [error, code, message] of cases) {
      expect(error.message).toContain(message)
      expect(error.code).toBe(code)
    }
    expect(fusedPreferenceLossSync(there.logits, given, options).tokenCounts).toHaveLength(B)
  })

  it('goes backward later, from labels on the device', () => {
    const { logits, labels, data } = problem('float32')
    const coefficients = [1, -2, 0.5, 3]
    const wanted = sequenceLogProbsSync(logits, labels, { backend: 'cuda' })
    const there = onDevice(logits)
    const got = sequenceLogProbsSync(there.logits, DeviceBuffer.from(labels))
    expect(got.logProbs).toEqual(wanted.logProbs)
    const gradient = read(got.backwardSync(coefficients).gradLogits.data, data)
    expect(bytes(gradient).equals(bytes(wanted.backwardSync(coefficients).gradLogits.data as Float32Array))).toBe(true)
  })

  it('leaves inactive rows of a buffer alone when told to, and clears them otherwise', () => {
    const { logits, labels, options, data } = problem('bfloat16')
    const there = onDevice(logits)
    const out = DeviceBuffer.from(storage('bfloat16', data.length).fill(7))
    fusedPreferenceLossSync(there.logits, labels, { ...options, gradient: out, zeroInactive: false })
    expect(read(out, data)[0]).toBe(7)
    fusedPreferenceLossSync(there.logits, labels, { ...options, gradient: out })
    expect(read(out, data)[0]).toBe(0)
  })

  it.each([1, 2, 3, 5, 255, 257, 1000])('matches %i pairs by rank, ties and NaN among them', (size) => {
    const next = random(size)
    // Few values, so that there are ties.
    const list = (share: number) =>
      Float64Array.from({ length: size }, () => (next() < share ? Number.NaN : Math.floor(-20 * next())))
    const reference = { referenceChosen: list(0), referenceRejected: list(0) } // a NaN there is refused
    const pairs = { chosen: list(0.04), rejected: list(0.04), ...reference }
    for (const lossType of ['aot', 'aot_unpaired'] as const) {
      const run = (backend: 'cuda' | 'js') => preferenceLossSync(pairs, { lossType, backend })
      const arrays = ({ losses, gradLogProbs }: PreferenceLoss) => [losses, gradLogProbs.chosen, gradLogProbs.rejected]
      const [got, wanted] = [arrays(run('cuda')), arrays(run('js'))]
      for (const [k, array] of wanted.entries()) {
        for (let i = 0; i < size; i++) expect(got[k][i] - array[i] || 0).toBeCloseTo(0, 12)
        expect(Array.from(got[k], Number.isNaN)).toEqual(Array.from(array, Number.isNaN))
      }
    }
  })

  it("runs off the calling thread, in order with the caller's stream", async () => {
    const { logits, labels, options } = problem('float32')
    const wanted = fusedPreferenceLossSync(logits, labels, { ...options, backend: 'cuda' })
    using stream = new Stream()
    const buffer = new DeviceBuffer((logits.data as Float32Array).byteLength)
    await buffer.copyFromAsync(logits.data as Float32Array, { stream })
    const calls = [0, 1, 2].map(() => fusedPreferenceLoss({ ...logits, data: buffer }, labels, { ...options, stream }))
    for (const { loss } of await Promise.all(calls)) expect(loss).toBe(wanted.loss)
    await stream.synchronize()
  })

  it('is cancelled before the gradient is begun', async () => {
    const { logits, labels, options, data } = problem('float32')
    const there = onDevice(logits)
    const controller = new AbortController()
    const running = fusedPreferenceLoss(there.logits, labels, {
      ...options,
      gradient: 'in-place',
      signal: controller.signal,
    })
    controller.abort(new Error('enough'))
    await expect(running).rejects.toThrow('enough')
    expect(bytes(read(there.buffer, data)).equals(bytes(data))).toBe(true)
  })

  it('replays a captured graph with identical bits, on what the buffers then hold', () => {
    const { logits, labels, options, data } = problem('float32')
    const there = onDevice(logits)
    const out = new DeviceBuffer(data.byteLength)
    const labelsThere = DeviceBuffer.from(labels)
    using stream = new Stream()
    const prepared = prepareFusedPreferenceLoss(there.logits, labelsThere, { ...options, gradient: out })
    prepared.enqueue(stream)
    const first = structuredClone(prepared.read(stream))
    const gradient = read(out, data)
    using graph = stream.capture(() => prepared.enqueue(stream))

    for (let i = 0; i < 2; i++) {
      out.copyFrom(data)
      graph.launch(stream)
      expect(prepared.read(stream)).toEqual({ ...first, gradLogits: expect.anything() })
      expect(bytes(read(out, data)).equals(bytes(gradient))).toBe(true)
    }

    const other = problem('float32', 2)
    there.buffer.copyFrom(other.data)
    labelsThere.copyFrom(other.labels)
    graph.launch(stream)
    const wanted = fusedPreferenceLossSync(other.logits, other.labels, { ...options, backend: 'cuda', gradient: true })
    expect(prepared.read(stream).loss).toBe(wanted.loss)
    expect(bytes(read(out, data)).equals(bytes(wanted.gradLogits?.data as Float32Array))).toBe(true)
    prepared.dispose()
    expect(thrown(() => prepared.enqueue(stream)).code).toBe('ERR_DISPOSED')
  })

  it('prepares a call whose sft has weights and divisors of its own', () => {
    const { logits, labels, options, data } = problem('float32')
    const there = onDevice(logits)
    const out = new DeviceBuffer(data.byteLength)
    const all: FusedOptions = {
      ...options,
      lossType: [{ lossType: 'sigmoid' }, { lossType: 'sft' }],
      ldAlpha: 0.25,
      // The second chosen sequence is longer than its rejected one.
      mask: labels.map((_, i) => (i >= 3 * T && i % T > 3 ? 0 : 1)),
      normalizer: { pairs: 7, tokens: 90 },
    }
    const wanted = fusedPreferenceLossSync(logits, labels, { ...all, backend: 'cpu', gradient: true })
    const prepared = prepareFusedPreferenceLoss(there.logits, labels, { ...all, gradient: out })
    for (let i = 0; i < 2; i++) {
      prepared.enqueue()
      expect(prepared.read().loss).toBeCloseTo(wanted.loss, 6)
      const gradient = read(out, data)
      for (const [k, x] of (wanted.gradLogits!.data as Float32Array).entries()) expect(gradient[k]).toBeCloseTo(x, 6)
    }
    prepared.dispose()

    // With labels on the device the tokens are counted there, except for counts that are given.
    const { mask, ldAlpha, ...onLabels } = all
    for (const normalizer of ['mean', { pairs: 7, tokens: 90 }] as const) {
      const call = (where: FusedOptions) =>
        fusedPreferenceLossSync(logits, labels, { ...onLabels, normalizer, ...where })
      const counted = fusedPreferenceLossSync(there.logits, DeviceBuffer.from(labels), { ...onLabels, normalizer })
      expect(counted.loss).toBeCloseTo(call({ backend: 'cpu' }).loss, 6)
    }
  })

  it('measures time between events', () => {
    using stream = new Stream()
    using start = new Event()
    using end = new Event()
    start.record(stream)
    DeviceBuffer.from(new Float32Array(1 << 16), { stream })
    end.record(stream)
    expect(start.millisecondsTo(end)).toBeGreaterThanOrEqual(0)
  })
})

describe.runIf(CUDA.length > 0)('device memory', () => {
  it('is copied, sliced and given back', () => {
    const buffer = DeviceBuffer.from(Float32Array.of(1, 2, 3, 4))
    const part = buffer.slice(4, 12)
    const copy = new Float32Array(2)
    part.copyTo(copy)
    expect([...copy]).toEqual([2, 3])
    part.copyFrom(Float32Array.of(9), { byteOffset: 4 })
    const other = new DeviceBuffer(16)
    other.copyFrom(buffer)
    const all = new Float32Array(4)
    other.copyTo(all)
    expect([...all]).toEqual([1, 2, 9, 4])
    buffer.dispose()
    buffer.dispose()
    expect(thrown(() => buffer.ptr).code).toBe('ERR_DISPOSED')
    expect(thrown(() => part.copyTo(copy)).code).toBe('ERR_DISPOSED')
    const used = () => fusedPreferenceLossSync({ data: buffer, shape: [2, 1, 2] }, Int32Array.of(0, 0))
    expect(thrown(used).code).toBe('ERR_DISPOSED')
  })

  it('is refused where a copy would leave it', () => {
    const buffer = new DeviceBuffer(16)
    expect(thrown(() => buffer.copyFrom(new Float32Array(5))).code).toBe('ERR_OUT_OF_RANGE')
    expect(thrown(() => buffer.copyTo(new Float32Array(2), { byteOffset: 12 })).code).toBe('ERR_OUT_OF_RANGE')
    expect(thrown(() => buffer.slice(8, 20)).code).toBe('ERR_OUT_OF_RANGE')
    expect(thrown(() => new DeviceBuffer(0)).code).toBe('ERR_OUT_OF_RANGE')
    expect(thrown(() => DeviceBuffer.from([1] as unknown as Float32Array)).code).toBe('ERR_INVALID_ARG_TYPE')
  })

  const shape = [2, 1, 8]
  const labels = Int32Array.of(1, 2)
  const options: FusedOptions = { lossType: 'cpo', shift: false }
  it.each<[string, (buffer: DeviceBuffer) => Logits, FusedOptions, string]>([
    ['too small', (b) => ({ data: b.slice(0, 60), shape }), options, 'ERR_SHAPE_MISMATCH'],
    ['not aligned', (b) => ({ data: { ptr: b.ptr + 2, byteLength: 64 }, shape }), options, 'ERR_INVALID_ARG_VALUE'],
    ['no address', () => ({ data: { ptr: 0, byteLength: 64 }, shape }), options, 'ERR_OUT_OF_RANGE'],
    [
      'an address that is no number',
      () => ({ data: { ptr: '1' as never, byteLength: 64 }, shape }),
      options,
      'ERR_INVALID_ARG_TYPE',
    ],
    ['given to the cpu', (b) => ({ data: b, shape }), { ...options, backend: 'cpu' }, 'ERR_INVALID_ARG_VALUE'],
    ['on another device', (b) => ({ data: b, shape }), { ...options, device: 1 }, 'ERR_INVALID_ARG_VALUE'],
    [
      'with a gradient in host memory',
      (b) => ({ data: b, shape }),
      { ...options, gradient: new Float32Array(16) },
      'ERR_INVALID_ARG_TYPE',
    ],
    ['with no stream', (b) => ({ data: b, shape }), { ...options, stream: -1 }, 'ERR_OUT_OF_RANGE'],
  ])('%s is refused', (_, logits, given, code) => {
    const buffer = new DeviceBuffer(64)
    expect(thrown(() => fusedPreferenceLossSync(logits(buffer), labels, given)).code).toBe(code)
  })

  it('is refused as a destination that overlaps the logits or the labels', () => {
    const buffer = new DeviceBuffer(256)
    const logits: Logits = { data: buffer.slice(0, 64), shape }
    const overlapping = { ...options, gradient: buffer.slice(32, 96) }
    expect(thrown(() => fusedPreferenceLossSync(logits, labels, overlapping)).message).toContain('share memory')
    const overLabels = { ...options, gradient: buffer.slice(64, 128) }
    expect(thrown(() => fusedPreferenceLossSync(logits, buffer.slice(100, 108), overLabels)).message).toContain(
      'labels',
    )
  })

  it('belongs to the logits: labels and reference alone are refused', () => {
    const logits: Logits = { data: new Float32Array(16), shape }
    const there = new DeviceBuffer(64)
    expect(thrown(() => fusedPreferenceLossSync(logits, there.slice(0, 8), options)).code).toBe('ERR_INVALID_ARG_VALUE')
    const reference = { logits: { data: there, shape } }
    const call = () => fusedPreferenceLossSync(logits, labels, { shift: false, reference })
    expect(thrown(call).code).toBe('ERR_INVALID_ARG_VALUE')
  })
})

/** The output of a fresh process in which the host's runtime is told to fail in some way. */
function inProcess(environment: Record<string, string>, program: string): unknown {
  const source = `
    const { fusedPreferenceLossSync, getBackends } = await import(${JSON.stringify(DIST.href)})
    const { DeviceBuffer, Stream } = await import(${JSON.stringify(CUDA_DIST.href)})
    const error = (call) => { try { call() } catch (e) { return { code: e.code, message: e.message } } }
    const logits = { data: new Float32Array(64).fill(1), shape: [2, 2, 16] }
    const labels = Int32Array.of(1, 2, 3, 4)
    const call = (options) => fusedPreferenceLossSync(logits, labels, { lossType: 'cpo', backend: 'cuda', ...options })
    ${program}`
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', source], {
    encoding: 'utf8',
    env: { ...process.env, ...environment },
  })
  if (child.status !== 0) throw new Error(`exit ${child.status} ${child.signal}: ${child.stderr}`)
  return JSON.parse(child.stdout)
}

describe.runIf(onHost && CUDA.length > 0)('a GPU that fails', () => {
  let library: string
  beforeAll(() => {
    library = process.env.FUSED_PREFERENCE_LOSS_CUDA_LIBRARY as string
  })

  it.each([
    ['no GPU', { FPL_HOST_DEVICES: '0' }, 'no NVIDIA GPU found'],
    ['no driver', { FPL_HOST_DRIVER: '0' }, 'no NVIDIA driver found'],
    [
      'an old driver',
      { FPL_HOST_DRIVER: '12040' },
      'supports CUDA 12.4, older than this build needs (13.0, driver 580 or newer)',
    ],
    ['no library', { FUSED_PREFERENCE_LOSS_CUDA_LIBRARY: '/nowhere.so' }, 'this build has no CUDA library'],
    ['another library', { FUSED_PREFERENCE_LOSS_CUDA_LIBRARY: process.execPath }, ''],
  ])('%s: says why, and cannot be asked for', (_, environment, reason) => {
    const [backends, asked, buffer] = inProcess(
      environment,
      'console.log(JSON.stringify([getBackends().cuda, error(() => call()), error(() => new DeviceBuffer(8))]))',
    ) as [{ available: boolean; reason: string }, { code: string; message: string }, { code: string }]
    expect(backends.available).toBe(false)
    expect(backends.reason).toContain(reason)
    expect(asked.code).toBe('ERR_BACKEND_UNAVAILABLE')
    expect(asked.message).toContain(backends.reason)
    expect(buffer.code).toBe('ERR_BACKEND_UNAVAILABLE')
  })

  it('that has too little memory names the bytes, and gives back what the call had taken', () => {
    const program = `
      const before = error(() => call({ gradient: true }))
      const big = error(() => new DeviceBuffer(2 ** 30))
      const most = new DeviceBuffer(2 ** 20 - 2 ** 14)
      const large = { data: new Float32Array(4 * 2 ** 13), shape: [2, 2, 2 ** 13] }
      const full = error(() => fusedPreferenceLossSync(large, labels, { lossType: 'cpo', backend: 'cuda' }))
      most.dispose()
      const { loss } = fusedPreferenceLossSync(large, labels, { lossType: 'cpo', backend: 'cuda' })
      console.log(JSON.stringify({ before, big, full, loss }))`
    const { before, big, full, loss } = inProcess({ FPL_HOST_DEVICE_BYTES: String(2 ** 20) }, program) as Record<
      string,
      { code: string; message: string }
    >
    expect(before).toBeUndefined()
    expect(big.code).toBe('ERR_CUDA')
    expect(big.message).toMatch(/cudaErrorMemoryAllocation.*1073741824 bytes/)
    expect(full.code).toBe('ERR_CUDA')
    expect(full.message).toContain('allocating 131072 bytes of device memory for the logits')
    expect(loss).toBeTypeOf('number')
  })

  it('that has failed once makes every later call fail clearly', () => {
    const program = `
      const first = error(() => call({ gradient: true }))
      const second = error(() => call())
      const third = error(() => new DeviceBuffer(8))
      const cpu = call({ backend: 'cpu' }).loss
      console.log(JSON.stringify({ first, second, third, cpu }))`
    const { first, second, third, cpu } = inProcess({ FPL_HOST_FAULT: 'logits gradient' }, program) as Record<
      string,
      { code: string; message: string }
    >
    expect(first.message).toContain('cudaErrorIllegalAddress while running logits gradient')
    for (const error of [first, second, third]) {
      expect(error.code).toBe('ERR_CUDA')
      expect(error.message).toContain('cudaErrorIllegalAddress')
    }
    expect(cpu).toBeTypeOf('number')
  })

  it('is this library', () => {
    expect(library).toContain('fused_preference_loss_host')
  })
})
