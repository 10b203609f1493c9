/**
 * The webgpu backend.
 */
import { failure } from '../../errors.js'
import type { Backend } from '../../job.js'

export const webGpuBackend: Backend = {
  name: 'webgpu',

  runSync() {
    const problem = 'a page cannot wait for its GPU, so that the webgpu backend has no synchronous forms'
    throw failure('ERR_BACKEND_UNAVAILABLE', `${problem}: call the function without Sync in its name`)
  },

  async run() {
    throw failure('ERR_BACKEND_UNAVAILABLE', 'not yet')
  },
}
