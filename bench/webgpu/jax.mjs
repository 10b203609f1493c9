/**
 * jax-js's own operations on its webgpu device: log-softmax, gather, and its automatic gradient, as in ../peers/jax.mjs.
 */
import * as lib from '@jax-js/jax'

/** @type {import('./measure.mjs').Prepare} */
export async function jax({ values, shape, targets, margins, beta, hasGradient }) {
  const { numpy: np, nn } = lib
  if (!(await lib.init('webgpu')).includes('webgpu')) throw new Error('its webgpu device does not start')
  lib.defaultDevice('webgpu')
  const [batch, time, vocab] = shape
  const rows = batch * time
  const labels = np
    .array(
      targets.map((target) => Math.max(0, target)),
      { dtype: np.int32 },
    )
    .reshape([rows, 1])
  const mask = np.array(Float32Array.from(targets, (target) => (target < 0 ? 0 : 1)))
  const reference = np.array(margins)
  const lossOf = (/** @type {any} */ x) => {
    const picked = np.takeAlongAxis(nn.logSoftmax(x, -1), labels.ref, -1).reshape([rows])
    const sums = np.sum(picked.mul(mask.ref).reshape([batch, time]), 1)
    const difference = sums.ref.slice([0, batch / 2]).sub(sums.slice([batch / 2, batch]))
    return np.mean(nn.logSigmoid(difference.sub(reference.ref).mul(beta))).mul(-1)
  }
  const logits = np.array(/** @type {any} */ (values)).reshape([rows, vocab])
  if (!hasGradient) {
    const forward = lib.jit(lossOf)
    return async () => ({ loss: (await forward(logits.ref).data())[0] })
  }
  const step = lib.valueAndGrad(lossOf)
  /** @type {any} */
  let gradient
  return async () => {
    gradient?.dispose()
    const [value, found] = /** @type {any} */ (step(logits.ref))
    gradient = found
    const [loss] = await value.data()
    await lib.blockUntilReady(gradient)
    return { loss, gradient }
  }
}
