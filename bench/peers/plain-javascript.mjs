/**
 * The loops that people write without a library: log-softmax, picked and summed; the DPO loss; softmax minus one-hot
 * for the gradient.
 */
import { BETA } from '../cases.mjs'

/** @type {import('../cases.mjs').Workload} */
let workload
/** @type {import('./index.mjs').Inputs} */
let inputs
/** @type {Float32Array[]} */
let gradients
/** @type {import('../agreement.mjs').Result} */
let last

/** @param {Float32Array} logits @param {number} start of the row @param {number} vocab @param {number} label */
function logProb(logits, start, vocab, label) {
  let max = -Infinity
  for (let i = start; i < start + vocab; i++) if (logits[i] > max) max = logits[i]
  let sum = 0
  for (let i = start; i < start + vocab; i++) sum += Math.exp(logits[i] - max)
  return logits[start + label] - max - Math.log(sum)
}

/** @param {Float32Array} logits @param {Float32Array} out @param {number} start @param {number} vocab @param {number} label @param {number} coefficient */
function writeGradient(logits, out, start, vocab, label, coefficient) {
  let max = -Infinity
  for (let i = start; i < start + vocab; i++) if (logits[i] > max) max = logits[i]
  let sum = 0
  for (let i = start; i < start + vocab; i++) sum += Math.exp(logits[i] - max)
  for (let i = start; i < start + vocab; i++) out[i] = (-coefficient * Math.exp(logits[i] - max)) / sum
  out[start + label] += coefficient
}

/** Loss, and its derivative with respect to each log-prob, of the first half against the second. */
function dpo(/** @type {ArrayLike<number>} */ chosen, /** @type {ArrayLike<number>} */ rejected) {
  const { reference } = inputs
  const pairs = chosen.length
  const gradient = new Array(2 * pairs)
  let loss = 0
  for (let p = 0; p < pairs; p++) {
    const z = BETA * (chosen[p] - rejected[p] - (reference.chosen[p] - reference.rejected[p]))
    loss += Math.log(1 + Math.exp(-z)) / pairs
    gradient[p] = -BETA / (1 + Math.exp(z)) / pairs
    gradient[pairs + p] = -gradient[p]
  }
  return { loss, gradient }
}

/** @type {import('./index.mjs').Peer} */
export const plainJavaScript = {
  name: 'plain-js',
  title: 'plain JavaScript loops',
  slowness: 1,
  quick: true,

  supports({ dtype, stage }) {
    if (stage === 'tokens' || stage === 'cross-entropy-step') return 'is compared on DPO and cross-entropy'
    return dtype === 'float32' || 'JavaScript has no arithmetic on 16-bit bits'
  },

  prepare(given, all) {
    workload = given
    inputs = all
    gradients = []
  },

  run(copy) {
    const { stage, shape } = workload
    const { targets, policy, distinct } = inputs
    if (stage === 'loss' && policy) {
      last = dpo(policy.chosen, policy.rejected)
      return
    }
    const [batch, time, vocab] = shape
    const logits = /** @type {Float32Array} */ (inputs.logits[copy])
    const logProbs = new Array(batch).fill(0)
    for (let row = 0; row < batch * time; row++) {
      if (targets[row] >= 0) logProbs[Math.floor(row / time)] += logProb(logits, row * vocab, vocab, targets[row])
    }
    last = { logProbs }
    if (stage === 'forward') return
    const tokens = targets.reduce((count, target) => count + Number(target >= 0), 0)
    const ofTokens = { loss: -logProbs.reduce((a, b) => a + b) / tokens, gradient: new Array(batch).fill(-1 / tokens) }
    const isDpo = stage !== 'cross-entropy'
    const { loss, gradient } = isDpo ? dpo(logProbs.slice(0, batch / 2), logProbs.slice(batch / 2)) : ofTokens
    gradients[copy % distinct] ??= new Float32Array(logits.length)
    const out = gradients[copy % distinct]
    for (let row = 0; row < batch * time; row++) {
      if (targets[row] < 0) out.fill(0, row * vocab, (row + 1) * vocab)
      else writeGradient(logits, out, row * vocab, vocab, targets[row], gradient[Math.floor(row / time)])
    }
    last = isDpo ? { logProbs, loss, gradient: out } : { loss, gradient: out }
  },

  result() {
    if (last.gradient === undefined || workload.stage === 'loss') return last
    return { ...last, gradient: inputs.positions.map((position) => last.gradient?.[position] ?? Number.NaN) }
  },
}
