/**
 * The gradients of an output layer: which are wanted, and where they go.
 */

import { DeviceBuffer } from '../backends/cuda/buffer.js'
import { type DeviceRange, deviceRange, isDeviceMemory, rangesOverlap } from '../backends/cuda/memory.js'
import {
  checkNoOverlap,
  checkView,
  elements,
  type NamedArray,
  type View,
  viewKind,
  type Watched,
  watch,
} from '../check/arrays.js'
import { flag, optionsObject } from '../check/options.js'
import { invalidType, invalidValue, outOfRange, shapeMismatch } from '../errors.js'
import type { Head, HeadGradientStage } from '../job.js'
import type { DeviceMemory, HeadGradientOptions, HeadGradientRequest, HeadGradients } from '../types/index.js'
import type { HeadSource } from './head.js'

/** The names of {@link HeadGradientOptions}. */
export const HEAD_GRADIENT_OPTIONS = ['accumulate', 'zeroInactive'] as const

type Part = keyof HeadGradientRequest
const PARTS: readonly Part[] = ['hidden', 'weight', 'bias']
const REQUEST: ReadonlySet<string> = new Set(PARTS)

/** Gradients that have been checked: where the backend puts them, and what the caller gets. */
export interface HeadDestinations {
  stage: Pick<HeadGradientStage, Part | 'accumulate' | 'skipInactive'>
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
  { head, rows, hidden, range, arrays }: HeadSource,
  { accumulate, zeroInactive }: HeadGradientOptions,
  callers: readonly NamedArray[],
): HeadDestinations | undefined {
  const adds = flag(accumulate, 'options.accumulate', false)
  const zeros = flag(zeroInactive, 'options.zeroInactive', !adds)
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
  const stage: HeadDestinations['stage'] = { accumulate: adds, skipInactive: !zeroed }
  const watched: Watched[] = []
  const allocated: Part[] = []
  for (const part of PARTS) {
    const value = wanted[part]
    if (value === undefined) continue
    const partName = `${name}.${part}`
    if (value === true) {
      allocated.push(part)
      continue
    }
    stage[part] = destination(value, partName, sizes[part], range, [...others, ...destinations])
    destinations.push([partName, value])
    if (typeof stage[part] === 'object') watched.push(watch(partName, stage[part]))
    addResult(gradients, part, value, hidden.shape, head, vocab)
  }
  // New ones when nothing can be refused any more.
  for (const part of allocated) {
    const value = allocate(sizes[part], `${name}.${part}`, range)
    stage[part] = value instanceof Float32Array ? value : deviceRange(value, name, 4).address
    destinations.push([`${name}.${part}`, value])
    addResult(gradients, part, value, hidden.shape, head, vocab)
  }
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

function destination(
  value: object,
  name: string,
  length: number,
  range: DeviceRange | undefined,
  taken: readonly NamedArray[],
): Float32Array | bigint {
  if (range) {
    if (!isDeviceMemory(value)) throw invalidType(name, 'a boolean or device memory, as hidden is', value)
    const out = deviceRange(value, name, 4)
    if (out.device !== range.device) {
      throw invalidValue(name, `is on device ${out.device}, and hidden on device ${range.device}`)
    }
    for (const [otherName, other] of taken) {
      if (isDeviceMemory(other) && rangesOverlap(out, deviceRange(other, otherName, 1))) {
        throw invalidValue(name, `would overwrite ${otherName}: they share memory`)
      }
    }
    if (out.byteLength < 4 * length) {
      throw shapeMismatch(name, `must have ${4 * length} bytes of float32; got ${out.byteLength}`)
    }
    return out.address
  }
  if (isDeviceMemory(value)) throw invalidType(name, 'in host memory, as hidden is', value)
  if (viewKind(value) !== 'Float32Array') throw invalidType(name, 'a boolean or a Float32Array', value)
  checkView(value as View, name)
  const view = elements(value as Float32Array) as Float32Array
  checkNoOverlap(name, view, taken)
  if (view.length !== length) throw shapeMismatch(name, `must have ${length} elements; got ${view.length}`)
  return view
}

function allocate(length: number, name: string, range: DeviceRange | undefined): Float32Array | DeviceBuffer {
  if (range) return new DeviceBuffer(4 * length, { device: range.device })
  try {
    return new Float32Array(length)
  } catch {
    throw outOfRange(name, 'an array where memory is short', `no memory for ${length} elements`)
  }
}

function addResult(
  gradients: HeadGradients,
  part: Part,
  value: object,
  hiddenShape: readonly number[],
  { hidden, weight }: Head,
  vocab: number,
): void {
  const data = value as Float32Array | DeviceMemory
  if (part === 'bias') gradients.gradBias = data
  else if (part === 'hidden') gradients.gradHidden = { data, shape: hiddenShape.slice(), dtype: 'float32' }
  else {
    gradients.gradWeight = { data, shape: [vocab, hidden.vocab], dtype: 'float32' }
    if (weight.columnStride !== 1) gradients.gradWeight.strides = [1, vocab]
  }
}
