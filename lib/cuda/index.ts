/**
 * `fused-preference-loss/cuda`: device memory, streams, events and graphs, for calls whose tensors are on a GPU.
 */

import { DEVICE_OPTION, LARGEST_INDEX } from '../backends/cuda/addresses.js'
import { cudaCall } from '../backends/cuda/calls.js'
import { cudaFunctions, requireCuda } from '../backends/cuda/open.js'
import { integer, optionsObject } from '../check/options.js'
import type { Device } from '../types/index.js'

export { type CopyOptions, DeviceBuffer } from '../backends/cuda/buffer.js'
export { Event, Graph, Stream } from '../backends/cuda/stream.js'
export {
  type DeviceArray,
  type DLTensor,
  type ElementType,
  fromDLTensor,
  labelsFromDLTensor,
  logProbsFromDLTensor,
  type StreamOption,
  toDLTensor,
} from './dl-tensor.js'
export * from './prepare.js'
export type { PreparedCall } from './prepared-call.js'
export type { DeviceResults } from './results.js'

/** The GPUs of this machine. Throws `ERR_BACKEND_UNAVAILABLE` with the reason when CUDA cannot be used. */
export function getDevices(): Device[] {
  return requireCuda().info().devices
}

/**
 * Gives the memory of a GPU back to the system that is kept for later buffers and calls and that nothing uses now. Waits for
 * the GPU. Where a call or a buffer finds no room, this happens by itself; other libraries in need of memory have to be
 * helped by it.
 * @param options `device`: index of the GPU. Defaults to 0.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`,
 *   `ERR_CUDA`
 */
export function trimMemory(options?: { device?: number }): void {
  const { device = 0 } = optionsObject(options, 'options', DEVICE_OPTION)
  cudaCall(() => cudaFunctions().trim(integer(device, 'options.device', 0, LARGEST_INDEX)))
}
