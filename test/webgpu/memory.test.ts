/**
 * What calls take of a device: buffers beside the caller's, and the logits that they read and write.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { crossEntropy, fusedPreferenceLoss, sequenceLogProbs } from '../../lib/index.js'
import { bytes, gaussian, random } from '../support.js'
import { countLogits } from './counted-logits.js'
import { download, newDevice, upload } from './device.js'
import { type Watched, watch } from './watch.js'

const [BATCH, TIME] = [4, 6]
const ROWS = BATCH * TIME
/** Rows that predict something: the last of each sequence does not, and one label does not count. */
const ACTIVE = ROWS - BATCH - 1

let device: GPUDevice
let counts: GPUBuffer
let watched: Watched
beforeAll(async () => {
  device = await newDevice()
  counts = countLogits(device)
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

async function logitsCounted(call: () => Promise<unknown>): Promise<{ read: number; written: number }> {
  device.queue.writeBuffer(counts, 0, new Uint32Array(2))
  await call()
  const [read, written] = new Uint32Array((await download(device, counts)).buffer as ArrayBuffer)
  return { read: read!, written: written! }
}

/** Elements in 512 bytes. */
const SLACK = 128

// With rows in vectors and not, of one segment and of several.
test.each([4096, 4099, 40_000, 40_001])('logits of %i tokens are read once and written once', async (vocab) => {
  const { logits, labels } = inputs(vocab)
  const forward = await logitsCounted(async () => {
    await sequenceLogProbs(logits, labels, { gpuDevice: device, outputs: ['tokenLogProbs'] })
  })
  expect(forward.written).toBe(0)
  expect(forward.read).toBeGreaterThanOrEqual(ACTIVE * vocab)
  expect(forward.read).toBeLessThanOrEqual(ACTIVE * (vocab + SLACK))
  for (const gradient of [true, 'in-place'] as const) {
    const step = await logitsCounted(() =>
      fusedPreferenceLoss(logits, labels, { reference, gradient, gpuDevice: device }),
    )
    expect(step.read).toBeGreaterThanOrEqual(2 * ACTIVE * vocab)
    expect(step.read).toBeLessThanOrEqual(ACTIVE * (2 * vocab + SLACK))
    expect(step.written).toBeGreaterThanOrEqual(ACTIVE * vocab)
    expect(step.written).toBeLessThanOrEqual(ROWS * (vocab + SLACK))
  }
})

test('a call takes 1 MiB and 64 bytes a row beside its tensors, and the states of segments', async () => {
  for (const [vocab, segments] of [
    [4096, 1],
    [40_000, 3],
  ] as const) {
    const { logits, labels } = inputs(vocab)
    const gradient = device.createBuffer({ size: 4 * ROWS * vocab, usage: 0x84 })
    for (const call of [
      () => fusedPreferenceLoss(logits, labels, { reference, gradient, gpuDevice: device }),
      () => crossEntropy(logits, labels, { gradient, labelSmoothing: 0.1, gpuDevice: device }),
    ]) {
      watched.forget()
      await call()
      expect(watched.peak).toBeLessThanOrEqual(2 ** 20 + 64 * ROWS + 56 * ROWS * segments)
      expect(watched.live.size).toBe(0)
    }
  }
})

test('200 steps leave no buffer behind', async () => {
  const { logits, labels } = inputs(64)
  watched.forget()
  for (let step = 0; step < 200; step++) {
    const { gradLogits } = await fusedPreferenceLoss(logits, labels, { reference, gradient: true, gpuDevice: device })
    ;(gradLogits!.data as GPUBuffer).destroy()
    const sums = await sequenceLogProbs(logits, labels, { gpuDevice: device })
    const { gradLogits: own } = await sums.backward([1, 0, -1, 2])
    ;(own.data as GPUBuffer).destroy()
    sums.dispose()
  }
  expect(watched.live.size).toBe(0)
})
