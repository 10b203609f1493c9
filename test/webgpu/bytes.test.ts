/**
 * The bytes that calls read and write of logits, of the output layer and of gradients: the formulas of docs/webgpu.md.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fusedLinearPreferenceLoss, fusedPreferenceLoss, sequenceLogProbs } from '../../lib/index.js'
import type { FusedOptions } from '../../lib/options/index.js'
import type { DType } from '../../lib/types/index.js'
import { bytes, gaussian, logitsOf, random } from '../support.js'
import { bytesOf, CountedBytes } from './counted-bytes.js'
import { asHardware, download, newDevice, upload } from './device.js'

let gpuDevice: GPUDevice
let counted: CountedBytes
beforeAll(async () => {
  gpuDevice = asHardware(await newDevice())
  counted = new CountedBytes(gpuDevice)
})
afterAll(() => gpuDevice.destroy())

const [BATCH, TIME] = [4, 3]
const ROWS = BATCH * TIME
/** Rows that predict something: the last of each sequence does not, and one label does not count. */
const isActive = (row: number) => row % TIME < TIME - 1 && row !== 3
const ACTIVE = ROWS - BATCH - 1
const reference = { chosen: [-30, -20], rejected: [-25, -31] }

function onLogits(dtype: DType, vocab: number) {
  const next = random(vocab)
  const logits = logitsOf(
    dtype,
    [BATCH, TIME, vocab],
    Array.from({ length: ROWS * vocab }, () => gaussian(next)),
  )
  const labels = Int32Array.from({ length: ROWS }, (_, i) => (i === 4 ? -100 : (i * 7919) % vocab))
  return { logits: { ...logits, data: upload(gpuDevice, bytes(logits.data as Float32Array)) }, labels }
}

// Rows in vectors and not, of one segment and of several, and with the label in the last tile.
test.each([4096, 4099, 20_000, 40_001])('float32 logits of %i tokens are read and written once', async (vocab) => {
  const { logits, labels } = onLogits('float32', vocab)
  const row = 4 * vocab
  const forward = await counted.during(() => sequenceLogProbs(logits, labels, { gpuDevice }))
  expect(bytesOf(forward, logits.data)).toEqual({ read: ACTIVE * (row + 4), written: 0 })
  const out = gpuDevice.createBuffer({ size: ROWS * row, usage: 0x84 })
  const step = await counted.during(() => fusedPreferenceLoss(logits, labels, { reference, gradient: out, gpuDevice }))
  expect(bytesOf(step, logits.data)).toEqual({ read: ACTIVE * (2 * row + 4), written: 0 })
  expect(bytesOf(step, out)).toEqual({ read: 0, written: ROWS * row })
  const inPlace = await counted.during(() =>
    fusedPreferenceLoss(logits, labels, { reference, gradient: 'in-place', gpuDevice }),
  )
  expect(bytesOf(inPlace, logits.data)).toEqual({ read: ACTIVE * (2 * row + 4), written: ROWS * row })
})

/** What a stage may read or write of a row of 16-bit elements beyond its size: words at its ends, and the label's… */
const ENDS = 64
/** …and one for each segment, or each tile of stage 4. */
const perSegment = (vocab: number) => 4 * Math.ceil(vocab / 16_384)
const perTile = (vocab: number) => 4 * Math.ceil((vocab + 1) / 4096)

// Rows that begin at even elements, at odd ones, and at both in turn, of one segment and of several.
test.each([
  [4096, 0],
  [4096, 1],
  [5001, 0],
  [40_001, 1],
])('16-bit rows of %i tokens from element %i on are read and written once', async (vocab, begin) => {
  const { logits: whole, labels } = onLogits('bfloat16', vocab)
  const [byteOffset, byteLength] = [2 * begin, 2 * ROWS * vocab]
  const size = 4 * Math.ceil((2 + byteLength) / 4)
  const part = (buffer: GPUBuffer, at = byteOffset) => ({ buffer, byteOffset: at, byteLength })
  const moved = gpuDevice.createBuffer({ size, usage: 0x8c })
  const values = new Uint8Array(size)
  values.set((await download(gpuDevice, whole.data)).subarray(0, byteLength), byteOffset)
  gpuDevice.queue.writeBuffer(moved, 0, values)
  const logits = { ...whole, data: part(moved) }
  const rows = Array.from({ length: ROWS }, (_, row) => row).filter(isActive)
  const once = 2 * vocab * rows.length
  const same = gpuDevice.createBuffer({ size, usage: 0x84 })
  // Its words begin in the middle of two of the logits'.
  const apart = gpuDevice.createBuffer({ size, usage: 0x84 })
  const outs = [
    [same, part(same)],
    [apart, part(apart, 2 - byteOffset)],
    [moved, 'in-place'],
  ] as [GPUBuffer, FusedOptions['gradient']][]
  for (const [written, gradient] of outs) {
    const traffic = await counted.during(() =>
      fusedPreferenceLoss(logits, labels, { reference, gradient, gpuDevice } as FusedOptions),
    )
    const forward = bytesOf(traffic, moved, ['token-log-probs', 'finish-rows'])
    const backward = bytesOf(traffic, moved, ['logits-gradient'])
    const out = bytesOf(traffic, written, ['logits-gradient'])
    expect(forward.written).toBe(0)
    expect(forward.read).toBeGreaterThanOrEqual(once)
    expect(forward.read).toBeLessThanOrEqual(once + ACTIVE * (ENDS + perSegment(vocab)))
    expect(backward.read).toBeGreaterThanOrEqual(once)
    expect(backward.read).toBeLessThanOrEqual(once + ROWS * (ENDS + perTile(vocab)))
    expect(out.written).toBeGreaterThanOrEqual(2 * ROWS * vocab)
    expect(out.written).toBeLessThanOrEqual(ROWS * (2 * vocab + ENDS))
  }
  // All is written, and the same wherever rows begin.
  await fusedPreferenceLoss(whole, labels, { reference, gradient: 'in-place', gpuDevice })
  const wanted = (await download(gpuDevice, whole.data)).subarray(0, byteLength)
  for (const [buffer, at] of [
    [same, byteOffset],
    [apart, 2 - byteOffset],
    [moved, byteOffset],
  ] as const) {
    const found = (await download(gpuDevice, buffer)).subarray(at, at + byteLength)
    expect(bytes(found).equals(wanted)).toBe(true)
  }
})

