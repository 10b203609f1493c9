/**
 * Chooses the backend that runs a call.
 */
import { warnOnce } from '../check/warn-once.js'
import { failure, invalidValue } from '../errors.js'
import type { Backend } from '../job.js'
import type { InstructionSet, RunOptions } from '../types/index.js'
import { loadNative } from './cpu/index.js'
import { loadCuda } from './cuda/index.js'
import type { DeviceRange } from './device-memory.js'
import { jsBackend } from './js/index.js'
import { findWasm, isToCome, WasmToCome } from './wasm/index.js'
import { webGpuBackend } from './webgpu/index.js'

/**
 * The backend by that name, for tensors in this kind of device memory or, where there is none, in host memory. 'auto' is
 * the backend of the device memory, and 'cpu' for host memory; where the addon does not
 * load, it is 'wasm', and where that does not either, 'js', with one warning per process. Browsers have no addon, and no
 * warning of that.
 */
export function pickBackend(
  name: NonNullable<RunOptions['backend']>,
  memory: DeviceRange['kind'] | undefined,
  instructionSet?: InstructionSet,
): Backend {
  if (name !== 'auto' && memory !== undefined && name !== memory) {
    const buffers = memory === 'cuda' ? 'there is device memory' : 'there are GPUBuffers'
    throw invalidValue('options.backend', `is '${name}', but ${buffers} among the arguments`)
  }
  if (name === 'webgpu' || memory === 'webgpu') return portable(webGpuBackend, instructionSet)
  if (name === 'cuda' || memory === 'cuda') {
    const cuda = loadCuda()
    if ('reason' in cuda) {
      const wanted = memory ? 'device memory needs the cuda backend, which' : "options.backend 'cuda'"
      throw failure('ERR_BACKEND_UNAVAILABLE', `${wanted} is not available: ${cuda.reason}`)
    }
    if (instructionSet !== undefined) {
      const problem = `options.instructionSet '${instructionSet}' is not available: the cuda backend has none`
      throw failure('ERR_BACKEND_UNAVAILABLE', problem)
    }
    return cuda.backend
  }
  if (name === 'js') return portable(jsBackend, instructionSet)
  if (name === 'wasm') return portable(wasmAlone(), instructionSet)
  const native = loadNative()
  if ('reason' in native) {
    if (name === 'cpu') {
      throw failure('ERR_BACKEND_UNAVAILABLE', `options.backend 'cpu' is not available: ${native.reason}`)
    }
    return portable(withoutBinary(native), instructionSet)
  }
  const { instructionSets } = native.info
  if (instructionSet !== undefined && !instructionSets.includes(instructionSet)) {
    const problem = `options.instructionSet '${instructionSet}' is not available: this CPU has ${instructionSets.join(', ')}`
    throw failure('ERR_BACKEND_UNAVAILABLE', problem)
  }
  return native.backend
}

/** The next best where the addon is missing; a warning says which it is and why, unless that is as it should be. */
function withoutBinary({ reason, isExpected }: { reason: string; isExpected?: boolean }): Backend {
  const plain = (problem: string) => {
    warnWithoutBinary(
      `in plain JavaScript, hundreds of times slower: ${reason}\nNor does its WebAssembly load: ${problem}`,
    )
    return jsBackend
  }
  const found = findWasm()
  if (isToCome(found)) return new WasmToCome(plain)
  if ('reason' in found) return plain(found.reason)
  if (!isExpected) warnWithoutBinary(`in WebAssembly, a few times slower: ${reason}`)
  return found.backend
}

function warnWithoutBinary(problem: string): void {
  warnOnce('FUSED_PREFERENCE_LOSS_NO_BINARY', `fused-preference-loss runs without its native binary, ${problem}`)
}

function wasmAlone(): Backend {
  const unavailable = (reason: string) => {
    throw failure('ERR_BACKEND_UNAVAILABLE', `options.backend 'wasm' is not available: ${reason}`)
  }
  const found = findWasm()
  if (isToCome(found)) return new WasmToCome(unavailable)
  return 'reason' in found ? unavailable(found.reason) : found.backend
}

function portable(backend: Backend, instructionSet?: InstructionSet): Backend {
  if (instructionSet === undefined) return backend
  const problem = `options.instructionSet '${instructionSet}' is not available: the ${backend.name} backend has none`
  throw failure('ERR_BACKEND_UNAVAILABLE', problem)
}
