/**
 * TensorFlow.js and its backends for Node.js.
 */

/** @type {Record<string, () => Promise<any>>} */
const BACKENDS = {
  cpu: () => import('@tensorflow/tfjs-backend-cpu'),
  wasm: () => import('@tensorflow/tfjs-backend-wasm'),
  // @ts-expect-error: users install it to compare with it
  tensorflow: () => import('@tensorflow/tfjs-node'),
}

/**
 * The library, on one of its backends.
 * @param {string} backend
 * @param {number} _threads its wasm backend has one thread in Node.js
 * @returns {Promise<any>}
 */
export async function tfjsOn(backend, _threads) {
  const tf = await import('@tensorflow/tfjs')
  await BACKENDS[backend]()
  await tf.setBackend(backend)
  await tf.ready()
  return tf
}
