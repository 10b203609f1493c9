/**
 * Label smoothing on WebGPU, whose sweeps find means beside sums: the losses and gradients are those of the js backend.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { crossEntropy } from '../../lib/index.js'
import { bytes, gaussian, random } from '../support.js'
import { asHardware, download, newDevice, upload } from './device.js'

let gpuDevice: GPUDevice
beforeAll(async () => {
  gpuDevice = asHardware(await newDevice())
})
afterAll(() => gpuDevice.destroy())

const ROWS = 3

// Of fewer logits than threads, with a label that a thread has alone, and of several segments.
test.each([5, 1025, 20_001])('rows of %i logits, with and without weights of classes', async (vocab) => {
  const next = random(vocab)
  const data = Float32Array.from({ length: ROWS * vocab }, () => 3 * gaussian(next))
  // So far away that its exponential is 0.
  data[vocab + 3] = -4000
  const labels = Int32Array.of(vocab - 1, 1, vocab - 1)
  const shape = [1, ROWS, vocab]
  const weights = Float64Array.from({ length: vocab }, (_, v) => (v === 2 ? 0 : 0.5 + (v % 5) / 4))
  for (const classWeights of [undefined, weights]) {
    // A class without a weight takes no part.
    if (classWeights) data[2] = Number.NEGATIVE_INFINITY
    const options = { shift: false, labelSmoothing: 0.2, zLoss: 1e-3, classWeights } as const
    const wanted = await crossEntropy({ data, shape }, labels, { ...options, gradient: true, backend: 'js' })
    const onGpu = upload(gpuDevice, bytes(data))
    const got = await crossEntropy({ data: onGpu, shape }, labels, { ...options, gradient: 'in-place', gpuDevice })
    for (const [row, loss] of wanted.losses.entries()) {
      expect(Number.isFinite(loss)).toBe(true)
      expect(Math.abs(got.losses[row]! - loss)).toBeLessThanOrEqual(1e-7 * loss)
    }
    const gradient = new Float32Array((await download(gpuDevice, onGpu)).buffer as ArrayBuffer)
    const largest = Math.max(...wanted.gradLogits.data.map(Math.abs))
    const wrong = gradient.map((x, i) => Math.abs(x - wanted.gradLogits.data[i]!))
    expect(largest).toBeGreaterThan(0)
    expect(Math.max(...wrong)).toBeLessThanOrEqual(2e-7 * largest)
  }
})
