/**
 * The gradients of an output layer: which are wanted, and where they go.
 */

import type { NamedArray, Watched } from '../check/arrays.js'
import { flag, integer, oneOf, optionsObject } from '../check/options.js'
import { invalidType, invalidValue } from '../errors.js'
import type { Head, HeadGradientStage } from '../job.js'
import type {
  DType,
  GradientPrecision,
  HeadGradientOptions,
  HeadGradientRequest,
  HeadGradients,
  Hidden,
} from '../types/index.js'
import type { HeadSource } from './head.js'
import { HEAD_OPTIONS } from './head-runner.js'
import type { Runner } from './run.js'
import { DTYPES } from './tensor.js'

/** The names of {@link HeadGradientOptions}. */
export const HEAD_GRADIENT_OPTIONS = ['accumulate', 'zeroInactive', 'gradientDType', 'gradientPrecision'] as const

/** The names of the options of a call that goes from hidden states to gradients. */
export const FUSED_HEAD_OPTIONS = [...HEAD_OPTIONS, ...HEAD_GRADIENT_OPTIONS, 'logitsBudget', 'gradient'] as const

/** Bytes of logits that are kept where the caller does not say. */
const LOGITS_BUDGET = 2 ** 28

/** Checks `logitsBudget`. */
export function budgetOf(value: unknown): number {
  if (value === undefined) return LOGITS_BUDGET
  return integer(value, 'options.logitsBudget', 0, Number.MAX_SAFE_INTEGER)
}

const PRECISION = 'options.gradientPrecision'
const PRECISIONS = ['float32', 'bfloat16'] as const
/** The backends that round gradients of logits. cuda does so wherever factors are of 16 bits, whether or not asked to. */
const ROUNDING: ReadonlySet<string> = new Set(['cpu', 'js', 'cuda'])

function precisionOf(value: unknown, { hidden, weight }: Head): GradientPrecision {
  const precision = oneOf(value, PRECISION, PRECISIONS, 'float32')
  if (precision !== 'float32' && (hidden.dtype !== precision || weight.dtype !== precision)) {
    const types = `hidden is ${hidden.dtype} and weight ${weight.dtype}`
    throw invalidValue(PRECISION, `must be 'float32' unless hidden and weight are ${precision}; ${types}`)
  }
  return precision
}

/** Refuses a precision that a call's backend does not have. */
export function checkPrecision({ gradientPrecision = 'float32' }: HeadGradientOptions, { backend }: Runner): void {
  if (gradientPrecision === 'float32' || ROUNDING.has(backend.name)) return
  throw invalidValue(PRECISION, `must be 'float32' on the ${backend.name} backend`)
}

type Part = keyof HeadGradientRequest
const PARTS: readonly Part[] = ['hidden', 'weight', 'bias']
const REQUEST: ReadonlySet<string> = new Set(PARTS)

/** Gradients that have been checked: their destinations for the backend, and the result for the caller. */
export interface HeadDestinations {
  stage: Pick<HeadGradientStage, Part | 'dtype' | 'precision' | 'accumulate' | 'skipInactive'>
  gradients: HeadGradients
  /** The destinations. */
  arrays: readonly NamedArray[]
  /** The caller's among them, in host memory. */
  watched: readonly Watched[]
}

/**
 * Checks which gradients are wanted and where they go; undefined for none. They may share memory with none of
 * `callers`, nor with each other.
 */
export function headDestinations(
  request: unknown,
  name: string,
  { head, rows, hidden, range, memory, arrays }: HeadSource,
  { accumulate, zeroInactive, gradientDType, gradientPrecision }: HeadGradientOptions,
  callers: readonly NamedArray[],
): HeadDestinations | undefined {
  const adds = flag(accumulate, 'options.accumulate', false)
  const zeros = flag(zeroInactive, 'options.zeroInactive', !adds)
  const dtype = oneOf(gradientDType, 'options.gradientDType', DTYPES, 'float32')
  const precision = precisionOf(gradientPrecision, head)
  const wanted = partsOf(request, name, head)
  const given = PARTS.filter((part) => typeof wanted[part] === 'object')
  if (adds && given.length === 0) {
    throw invalidValue('options.accumulate', `needs an array in ${name} whose content to add to`)
  }
  if (adds && range && PARTS.some((part) => wanted[part] === true)) {
    throw invalidValue('options.accumulate', 'needs memory for all gradients on a GPU: new memory is not zero there')
  }
  const { vocab } = rows
  const width = head.hidden.vocab
  const sizes = { hidden: head.hidden.batch * head.hidden.time * width, weight: vocab * width, bias: vocab }
  const others: readonly NamedArray[] = [...arrays, ...callers]
  const destinations: NamedArray[] = []
  const gradients: HeadGradients = {}
  // New memory of a GPU is not zero.
  const zeroed = zeros || (range !== undefined && wanted.hidden === true)
  const stage: HeadDestinations['stage'] = { dtype, precision, accumulate: adds, skipInactive: !zeroed }
  const watched: Watched[] = []
  const put = (part: Part, value: unknown) => {
    const partName = `${name}.${part}`
    const output = {
      name: partName,
      dtype,
      length: sizes[part],
      besides: 'a boolean',
      like: 'hidden is',
    } as const
    const written = memory.output(value, output, [...others, ...destinations])
    stage[part] = written.memory
    destinations.push([partName, written.data])
    watched.push(...written.watched)
    addResult(gradients, part, { data: written.data, dtype }, hidden.shape, head, vocab)
  }
  // New arrays are made last, when no check can fail any more.
  const allocated = PARTS.filter((part) => wanted[part] === true)
  for (const part of given) put(part, wanted[part])
  for (const part of allocated) put(part, true)
  return given.length + allocated.length === 0 ? undefined : { stage, gradients, watched, arrays: destinations }
}

/** What is asked for, `false` left out. */
function partsOf(request: unknown, name: string, head: Head): Partial<Record<Part, true | object>> {
  if (request === undefined || request === false) return {}
  if (request === true) return head.bias ? { hidden: true, weight: true, bias: true } : { hidden: true, weight: true }
  if (typeof request !== 'object' || request === null) {
    throw invalidType(name, 'a boolean or an object { hidden?, weight?, bias? }', request)
  }
  const parts: Partial<Record<Part, true | object>> = {}
  const given = optionsObject(request as HeadGradientRequest, name, REQUEST)
  for (const part of PARTS) {
    const value = given[part]
    if (value !== undefined && value !== false) parts[part] = value
  }
  if (parts.bias !== undefined && !head.bias) {
    throw invalidValue(`${name}.bias`, 'cannot be had: options.bias is not given')
  }
  return parts
}

function addResult(
  gradients: HeadGradients,
  part: Part,
  { data, dtype }: Pick<Hidden, 'data'> & { dtype: DType },
  hiddenShape: readonly number[],
  { hidden, weight }: Head,
  vocab: number,
): void {
  if (part === 'bias') gradients.gradBias = data
  else if (part === 'hidden') gradients.gradHidden = { data, shape: hiddenShape.slice(), dtype }
  else {
    gradients.gradWeight = { data, shape: [vocab, hidden.vocab], dtype }
    if (weight.columnStride !== 1) gradients.gradWeight.strides = [1, vocab]
  }
}
