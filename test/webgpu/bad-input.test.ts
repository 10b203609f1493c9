/**
 * Buffers and devices that a call cannot use: each gives an error with a code, and nothing of the caller's is written.
 */
import { describe, expect, test } from 'vitest'
import {
  crossEntropy,
  fusedPreferenceLoss,
  linearCrossEntropy,
  sequenceLogProbs,
  sequenceLogProbsSync,
} from '../../lib/index.js'
import type { GpuMemory, Logits } from '../../lib/types/index.js'
import { bytes } from '../support.js'
import { AS_SOFTWARE, download, newDevice, upload } from './device.js'

const [BATCH, TIME, VOCAB] = [2, 3, 40]
const SIZE = BATCH * TIME * VOCAB
const shape = [BATCH, TIME, VOCAB]
const elements = Float32Array.from({ length: SIZE }, (_, i) => ((i * 37) % 101) / 16)
const labels = Int32Array.from({ length: BATCH * TIME }, (_, i) => (7 * i) % VOCAB)
const reference = { chosen: [-3], rejected: [-4] }
const [MAP_READ, COPY_SRC, COPY_DST, STORAGE] = [1, 4, 8, 128]

const code = (code: string, message?: string | RegExp) =>
  expect.objectContaining(message === undefined ? { code } : { code, message: expect.stringMatching(message) })

const gpuDevice = AS_SOFTWARE!

const logits = (data: GpuMemory = upload(gpuDevice, bytes(elements))): Logits => ({ data, shape })
const run = (given: Logits, options: object = {}) =>
  fusedPreferenceLoss(given, labels, { reference, gradient: 'in-place', gpuDevice, ...options })
const empty = (size: number, usage: number) => gpuDevice.createBuffer({ size, usage })

describe('buffers', () => {
  test('whole, and in part, they give what arrays give', async () => {
    const wanted = await fusedPreferenceLoss({ data: elements, shape }, labels, { reference, backend: 'js' })
    const got = await run(logits())
    expect(Math.abs(got.loss - wanted.loss)).toBeLessThan(1e-6)
    const part = upload(gpuDevice, bytes(Float32Array.of(7, 8, ...elements, 9)))
    const ofPart = await run(logits({ buffer: part, byteOffset: 8, byteLength: 4 * SIZE }))
    expect(ofPart.loss).toBe(got.loss)
    const after = new Float32Array((await download(gpuDevice, part)).buffer as ArrayBuffer)
    expect([after[0], after[1], after[SIZE + 2]]).toEqual([7, 8, 9])
  })

  test.each<[string, () => GpuMemory, string, RegExp]>([
    ['without STORAGE', () => empty(4 * SIZE, COPY_SRC), 'ERR_INVALID_ARG_VALUE', /STORAGE/],
    ['too small', () => empty(4 * SIZE - 4, STORAGE), 'ERR_SHAPE_MISMATCH', /./],
    [
      'at no multiple of the element size',
      () => ({ buffer: empty(4 * SIZE + 4, STORAGE), byteOffset: 2 }),
      'ERR_INVALID_ARG_VALUE',
      /byteOffset must be a multiple/,
    ],
    ['beyond its end', () => ({ buffer: empty(64, STORAGE), byteOffset: 68 }), 'ERR_OUT_OF_RANGE', /byteOffset/],
    ['before its beginning', () => ({ buffer: empty(64, STORAGE), byteOffset: -4 }), 'ERR_OUT_OF_RANGE', /byteOffset/],
    [
      'with a length that is none',
      () => ({ buffer: empty(64, STORAGE), byteLength: '64' as never }),
      'ERR_INVALID_ARG_TYPE',
      /byteLength/,
    ],
  ])('logits %s', async (_, data, name, message) => {
    await expect(run(logits(data()))).rejects.toEqual(code(name, message))
  })

  test('a gradient that is too small, or lies over part of the logits', async () => {
    const small = empty(4 * SIZE - 16, STORAGE)
    await expect(run(logits(), { gradient: small })).rejects.toEqual(code('ERR_SHAPE_MISMATCH'))
    const buffer = upload(gpuDevice, new Uint8Array(8 * SIZE))
    const data = { buffer, byteLength: 4 * SIZE }
    const over = { buffer, byteOffset: 256, byteLength: 4 * SIZE }
    await expect(run(logits(data), { gradient: over })).rejects.toEqual(code('ERR_INVALID_ARG_VALUE', 'overwrite part'))
    // Beside the logits, and exactly over them.
    const beside = { buffer, byteOffset: 4 * SIZE, byteLength: 4 * SIZE }
    expect((await run(logits(data), { gradient: beside })).gradLogits!.data).toBe(beside)
    expect((await run(logits(data), { gradient: { buffer, byteLength: 4 * SIZE } })).gradLogits!.data).toBe(data)
  })

  test('a mapped buffer', async () => {
    const buffer = gpuDevice.createBuffer({ size: 4 * SIZE, usage: STORAGE, mappedAtCreation: true })
    await expect(run(logits(buffer))).rejects.toEqual(code('ERR_INVALID_ARG_VALUE', /mapState is 'mapped'/))
    buffer.unmap()
    expect((await run(logits(buffer))).loss).toBeGreaterThan(0)
  })

  test('a destroyed buffer, and a destroyed gradient', async () => {
    const data = upload(gpuDevice, bytes(elements))
    data.destroy()
    await expect(run(logits(data))).rejects.toEqual(code('ERR_WEBGPU'))
    const gradient = empty(4 * SIZE, STORAGE)
    gradient.destroy()
    const kept = logits()
    await expect(run(kept, { gradient })).rejects.toEqual(code('ERR_WEBGPU'))
    expect(await download(gpuDevice, kept.data as GPUBuffer)).toEqual(new Uint8Array(bytes(elements)))
    // The device is as good as before.
    expect((await run(logits())).loss).toBeGreaterThan(0)
  })

  test('a buffer of another device', async () => {
    const other = await newDevice()
    await expect(run(logits(upload(other, bytes(elements))))).rejects.toEqual(code('ERR_WEBGPU'))
    const kept = logits()
    await expect(run(kept, { gradient: upload(other, bytes(elements)) })).rejects.toEqual(code('ERR_WEBGPU'))
    expect(await download(gpuDevice, kept.data as GPUBuffer)).toEqual(new Uint8Array(bytes(elements)))
    other.destroy()
  })

  test('a buffer for bytes to be read from is not for the gradient', async () => {
    const gradient = empty(4 * SIZE, MAP_READ | COPY_DST)
    await expect(run(logits(), { gradient })).rejects.toEqual(code('ERR_INVALID_ARG_VALUE', 'STORAGE'))
  })
})

