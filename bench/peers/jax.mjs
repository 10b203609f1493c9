/**
 * jax-js on its WebAssembly backend: log-softmax, gather, sum, and its automatic gradient. The forward goes through
 * `jit`. The gradient of a gather cannot, but without `jit` it is faster than a one-hot product with it. The same with
 * our loss in its place. Both use up the logits, as training uses up the logits of a model.
 */
import { gradientAt } from '../agreement.mjs'
import { BETA } from '../cases.mjs'
import { versionOf } from '../packages.mjs'

/**
 * @param {'written' | 'ours'} formulation
 * @param {Pick<import('./index.mjs').Peer, 'name' | 'title' | 'quick' | 'embedded'>} words
 * @returns {import('./index.mjs').Peer}
 */
function jaxPeer(formulation, words) {
  /** @type {(copy: number) => Promise<any>} */
  let call
  /** @type {any} */
  let last
  /** @type {number[]} */
  let positions

  return {
    ...words,
    slowness: 1,
    ownCopies: true,
    linear: true,

    supports({ stage, dtype }) {
      if (stage === 'loss') return 'its own part of the work starts at the logits'
      if (stage === 'tokens' || stage === 'cross-entropy-step') return 'is compared on DPO and cross-entropy'
      if (stage === 'cross-entropy' && formulation === 'ours') return 'is compared on DPO'
      if (stage.endsWith('forward') && formulation === 'ours') return 'is compared where there is a gradient'
      return dtype === 'float32' || 'the comparison is in float32'
    },

    async prepare(workload, inputs, { threads }) {
      // jax-js reads navigator.userAgent, which Node has from version 21 on, and starts a worker for each CPU, where workers
      // are those of browsers.
      const global = /** @type {any} */ (globalThis)
      global.navigator ??= { userAgent: 'Node.js' }
      Object.defineProperty(global.navigator, 'hardwareConcurrency', { value: threads, configurable: true })
      const lib = await import('@jax-js/jax')
      const { fusedLinearPreferenceLossValueAndGrad, fusedPreferenceLossValueAndGrad } = await import(
        'fused-preference-loss/jax'
      )
      const { numpy: np, nn } = lib
      await lib.init()
      lib.defaultDevice('wasm')
      this.version = await versionOf('@jax-js/jax')
      positions = inputs.positions
      const [batch, time, vocab] = workload.shape
      const { width } = workload
      const { targets, reference } = inputs
      const rows = batch * time
      const data = /** @type {any} */ (inputs.logits[0])
      const makeLogits = () => np.array(data).reshape([rows, width ?? vocab])
      const weight =
        inputs.weight && np.array(/** @type {any} */ (inputs.weight)).reshape([vocab, /** @type {number} */ (width)])
      const logitsOf = (/** @type {any} */ x, /** @type {any} */ w) => (w ? np.matmul(x, w.transpose()) : x)
      const labels = np
        .array(
          targets.map((target) => Math.max(0, target)),
          { dtype: np.int32 },
        )
        .reshape([rows, 1])
      const mask = np.array(Float32Array.from(targets, (target) => (target < 0 ? 0 : 1)))
      const margins = np.array(Float32Array.from(reference.chosen, (x, p) => x - reference.rejected[p]))

      // Arrays are reference-counted: `.ref` where one is used again.
      const logProbsOf = (/** @type {any} */ x) => {
        const picked = np.takeAlongAxis(nn.logSoftmax(x, -1), labels.ref, -1).reshape([rows])
        return np.sum(picked.mul(mask.ref).reshape([batch, time]), 1)
      }
      if (workload.stage.endsWith('forward')) {
        const logits = Array.from({ length: inputs.copies }, makeLogits)
        const forward = lib.jit((/** @type {any} */ x, /** @type {any} */ w) => logProbsOf(logitsOf(x, w)))
        call = async (copy) => {
          const given = weight ? [logits[copy].ref, weight.ref] : [logits[copy].ref]
          last = { logProbs: await forward(.../** @type {[any, any]} */ (given)).data() }
        }
        return
      }
      const tokens = targets.reduce((count, target) => count + Number(target >= 0), 0)
      const ownStep = lib.valueAndGrad(
        (/** @type {any} */ { x, w }) => {
          const sums = logProbsOf(logitsOf(x, w))
          if (workload.stage === 'cross-entropy') return [np.sum(sums.ref).mul(-1 / tokens), sums]
          const difference = sums.ref.slice([0, batch / 2]).sub(sums.ref.slice([batch / 2, batch]))
          return [np.mean(nn.logSigmoid(difference.sub(margins.ref).mul(BETA))).mul(-1), sums]
        },
        { hasAux: true },
      )
      const own = async (/** @type {any} */ given) => {
        const [[loss, logProbs], gradient] = ownStep(given)
        const out = { loss: (await loss.data())[0], logProbs: await logProbs.data(), gradient }
        await lib.blockUntilReady(gradient)
        return out
      }
      const ourStep = weight
        ? fusedLinearPreferenceLossValueAndGrad((/** @type {any} */ { x, w }) => ({
            hidden: x.reshape([batch, time, width]),
            weight: w,
          }))
        : fusedPreferenceLossValueAndGrad((/** @type {any} */ { x }) => x.reshape([batch, time, vocab]))
      const options = { reference, beta: BETA, shift: workload.shift }
      const ours = async (/** @type {any} */ given) => {
        const { loss, metrics, gradParams: gradient } = await ourStep(given, undefined, inputs.labels, options)
        return { loss, logProbs: [...metrics.chosenLogProbs, ...metrics.rejectedLogProbs], gradient }
      }
      const step = formulation === 'ours' ? ours : own
      /** @type {any} */
      let logits = makeLogits()
      call = async () => {
        if (last) lib.tree.dispose(last.gradient)
        logits ??= makeLogits()
        const given = weight ? { x: logits, w: weight.ref } : { x: logits }
        logits = undefined
        const start = performance.now()
        last = await step(given)
        return (performance.now() - start) / 1000
      }
    },

    run: (copy) => call(copy),

    async result() {
      if (!last.gradient) return last
      const { x, w } = last.gradient
      const [first, second] = [await x.ref.data(), w && (await w.ref.data())]
      return { ...last, gradient: gradientAt(first, second, positions) }
    },
  }
}

export const jax = jaxPeer('written', { name: 'jax-js', title: 'jax-js, wasm', quick: true })
export const jaxOurs = jaxPeer('ours', {
  name: 'jax-js-ours',
  title: 'jax-js, wasm, with fused-preference-loss/jax',
  embedded: true,
  quick: true,
})
