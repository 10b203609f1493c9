// Batches for fine-tuning: a few random tokens as the prompt, and a completion that counts upwards from the last of them.
// Labels are -100 at the prompts.
import { randomNumbers } from '../moby-dick/data.mjs'

export const [vocab, width, time, size, steps] = [24, 16, 8, 6, 40]
const PROMPT = 3
const random = randomNumbers(3)

/** Random weights, the same in every run. */
export const weights = (/** @type {number} */ rows, /** @type {number} */ columns) =>
  Float32Array.from({ length: rows * columns }, () => 0.6 * (2 * random() - 1))

/** @type {[number, number]} */
export const shape = [size, time]
export const batches = Array.from({ length: steps }, () => {
  const inputIds = new Int32Array(size * time)
  for (let i = 0; i < inputIds.length; i++) {
    inputIds[i] = i % time < PROMPT ? Math.floor(vocab * random()) : (inputIds[i - 1] + 1) % vocab
  }
  return { inputIds, labels: inputIds.map((id, i) => (i % time < PROMPT ? -100 : id)) }
})
