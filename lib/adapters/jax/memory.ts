/**
 * Where a step finds the values of an array and leaves their gradient: on WebGPU in the memory of jax-js itself, else in
 * copies in host memory.
 */
import { getWebGPUDevice, type Array as JaxArray, numpy } from '@jax-js/jax'
import type { GpuBuffer, RunOptions, TensorData } from '../../types/index.js'

/** An array whose values and gradient are outside of jax-js. Its own reference is given up. */
export interface Lent {
  data: Float32Array<ArrayBuffer> | GpuBuffer
  /** What to ask of a call for the gradient. */
  out: true | GpuBuffer
  /** The gradient as jax-js takes it back, once it is in `out`, or in a new array. */
  gradient(written: TensorData): JaxArray
  /** Gives back what is lent; a second call does nothing. */
  release(): void
}

/** Whether arrays on this device stay where they are, in a call with these options. */
export function staysOnGpu(device: JaxArray['device'], { backend = 'auto' }: Pick<RunOptions, 'backend'>): boolean {
  return device === 'webgpu' && (backend === 'auto' || backend === 'webgpu')
}

/** The options that say where such a call runs. */
export function runOptionsOf(onGpu: boolean): Pick<RunOptions, 'gpuDevice'> {
  return onGpu ? { gpuDevice: getWebGPUDevice() } : {}
}

/** Lends an array of float32. */
export async function lend(array: JaxArray, onGpu: boolean): Promise<Lent> {
  const { shape, device } = array
  if (!onGpu) {
    const data = (await array.data()) as Float32Array<ArrayBuffer>
    const gradient = (written: TensorData) => numpy.array(written as Float32Array<ArrayBuffer>, { shape, device })
    return { data, out: true, gradient, release() {} }
  }
  // jax-js takes no buffers of others: the gradient is written over zeros of its own.
  const held = [array, numpy.zeros(shape, { device })]
  const release = () => {
    for (const each of held.splice(0)) each.dispose()
  }
  try {
    const [data, out]: GpuBuffer[] = await Promise.all(held.map((each) => each.ref.gpuBuffer()))
    return { data: data!, out: out!, gradient: () => held.pop()!, release }
  } catch (error) {
    release()
    throw error
  }
}
