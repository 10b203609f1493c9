/**
 * Calls of the CUDA library, whose errors become those of this package.
 */
import { failure } from '../../errors.js'
import type { CudaFunctions } from '../cpu/addon.js'
import { reclaim } from './holds.js'

/** Directions of a copy. */
export const COPY = { toDevice: 1, toHost: 2, onDevice: 3 } as const

/** The kind of memory at an address; pinned and managed memory of the CUDA runtime is shared by all devices. */
export const MEMORY = { host: 0, onDevice: 1, shared: 2 } as const

/**
 * An error as that of this package: one of the library says whether the GPU has failed or NCCL, and one of a resource that
 * has been disposed of stays.
 */
function coded(error: Error & { code?: string }): Error {
  return error.code === undefined ? failure('ERR_CUDA', error.message) : error
}

/** Runs `call`; errors of the library become those of this package. */
export function cudaCall<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw coded(error as Error)
  }
}

/** The same for a promise. */
export async function cudaPromise<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise
  } catch (error) {
    throw coded(error as Error)
  }
}

/**
 * Runs `call`, and runs it again when the device was out of memory and the garbage collector has found forgotten
 * buffers there. A call that fails must not change anything.
 */
export function withRoom<T>(cuda: CudaFunctions, call: () => T): T {
  try {
    return call()
  } catch (error) {
    const isFull = error instanceof Error && error.message.includes('cudaErrorMemoryAllocation')
    if (!isFull || !reclaim(() => cuda.collect())) throw error
    return call()
  }
}
