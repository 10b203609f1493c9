/**
 * Checks a loss whose value and gradient are known on every available backend; throws when one is wrong. Returns the
 * backends.
 */
const assert = require('node:assert/strict')

module.exports = function check(/** @type {typeof import('fused-preference-loss')} */ fpl) {
  const backends = fpl.getBackends()
  const names = /** @type {(keyof typeof backends)[]} */ (Object.keys(backends))
  for (const backend of names) {
    if (!backends[backend].available) continue
    const logits = { data: Float32Array.of(0, 0, Math.log(3), 0), shape: [2, 1, 2] }
    const cpo = /** @type {const} */ ({ lossType: 'cpo', beta: 1 })
    const options = { ...cpo, shift: false, gradient: true, backend }
    const { loss, gradLogits } = fpl.fusedPreferenceLossSync(logits, Int32Array.of(0, 0), options)
    // z = log(1/2) - log(3/4), the loss log(1 + e^-z), its slope -1 / (1 + e^z).
    assert(Math.abs(loss - Math.log(2.5)) < 1e-6, `${backend}: loss ${loss}`)
    const gradient = /** @type {Float32Array} */ (gradLogits?.data)
    const wanted = [-0.3, 0.3, 0.15, -0.15]
    wanted.forEach((x, i) => {
      assert(Math.abs(gradient[i] - x) < 1e-6, `${backend}: gradient ${gradient}`)
    })
  }
  return backends
}
