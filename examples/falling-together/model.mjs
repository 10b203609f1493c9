// A language model of characters in plain JavaScript: tanh of the sum of the last characters' embeddings, times an
// output matrix. It is small enough to be trained in seconds, and has a hidden layer, so that learning in one context
// also changes the predictions in others.
const CONTEXT = 6

/**
 * @typedef {{ embeddings: Float32Array, output: Float32Array }} Parameters of the model, or their gradient
 * @typedef {{ vocab: number, width: number } & Parameters} Model
 * @typedef {{ inputIds: Int32Array, labels: Int32Array, shape: readonly number[] }} Batch
 */

/**
 * @param {number} vocab
 * @param {number} width of the hidden layer
 * @param {() => number} random
 * @returns {Model}
 */
export function createModel(vocab, width, random) {
  const table = (/** @type {number} */ length, /** @type {number} */ scale) =>
    Float32Array.from({ length }, () => scale * (2 * random() - 1))
  return { vocab, width, embeddings: table(CONTEXT * vocab * width, 0.3), output: table(vocab * width, 0.3) }
}

export const cloneModel = (/** @type {Model} */ model) => ({
  ...model,
  embeddings: model.embeddings.slice(),
  output: model.output.slice(),
})

/**
 * @param {Model} model
 * @param {Batch} batch
 * @returns `[batch, time, vocab]` logits, computed only where they predict a label that counts (the loss reads no
 *   others), and the hidden layer for `backward`
 */
export function forward({ vocab, width, embeddings, output }, { inputIds, labels, shape }) {
  const time = shape[1]
  const hidden = new Float32Array(inputIds.length * width)
  const logits = new Float32Array(inputIds.length * vocab)
  for (const i of predicting(labels, time)) {
    const h = hidden.subarray(i * width, (i + 1) * width)
    for (let k = 0; k < CONTEXT && k <= i % time; k++) {
      const row = (k * vocab + inputIds[i - k]) * width
      for (let d = 0; d < width; d++) h[d] += embeddings[row + d]
    }
    for (let d = 0; d < width; d++) h[d] = Math.tanh(h[d])
    for (let v = 0; v < vocab; v++) {
      let sum = 0
      for (let d = 0; d < width; d++) sum += output[v * width + d] * h[d]
      logits[i * vocab + v] = sum
    }
  }
  return { logits: { data: logits, shape: [...shape, vocab] }, hidden }
}

/** Positions whose next token is a label that counts. */
function predicting(/** @type {Int32Array} */ labels, /** @type {number} */ time) {
  return [...labels.keys()].filter((i) => (i + 1) % time !== 0 && labels[i + 1] !== -100)
}

/**
 * The gradient of the parameters, from the gradient of the logits.
 * @param {Model} model
 * @param {Batch} batch
 * @param {Float32Array} hidden as `forward` returned it
 * @param {Float32Array} gradLogits
 */
export function backward({ vocab, width, embeddings, output }, { inputIds, labels, shape }, hidden, gradLogits) {
  const time = shape[1]
  const gradient = { embeddings: new Float32Array(embeddings.length), output: new Float32Array(output.length) }
  const gradHidden = new Float32Array(width)
  for (const i of predicting(labels, time)) {
    gradHidden.fill(0)
    for (let v = 0; v < vocab; v++) {
      const g = gradLogits[i * vocab + v]
      for (let d = 0; d < width; d++) {
        gradient.output[v * width + d] += g * hidden[i * width + d]
        gradHidden[d] += g * output[v * width + d]
      }
    }
    for (let d = 0; d < width; d++) gradHidden[d] *= 1 - hidden[i * width + d] ** 2
    for (let k = 0; k < CONTEXT && k <= i % time; k++) {
      const row = (k * vocab + inputIds[i - k]) * width
      for (let d = 0; d < width; d++) gradient.embeddings[row + d] += gradHidden[d]
    }
  }
  return gradient
}

/**
 * Adam (Kingma and Ba 2015).
 * @param {Model} model
 * @param {number} learningRate
 * @returns {(gradient: Parameters) => void} a function that updates the model
 */
export function createAdam(model, learningRate) {
  const names = /** @type {const} */ (['embeddings', 'output'])
  const zeros = () => ({
    embeddings: new Float32Array(model.embeddings.length),
    output: new Float32Array(model.output.length),
  })
  const [mean, square] = [zeros(), zeros()]
  let step = 0
  return (gradient) => {
    step++
    const rate = (learningRate * Math.sqrt(1 - 0.999 ** step)) / (1 - 0.9 ** step)
    for (const name of names) {
      for (let i = 0; i < model[name].length; i++) {
        const g = gradient[name][i]
        mean[name][i] += 0.1 * (g - mean[name][i])
        square[name][i] += 0.001 * (g * g - square[name][i])
        model[name][i] -= (rate * mean[name][i]) / (Math.sqrt(square[name][i]) + 1e-8)
      }
    }
  }
}
