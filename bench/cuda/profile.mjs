/**
 * A step on [8, 1024, 128256], and one whose scale is deferred, in bfloat16 and in float32, for what counts what their kernels
 * do: whether the latter's rows come from memory once.
 */
import { DeviceBuffer, prepareFusedPreferenceLoss, Stream } from 'fused-preference-loss/cuda'
import { BYTES, labelsFor, REFERENCE, randomLogits } from './run.mjs'

const [batch, time, vocab] = [8, 1024, 128256]
const stream = new Stream()
for (const dtype of /** @type {const} */ (['bfloat16', 'float32'])) {
  const data = randomLogits({ dtype, rows: batch * time, vocab })
  const gradient = new DeviceBuffer(batch * time * vocab * BYTES[dtype])
  const labels = labelsFor({ rows: batch * time, vocab })
  const logits = { data, dtype, shape: [batch, time, vocab] }
  for (const deferredScale of [false, true]) {
    const options = { shift: false, reference: REFERENCE, gradient, stream, deferredScale }
    const step = prepareFusedPreferenceLoss(logits, labels, options)
    step.enqueue(stream)
    const { loss } = step.read(stream)
    if (!(loss > 0)) throw new Error(`${dtype}: a loss of ${loss}`)
    step.dispose()
  }
  for (const each of [data, gradient]) each.dispose()
}