/** An output layer, its labels, and destinations of its gradients. */
function onHidden(width: number, vocab: number, time: number, byWord = true) {
  const next = random(width + vocab)
  const tensor = (length: number) =>
    upload(gpuDevice, bytes(Float32Array.from({ length }, () => gaussian(next) / Math.sqrt(width))))
  const out = (length: number) => gpuDevice.createBuffer({ size: 4 * length, usage: 0x84 })
  const rows = BATCH * time
  return {
    hidden: { data: tensor(rows * width), shape: [BATCH, time, width] },
    weight: { data: tensor(vocab * width), shape: [vocab, width], strides: byWord ? [width, 1] : [1, vocab] },
    bias: tensor(vocab),
    labels: Int32Array.from({ length: rows }, (_, i) => (i === 4 ? -100 : (i * 31) % vocab)),
    gradient: { hidden: out(rows * width), weight: out(vocab * width), bias: out(vocab) },
    /** Rows that predict something. */
    active: rows - BATCH - 1,
  }
}

const LOGITS = 'fused-preference-loss logits'
const SUMS = 'fused-preference-loss sums'
const tiles = (elements: number) => Math.ceil(elements / 64)

// One chunk and several, of logits that are kept and that are not; both layouts of the weight.
test.each([
  [2 ** 20, true],
  [0, true],
  [0, false],
] as const)('the output layer with a budget of %i bytes; stored [vocab, width]: %s', async (logitsBudget, byWord) => {
  const [width, vocab, time] = [70, 203, 40]
  const { hidden, weight, labels, gradient, bias, active } = onHidden(width, vocab, time, byWord)
  const traffic = await counted.during(() =>
    fusedLinearPreferenceLoss(hidden, weight, labels, { reference, bias, gradient, logitsBudget, gpuDevice }),
  )
  const isKept = logitsBudget > 0
  const chunks = isKept ? [active] : [64, 64, active - 128]
  const ofChunks = (of: (rows: number) => number) => chunks.reduce((sum, rows) => sum + of(rows), 0)
  const products = isKept ? 1 : 2
  const [H, W, L, B] = [4 * active * width, 4 * vocab * width, 4 * active * vocab, 4 * vocab]

  expect(bytesOf(traffic, hidden.data)).toEqual({ read: (products + 1) * tiles(vocab) * H, written: 0 })
  expect(bytesOf(traffic, weight.data)).toEqual({ read: (products + 1) * ofChunks(tiles) * W, written: 0 })
  expect(bytesOf(traffic, bias)).toEqual({ read: products * L, written: 0 })
  const ofStages = bytesOf(traffic, LOGITS, ['token-log-probs', 'finish-rows', 'logits-gradient'])
  expect(ofStages).toEqual({ read: 2 * L + 4 * active, written: L })
  expect(bytesOf(traffic, LOGITS, ['head-product'])).toEqual({ read: 2 * tiles(width) * L, written: products * L })
  expect(bytesOf(traffic, LOGITS, ['head-bias'])).toEqual({ read: L, written: 0 })
  expect(bytesOf(traffic, SUMS, ['head-product'])).toEqual({ read: 0, written: H })
  expect(bytesOf(traffic, SUMS, ['head-bias'])).toEqual({
    read: (chunks.length - 1) * B,
    written: chunks.length * B,
  })
  expect(bytesOf(traffic, SUMS, ['head-finish'])).toEqual({ read: H + B, written: 0 })
  expect(bytesOf(traffic, gradient.weight)).toEqual({ read: (chunks.length - 1) * W, written: chunks.length * W })
  expect(bytesOf(traffic, gradient.hidden)).toEqual({ read: 0, written: 4 * BATCH * time * width })
  expect(bytesOf(traffic, gradient.bias)).toEqual({ read: 0, written: B })
})
