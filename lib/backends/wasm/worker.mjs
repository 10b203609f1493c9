/**
 * A worker of the wasm backend: an instance of the module in the memory of its parent. It helps with whatever the pool
 * is given, or runs the jobs that its parent sends.
 */
import { parentPort, workerData } from 'node:worker_threads'

const { module, memory, stack, helps } = workerData
const { exports } = new WebAssembly.Instance(module, { env: { memory } })
exports.__stack_pointer.value = stack

if (helps) exports.help()

parentPort.on('message', ({ id, addresses }) => {
  try {
    parentPort.postMessage({ id, finished: exports.run(...addresses) !== 0 })
  } catch (error) {
    parentPort.postMessage({ id, problem: String(error) })
  }
})
