/**
 * `fused-preference-loss/cuda`: device memory, streams, events and graphs, for calls whose tensors are on a GPU.
 */

import { requireCuda } from '../backends/cuda/open.js'
import type { Device } from '../types/index.js'

export { type CopyOptions, DeviceBuffer } from '../backends/cuda/buffer.js'
export { Event, Graph, Stream } from '../backends/cuda/stream.js'
export {
  type DeviceArray,
  type DLTensor,
  type ElementType,
  fromDLTensor,
  labelsFromDLTensor,
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
