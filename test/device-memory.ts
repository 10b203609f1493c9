/**
 * What tests of device memory share. No assertions here.
 */
import { DeviceBuffer } from '../lib/cuda/index.js'

/** What device memory holds, in an array like the given one; the host's is given as it is. */
export function read<T extends Float64Array | Float32Array | Int32Array | Uint16Array>(memory: unknown, like: T): T {
  if (!(memory instanceof DeviceBuffer)) return memory as T
  const copy = like.slice() as T
  memory.copyTo(copy)
  return copy
}

/** The error of a call. */
export function thrown(call: () => unknown): { code?: string; message: string } {
  try {
    call()
  } catch (error) {
    return error as Error
  }
  throw new Error('nothing was thrown')
}
