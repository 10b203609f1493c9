/**
 * The CUDA library's functions, or the error that says why there are none.
 */

import { failure } from '../../errors.js'
import type { CudaFunctions } from '../cpu/addon.js'
import { type LoadedCuda, loadCuda } from './index.js'

/** The cuda backend. Throws `ERR_BACKEND_UNAVAILABLE` with the reason when it is missing. */
export function requireCuda(): LoadedCuda {
  const cuda = loadCuda()
  if ('reason' in cuda) throw failure('ERR_BACKEND_UNAVAILABLE', `CUDA is not available: ${cuda.reason}`)
  return cuda
}

/** Its functions. */
export function cudaFunctions(): CudaFunctions {
  return requireCuda().functions
}
