/**
 * Calls that are prepared once: the same results as at once, in graphs too, and in device memory where the next kernel
 * takes them; streams that wait for each other; memory that is filled.
 */
import { describe, expect, it, vi } from 'vitest'
import {
  DeviceBuffer,
  type DeviceResults,
  type DLTensor,
  Event,
  fromDLTensor,
  labelsFromDLTensor,
  prepareCrossEntropy,
  prepareFusedLinearPreferenceLoss,
  prepareFusedLinearUnpairedPreferenceLoss,
  prepareFusedPreferenceLoss,
  prepareFusedUnpairedPreferenceLoss,
  prepareLinearCrossEntropy,
  prepareLinearSequenceLogProbs,
  prepareSequenceLogProbs,
  Stream,
  toDLTensor,
} from '../lib/cuda/index.js'
import {
  crossEntropySync,
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLossSync,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLossSync,
  linearCrossEntropySync,
  linearSequenceLogProbsSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import { read } from './device-memory.js'
import { TESTS_GPU } from './platform.js'
import { CUDA, gaussian, OUTPUTS, random } from './support.js'

const [B, T, V, D] = [4, 5, 131, 8]
const LABELS = Int32Array.from({ length: B * T }, (_, i) => (i % T < 2 ? -100 : (i * 7919) % V))
const DESIRABLE = [true, false, true, false]

function floats(length: number, seed: number): Float32Array {
  const next = random(seed)
  return Float32Array.from({ length }, () => 2 * gaussian(next))
}

function codeOf(call: () => unknown): string | undefined {
  try {
    call()
  } catch (error) {
    return (error as { code?: string }).code
  }
  return 'nothing was thrown'
}

/** The numbers of a result: no functions, no device memory. */
function numbersOf(result: object): unknown {
  const isData = (value: unknown) => typeof value !== 'function' && !(value instanceof DeviceBuffer)
  const plain = (value: unknown): unknown => {
    if (ArrayBuffer.isView(value) || typeof value !== 'object' || value === null) return value
    return Object.fromEntries(
      Object.entries(value)
        .filter(([, part]) => isData(part))
        .map(([key, part]) => [key, plain(part)]),
    )
  }
  return plain(result)
}

describe.runIf(CUDA.length > 0)('a prepared call', () => {
  const shape = [B, T, V]
  const hiddenShape = [B, T, D]
  const weightData = () => DeviceBuffer.from(floats(V * D, 5))
  const options = { gradient: true as const, outputs: OUTPUTS }
  const pairs = { ...options, lossType: 'simpo' as const }
  const single = { ...options, lossType: 'kto' as const, desirable: DESIRABLE, referenceFree: true, kl: 0.1 }
  const weight = CUDA.length > 0 ? { data: weightData(), shape: [V, D] } : undefined
  const CALLS: Record<
    string,
    (
      data: DeviceBuffer,
    ) => [{ read(): object; enqueue(stream?: Stream): void; dispose(): void; buffers: DeviceResults }, object]
  > = {
    fusedPreferenceLoss: (data) => [
      prepareFusedPreferenceLoss({ data, shape }, LABELS, pairs),
      fusedPreferenceLossSync({ data, shape }, LABELS, pairs),
    ],
    fusedUnpairedPreferenceLoss: (data) => [
      prepareFusedUnpairedPreferenceLoss({ data, shape }, LABELS, single),
      fusedUnpairedPreferenceLossSync({ data, shape }, LABELS, single),
    ],
    crossEntropy: (data) => [
      prepareCrossEntropy({ data, shape }, LABELS, { ...options, labelSmoothing: 0.1 }),
      crossEntropySync({ data, shape }, LABELS, { ...options, labelSmoothing: 0.1 }),
    ],
    sequenceLogProbs: (data) => [
      prepareSequenceLogProbs({ data, shape }, LABELS, { outputs: OUTPUTS }),
      sequenceLogProbsSync({ data, shape }, LABELS, { outputs: OUTPUTS }),
    ],
    fusedLinearPreferenceLoss: (data) => [
      prepareFusedLinearPreferenceLoss({ data, shape: hiddenShape }, weight!, LABELS, pairs),
      fusedLinearPreferenceLossSync({ data, shape: hiddenShape }, weight!, LABELS, pairs),
    ],
    fusedLinearUnpairedPreferenceLoss: (data) => [
      prepareFusedLinearUnpairedPreferenceLoss({ data, shape: hiddenShape }, weight!, LABELS, single),
      fusedLinearUnpairedPreferenceLossSync({ data, shape: hiddenShape }, weight!, LABELS, single),
    ],
    linearCrossEntropy: (data) => [
      prepareLinearCrossEntropy({ data, shape: hiddenShape }, weight!, LABELS, options),
      linearCrossEntropySync({ data, shape: hiddenShape }, weight!, LABELS, options),
    ],
    linearSequenceLogProbs: (data) => [
      prepareLinearSequenceLogProbs({ data, shape: hiddenShape }, weight!, LABELS, { outputs: OUTPUTS }),
      linearSequenceLogProbsSync({ data, shape: hiddenShape }, weight!, LABELS, { outputs: OUTPUTS }),
    ],
  }
  const sizeOf = (name: string) => B * T * (/linear/i.test(name) ? D : V)
  const gradients = (from: object) =>
    (['gradLogits', 'gradHidden', 'gradWeight'] as const).flatMap((part) => {
      const gradient = (from as Record<string, { data: DeviceBuffer } | undefined>)[part]
      return gradient ? [read(gradient.data, new Float32Array(gradient.data.byteLength / 4))] : []
    })

  it.each(Object.keys(CALLS))('of %s gives what the call gives at once, gradients included', (name) => {
    const data = DeviceBuffer.from(floats(sizeOf(name), 3))
    const [step, wanted] = CALLS[name](data)
    step.enqueue()
    const result = step.read()
    expect(numbersOf(result)).toEqual(numbersOf(wanted))
    expect('backward' in result).toBe(false)
    expect(gradients(result)).toEqual(gradients(wanted))
    expect(gradients(result).length).toBe(/logProbs/i.test(name) ? 0 : name.includes('inear') ? 2 : 1)
  })

  it.each(Object.keys(CALLS))('of %s is captured, and replayed on what the memory then holds', (name) => {
    using stream = new Stream()
    const data = DeviceBuffer.from(floats(sizeOf(name), 3))
    const [step] = CALLS[name](data)
    const graph = stream.capture(() => step.enqueue(stream))
    data.copyFrom(floats(sizeOf(name), 4))
    const [, wanted] = CALLS[name](data)
    graph.launch(stream)
    stream.synchronizeSync()
    const result = (step as { read(stream: Stream): object }).read(stream)
    expect(numbersOf(result)).toEqual(numbersOf(wanted))
    expect(gradients(result)).toEqual(gradients(wanted))
  })

  it('leaves its results in device memory, where a copy on the stream finds them before the host does', () => {
    const [step, wanted] = CALLS.fusedPreferenceLoss(DeviceBuffer.from(floats(B * T * V, 3)))
    const found = wanted as ReturnType<typeof fusedPreferenceLossSync>
    const { buffers } = step
    expect(step.buffers).toBe(buffers)
    const copy = new DeviceBuffer(24)
    step.enqueue()
    copy.copyFrom(buffers.loss!)
    expect(read(copy, new Float64Array(3))).toEqual(Float64Array.of(found.loss, found.accuracy, found.margin))
    const logProbs = Float64Array.of(
      found.chosenLogProbs[0],
      found.chosenLogProbs[1],
      found.rejectedLogProbs[0],
      found.rejectedLogProbs[1],
    )
    expect(read(buffers.logProbs, new Float64Array(B))).toEqual(logProbs)
    const { chosen, rejected } = found.gradLogProbs
    expect(read(buffers.coefficients, new Float64Array(B))).toEqual(Float64Array.of(...chosen, ...rejected))
    for (const name of ['losses', 'chosenRewards', 'rejectedRewards', 'chosenLogProbs', 'rejectedLogProbs'] as const) {
      expect(read(buffers[name], new Float64Array(2))).toEqual(found[name])
    }
    for (const name of OUTPUTS) {
      const kept = found[name] as Float32Array | Int32Array
      const like = name === 'tokenArgmax' ? new Int32Array(B * T) : new Float32Array(B * T)
      const all = read(buffers[name], like)
      for (let b = 0; b < B; b++) {
        expect(all.subarray(b * T, b * T + T - 1)).toEqual(kept.subarray(b * (T - 1), (b + 1) * (T - 1)))
      }
    }
    expect(buffers.referenceLogProbs).toBeUndefined()
    expect(buffers.rewards).toBeUndefined()
    expect(buffers.rowScale).toBeUndefined()
  })

  it('has those of the reference, of single sequences and of tokens', () => {
    const data = DeviceBuffer.from(floats(B * T * V, 3))
    const reference = { logits: { data: DeviceBuffer.from(floats(B * T * V, 9)), shape } }
    const step = prepareFusedPreferenceLoss({ data, shape }, LABELS, { reference })
    step.enqueue()
    const { logProbs } = sequenceLogProbsSync(reference.logits, LABELS)
    expect(read(step.buffers.referenceLogProbs, new Float64Array(B))).toEqual(logProbs)
    expect(step.buffers.coefficients).toBeUndefined()

    const [unpaired, wanted] = CALLS.fusedUnpairedPreferenceLoss(data)
    unpaired.enqueue()
    const found = wanted as ReturnType<typeof fusedUnpairedPreferenceLossSync>
    expect(read(unpaired.buffers.rewards, new Float64Array(B))).toEqual(found.rewards)
    expect(read(unpaired.buffers.coefficients, new Float64Array(B))).toEqual(found.gradLogProbs)
    expect(unpaired.buffers.loss!.byteLength).toBe(8)
    expect(read(unpaired.buffers.loss, new Float64Array(1))).toEqual(Float64Array.of(found.loss))

    const tokens = prepareCrossEntropy({ data, shape }, LABELS, { gradient: true, deferredScale: true })
    tokens.enqueue()
    const scaled = crossEntropySync({ data, shape }, LABELS, { gradient: true, deferredScale: true })
    const rowScale = read(tokens.buffers.rowScale, new Float64Array(B * T))
    expect(rowScale.subarray(0, T - 1)).toEqual(scaled.rowScale!.subarray(0, T - 1))
    expect(read(tokens.buffers.loss, new Float64Array(1))).toEqual(Float64Array.of(scaled.loss))
    expect(tokens.buffers.coefficients).toBeUndefined()
  })

  it('refuses empty sequences among labels in device memory once they are known', () => {
    const logits = { data: DeviceBuffer.from(floats(B * T * V, 3)), shape }
    const labels = DeviceBuffer.from(LABELS)
    const strict = { ...pairs, gradient: false, emptySequence: 'error' as const }
    expect(fusedPreferenceLossSync(logits, labels, strict).losses).toEqual(
      fusedPreferenceLossSync(logits, LABELS, strict).losses,
    )
    const step = prepareFusedPreferenceLoss(logits, labels, strict)
    step.enqueue()
    expect(step.read().tokenCounts).toEqual(Int32Array.of(3, 3, 3, 3))
    labels.slice(4 * 2 * T, 4 * 3 * T).copyFrom(new Int32Array(T).fill(-100))
    step.enqueue()
    const problem = /labels leave sequence 2 without active tokens/
    expect(() => step.read()).toThrow(problem)
    expect(codeOf(() => step.read())).toBe('ERR_INVALID_ARG_VALUE')
    expect(() => fusedPreferenceLossSync(logits, labels, strict)).toThrow(problem)
    expect(() => sequenceLogProbsSync(logits, labels, { emptySequence: 'error' })).toThrow(problem)
    expect(sequenceLogProbsSync(logits, labels, { emptySequence: 'zero' }).logProbs[2]).toBe(0)
  })

  it('copies nothing to the host before it is read', () => {
    const data = DeviceBuffer.from(floats(B * T * V, 3))
    const [step] = CALLS.fusedPreferenceLoss(data)
    step.enqueue()
    const first = (step.read() as { losses: Float64Array }).losses
    const before = [...first]
    data.copyFrom(floats(B * T * V, 4))
    step.enqueue()
    // Waits for all that has been enqueued.
    read(data, new Float32Array(1))
    expect([...first]).toEqual(before)
    step.read()
    expect([...first]).not.toEqual(before)
  })

  it('refuses host memory, and use after it has been disposed of', () => {
    const onHost = { data: floats(B * T * D, 3), shape: hiddenShape }
    const cpuWeight = { data: floats(V * D, 5), shape: [V, D] }
    const call = () => prepareLinearCrossEntropy(onHost, cpuWeight, LABELS, { backend: 'cuda' })
    expect(codeOf(call)).toBe('ERR_INVALID_ARG_VALUE')
    const logits = { data: floats(B * T * V, 3), shape }
    expect(codeOf(() => prepareSequenceLogProbs(logits, LABELS, { backend: 'cuda' }))).toBe('ERR_INVALID_ARG_VALUE')
    const [step] = CALLS.sequenceLogProbs(DeviceBuffer.from(logits.data))
    const { logProbs } = step.buffers
    step.dispose()
    expect(codeOf(() => step.buffers)).toBe('ERR_DISPOSED')
    expect(codeOf(() => logProbs!.ptr)).toBe('ERR_DISPOSED')
    expect(codeOf(() => logProbs!.copyTo(new Float64Array(B)))).toBe('ERR_DISPOSED')
    expect(codeOf(() => step.enqueue())).toBe('ERR_DISPOSED')
    expect(codeOf(() => step.read())).toBe('ERR_DISPOSED')
  })
})

describe.runIf(CUDA.length > 0)('memory', () => {
  it('is filled byte by byte, in the order of the stream', () => {
    using stream = new Stream()
    const buffer = DeviceBuffer.from(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8))
    buffer.slice(2, 4).fill(255, { stream })
    buffer.slice(4, 6).fill(undefined, { stream })
    buffer.slice(8).fill(9, { stream })
    const copy = new Uint8Array(8)
    buffer.copyTo(copy, { stream })
    expect([...copy]).toEqual([1, 2, 255, 255, 0, 0, 7, 8])
  })

  it('is filled with bytes alone', () => {
    const buffer = new DeviceBuffer(8)
    for (const byte of [-1, 256, 0.5]) expect(codeOf(() => buffer.fill(byte))).toBe('ERR_OUT_OF_RANGE')
    expect(codeOf(() => buffer.fill('1' as never))).toBe('ERR_INVALID_ARG_TYPE')
    expect(codeOf(() => buffer.fill(1, { stream: -1 }))).toBe('ERR_OUT_OF_RANGE')
    expect(codeOf(() => buffer.fill(1, null as never))).toBe('ERR_INVALID_ARG_TYPE')
    expect(codeOf(() => buffer.fill(1, { steam: 0 } as never))).toBe('ERR_INVALID_ARG_VALUE')
    buffer.dispose()
    expect(codeOf(() => buffer.fill(1))).toBe('ERR_DISPOSED')
  })
})

