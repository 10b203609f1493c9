/**
 * fused-preference-loss: the cpu backend, the wasm backend, which runs where no binary loads, and the js backend, which
 * runs where neither does.
 */
import {
  crossEntropySync,
  fusedLinearPreferenceLossSync,
  fusedPreferenceLossSync,
  getBackends,
  linearSequenceLogProbsSync,
  preferenceLossSync,
  sequenceLogProbsSync,
} from 'fused-preference-loss'
import { headTensors, linearResult, tokenResult } from '../agreement.mjs'
import { BETA } from '../cases.mjs'
import { sharedLike, valueAt } from '../inputs.mjs'
import { versionOf } from '../packages.mjs'
import { linearTokenStep, tokenStep } from '../token-loss.mjs'
import { chooseBlas } from './openblas.mjs'

/** Why no BLAS can be used; undefined where one can. */
function blasProblem() {
  const [hidden, weight] = [
    { data: new Float32Array(2), shape: [1, 2, 1] },
    { data: new Float32Array(3), shape: [3, 1] },
  ]
  chooseBlas()
  try {
    linearSequenceLogProbsSync(hidden, weight, Int32Array.of(0, 1), { backend: 'cpu', products: 'blas' })
  } catch (error) {
    return /** @type {Error} */ (error).message.split('\n')[0]
  }
  return undefined
}

/**
 * @param {'cpu' | 'wasm' | 'js'} backend
 * @param {Pick<import('./index.mjs').Peer, 'name' | 'title' | 'slowness' | 'embedded'>} words
 * @param {'own' | 'blas'} [products] of an output layer
 * @returns {import('./index.mjs').Peer}
 */
function ownPeer(backend, words, products) {
  /** @type {() => any} */
  let call
  /** @type {any} */
  let last
  let index = 0
  /** @type {() => import('../agreement.mjs').Result} */
  let result

  return {
    ...words,
    overwrites: true,
    linear: true,
    another: () => ownPeer(backend, words, products),

    supports({ width = 0 }) {
      if (backend === 'js' && width > 64) return 'plain loops, minutes a repetition'
      const { available, reason } = /** @type {{ available: boolean, reason?: string }} */ (getBackends()[backend])
      if (available && products === 'blas') return blasProblem() ?? true
      return available || `no ${backend} backend: ${reason}`
    },

    async prepare(workload, inputs, { threads, instructionSet, head }) {
      this.version = await versionOf('fused-preference-loss')
      const { stage, shape, dtype, shift } = workload
      const { logits, labels, reference, positions, policy, distinct } = inputs
      const run = { backend, threads, ...(backend === 'cpu' && { instructionSet }) }
      const ofHead = { ...run, ...head, ...(products && { products }) }
      if (products === 'blas') this.note = `library of BLAS: ${chooseBlas() || 'the first that is found'}`
      if (stage === 'loss' && policy) {
        const pairs = { ...policy, referenceChosen: reference.chosen, referenceRejected: reference.rejected }
        call = () => preferenceLossSync(pairs, { backend, beta: BETA })
        result = () => ({ loss: last.loss, gradient: [...last.gradLogProbs.chosen, ...last.gradLogProbs.rejected] })
        return
      }
      if (stage.startsWith('linear')) {
        const [, weight] = headTensors(workload, inputs, 0)
        const options = { ...ofHead, shift, beta: BETA, reference }
        /** @type {any} */
        let gradient
        const step = linearTokenStep(workload, ofHead)
        call = () => {
          const [hidden] = headTensors(workload, inputs, index)
          if (stage === 'linear-forward')
            return linearSequenceLogProbsSync(hidden, weight, labels, { ...ofHead, shift })
          gradient ??= {
            hidden: new Float32Array(hidden.data.length),
            weight: new Float32Array(weight.data.length),
          }
          if (stage === 'linear-tokens') return step(hidden, weight, labels, gradient)
          return fusedLinearPreferenceLossSync(hidden, weight, labels, { ...options, gradient })
        }
        result = () => {
          if (stage === 'linear-forward') return { logProbs: last.logProbs }
          return stage === 'linear-tokens' ? tokenResult(last, positions, dtype) : linearResult(last, positions)
        }
        return
      }
      const tensor = (/** @type {number} */ i) => ({ data: logits[i], shape, dtype })
      if (stage === 'forward') {
        call = () => sequenceLogProbsSync(tensor(index), labels, { ...run, shift })
        result = () => ({ logProbs: last.logProbs })
        return
      }
      // One object of options per gradient array, as in a training loop. Both are made in the first calls, because the
      // array counts as memory beyond the inputs.
      const zeroInactive = !workload.leaveMasked
      const ofTokens = stage === 'tokens' || stage.startsWith('cross-entropy')
      const common = ofTokens ? { ...run, shift, zeroInactive } : { ...run, shift, zeroInactive, beta: BETA, reference }
      const inPlace = stage === 'in-place' || stage === 'cross-entropy'
      const newGradient = () => {
        const [like] = logits
        return workload.shared ? sharedLike(like) : new /** @type {any} */ (like).constructor(like.length)
      }
      /** @type {any[]} */
      const options = []
      const optionsFor = (/** @type {number} */ i) => {
        options[i] ??= { ...common, gradient: inPlace ? 'in-place' : newGradient() }
        return options[i]
      }
      if (ofTokens) {
        const step = tokenStep(workload, run)
        call = () => {
          const options = optionsFor(index % distinct)
          if (stage === 'tokens') return step(tensor(index), labels, options.gradient)
          return crossEntropySync(tensor(index), labels, options)
        }
        result = () => tokenResult(last, positions, dtype)
        return
      }
      call = () => fusedPreferenceLossSync(tensor(index), labels, optionsFor(index % distinct))
      result = () => ({
        logProbs: [...last.chosenLogProbs, ...last.rejectedLogProbs],
        loss: last.loss,
        gradient: positions.map((position) => valueAt(last.gradLogits.data, position, dtype)),
      })
    },

    run(copy) {
      index = copy
      last = call()
    },

    result: () => result(),
  }
}

export const ours = ownPeer('cpu', { name: 'ours', title: 'fused-preference-loss' })
export const oursBlas = ownPeer(
  'cpu',
  { name: 'ours-blas', title: 'fused-preference-loss, products of a BLAS', embedded: true },
  'blas',
)
export const oursWasm = ownPeer('wasm', { name: 'ours-wasm', title: 'fused-preference-loss, wasm backend' })
export const oursJs = ownPeer('js', { name: 'ours-js', title: 'fused-preference-loss, js backend', slowness: 1 })
