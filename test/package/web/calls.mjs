/**
 * What is called in pages, in other runtimes and, for comparison, in Node.js: on WebAssembly with the same bits everywhere.
 */

const [batch, time, vocab] = [4, 33, 1000]

/**
 * Results of a fused loss with its gradient, whose logits are enough for threads to take part.
 * @param {Pick<typeof import('fused-preference-loss'), 'fusedPreferenceLoss'>} library
 * @param {import('fused-preference-loss').RunOptions} [run]
 */
export async function resultOf({ fusedPreferenceLoss }, run) {
  let state = 1
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
  const data = Float32Array.from({ length: batch * time * vocab }, () => 20 * next() - 10)
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 7 === 0 ? -100 : (i * 31) % vocab))
  const options = /** @type {const} */ ({ lossType: 'simpo', gradient: true, ...run })
  const result = await fusedPreferenceLoss({ data, shape: [batch, time, vocab] }, labels, options)
  const { loss, margin, chosenLogProbs } = result
  const gradient = checksum(/** @type {Float32Array} */ (result.gradLogits?.data))
  return { loss, margin, chosenLogProbs: Array.from(chosenLogProbs), gradient }
}

/** Of all bits. */
function checksum(/** @type {Float32Array} */ { buffer }) {
  return new Uint32Array(buffer).reduce((sum, word) => Math.imul(sum ^ word, 16777619), 2166136261) >>> 0
}

/**
 * Compares with the golden cases: losses of TRL, and token log-probs of its output layer with their gradient. Throws an
 * error that names the first that differs.
 * @param {typeof import('fused-preference-loss')} library
 * @param {{ peers: any[], heads: any[] }} cases
 * @param {import('fused-preference-loss').RunOptions} run
 */
export function checkGolden({ preferenceLossSync, linearSequenceLogProbsSync }, { peers, heads }, run) {
  for (const { name, pairs, options, expected } of peers) {
    const { loss, losses, gradLogProbs } = preferenceLossSync(pairs, { ...options, ...run })
    near(`${name}: loss`, [loss], [expected.loss], 1e-9)
    near(`${name}: losses`, losses, expected.losses, 1e-9)
    near(`${name}: gradient of chosen`, gradLogProbs.chosen, expected.gradient.chosen, 1e-9)
    near(`${name}: gradient of rejected`, gradLogProbs.rejected, expected.gradient.rejected, 1e-9)
  }
  for (const [i, peer] of heads.entries()) {
    const [rows, width, vocab] = peer.shape
    const { temperature, logitScale, logitSoftcap, bias } = peer
    const got = linearSequenceLogProbsSync(
      { data: Float32Array.from(peer.hidden), shape: [1, rows, width] },
      { data: Float32Array.from(peer.weight), shape: [vocab, width] },
      Int32Array.from(peer.labels),
      {
        ...{
          shift: false,
          temperature,
          logitScale,
          logitSoftcap,
          outputs: ['tokenLogProbs', 'tokenEntropies'],
          ...run,
        },
        ...(bias === null ? {} : { bias: Float32Array.from(bias) }),
      },
    )
    near(`output layer ${i}: log-probs`, got.tokenLogProbs, peer.tokenLogProbs, 2e-5)
    near(`output layer ${i}: entropies`, got.tokenEntropies, peer.tokenEntropies, 2e-5)
  }
}

/**
 * By at most `bound`, relative to the largest.
 * @param {string} name
 * @param {ArrayLike<number>} got
 * @param {number[]} wanted
 * @param {number} bound
 */
function near(name, got, wanted, bound) {
  const largest = Math.max(1, ...wanted.map(Math.abs))
  wanted.forEach((value, i) => {
    if (!(Math.abs(got[i] - value) <= bound * largest)) throw new Error(`${name}: ${got[i]}, not ${value}`)
  })
}
