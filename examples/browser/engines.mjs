// Loads TensorFlow.js and this package on WebAssembly or on WebGPU, and watches the memory that the package takes.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops.js'
import '@tensorflow/tfjs-core/dist/register_all_gradients.js'
import { getThreadsCount, setThreadsCount, setWasmPaths } from '@tensorflow/tfjs-backend-wasm'
import '@tensorflow/tfjs-backend-webgpu'
import plain from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm?url'
import simd from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url'
import threaded from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-threaded-simd.wasm?url'
import { loadWasm } from 'fused-preference-loss'
import { adapterName, isSoftware } from './gpu/adapter.mjs'

/** Memories of WebAssembly made in this worker since the package has been loaded: its own. */
const memories = /** @type {WebAssembly.Memory[]} */ ([])

/** Bytes of the package's buffers on the GPU now, and the most that there have been. */
const buffers = { bytes: 0, most: 0 }

/** Bytes of the package's own memory; on a GPU the most at once since the last call. */
export function ownMemory() {
  if (tf.getBackend() !== 'webgpu') return memories.reduce((sum, { buffer }) => sum + buffer.byteLength, 0)
  const { most } = buffers
  buffers.most = buffers.bytes
  return most
}

/**
 * Returns the number of threads of each, or the name of the GPU.
 * @param {import('./events.js').Engine} engine
 * @returns {Promise<import('./events.js').Loaded>}
 */
export function loadEngines(engine) {
  return engine === 'webgpu' ? loadGpu() : loadWebAssembly()
}

async function loadWebAssembly() {
  const most = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1
  setThreadsCount(most)
  setWasmPaths({
    'tfjs-backend-wasm.wasm': plain,
    'tfjs-backend-wasm-simd.wasm': simd,
    'tfjs-backend-wasm-threaded-simd.wasm': threaded,
  })
  if (!(await tf.setBackend('wasm'))) throw new Error('TensorFlow.js cannot use WebAssembly here')
  recordMemories()
  const { threads } = await loadWasm()
  return { threads: { package: threads ?? 1, tensorflow: getThreadsCount() } }
}

async function loadGpu() {
  if (!(await tf.setBackend('webgpu'))) throw new Error('TensorFlow.js cannot use WebGPU here')
  const { device } = /** @type {tf.KernelBackend & { device: GPUDevice }} */ (tf.backend())
  recordBuffers(device)
  const { adapterInfo } = device
  return { gpu: `${adapterName(adapterInfo)}${isSoftware(adapterInfo) ? ' (software)' : ''}` }
}

function recordMemories() {
  const { Memory } = WebAssembly
  class RecordedMemory extends Memory {
    /** @param {WebAssembly.MemoryDescriptor} descriptor */
    constructor(descriptor) {
      super(descriptor)
      memories.push(this)
    }
  }
  Object.assign(WebAssembly, { Memory: RecordedMemory })
}

function recordBuffers(/** @type {GPUDevice} */ device) {
  const { createBuffer } = device
  device.createBuffer = (descriptor) => {
    const buffer = createBuffer.call(device, descriptor)
    if (!buffer.label.startsWith('fused-preference-loss')) return buffer
    const { size, destroy } = buffer
    buffers.bytes += size
    buffers.most = Math.max(buffers.most, buffers.bytes)
    buffer.destroy = () => {
      buffers.bytes -= size
      return destroy.call(buffer)
    }
    return buffer
  }
}
