/**
 * TensorFlow.js and its wasm backend in a browser.
 */
import { urlOf } from '../packages.mjs'

/**
 * The library, on one of its backends.
 * @param {string} backend
 * @param {number} threads
 * @returns {Promise<any>}
 */
export async function tfjsOn(backend, threads) {
  const tf = await import('@tensorflow/tfjs')
  if (backend === 'wasm') {
    const wasm = await import('@tensorflow/tfjs-backend-wasm')
    wasm.setWasmPaths(urlOf('@tensorflow/tfjs-backend-wasm', 'dist/'))
    wasm.setThreadsCount(threads)
  }
  await tf.setBackend(backend)
  await tf.ready()
  return tf
}
