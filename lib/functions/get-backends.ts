/**
 * `getBackends`: the backends of this machine.
 */

import { loadNative } from '../backends/cpu/index.js'
import { type LoadedCuda, loadCuda } from '../backends/cuda/index.js'
import { findWasm } from '../backends/wasm/index.js'
import { hasWebGpu } from '../backends/webgpu/memory.js'
import type { Backends } from '../types/index.js'
import { wasmInfo } from './load-wasm.js'

/**
 * The backends of this machine, and why a missing one is missing. Never throws and never prints. cuBLASLt is looked for
 * when `cuda.cublasLt` is read.
 */
export function getBackends(): Backends {
  const native = loadNative()
  const cuda = loadCuda()
  const wasm = findWasm()
  return {
    cpu: 'reason' in native ? { available: false, reason: native.reason } : { available: true, ...native.info },
    cuda: 'reason' in cuda ? { available: false, reason: cuda.reason } : found(cuda),
    wasm: wasmInfo(wasm),
    webgpu: webGpuInfo(),
    js: { available: true },
  }
}

/** Whether this runtime has WebGPU itself; the backend works on devices of other implementations as well. */
function webGpuInfo(): Backends['webgpu'] {
  if (hasWebGpu()) return { available: true }
  const ways = 'options.gpuDevice may be of another implementation, such as that of the package webgpu'
  return { available: false, reason: `this runtime has no navigator.gpu; ${ways}` }
}

function found(cuda: LoadedCuda): Backends['cuda'] {
  return {
    available: true,
    ...cuda.info(),
    get cublasLt() {
      return cuda.cublasLt()
    },
  }
}
