/**
 * The output layer on WebGPU: what its chunks, its windows, its batch and its memory have no say in, and what they cost.
 */
import { afterAll, expect, test } from 'vitest'
import { fusedLinearPreferenceLoss, linearSequenceLogProbs } from '../../lib/index.js'
import type { FusedLinearOptions } from '../../lib/options/index.js'
import type { DType } from '../../lib/types/index.js'
import { bytes, decode, encode, gaussian, logitsOf, random, storage } from '../support.js'
import { AS_SOFTWARE, download, newDevice, upload } from './device.js'

const gpuDevice = AS_SOFTWARE!

/** A device whose bindings show little, and the names of the shaders that it has been given bindings for. */
const small = await newDevice()
const recorded: string[] = []
const { limits, createBindGroup } = small
Object.defineProperty(small, 'limits', {
  value: new Proxy(limits, {
    get: (from, name) =>
      name === 'maxStorageBufferBindingSize' ? 170_000 : (from as unknown as Record<PropertyKey, unknown>)[name],
  }),
})
small.createBindGroup = (descriptor) => {
  recorded.push(descriptor.label!)
  return createBindGroup.call(small, descriptor)
}
afterAll(() => small.destroy())

/** A random layer, and labels of which a tenth do not count. */
function layer(batch: number, time: number, width: number, vocab: number, dtype: DType = 'float32') {
  const next = random(width + vocab)
  const some = (length: number, size: number) => Array.from({ length }, () => size * gaussian(next))
  return {
    hidden: logitsOf(dtype, [batch, time, width], some(batch * time * width, 1)),
    weight: logitsOf(dtype, [vocab, width], some(vocab * width, 2 / Math.sqrt(width))),
    bias: logitsOf(dtype, [1, vocab], some(vocab, 1)).data as Float32Array | Uint16Array,
    labels: Int32Array.from({ length: batch * time }, () => (next() < 0.1 ? -100 : Math.floor(next() * vocab))),
  }
}
type Layer = ReturnType<typeof layer>

const onGpu = (device: GPUDevice, { hidden, weight, bias, labels }: Layer) =>
  [
    { ...hidden, data: upload(device, bytes(hidden.data as Float32Array)) },
    { ...weight, data: upload(device, bytes(weight.data as Float32Array)) },
    labels,
    { bias: upload(device, bytes(bias)), gpuDevice: device },
  ] as const

/** The loss and all gradients of a call, as bytes. */
async function step(device: GPUDevice, of: Layer, options: FusedLinearOptions = {}): Promise<Uint8Array[]> {
  const [hidden, weight, labels, more] = onGpu(device, of)
  const given = { gradient: true, lossType: 'cpo', ...more, ...options } as const
  const got = await fusedLinearPreferenceLoss(hidden, weight, labels, given)
  const buffers = [got.gradHidden!.data, got.gradWeight!.data, got.gradBias!] as GPUBuffer[]
  const found = await Promise.all(buffers.map((buffer) => download(device, buffer)))
  return [bytes(Float64Array.of(got.loss, ...got.chosenLogProbs)), ...found]
}

/** Which of the results of two steps are the same, loss first: their bytes would take long to print. */
const same = (a: Uint8Array[], b: Uint8Array[]) => a.map((part, i) => bytes(part).equals(b[i]!))
const ALL = [true, true, true, true]

/** A layer stored [width, vocab]. */
function transposed({ weight, ...rest }: Layer): Layer {
  const [vocab, width] = weight.shape as [number, number]
  const from = weight.data as Float32Array
  const data = Float32Array.from({ length: from.length }, (_, i) => from[(i % vocab) * width + Math.floor(i / vocab)]!)
  return { ...rest, weight: { ...weight, data, strides: [1, vocab] } }
}

test('no bit depends on logitsBudget', async () => {
  const big = layer(2, 150, 40, 300)
  const wanted = await step(gpuDevice, big)
  expect(new Set(wanted[1]).size).toBeGreaterThan(100)
  // Chunks of 64 rows, of 128, of 256, and one.
  for (const rows of [0, 130, 260, 300]) {
    expect(same(await step(gpuDevice, big, { logitsBudget: rows * 300 * 4 }), wanted), `${rows}`).toEqual(ALL)
  }
})

test.each([false, true])('nor on how much a binding shows; stored [width, vocab]: %s', async (isTransposed) => {
  const made = layer(2, 160, 150, 300)
  const big = isTransposed ? transposed(made) : made
  recorded.length = 0
  expect(same(await step(small, big), await step(gpuDevice, big))).toEqual(ALL)
  // Two parts of the weight, for three chunks, in each of three products.
  expect(recorded.filter((label) => label.startsWith('head-product'))).toHaveLength(18)
})

