// Sizes and settings that the programs share, in a terminal and in a browser.

export const SEED = 1851
export const PROMPT = 16
export const COMPLETION = 16
/** The vocabulary is GPT-2's. */
export const CONFIG = { vocab: 50257, time: PROMPT + COMPLETION - 1, width: 32, heads: 2, blocks: 2 }
/** Next-token training, which makes a language model of random weights. */
export const WARM_UP = { steps: 60, batch: 8, learningRate: 5e-3 }
export const DPO = { steps: 300, pairs: 6, learningRate: 2e-3, beta: 0.1 }

/**
 * The learning rate of a step: it rises over 20 steps, then falls to a tenth.
 * @param {{ learningRate: number, steps: number }} training
 * @param {number} step
 */
export function schedule({ learningRate, steps }, step) {
  return learningRate * Math.min(1, step / 20) * (1 - (0.9 * step) / steps)
}
