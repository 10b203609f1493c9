// @genai-fi/nanogpt under Node. It is built for browsers and brings a TensorFlow.js of its own, which under Node asks for
// a module that the build has left out. It shares the environment of the one loaded first, so that one is loaded first,
// and says for a moment that this is not Node.
import * as tf from '@tensorflow/tfjs-core'

tf.env().set('IS_NODE', false)
const nanogpt = await import('@genai-fi/nanogpt')
tf.env().set('IS_NODE', true)

// The only one of its backends there is in Node: its kernels for normalisation and attention are for 'cpu', 'webgl' and
// 'webgpu', not for 'wasm'.
await tf.setBackend('cpu')

export const { models, training } = nanogpt
export { tf }