describe.runIf(CUDA.length > 0)('a stream', () => {
  /** What it reads of memory that another stream fills with 7 before an event for which it waits. */
  function readAfterFilling(stream: Stream): number[] {
    using consumer = stream
    using producer = new Stream()
    using event = new Event()
    const [from, to] = [DeviceBuffer.from(Uint8Array.of(1, 1, 1, 1)), new DeviceBuffer(4)]
    from.fill(7, { stream: producer })
    event.record(producer)
    consumer.wait(event)
    to.copyFrom(from, { stream: consumer })
    const found = new Uint8Array(4)
    to.copyTo(found, { stream: consumer })
    producer.synchronizeSync()
    return [...found]
  }

  it('waits for another at an event', () => {
    expect(readAfterFilling(new Stream())).toEqual([7, 7, 7, 7])
  })

  it('waits for the default stream, and not for an event that was never recorded', () => {
    using stream = new Stream()
    using event = new Event()
    stream.wait(event)
    const buffer = new DeviceBuffer(4)
    buffer.fill(3)
    event.record()
    stream.wait(event)
    const copy = new Uint8Array(4)
    buffer.copyTo(copy, { stream })
    expect([...copy]).toEqual([3, 3, 3, 3])
  })

  it('takes part in a graph of another that it waits for, and that waits for it in turn', () => {
    using main = new Stream()
    using side = new Stream()
    using begun = new Event()
    using ended = new Event()
    const [a, b] = [new DeviceBuffer(4), new DeviceBuffer(4)]
    const graph = main.capture(() => {
      begun.record(main)
      side.wait(begun)
      a.fill(1, { stream: side })
      ended.record(side)
      main.wait(ended)
      b.copyFrom(a, { stream: main })
    })
    a.fill(9, { stream: side }) // not captured any more
    side.synchronizeSync()
    graph.launch(main)
    const copy = new Uint8Array(4)
    b.copyTo(copy, { stream: main })
    expect([...copy]).toEqual([1, 1, 1, 1])
  })

  it('cannot leave work behind in a capture, nor wait there for what is not captured', () => {
    using main = new Stream()
    using side = new Stream()
    using event = new Event()
    const buffer = new DeviceBuffer(4)
    const unjoined = () =>
      main.capture(() => {
        event.record(main)
        side.wait(event)
        buffer.fill(1, { stream: side })
      })
    expect(codeOf(unjoined)).toBe('ERR_CUDA')
    event.record(side)
    expect(codeOf(() => main.capture(() => main.wait(event)))).toBe('ERR_CUDA')
    // Both go on as if nothing had been.
    buffer.fill(5, { stream: side })
    const copy = new Uint8Array(4)
    buffer.copyTo(copy, { stream: side })
    expect([...copy]).toEqual([5, 5, 5, 5])
    main.synchronizeSync()
  })

  it('waits for the events of another copy of the package', async () => {
    vi.resetModules()
    const copy: typeof import('../lib/cuda/index.js') = await import('../lib/cuda/index.js')
    expect(copy.Event).not.toBe(Event)
    expect(readAfterFilling(new copy.Stream())).toEqual([7, 7, 7, 7])
  })

  // Of a GPU nobody says what comes of that.
  it.skipIf(TESTS_GPU)('may be disposed of in a capture that it takes part in', () => {
    using main = new Stream()
    using begun = new Event()
    using ended = new Event()
    const buffer = new DeviceBuffer(4)
    const graph = main.capture(() => {
      const side = new Stream()
      begun.record(main)
      side.wait(begun)
      buffer.fill(6, { stream: side })
      ended.record(side)
      main.wait(ended)
      side.dispose()
    })
    graph.launch(main)
    const copy = new Uint8Array(4)
    buffer.copyTo(copy, { stream: main })
    expect([...copy]).toEqual([6, 6, 6, 6])
  })

  it('waits for events alone', () => {
    using stream = new Stream()
    const event = new Event()
    expect(codeOf(() => stream.wait(stream as never))).toBe('ERR_INVALID_ARG_TYPE')
    expect(codeOf(() => stream.wait(undefined as never))).toBe('ERR_INVALID_ARG_TYPE')
    event.dispose()
    expect(codeOf(() => stream.wait(event))).toBe('ERR_DISPOSED')
    stream.dispose()
    using other = new Event()
    expect(codeOf(() => stream.wait(other))).toBe('ERR_DISPOSED')
    const graph = new Stream().capture(() => {})
    graph.dispose()
    expect(codeOf(() => graph.launch())).toBe('ERR_DISPOSED')
    expect(codeOf(() => other.millisecondsTo(event))).toBe('ERR_DISPOSED')
    expect(codeOf(() => event.record())).toBe('ERR_DISPOSED')
  })
})

