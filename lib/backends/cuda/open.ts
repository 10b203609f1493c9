/**
 * The functions of the CUDA library, or the error that says why it is missing.
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
