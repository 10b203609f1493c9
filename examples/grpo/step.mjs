// A step of GRPO (Shao et al. 2024, 2402.03300) written on the token-level backward: the loss of each token and its
// derivative are plain JavaScript, and the gradient of the logits comes from one call.
import { sequenceLogProbsSync } from 'fused-preference-loss'
import { backward, forward } from '../falling-together/model.mjs'

const [CLIP, BETA, UPDATES, OUTPUTS] = [0.2, 0.02, 2, /** @type {const} */ (['tokenLogProbs'])]

/** Rewards within each group of completions of one prompt, less their mean, over their standard deviation. */
export function advantagesOf(/** @type {number[]} */ rewards, /** @type {number} */ size) {
  return rewards.map((reward, i) => {
    const group = rewards.slice(i - (i % size), i - (i % size) + size)
    const mean = group.reduce((sum, each) => sum + each, 0) / size
    const variance = group.reduce((sum, each) => sum + (each - mean) ** 2, 0) / size
    return (reward - mean) / (Math.sqrt(variance) + 1e-4)
  })
}

/**
 * Updates the model by completions that it has written and their rewards.
 * @param {import('../falling-together/model.mjs').Model} model
 * @param {import('../falling-together/model.mjs').Model} reference which the model is to stay near to
 * @param {ReturnType<typeof import('../falling-together/model.mjs').createAdam>} update
 * @param {import('../falling-together/model.mjs').Batch} batch the completions, those of one prompt one after the other
 * @param {number[]} rewards of each completion
 * @param {number} size completions of each prompt
 * @returns means over the tokens: the KL divergence from the reference, and how many were clipped
 */
export function grpoStep(model, reference, update, batch, rewards, size) {
  const advantages = advantagesOf(rewards, size)
  const { labels, shape } = batch
  const tokensOf = (/** @type {ReturnType<typeof forward>} */ { logits }) =>
    sequenceLogProbsSync(logits, labels, { outputs: OUTPUTS })
  const old = /** @type {Float32Array} */ (tokensOf(forward(model, batch)).tokenLogProbs)
  const fixed = /** @type {Float32Array} */ (tokensOf(forward(reference, batch)).tokenLogProbs)
  let [kl, clipped] = [0, 0]
  for (let i = 0; i < UPDATES; i++) {
    const pass = forward(model, batch)
    const policy = tokensOf(pass)
    const share = 1 / policy.tokenCounts.reduce((sum, count) => sum + count)
    const tokenLogProbs = policy.tokenLogProbs?.map((logProb, t) => {
      const advantage = advantages[Math.floor(t / (shape[1] - 1))]
      const ratio = Math.exp(logProb - old[t])
      const isClipped = advantage > 0 ? ratio > 1 + CLIP : ratio < 1 - CLIP
      const gap = fixed[t] - logProb // 0 where there is no token, as all log-probs are
      kl += (share / UPDATES) * (Math.exp(gap) - gap - 1) // Schulman's estimate k3
      clipped += (share / UPDATES) * Number(isClipped)
      // d loss / d logProb of the loss  beta * kl - min(ratio * advantage, clip(ratio) * advantage)
      return share * (BETA * (1 - Math.exp(gap)) - (isClipped ? 0 : advantage * ratio))
    })
    const { gradLogits } = policy.backwardSync({ tokenLogProbs }, { gradient: 'in-place' })
    update(backward(model, batch, pass.hidden, /** @type {Float32Array} */ (gradLogits.data)))
  }
  return { kl, clipped }
}
