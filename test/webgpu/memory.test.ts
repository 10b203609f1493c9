/**
 * What calls take of a device: memory beside the caller's.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { crossEntropy, fusedLinearPreferenceLoss, fusedPreferenceLoss, sequenceLogProbs } from '../../lib/index.js'
import { bytes, gaussian, random } from '../support.js'
import { asHardware, newDevice, upload } from './device.js'
import { type Watched, watch } from './watch.js'

const [BATCH, TIME] = [4, 6]
const ROWS = BATCH * TIME

let device: GPUDevice
let watched: Watched
beforeAll(async () => {
  device = asHardware(await newDevice())
  watched = watch(device)
})
afterAll(() => device.destroy())

const reference = { chosen: [-30, -20], rejected: [-25, -31] }

function inputs(vocab: number) {
  const next = random(vocab)
  const data = Float32Array.from({ length: ROWS * vocab }, () => gaussian(next))
  const labels = Int32Array.from({ length: ROWS }, (_, i) => (i === 3 ? -100 : (i * 7919) % vocab))
  return { logits: { data: upload(device, bytes(data)), shape: [BATCH, TIME, vocab] }, labels }
}

const MIB = 2 ** 20

/** What a call takes of a device beside its tensors for each row more, and all in all for the least rows. */
async function memoryOf(
  vocab: number,
  call: (logits: { data: GPUBuffer; shape: number[] }, labels: Int32Array, gradient: GPUBuffer) => Promise<unknown>,
) {
  const peaks: number[] = []
  for (const rows of [256, 512]) {
    const data = device.createBuffer({ size: 4 * rows * vocab, usage: 0x84 })
    const gradient = device.createBuffer({ size: 4 * rows * vocab, usage: 0x84 })
    // Few of them count, which costs less time and as much memory.
    const labels = Int32Array.from({ length: rows }, (_, i) => (i % 64 === 1 ? i % vocab : -100))
    watched.forget()
    await call({ data, shape: [BATCH, rows / BATCH, vocab] }, labels, gradient)
    expect(watched.live.size).toBe(0)
    peaks.push(watched.peak)
    for (const buffer of [data, gradient]) buffer.destroy()
  }
  const perRow = (peaks[1]! - peaks[0]!) / 256
  return { perRow, beside: peaks[0]! - 256 * perRow }
}

test.each([
  ['one segment', 8, 48],
  ['two segments', 16_388, 24 + 2 * 16],
])('a step takes 48 bytes a row, or what the states of its segments take: %s', async (_, vocab, bytesPerRow) => {
  const referenceLogits = device.createBuffer({ size: 4 * 512 * vocab, usage: 0x84 })
  for (const given of [reference, undefined]) {
    const { perRow, beside } = await memoryOf(vocab, (logits, labels, gradient) => {
      const ofReference = given ?? { logits: { ...logits, data: referenceLogits } }
      return fusedPreferenceLoss(logits, labels, {
        reference: ofReference,
        gradient,
        zeroInactive: false,
        gpuDevice: device,
      })
    })
    expect(perRow).toBe(bytesPerRow)
    expect(beside).toBeLessThanOrEqual(MIB)
  }
  referenceLogits.destroy()
})

test('what other calls take of a row', async () => {
  const states = 20
  const forward = await memoryOf(8, (logits, labels) => sequenceLogProbs(logits, labels, { gpuDevice: device }))
  // The states come to the host, for the gradient.
  expect(forward.perRow).toBe(4 + states + 16 + states)
  expect(forward.beside).toBeLessThanOrEqual(MIB)
  const classWeights = new Float64Array(8).fill(0.5)
  for (const options of [{}, { labelSmoothing: 0.1 }, { labelSmoothing: 0.1, zLoss: 1e-3, classWeights }]) {
    const { perRow, beside } = await memoryOf(8, (logits, labels, gradient) =>
      crossEntropy(logits, labels, { gradient, gpuDevice: device, ...options }),
    )
    // Losses on the device, in the place of means, and on their way back.
    expect(perRow).toBe(48 + 2 * 8)
    expect(beside).toBeLessThanOrEqual(MIB)
  }
})