test('the bits of a row do not depend on the other rows', async () => {
  const all = layer(6, 20, 33, 101)
  const ofSome = (sequences: number[]): Layer => ({
    ...all,
    hidden: {
      ...all.hidden,
      shape: [sequences.length, 20, 33],
      data: Float32Array.from(
        sequences.flatMap((s) => [...(all.hidden.data as Float32Array).subarray(s * 660, s * 660 + 660)]),
      ),
    },
    labels: Int32Array.from(sequences.flatMap((s) => [...all.labels.subarray(20 * s, 20 * s + 20)])),
  })
  const run = async (sequences: number[]) => {
    const got = await linearSequenceLogProbs(...onGpu(gpuDevice, ofSome(sequences)))
    const { gradHidden } = await got.backward(sequences.map((s) => s - 2.5))
    return { logProbs: got.logProbs, gradient: await download(gpuDevice, gradHidden!.data as GPUBuffer) }
  }
  const whole = await run([0, 1, 2, 3, 4, 5])
  const part = await run([5, 1])
  expect(part.logProbs).toEqual(Float64Array.of(whole.logProbs[5]!, whole.logProbs[1]!))
  const size = 660 * 4
  expect(part.gradient.subarray(0, size)).toEqual(whole.gradient.subarray(5 * size, 6 * size))
  expect(part.gradient.subarray(size)).toEqual(whole.gradient.subarray(size, 2 * size))
})

test('16-bit gradients between other bytes, from an odd place on; rows that are left alone', async () => {
  for (const dtype of ['float16', 'bfloat16'] as const) {
    const of = layer(2, 5, 7, 31, dtype)
    const [hidden, weight, labels, more] = onGpu(gpuDevice, of)
    const wide = await step(gpuDevice, of)
    const sizes = { hidden: 70, weight: 217, bias: 31 }
    const memory = (length: number) => upload(gpuDevice, bytes(new Uint16Array(length + 3).fill(encode[dtype](2))))
    const call = async (options: FusedLinearOptions) => {
      const buffers = Object.entries(sizes).map(([name, length]) => [name, memory(length)] as const)
      const gradient = Object.fromEntries(
        buffers.map(([name, buffer]) => [
          name,
          { buffer, byteOffset: 2, byteLength: 2 * sizes[name as keyof typeof sizes] },
        ]),
      )
      const given = { ...more, ...options, gradient, gradientDType: dtype, lossType: 'cpo' } as const
      await fusedLinearPreferenceLoss(hidden, weight, labels, given)
      return Promise.all(
        buffers.map(async ([, buffer]) =>
          Array.from(new Uint16Array((await download(gpuDevice, buffer)).buffer as ArrayBuffer), decode[dtype]),
        ),
      )
    }
    const over = await call({})
    const added = await call({ accumulate: true })
    const left = await call({ zeroInactive: false })
    const isActive = (row: number) => row % 5 < 4 && labels[row + 1] !== -100
    for (const [k, length] of Object.values(sizes).entries()) {
      const exact = new Float32Array(wide[k + 1]!.buffer as ArrayBuffer)
      for (const found of [over, added, left]) {
        expect([found[k]![0], ...found[k]!.slice(length + 1, length + 3)]).toEqual([2, 2, 2])
      }
      for (let i = 0; i < length; i++) {
        const once = (x: number) => decode[dtype](encode[dtype](x))
        expect(over[k]![i + 1]).toBe(once(exact[i]!))
        expect(added[k]![i + 1]).toBe(once(Math.fround(exact[i]! + 2)))
        const stays = k === 0 && !isActive(Math.floor(i / 7))
        expect(left[k]![i + 1]).toBe(stays ? 2 : once(exact[i]!))
      }
    }
  }
})

test('a row without a coefficient takes no part, even if it is NaN', async () => {
  const of = layer(2, 4, 6, 20)
  const data = of.hidden.data as Float32Array
  const [, weight, labels, more] = onGpu(gpuDevice, of)
  const run = async (value: number) => {
    data.fill(value, 0, 24)
    const hidden = { ...of.hidden, data: upload(gpuDevice, bytes(data)) }
    const got = await linearSequenceLogProbs(hidden, weight, labels, more)
    const { gradWeight } = await got.backward([0, 1], { gradient: { weight: true } })
    return download(gpuDevice, gradWeight!.data as GPUBuffer)
  }
  const clean = await run(1)
  expect(new Set(clean).size).toBeGreaterThan(50)
  expect(await run(Number.NaN)).toEqual(clean)
})

test('labels on the device, and gradients in the buffer of the hidden states', async () => {
  const of = layer(2, 9, 16, 50)
  const wanted = await step(gpuDevice, of)
  const [, weight, labels, more] = onGpu(gpuDevice, of)
  const [inHidden, inWeight] = [4 * 18 * 16, 4 * 50 * 16]
  const room = storage('float32', (2 * inHidden + inWeight) / 4)
  room.set(of.hidden.data as Float32Array)
  const buffer = upload(gpuDevice, bytes(room))
  const hidden = { ...of.hidden, data: { buffer, byteLength: inHidden } }
  const gradient = {
    hidden: { buffer, byteOffset: inHidden, byteLength: inHidden },
    weight: { buffer, byteOffset: 2 * inHidden, byteLength: inWeight },
    bias: true,
  }
  const given = { ...more, lossType: 'cpo', gradient } as const
  const got = await fusedLinearPreferenceLoss(hidden, weight, upload(gpuDevice, bytes(labels)), given)
  expect(bytes(Float64Array.of(got.loss, ...got.chosenLogProbs))).toEqual(wanted[0])
  const all = await download(gpuDevice, buffer)
  expect(all.subarray(inHidden, 2 * inHidden)).toEqual(wanted[1])
  expect(all.subarray(2 * inHidden)).toEqual(wanted[2])
  expect(await download(gpuDevice, got.gradBias as GPUBuffer)).toEqual(wanted[3])
})
