// The task: sums of two digits, '7+5=' to '12'. Whether an answer is right can be checked, so that no model of rewards is
// needed. Each character is a token.
const LETTERS = '0123456789+='
const [PROMPT, ANSWER] = [4, 2]
export const vocabularySize = LETTERS.length
export const time = PROMPT + ANSWER

/** All hundred prompts. */
export const prompts = Array.from({ length: 100 }, (_, i) => `${Math.floor(i / 10)}+${i % 10}=`)

/** The right answer, with two digits. */
export function answerTo(/** @type {string} */ prompt) {
  const [a, b] = prompt.slice(0, -1).split('+').map(Number)
  return String(a + b).padStart(ANSWER, '0')
}

/** 1 for each text with the right answer, 0 for the others. */
export const rewardsOf = (/** @type {string[]} */ texts) =>
  texts.map((text) => Number(text.slice(PROMPT) === answerTo(text.slice(0, PROMPT))))

/**
 * Texts as a batch; the labels are those of the answers.
 * @returns {import('../falling-together/model.mjs').Batch}
 */
export function batchOf(/** @type {string[]} */ texts) {
  const inputIds = Int32Array.from([...texts.join('')], (letter) => LETTERS.indexOf(letter))
  const labels = inputIds.map((id, i) => (i % time < PROMPT ? -100 : id))
  return { inputIds, labels, shape: [texts.length, time] }
}

/**
 * Prompts with answers that a model writes, a token at a time.
 * @param {(batch: import('../falling-together/model.mjs').Batch) => { data: Float32Array }} logitsOf
 * @param {string[]} given
 * @param {(logits: Float32Array) => number} choose the next token, from the logits of its position
 */
export function write(logitsOf, given, choose) {
  let texts = given
  for (let place = PROMPT; place < time; place++) {
    const { inputIds, shape } = batchOf(texts.map((text) => text.padEnd(time, '0')))
    // The model computes the logits of the positions whose next token has a label.
    const labels = inputIds.map((_, i) => (i % time === place ? 0 : -100))
    const { data } = logitsOf({ inputIds, labels, shape })
    texts = texts.map((text, i) => {
      const row = (i * time + place - 1) * vocabularySize
      return text + LETTERS[choose(data.subarray(row, row + vocabularySize))]
    })
  }
  return texts
}

/** A token drawn from the distribution of the logits. */
export function sampleFrom(/** @type {Float32Array} */ logits, /** @type {() => number} */ random) {
  const weights = logits.map((logit) => Math.exp(logit))
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0)
  for (let token = 0; token < weights.length; token++) {
    left -= weights[token]
    if (left < 0) return token
  }
  return weights.length - 1
}