describe('options', () => {
  test('gpuDevice is needed, and has to be one', async () => {
    const given = logits()
    await expect(run(given, { gpuDevice: undefined })).rejects.toEqual(code('ERR_INVALID_ARG_TYPE', 'gpuDevice'))
    await expect(run(given, { gpuDevice: {} })).rejects.toEqual(code('ERR_INVALID_ARG_TYPE', 'gpuDevice'))
  })

  test('no other backend takes buffers', async () => {
    for (const backend of ['cpu', 'js', 'wasm', 'cuda']) {
      await expect(run(logits(), { backend })).rejects.toEqual(code('ERR_INVALID_ARG_VALUE', 'GPUBuffers'))
    }
  })

  test('synchronous forms say why there are none', () => {
    expect(() => sequenceLogProbsSync(logits(), labels, { gpuDevice })).toThrow(
      code('ERR_BACKEND_UNAVAILABLE', /without Sync/),
    )
  })

  test('a signal that has been aborted', async () => {
    const given = logits()
    const signal = AbortSignal.abort(new Error('stop'))
    await expect(run(given, { signal })).rejects.toThrow('stop')
    expect(await download(gpuDevice, given.data as GPUBuffer)).toEqual(new Uint8Array(bytes(elements)))
  })
})

describe('labels on the device', () => {
  test('are not counted for ldAlpha, and log-probs are none of a device', async () => {
    const there = upload(gpuDevice, bytes(labels))
    const options = { reference, gpuDevice, ldAlpha: 0.5 }
    await expect(fusedPreferenceLoss(logits(), there, options)).rejects.toEqual(
      code('ERR_INVALID_ARG_VALUE', /options.ldAlpha needs labels in host memory/),
    )
    const onDevice = { chosen: upload(gpuDevice, new Uint8Array(8)), rejected: [-4] }
    await expect(run(logits(), { reference: onDevice })).rejects.toEqual(
      code('ERR_INVALID_ARG_TYPE', /options.reference.chosen must be in host memory/),
    )
  })

  test('give what those of the host give, with a mask or without', async () => {
    const on = (array: ArrayBufferView) => upload(gpuDevice, bytes(array))
    const wide = BigInt64Array.from(labels, BigInt)
    const mask = Uint8Array.of(1, 1, 0, 1, 1, 1)
    const given = { gpuDevice, outputs: ['tokenLogProbs'] } as const
    const wanted = await sequenceLogProbs(logits(), labels, { ...given })
    const masked = await sequenceLogProbs(logits(), labels, { ...given, mask })
    for (const ids of [labels, wide]) {
      const got = await sequenceLogProbs(logits(), on(ids), given)
      expect([got.logProbs, got.tokenCounts, got.tokenLogProbs]).toEqual([
        wanted.logProbs,
        wanted.tokenCounts,
        wanted.tokenLogProbs,
      ])
      const range = { buffer: on(mask), byteLength: 6 }
      expect((await sequenceLogProbs(logits(), on(ids), { ...given, mask: range })).logProbs).toEqual(masked.logProbs)
      const words = on(Int32Array.from(mask))
      expect((await sequenceLogProbs(logits(), on(ids), { ...given, mask: words })).logProbs).toEqual(masked.logProbs)
    }
  })

  test.each<[string, (wrong: number) => Int32Array | BigInt64Array]>([
    ['int32', (wrong) => labels.with(2, wrong).with(4, wrong)],
    ['int64', (wrong) => BigInt64Array.from(labels.with(2, wrong).with(4, wrong), BigInt)],
  ])(
    'out of range, %s: the first is named, its row gets no gradient, and all else is as without it',
    async (_, given) => {
      const options = { gpuDevice, gradient: 'in-place', normalizer: 'sum' } as const
      const without = logits()
      await crossEntropy(without, upload(gpuDevice, bytes(given(-100))), options)
      const wanted = await download(gpuDevice, without.data as GPUBuffer)
      for (const wrong of [VOCAB, 2 ** 31 - 1, -7]) {
        const kept = logits()
        const named = code('ERR_LABEL_OUT_OF_RANGE', /sequence 0, position 2 is neither.*; 2 of the labels/)
        await expect(crossEntropy(kept, upload(gpuDevice, bytes(given(wrong))), options)).rejects.toEqual(named)
        expect(await download(gpuDevice, kept.data as GPUBuffer)).toEqual(wanted)
      }
      const rows = new Float32Array(wanted.buffer as ArrayBuffer)
      expect(rows.subarray(VOCAB, 2 * VOCAB).every((x) => x === 0)).toBe(true)
      expect(rows.subarray(0, VOCAB).some((x) => x !== 0)).toBe(true)
    },
  )

  test('out of range, with an output layer: likewise', async () => {
    const width = 4
    const some = (length: number) => upload(gpuDevice, bytes(elements.subarray(0, length)))
    const weight = { data: some(VOCAB * width), shape: [VOCAB, width] }
    const gradientsOf = async (wrong: number) => {
      const hidden = { data: some(BATCH * TIME * width), shape: [BATCH, TIME, width] }
      const gradient = { hidden: some(BATCH * TIME * width), weight: some(VOCAB * width) }
      const ids = upload(gpuDevice, bytes(labels.with(2, wrong).with(4, wrong)))
      const call = linearCrossEntropy(hidden, weight, ids, { gpuDevice, gradient })
      const named = code('ERR_LABEL_OUT_OF_RANGE', /sequence 0, position 2 is neither.*; 2 of the labels/)
      if (wrong === -100) await call
      else await expect(call).rejects.toEqual(named)
      return Promise.all([gradient.hidden, gradient.weight].map((buffer) => download(gpuDevice, buffer)))
    }
    const wanted = await gradientsOf(-100)
    expect(await gradientsOf(VOCAB)).toEqual(wanted)
    const [ofHidden] = wanted.map(({ buffer }) => new Float32Array(buffer as ArrayBuffer))
    expect(ofHidden!.subarray(width, 2 * width)).toEqual(new Float32Array(width))
    expect(ofHidden!.subarray(0, width).some((x) => x !== 0)).toBe(true)
  })
})