describe.runIf(CUDA.length > 0)("another library's array", () => {
  const shape = [B, T, V]
  const values = floats(B * T * V, 3)
  const float32 = { code: 2, bits: 32, lanes: 1 }

  /** An array as another library would describe it. */
  function described(data: Float32Array | Int32Array | Uint8Array, over: Partial<DLTensor> = {}) {
    const buffer = DeviceBuffer.from(data)
    const array: DLTensor = {
      data: BigInt(buffer.ptr),
      device: { device_type: 2, device_id: 0 },
      dtype: float32,
      shape,
      strides: null,
      byte_offset: 0n,
      ...over,
    }
    return { array, buffer }
  }

  it('is used in place, as logits with strides, labels, a mask and a destination', () => {
    const room = new Float32Array(1 + B * T * (V + 5))
    for (let row = 0; row < B * T; row++) room.set(values.subarray(row * V, (row + 1) * V), 1 + row * (V + 5))
    const strides = [BigInt(T * (V + 5)), BigInt(V + 5), 1n]
    const logits = described(room, { shape: shape.map(BigInt), strides, byte_offset: 4 })
    const labels = described(LABELS, { dtype: { code: 0, bits: 32, lanes: 1 }, shape: [B, T] })
    const ones = new Uint8Array(B * T).fill(1).fill(0, 3, 4)
    const mask = described(ones, { dtype: { code: 6, bits: 8, lanes: 1 }, shape: [B, T], strides: [T, 1] })
    const out = described(new Float32Array(B * T * V))
    const tensor = fromDLTensor(logits.array)
    expect(tensor).toMatchObject({ shape, dtype: 'float32', strides: strides.map(Number) })
    const result = crossEntropySync(tensor, labelsFromDLTensor(labels.array), {
      mask: labelsFromDLTensor(mask.array),
      gradient: fromDLTensor(out.array).data,
    })
    const wanted = crossEntropySync({ data: DeviceBuffer.from(values), shape }, LABELS, { mask: ones, gradient: true })
    expect(result.loss).toBe(wanted.loss)
    const like = new Float32Array(B * T * V)
    expect(read(out.buffer, like)).toEqual(read(wanted.gradLogits.data as DeviceBuffer, like))
  })

  it('is refused where a call has as many bytes of labels or of a mask, but of another type and shape', () => {
    const tensor = { data: DeviceBuffer.from(values), shape }
    const bytes = new Int32Array(2 * B * T)
    const labels = (bits: number, sizes: number[]) =>
      labelsFromDLTensor(described(bytes, { dtype: { code: 0, bits, lanes: 1 }, shape: sizes }).array)
    const wanted = `labels must have ${B * T} elements, one per position; got `
    expect(() => crossEntropySync(tensor, labels(64, [B / 2, T]))).toThrow(`${wanted}${(B * T) / 2}`)
    expect(() => crossEntropySync(tensor, labels(32, [2 * B, T]))).toThrow(`${wanted}${2 * B * T}`)
    const { loss } = crossEntropySync(tensor, new Int32Array(B * T))
    expect(crossEntropySync(tensor, labels(32, [B, T])).loss).toBe(loss)
    expect(crossEntropySync(tensor, labels(64, [B, T])).loss).toBe(loss)
    const mask = labels(32, [1, T])
    expect(() => crossEntropySync(tensor, labels(32, [B, T]), { mask })).toThrow('options.mask must have')
  })

  it('of managed memory is that of another library again', () => {
    const { array } = described(values, { device: { device_type: 13, device_id: 0 } })
    expect(toDLTensor(fromDLTensor(array)).device).toEqual(array.device)
  })

  it('is waited for by the stream on which it is used, where it says what has to end before', () => {
    using producer = new Stream()
    using consumer = new Stream()
    const { array, buffer } = described(new Float32Array(B * T * V), { stream: producer })
    const ready = DeviceBuffer.from(values)
    buffer.copyFrom(ready, { stream: producer })
    const found = sequenceLogProbsSync(fromDLTensor(array, { stream: consumer }), LABELS, { stream: consumer })
    expect(found.logProbs).toEqual(sequenceLogProbsSync({ data: ready, shape }, LABELS).logProbs)
    producer.synchronizeSync()
  })

  it('is what a tensor or a result becomes for it, and comes back the same', () => {
    using stream = new Stream()
    const data = DeviceBuffer.from(values)
    const array = toDLTensor({ data, shape, dtype: 'float32' }, { stream })
    expect(array).toEqual({
      data: BigInt(data.ptr),
      device: { device_type: 2, device_id: 0 },
      dtype: float32,
      shape,
      strides: [T * V, V, 1],
      byte_offset: 0,
      stream: BigInt(stream.handle),
      owner: data,
    })
    const back = fromDLTensor(array)
    expect(back).toMatchObject({ shape, dtype: 'float32', strides: [T * V, V, 1] })
    expect(back.data).toMatchObject({ ptr: array.data, byteLength: data.byteLength, device: 0 })
    const step = prepareSequenceLogProbs({ data, shape }, LABELS)
    const sums = toDLTensor({ data: step.buffers.logProbs!, shape: [B], dtype: 'float64' })
    expect(sums.dtype).toEqual({ code: 2, bits: 64, lanes: 1 })
    expect(sums.data).toBe(BigInt(step.buffers.logProbs!.ptr))
    const half = { data: data.slice(2), shape: [2, 3], strides: [4, 1], dtype: 'bfloat16' as const }
    expect(toDLTensor(half)).toMatchObject({ dtype: { code: 4, bits: 16, lanes: 1 }, strides: [4, 1], stream: 0n })
  })

  it.each<[string, Partial<DLTensor>, string]>([
    ['of the host', { device: { device_type: 1, device_id: 0 } }, 'ERR_INVALID_ARG_VALUE'],
    ['of no device', { device: undefined as never }, 'ERR_INVALID_ARG_VALUE'],
    ['of another device', { device: { device_type: 2, device_id: 1 } }, 'ERR_INVALID_ARG_VALUE'],
    ['of float64', { dtype: { code: 2, bits: 64, lanes: 1 } }, 'ERR_INVALID_ARG_VALUE'],
    ['of vectors', { dtype: { code: 2, bits: 32, lanes: 4 } }, 'ERR_INVALID_ARG_VALUE'],
    ['of int32', { dtype: { code: 0, bits: 32, lanes: 1 } }, 'ERR_INVALID_ARG_VALUE'],
    ['without a type', { dtype: undefined as never }, 'ERR_INVALID_ARG_VALUE'],
    ['without an address', { data: undefined as never }, 'ERR_INVALID_ARG_TYPE'],
    ['at no address', { data: 0n }, 'ERR_OUT_OF_RANGE'],
    ['without a shape', { shape: undefined as never }, 'ERR_INVALID_ARG_TYPE'],
    ['with a size below 0', { shape: [1, -1, 1] }, 'ERR_OUT_OF_RANGE'],
    ['with strides of another number of dimensions', { strides: [1] }, 'ERR_SHAPE_MISMATCH'],
    ['that goes backward', { strides: [-1, V, 1] }, 'ERR_OUT_OF_RANGE'],
    ['that is larger than its memory', { shape: [B + 1, T, V] }, 'ERR_INVALID_ARG_VALUE'],
    ['at an odd byte', { byte_offset: 2 }, 'ERR_INVALID_ARG_VALUE'],
    ['on no stream', { stream: -1 }, 'ERR_OUT_OF_RANGE'],
  ])('%s is refused', (_, over, code) => {
    expect(codeOf(() => fromDLTensor(described(values, over).array))).toBe(code)
  })

  it('that is no array, not contiguous or too small is refused', () => {
    const types = { dtype: { code: 0, bits: 32, lanes: 1 } }
    const { array, buffer } = described(LABELS, { ...types, shape: [B, T - 1], strides: [T, 1] })
    expect(codeOf(() => labelsFromDLTensor(array))).toBe('ERR_INVALID_ARG_VALUE')
    expect(codeOf(() => labelsFromDLTensor({ ...array, dtype: float32 }))).toBe('ERR_INVALID_ARG_VALUE')
    expect(codeOf(() => fromDLTensor(undefined as never))).toBe('ERR_INVALID_ARG_TYPE')
    expect(codeOf(() => toDLTensor(undefined as never))).toBe('ERR_INVALID_ARG_TYPE')
    const onHost = { data: LABELS as never, shape: [B, T], dtype: 'int32' as const }
    expect(codeOf(() => toDLTensor(onHost))).toBe('ERR_INVALID_ARG_TYPE')
    const tooLarge = { data: buffer, shape: [B, T, 2], dtype: 'int32' as const }
    expect(codeOf(() => toDLTensor(tooLarge))).toBe('ERR_SHAPE_MISMATCH')
    const unknown = { data: buffer, shape: [B, T], dtype: 'int16' as never }
    expect(codeOf(() => toDLTensor(unknown))).toBe('ERR_INVALID_ARG_VALUE')
    const untyped = { data: buffer, shape: [B, T] } as never
    expect(codeOf(() => toDLTensor(untyped))).toBe('ERR_INVALID_ARG_VALUE')
    for (const [options, code] of [
      [null, 'ERR_INVALID_ARG_TYPE'],
      [{ steam: 0 }, 'ERR_INVALID_ARG_VALUE'],
    ] as [never, string][]) {
      expect(codeOf(() => fromDLTensor(described(values).array, options))).toBe(code)
      expect(codeOf(() => labelsFromDLTensor({ ...array, strides: null }, options))).toBe(code)
      expect(codeOf(() => toDLTensor({ ...tooLarge, shape: [B, T - 1] }, options))).toBe(code)
    }
    buffer.dispose()
    expect(codeOf(() => toDLTensor({ ...tooLarge, shape: [B, T] }))).toBe('ERR_DISPOSED')
  })
})