// All logits kept, and chunks of 64 rows, which take 8 steps each.
test.each([
  [2 ** 20, 4 * 16],
  [0, (8 * 256) / 64],
])(
  'the output layer takes what its documentation says of a row, with a budget of %i bytes',
  async (logitsBudget, more) => {
    const [width, vocab] = [8, 16]
    const peaks: number[] = []
    for (const rows of [256, 512]) {
      const buffer = (length: number) => device.createBuffer({ size: 4 * length, usage: 0x84 })
      const hidden = { data: buffer(rows * width), shape: [BATCH, rows / BATCH, width] }
      const weight = { data: buffer(vocab * width), shape: [vocab, width] }
      const gradient = { hidden: buffer(rows * width), weight: buffer(vocab * width), bias: buffer(vocab) }
      const labels = new Int32Array(rows).fill(1)
      const options = { reference, bias: buffer(vocab), gradient, logitsBudget, gpuDevice: device }
      watched.forget()
      await fusedLinearPreferenceLoss(hidden, weight, labels, options)
      expect(watched.live.size).toBe(0)
      peaks.push(watched.peak)
    }
    const perRow = (peaks[1]! - peaks[0]!) / 256
    expect(perRow).toBe(60 + 4 * width + more)
    expect(peaks[0]! - 256 * perRow).toBeLessThanOrEqual(MIB)
  },
)

test('the output layer takes its budget of logits, sums of its gradients, and 1 MiB', async () => {
  const [rows, width, vocab] = [300, 32, 2000]
  const buffer = (length: number) => device.createBuffer({ size: 4 * length, usage: 0x84 })
  const hidden = { data: buffer(rows * width), shape: [2, rows / 2, width] }
  const weight = { data: buffer(vocab * width), shape: [vocab, width] }
  const gradient = { hidden: buffer(rows * width), weight: buffer(vocab * width), bias: buffer(vocab) }
  const options = { bias: buffer(vocab), lossType: 'cpo', gradient, gpuDevice: device } as const
  const labels = Int32Array.from({ length: rows }, (_, i) => (i % 10 === 3 ? -100 : i % vocab))
  const peakOf = async (logitsBudget: number) => {
    watched.forget()
    await fusedLinearPreferenceLoss(hidden, weight, labels, { ...options, logitsBudget })
    expect(watched.live.size).toBe(0)
    return watched.peak
  }
  const beside = MIB + 100 * rows + 4 * rows * width + 4 * vocab
  const all = 4 * rows * vocab
  expect(await peakOf(all)).toBeLessThanOrEqual(all + beside)
  expect(await peakOf(all)).toBeGreaterThan(0.7 * all)
  // 64 rows are multiplied at a time at least.
  const least = 4 * 64 * vocab
  for (const budget of [0, least, 2 * least]) {
    expect(await peakOf(budget)).toBeLessThanOrEqual(Math.max(budget, least) + beside)
  }
})

test('on a device that is software a row is split over 64 threads', async () => {
  const software = await newDevice()
  Object.defineProperty(software, 'adapterInfo', { value: { description: 'SwiftShader' } })
  const own = watch(software)
  const peakOf = async (rows: number) => {
    own.forget()
    const data = software.createBuffer({ size: 32 * rows, usage: 0x84 })
    const labels = new Int32Array(rows).fill(1)
    const { loss } = await fusedPreferenceLoss({ data, shape: [BATCH, rows / BATCH, 8] }, labels, {
      reference,
      gpuDevice: software,
    })
    expect(loss).toBeGreaterThan(0)
    data.destroy()
    return own.peak
  }
  expect((await peakOf(512)) - (await peakOf(256))).toBe(256 * (32 + 4 + 20 + 64 * 16))
  software.destroy()
})

test('20 steps leave no buffer behind', async () => {
  const { logits, labels } = inputs(64)
  watched.forget()
  for (let step = 0; step < 20; step++) {
    const { gradLogits } = await fusedPreferenceLoss(logits, labels, { reference, gradient: true, gpuDevice: device })
    ;(gradLogits!.data as GPUBuffer).destroy()
    const sums = await sequenceLogProbs(logits, labels, { gpuDevice: device })
    const { gradLogits: own } = await sums.backward([1, 0, -1, 2])
    ;(own.data as GPUBuffer).destroy()
    sums.dispose()
  }
  expect(watched.live.size).toBe(0)
})