describe('a device that is lost', () => {
  test('before the call', async () => {
    const lost = await newDevice()
    const data = upload(lost, bytes(elements))
    lost.destroy()
    await lost.lost
    await expect(run(logits(data), { gpuDevice: lost })).rejects.toEqual(code('ERR_DEVICE_LOST'))
  })

  test('during the call', async () => {
    const lost = await newDevice()
    const running = run(logits(upload(lost, bytes(elements))), { gpuDevice: lost })
    lost.destroy()
    await expect(running).rejects.toEqual(code('ERR_DEVICE_LOST'))
  })

  test('after a call whose backward is to come', async () => {
    const lost = await newDevice()
    const sums = await sequenceLogProbs(logits(upload(lost, bytes(elements))), labels, { gpuDevice: lost })
    lost.destroy()
    await expect(sums.backward([1, 1])).rejects.toEqual(code('ERR_DEVICE_LOST'))
    expect(sums.logProbs).toHaveLength(BATCH)
    sums.dispose()
  })
})

/** Methods of a device replaced while a call runs. */
async function replacing(methods: Partial<GPUDevice>, call: () => Promise<unknown>): Promise<void> {
  Object.assign(gpuDevice, methods)
  try {
    await call()
  } finally {
    for (const name of Object.keys(methods)) Reflect.deleteProperty(gpuDevice, name)
  }
}

