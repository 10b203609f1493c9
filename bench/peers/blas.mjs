/**
 * The three products of an output layer's step alone, by a BLAS: the second roofline of that step, beside multiply-adds
 * in registers. Its library is the one that `products: 'blas'` takes.
 */
import { createRequire } from 'node:module'
import { getBackends } from 'fused-preference-loss'
import { oursBlas } from './ours.mjs'

const step = /** @type {() => import('./index.mjs').Peer} */ (oursBlas.another)()
/** @type {() => number} */
let products

/** @type {import('./index.mjs').Peer} */
export const blasProducts = {
  name: 'blas-products',
  title: "a BLAS's three products alone",
  linear: true,
  embedded: true,

  supports: (workload) =>
    workload.stage === 'linear-step' && workload.dtype === 'float32'
      ? step.supports(workload)
      : 'is the products of a step in float32 alone',

  async prepare(workload, inputs, settings) {
    await step.prepare(workload, inputs, settings)
    this.note = step.note
    const { blas } = createRequire(import.meta.url)(/** @type {string} */ (getBackends().cpu.path))
    // The first step opens the library.
    await step.run(0)
    const [batch, time, vocab] = workload.shape
    products = () => blas.stepSeconds(batch * time, workload.width, vocab, settings.threads)
  },

  run: () => products(),

  // There is nothing to compare in bare products: a step with them has to agree.
  async result() {
    await step.run(0)
    return step.result()
  },
}
