/**
 * Tensors of TensorFlow.js's webgpu backend as buffers: its own memory, of which `dataToGPU` would give a copy.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { GpuBuffer, GpuDevice } from '../../types/index.js'

/** The parts of the webgpu backend that the adapter uses. */
export interface GpuBackend extends tf.KernelBackend {
  device: GpuDevice
  tensorMap: {
    has(dataId: object): boolean
    get(dataId: object): { resource?: GpuBuffer; values: unknown }
  }
  uploadToGPU(dataId: object): void
  makeTensorInfo(shape: number[], dtype: 'float32'): tf.TensorInfo
  ensureCommandEncoderReady(): void
  endComputePassEncoder(): void
  submitQueue(): void
}

/** The backend, if it keeps this tensor on a GPU by WebGPU. */
export function gpuOf(tensor: tf.Tensor): GpuBackend | undefined {
  const backend = tf.backend() as Partial<GpuBackend>
  const isGpu = typeof backend.uploadToGPU === 'function' && typeof backend.submitQueue === 'function'
  return isGpu && backend.device && backend.tensorMap?.has(tensor.dataId) ? (backend as GpuBackend) : undefined
}

/** The buffer that holds the tensor. Small ones that have been computed on the host are uploaded first. */
export function bufferOf(gpu: GpuBackend, { dataId }: tf.TensorInfo): GpuBuffer {
  gpu.uploadToGPU(dataId)
  return gpu.tensorMap.get(dataId).resource!
}

/** A new tensor, and its buffer to write to; what it holds is unknown. */
export function newTensor(gpu: GpuBackend, shape: number[]): tf.Tensor {
  return tf.engine().makeTensorFromTensorInfo(gpu.makeTensorInfo(shape, 'float32'), gpu)
}

/** What has been recorded so far comes before what is submitted to the queue from here on. */
export function submit(gpu: GpuBackend): void {
  gpu.ensureCommandEncoderReady()
  gpu.endComputePassEncoder()
  gpu.submitQueue()
}

/** What the host knows of a tensor is forgotten, after its buffer has been written to. */
export function forget(gpu: GpuBackend, { dataId }: tf.TensorInfo): void {
  gpu.tensorMap.get(dataId).values = null
}