/** Scopes of which `popErrorScope` finds an error in this one, and reports none of the others. */
function failingScopes(failing: GPUErrorFilter): Partial<GPUDevice> {
  const { pushErrorScope, popErrorScope } = gpuDevice
  const scopes: GPUErrorFilter[] = []
  return {
    pushErrorScope(filter) {
      scopes.push(filter)
      pushErrorScope.call(gpuDevice, filter)
    },
    async popErrorScope() {
      const filter = scopes.pop()
      await popErrorScope.call(gpuDevice)
      return filter === failing ? ({ message: 'no more of it' } as GPUError) : null
    },
  }
}

describe('what the device runs out of', () => {
  test.each<[GPUErrorFilter, string, RegExp]>([
    ['out-of-memory', 'ERR_OUT_OF_MEMORY', /the GPU is out of memory: no more of it/],
    ['internal', 'ERR_WEBGPU', /^no more of it/],
  ])('%s', async (filter, name, message) => {
    const given = logits()
    await replacing(failingScopes(filter), () => expect(run(given)).rejects.toEqual(code(name, message)))
    expect((await run(given)).loss).toBeGreaterThan(0)
  })

  test('a buffer larger than the device makes', async () => {
    const { createBuffer, limits } = gpuDevice
    const given = logits()
    const tooLarge: GPUDevice['createBuffer'] = (descriptor) =>
      createBuffer.call(gpuDevice, { ...descriptor, size: limits.maxBufferSize + 4 })
    await replacing({ createBuffer: tooLarge }, () => expect(run(given)).rejects.toEqual(code('ERR_WEBGPU')))
    expect((await run(given)).loss).toBeGreaterThan(0)
  })

  test('a row larger than a binding shows', async () => {
    const { maxStorageBufferBindingSize: most } = gpuDevice.limits
    const vocab = most / 4 + 1
    const large = empty(4 * vocab, STORAGE)
    const call = sequenceLogProbs({ data: large, shape: [1, 1, vocab] }, Int32Array.of(0), { shift: false, gpuDevice })
    await expect(call).rejects.toEqual(code('ERR_WEBGPU', RegExp(`binding of ${4 * vocab} bytes.*${most}`)))
    large.destroy()
  })

  test('a shader that does not compile', async () => {
    const device = await newDevice()
    const { createShaderModule } = device
    device.createShaderModule = ({ code }) => createShaderModule.call(device, { code: `${code}\nfn broken(` })
    const given = logits(upload(device, bytes(elements)))
    await expect(run(given, { gpuDevice: device })).rejects.toEqual(code('ERR_WEBGPU', /does not compile: line \d+/))
    device.destroy()
  })

  test('and one that does when it is tried again, though others were still being compiled', async () => {
    const device = await newDevice()
    const { createShaderModule, createComputePipelineAsync } = device
    const given = logits(upload(device, bytes(elements)))
    device.createShaderModule = ({ code }) => createShaderModule.call(device, { code: `${code}\nfn broken(` })
    device.createComputePipelineAsync = async (descriptor) => {
      // One fails late.
      if (descriptor.label?.startsWith('finish-rows')) await new Promise((resolve) => setTimeout(resolve, 100))
      return createComputePipelineAsync.call(device, descriptor)
    }
    await expect(run(given, { gpuDevice: device })).rejects.toEqual(code('ERR_WEBGPU', /does not compile/))
    Object.assign(device, { createShaderModule, createComputePipelineAsync })
    expect((await run(given, { gpuDevice: device })).loss).toBeGreaterThan(0)
    device.destroy()
  })
})

test('logits of more elements than their buffer has', async () => {
  const { maxBufferSize } = gpuDevice.limits
  const huge = { data: { buffer: empty(4096, STORAGE) }, shape: [2, 1, maxBufferSize] }
  await expect(sequenceLogProbs(huge, Int32Array.of(0, 0), { shift: false, gpuDevice })).rejects.toEqual(
    code('ERR_SHAPE_MISMATCH'),
  )
})
