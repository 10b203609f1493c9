/**
 * `fused-preference-loss/cuda`: device memory, streams, events and graphs, for calls whose tensors are on a GPU.
 */
import type { Device } from '../types.js'
import { requireCuda } from './open.js'

export { type CopyOptions, DeviceBuffer } from './device-buffer.js'
export { type PreparedPreferenceLoss, prepareFusedPreferenceLoss } from './prepare.js'
export { Event, Graph, Stream } from './stream.js'

/** The GPUs of this machine. Throws `ERR_BACKEND_UNAVAILABLE` with the reason when CUDA cannot be used. */
export function getDevices(): Device[] {
  return requireCuda().info().devices
}
