/**
 * Ours, on buffers: the loss comes back, and the gradient stays.
 */
import { fusedPreferenceLoss } from 'fused-preference-loss'
import { prepareFusedPreferenceLoss } from 'fused-preference-loss/webgpu'

/** @type {import('./measure.mjs').Prepare} */
export async function ours({ device, logits, shape, labels, reference, beta, hasGradient }) {
  const gradient = hasGradient && device.createBuffer({ size: logits.size, usage: 128 | 4 })
  const options = { reference, beta, gradient, gpuDevice: device }
  const prepared = await prepareFusedPreferenceLoss({ data: logits, shape }, labels, options)
  const run = async () => {
    const { loss } = await fusedPreferenceLoss({ data: logits, shape }, labels, options)
    return { loss, gradient: gradient || undefined }
  }
  return Object.assign(run, { record: (/** @type {GPUCommandEncoder} */ encoder) => prepared.encode(encoder) })
}
