/**
 * Devices of WebGPU and their buffers, for tests. Devices are there where vitest.webgpu.config.ts says so; elsewhere the list
 * is empty.
 */
import { afterEach, expect, inject } from 'vitest'
import type { GpuDevice } from '../../lib/types/index.js'

declare module 'vitest' {
  interface ProvidedContext {
    /** Whether these are the tests of WebGPU. */
    webgpu: boolean
  }
}

/** Whether tests run on WebGPU alone. */
export const TESTS_WEBGPU = inject('webgpu') ?? false

// Types of pages are not in the program.
const { gpu } = (globalThis as unknown as { navigator: { gpu: GPU } }).navigator ?? {}

/** A device of its own, with nothing but what every device has and what is asked for. */
export async function newDevice(
  requiredLimits?: GPUDeviceDescriptor['requiredLimits'],
  requiredFeatures?: GPUDeviceDescriptor['requiredFeatures'],
): Promise<GPUDevice> {
  const found = await adapter()
  const device = await found.requestDevice({ requiredLimits, requiredFeatures })
  // Deno ends where this is read for the first time after the adapter is gone.
  void (device as GpuDevice).adapterInfo
  device.addEventListener('uncapturederror', (event) =>
    uncaptured.push((event as GPUUncapturedErrorEvent).error.message),
  )
  return device
}

async function adapter(): Promise<GPUAdapter> {
  const found = await gpu.requestAdapter()
  if (found === null) throw new Error('there is no WebGPU adapter')
  return found
}

// The types of WebGPU do not know it yet.
const SUBGROUPS = 'subgroups' as GPUFeatureName

/** The features that shaders with subgroups need, where this implementation has them. */
export async function subgroupFeatures(): Promise<GPUFeatureName[]> {
  const { features } = await adapter()
  return features.has('subgroups') && gpu.wgslLanguageFeatures.has('subgroup_id') ? [SUBGROUPS] : []
}

/** Messages of errors that nothing has asked for: none in any test. */
const uncaptured: string[] = []
afterEach(() => {
  expect(uncaptured.splice(0)).toEqual([])
})

/** A device whose calls run as on a GPU, as nothing tells that it is software. */
export function asHardware(device: GPUDevice): GPUDevice {
  return Object.defineProperty(device, 'adapterInfo', { value: undefined })
}

/**
 * The devices that tests share, where they run on WebGPU, since most of their time goes into pipelines: as a GPU, on which
 * tests of all backends run, and as software, which it is where there is no GPU. Whoever changes one of them changes it back.
 */
export const DEVICE = TESTS_WEBGPU ? asHardware(await newDevice()) : undefined
export const AS_SOFTWARE = TESTS_WEBGPU ? await newDevice() : undefined

const [STORAGE, COPY_SRC, COPY_DST, MAP_READ, READ] = [0x80, 4, 8, 1, 1]

/** A buffer that holds these bytes, and no more than four more. */
export function upload(device: GPUDevice, bytes: Uint8Array, usage = STORAGE | COPY_SRC | COPY_DST): GPUBuffer {
  const size = Math.max(4, Math.ceil(bytes.length / 4) * 4)
  const buffer = device.createBuffer({ size, usage, mappedAtCreation: true })
  new Uint8Array(buffer.getMappedRange()).set(bytes)
  buffer.unmap()
  return buffer
}

/** The bytes that buffers hold when all that has been submitted is done: in one mapping, as each takes Deno 10 ms. */
export async function downloadAll(device: GPUDevice, buffers: readonly GPUBuffer[]): Promise<Uint8Array[]> {
  const size = buffers.reduce((sum, buffer) => sum + buffer.size, 0)
  if (size === 0) return buffers.map(() => new Uint8Array())
  const copy = device.createBuffer({ size, usage: COPY_DST | MAP_READ })
  const encoder = device.createCommandEncoder()
  let end = 0
  const places = buffers.map((buffer) => {
    const begin = end
    end += buffer.size
    encoder.copyBufferToBuffer(buffer, 0, copy, begin, buffer.size)
    return [begin, end]
  })
  device.queue.submit([encoder.finish()])
  await copy.mapAsync(READ)
  const all = copy.getMappedRange()
  const found = places.map(([begin, end]) => new Uint8Array(all.slice(begin, end)))
  copy.destroy()
  return found
}

/** The bytes that one buffer holds. */
export async function download(device: GPUDevice, buffer: GPUBuffer): Promise<Uint8Array> {
  return (await downloadAll(device, [buffer]))[0]
}
