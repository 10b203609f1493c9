// Loads the WebAssembly of TensorFlow.js and of this package.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops.js'
import '@tensorflow/tfjs-core/dist/register_all_gradients.js'
import { getThreadsCount, setThreadsCount, setWasmPaths } from '@tensorflow/tfjs-backend-wasm'
import plain from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm?url'
import simd from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url'
import threaded from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-threaded-simd.wasm?url'
import { loadWasm } from 'fused-preference-loss'

/** Memories of WebAssembly made in this worker since the package has been loaded: its own. */
const memories = /** @type {WebAssembly.Memory[]} */ ([])

/** Bytes of the package's own memory. */
export function ownMemory() {
  return memories.reduce((sum, { buffer }) => sum + buffer.byteLength, 0)
}

/** Returns the number of threads of each. */
export async function loadEngines() {
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
  return { package: threads ?? 1, tensorflow: getThreadsCount() }
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
