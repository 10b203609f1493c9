/**
 * Log-probs that callers give: arrays, which are copied, or memory of CUDA, which is read where it lies each time that a
 * call runs.
 */
import { type CudaRange, cudaRange, isCudaMemory } from '../backends/cuda/addresses.js'
import { type DeviceRange, isDeviceMemory } from '../backends/device-memory.js'
import { numbers } from '../check/arrays.js'
import { invalidType, invalidValue, shapeMismatch } from '../errors.js'
import type { GivenLogProbs } from '../job.js'

/** Log-probs in float64. */
export interface LogProbs {
  /** Zeros, where they are in memory of CUDA: a call puts there what it has found. */
  values: Float64Array
  given?: GivenLogProbs
}

/** What they must be. */
export interface WantedLogProbs {
  /** Their number, where it is known. Without it those in device memory are float64 unless the memory knows better. */
  length?: number | undefined
  /** Where it comes from, in errors. */
  sizes?: string
  /** What must be on the same device, undefined if that is in host memory. */
  beside: DeviceRange | undefined
  /** What that is, in errors: 'the logits are'. */
  like: string
}

/** Reads log-probs. */
export function logProbsOf(value: unknown, name: string, { length, sizes, beside, like }: WantedLogProbs): LogProbs {
  if (!isDeviceMemory(value)) return { values: numbers(value, name, length, sizes) }
  if (beside?.kind !== 'cuda' || !isCudaMemory(value)) {
    throw invalidType(name, beside ? 'in host memory' : `in host memory, as ${like}`, value)
  }
  const { range, count, wide } = logProbsAt(value, name, length, sizes)
  if (range.device !== beside.device) {
    throw invalidValue(name, `is on device ${range.device}, but ${like} on ${beside.device}`)
  }
  return { values: new Float64Array(count), given: { data: range.place, wide } }
}

/** The memory of log-probs, if they are in memory of CUDA. */
export function logProbsRange(value: unknown, name: string): CudaRange | undefined {
  return isCudaMemory(value) ? logProbsAt(value, name).range : undefined
}

function logProbsAt(value: unknown, name: string, length?: number, sizes = '') {
  const memory = value as Parameters<typeof cudaRange>[0]
  const { byteLength, elementSize } = cudaRange(memory, name, 4)
  const size = elementSize ?? (length === undefined || byteLength === 8 * length ? 8 : 4)
  const count = byteLength / size
  if ((size !== 4 && size !== 8) || !Number.isInteger(count) || count !== (length ?? count)) {
    const wanted = length === undefined ? 'elements' : `${length} elements`
    throw shapeMismatch(name, `must have ${wanted} of float64 or float32${sizes}; got ${byteLength} bytes`)
  }
  return { range: cudaRange(memory, name, size), count, wide: size === 8 }
}
