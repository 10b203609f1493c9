/**
 * Tensors of onnxruntime and transformers.js.
 */
import { viewKind } from '../../check/arrays.js'
import { failure, invalidType } from '../../errors.js'
import type { HostArray, Logits } from '../../types/index.js'

/** The properties of a tensor of onnxruntime or transformers.js that are used. */
export interface OrtTensor {
  readonly type: string
  readonly dims: readonly number[]
  readonly data: unknown
  readonly location?: string | undefined
}

/**
 * A tensor as the logits that every function of this package takes. Nothing is copied.
 *
 * @param tensor float32 or float16, in memory that JavaScript can access.
 * @throws TypeError `ERR_INVALID_ARG_TYPE` for another type; Error `ERR_DISPOSED`, and `ERR_BACKEND_UNAVAILABLE` for a
 *   tensor on a GPU.
 */
export function toLogits(tensor: OrtTensor): Logits {
  if (!isTensor(tensor)) throw invalidType('tensor', 'a tensor { data, dims, type }', tensor)
  const { type, dims } = tensor
  if (type !== 'float32' && type !== 'float16') throw invalidType('tensor.type', "'float32' or 'float16'", type)
  const data = hostData(tensor, 'tensor') as HostArray
  // The data of float16 are a Float16Array where the runtime has that type, else a Uint16Array of the bits.
  const wanted = type === 'float32' ? ['Float32Array'] : ['Uint16Array', 'Float16Array']
  if (!wanted.includes(viewKind(data)!))
    throw invalidType('tensor.data', `a ${wanted.join(' or ')}, as the type is ${type}`, data)
  return { data, shape: dims.slice(), dtype: type }
}

/** Whether this is a tensor of onnxruntime or transformers.js. */
export function isTensor(value: unknown): value is OrtTensor {
  return typeof value === 'object' && value !== null && Array.isArray((value as Partial<OrtTensor>).dims)
}

/** The data of a tensor in memory that JavaScript can access. */
export function hostData(tensor: OrtTensor, name: string): unknown {
  const { location = 'cpu' } = tensor
  if (location === 'none') throw failure('ERR_DISPOSED', `${name}: the tensor has been disposed of`)
  if (location !== 'cpu' && location !== 'cpu-pinned') {
    const remedy = "await its getData() first, or set preferredOutputLocation of the session to 'cpu'"
    throw failure('ERR_BACKEND_UNAVAILABLE', `${name}: the data are on '${location}'; ${remedy}`)
  }
  return tensor.data
}
