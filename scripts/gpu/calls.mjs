/**
 * Small calls of every kind on the cuda backend, for compute-sanitizer: shapes that leave heads and tails everywhere,
 * every element type, in place and not, by-products, both references, labels on the device, few rows and many.
 * Each result is held against the js backend's.
 */
import { fusedPreferenceLossSync } from 'fused-preference-loss'
import { DeviceBuffer } from 'fused-preference-loss/cuda'

const SHAPES = [
  [2, 1, 1],
  [2, 3, 7],
  [4, 5, 1027],
  [2, 3, 16_387],
  [2, 2, 40_001],
]
const OUTPUTS = ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'logSumExp', 'sumSquaredProbs']
const LOSSES = ['sigmoid', 'aot', 'aot_unpaired', 'simpo', 'orpo']

let calls = 0
for (const shape of SHAPES) {
  for (const dtype of /** @type {const} */ (['float32', 'bfloat16', 'float16'])) {
    for (const lossType of LOSSES) {
      const [batch, time, vocab] = shape
      const values = Float32Array.from({ length: batch * time * vocab }, (_, i) => 4 * Math.sin(i * 12.9898 + i * i))
      const bits = new Uint32Array(values.buffer)
      const data =
        dtype === 'float32' ? values : Uint16Array.from(bits, (b) => (dtype === 'bfloat16' ? b >>> 16 : half(b)))
      const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 4 === 1 ? -100 : (i * 7919) % vocab))
      const reference = {
        chosen: Array.from({ length: batch / 2 }, () => -5),
        rejected: Array.from({ length: batch / 2 }, () => -6),
      }
      const options = { shift: false, lossType, reference, outputs: calls % 2 ? OUTPUTS : [] }
      const wanted = fusedPreferenceLossSync({ data, dtype, shape }, labels, { ...options, backend: 'js' })
      const buffer = DeviceBuffer.from(data)
      const onDevice = { data: buffer, dtype, shape }
      const got = [
        fusedPreferenceLossSync(onDevice, DeviceBuffer.from(labels), { ...options, gradient: true }),
        fusedPreferenceLossSync({ data, dtype, shape }, labels, { ...options, backend: 'cuda', gradient: true }),
        fusedPreferenceLossSync(onDevice, labels, { ...options, gradient: 'in-place' }),
      ]
      for (const { loss } of got) {
        const off = Math.abs(loss - wanted.loss)
        if (!(off <= 1e-5 * Math.max(1, Math.abs(wanted.loss))) && !Number.isNaN(wanted.loss)) {
          throw new Error(`${dtype} [${shape}] ${lossType}: ${loss}, not ${wanted.loss}`)
        }
      }
      buffer.dispose()
      calls += got.length
    }
  }
}
console.log(`${calls} calls, all as the js backend has them`)

/** A float16 near a normal float32, by its bits. */
function half(bits) {
  const exponent = ((bits >>> 23) & 255) - 112
  return exponent <= 0 ? 0 : ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 1023)
}
