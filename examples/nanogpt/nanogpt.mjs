// Loads @genai-fi/nanogpt under Node. It is built for browsers and bundles its own TensorFlow.js, which under Node
// imports a module that the bundle lacks. The bundled copy shares the environment of the copy loaded first; so this
// file loads ours first and makes it report for a moment that this is not Node.
import * as tf from '@tensorflow/tfjs-core'

tf.env().set('IS_NODE', false)
const nanogpt = await import('@genai-fi/nanogpt')
tf.env().set('IS_NODE', true)

// Its only backend that runs in Node: its kernels for normalisation and attention exist for 'cpu', 'webgl' and
// 'webgpu', not for 'wasm'.
await tf.setBackend('cpu')

export const { models, training } = nanogpt

const loss = await import(new URL('training/loss.js', import.meta.resolve('@genai-fi/nanogpt')).href)

/**
 * The loss of its trainers, which it does not export: labels of 65535 do not count if `masked`.
 * @type {(logits: tf.Tensor, targets: tf.Tensor, masked?: boolean) => tf.Scalar}
 */
export const calculateLoss = loss.calculateLoss
export { tf }
