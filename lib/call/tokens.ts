/**
 * Turns labels and token options into the label that each row of the logits predicts, and the sequences that rows form.
 */

import { type DeviceRange, isDeviceMemory } from '../backends/device-memory.js'
import {
  checkUnchanged,
  checkView,
  indices,
  lengthOf,
  type NamedArray,
  viewAs,
  viewKind,
  viewLength,
  watch,
} from '../check/arrays.js'
import { invalidType, invalidValue, labelOutOfRange, outOfRange, shapeMismatch } from '../errors.js'
import type { Rows, Tokens } from '../job.js'
import { TOKEN_ARRAYS, type TokenOptions, tokenOptions } from '../options/token-options.js'
import type { Labels, ShardOptions } from '../types/index.js'
import { deviceLabels } from './device-labels.js'
import { pairsOf } from './pairs.js'
import { shardOf } from './shard.js'
import { desensitiseLength, weightsOf } from './token-weights.js'

/** Tokens, and the pairs of sequences where the call or an option needs them. */
export interface TokenPlan {
  tokens: Tokens
  pairs?: Int32Array
  shift: boolean
  packed: boolean
  vocab: number
  /** The caller has not set `emptySequence`, so that a call without active tokens gives a warning. */
  warnsIfEmpty: boolean
  /** Of labels on a device: a sequence without active tokens is an error, which shows once the call has run. */
  refusesEmpty: boolean
  /** The caller's arrays among labels and options, none of which a gradient may overwrite. */
  arrays(): NamedArray[]
}

/** Whether rows of all sequences follow each other, as `sequenceOffsets` says: checked here before any shape is. */
export function isPacked({ sequenceOffsets }: TokenOptions): boolean {
  if (sequenceOffsets === undefined) return false
  if (typeof sequenceOffsets !== 'object' || sequenceOffsets === null) {
    throw invalidType('options.sequenceOffsets', OFFSETS, sequenceOffsets)
  }
  return true
}

const OFFSETS = 'an array of rising row numbers'

/**
 * Checks labels and token options against the rows of the logits. `paired`: the call works on pairs of sequences.
 * `device`: where logits in device memory lie.
 */
export function tokensOf(
  labels: unknown,
  { batch, time, vocab: columns }: Rows,
  options: TokenOptions & ShardOptions,
  paired: boolean,
  device?: DeviceRange,
): TokenPlan {
  const shard = shardOf(options, columns, device)
  const vocab = shard?.vocab ?? columns
  const shift = tokenOptions.shift.read(options.shift)
  const average = tokenOptions.averageLogProb.read(options.averageLogProb)
  const { temperature, capScale } = transformOf(options)
  const emptySequence = tokenOptions.emptySequence.read(options.emptySequence)
  const ldAlpha = tokenOptions.ldAlpha.read(options.ldAlpha)
  const offsets = offsetsOf(options.sequenceOffsets, batch, time)
  const sequences = offsets.length - 1
  const rows = offsets[sequences]

  const counts = new Int32Array(sequences)
  const onDevice = isDeviceMemory(labels)
  const targets = new Int32Array(onDevice ? 0 : rows).fill(-1)
  if (onDevice) {
    if (shard) throw invalidValue('options.shard', 'needs labels in host memory')
    if (ldAlpha !== 1 && device?.kind === 'webgpu') {
      throw invalidValue('options.ldAlpha', 'needs labels in host memory, or logits in memory of CUDA')
    }
  } else {
    const words = wordsOf(labels, rows, shift)
    const watched = [watch('labels', words.labels)]
    const mask = options.mask === undefined ? undefined : maskOf(options.mask, rows)
    fillTargets(
      targets,
      counts,
      words,
      offsets,
      mask,
      shift ? 1 : 0,
      tokenOptions.ignoreIndex.read(options.ignoreIndex),
      vocab,
    )
    checkUnchanged(watched) // the mask's elements may be the caller's code
    if (emptySequence === 'error') refuseEmpty(counts)
  }

  const tokens: Tokens = {
    targets,
    offsets,
    counts,
    temperature,
    average,
    emptyLogProb: emptySequence === 'nan' ? Number.NaN : 0,
  }
  if (capScale !== undefined) tokens.capScale = capScale
  if (shard !== undefined) tokens.shard = shard
  if (onDevice) tokens.labels = deviceLabels(labels, options, rows, shift, device)
  if (options.tokenWeights !== undefined) tokens.weights = weightsOf(options.tokenWeights, offsets, shift ? 1 : 0)
  const plan: TokenPlan = {
    tokens,
    shift,
    packed: isPacked(options),
    vocab,
    warnsIfEmpty: options.emptySequence === undefined,
    refusesEmpty: onDevice && emptySequence === 'error',
    arrays: () => [['labels', labels], ...TOKEN_ARRAYS.map((name): NamedArray => [`options.${name}`, options[name]])],
  }
  if (paired || ldAlpha !== 1 || options.pairs !== undefined) plan.pairs = pairsOf(options.pairs, sequences)
  if (ldAlpha !== 1) desensitiseLength(tokens, plan.pairs!, ldAlpha)
  return plan
}

/** What turns logits into the numbers that count: scale, cap and temperature, folded into two constants. */
function transformOf(options: TokenOptions): Pick<Tokens, 'temperature' | 'capScale'> {
  const temperature = tokenOptions.temperature.read(options.temperature)
  const scale = tokenOptions.logitScale.read(options.logitScale)
  const cap = tokenOptions.logitSoftcap.read(options.logitSoftcap)
  if (cap === null) {
    if (scale === 1) return { temperature }
    return { temperature: folded(temperature / scale, 'options.logitScale', scale) }
  }
  const capScale = scale / cap
  if (!(capScale >= 1e-6 && capScale <= 1e6)) {
    throw outOfRange('options.logitScale', 'within a factor of 1e6 of logitSoftcap', scale)
  }
  return { temperature: folded(temperature / cap, 'options.logitSoftcap', cap), capScale }
}

/** A temperature that a factor of the logits is in. */
function folded(temperature: number, name: string, factor: number): number {
  if (temperature >= 1e-3 && temperature <= 1e3) return temperature
  throw outOfRange(name, 'such that the temperature divided by it is in [1e-3, 1e3]', factor)
}

/** `[S + 1]` first row of each sequence, and the end. */
function offsetsOf(value: unknown, batch: number, time: number): Int32Array {
  if (value === undefined) {
    const offsets = new Int32Array(batch + 1)
    for (let b = 0; b <= batch; b++) offsets[b] = b * time
    return offsets
  }
  const name = 'options.sequenceOffsets'
  const offsets = indices(value, name, OFFSETS, time)
  if (offsets.length < 2) throw shapeMismatch(name, `must have a start and an end; got length ${offsets.length}`)
  if (offsets[0] !== 0) throw invalidValue(`${name}[0]`, `must be 0; got ${offsets[0]}`)
  for (let i = 1; i < offsets.length; i++) {
    if (offsets[i] <= offsets[i - 1]) {
      throw invalidValue(
        `${name}[${i}]`,
        `must be greater than the entry before it, ${offsets[i - 1]}; got ${offsets[i]}`,
      )
    }
  }
  const end = offsets[offsets.length - 1]
  if (end !== time) throw shapeMismatch(name, `must end at the number of tokens, ${time}; got ${end}`)
  return offsets
}

/** Labels as 32-bit words, so that 64-bit ones cost no BigInt each. */
interface Words {
  data: Int32Array
  /** Words per label. */
  step: 1 | 2
  labels: Labels
}

// The index of the low word of a 64-bit label.
const LOW_WORD = new Int32Array(BigInt64Array.of(1n).buffer)[0] === 1 ? 0 : 1

function wordsOf(labels: unknown, length: number, shift: boolean): Words {
  const kind = viewKind(labels)
  if (kind !== 'Int32Array' && kind !== 'BigInt64Array') {
    throw invalidType('labels', `an Int32Array or a BigInt64Array${conversionOf(labels)}`, labels)
  }
  const view = labels as Labels
  checkView(view, 'labels')
  const given = viewLength(view)
  if (given !== length) {
    const wanted = `one per position${shift ? ', and not be shifted beforehand' : ''}`
    throw shapeMismatch('labels', `must have ${length} elements, ${wanted}; got ${given}`)
  }
  if (kind === 'Int32Array') return { data: view as Int32Array, step: 1, labels: view }
  return { data: viewAs(Int32Array, view, 2 * length), step: 2, labels: view }
}

/** A hint on how to turn another list of numbers into labels. */
function conversionOf(labels: unknown): string {
  if (viewKind(labels) !== undefined) return ', as Int32Array.from(labels, Number) is'
  try {
    if (!Array.isArray(labels)) return ''
    return `, as Int32Array.from(labels${Array.isArray(labels[0]) ? '.flat()' : ''}) is`
  } catch {
    return '' // a proxy that cannot be inspected
  }
}

function maskOf(value: unknown, length: number): ArrayLike<unknown> {
  if (isDeviceMemory(value)) throw invalidType('options.mask', 'in host memory, as the labels are', value)
  const given = lengthOf(value, 'options.mask', 'an array of numbers or booleans')
  if (given !== length) {
    throw shapeMismatch('options.mask', `must have ${length} elements, one per label; got ${given}`)
  }
  return value as ArrayLike<unknown>
}

// A label that is neither masked nor ignored must be in the vocabulary, even the first of a sequence, which under
// `shift` no row predicts.
function fillTargets(
  targets: Int32Array,
  counts: Int32Array,
  { data, step, labels }: Words,
  offsets: Int32Array,
  mask: ArrayLike<unknown> | undefined,
  shift: number,
  ignoreIndex: number,
  vocab: number,
): void {
  const ignoreLow = ignoreIndex | 0
  const ignoreHigh = Math.floor(ignoreIndex / 2 ** 32)
  for (let s = 0; s < counts.length; s++) {
    const first = offsets[s]
    const end = offsets[s + 1]
    let count = 0
    for (let i = first; i < end; i++) {
      const low = step === 1 ? data[i] : data[2 * i + LOW_WORD]
      const high = step === 1 ? low >> 31 : data[2 * i + 1 - LOW_WORD]
      if (mask !== undefined) {
        const active = mask[i]
        const type = typeof active
        if (type !== 'number' && type !== 'boolean' && type !== 'bigint') {
          throw invalidType(`options.mask[${i}]`, 'a number or a boolean', active)
        }
        if (Number.isNaN(active)) throw outOfRange(`options.mask[${i}]`, 'a number or a boolean', active)
        if (!active) continue
      }
      if (low === ignoreLow && high === ignoreHigh) continue
      if (high !== 0 || low < 0 || low >= vocab) {
        throw labelOutOfRange(s, i - first, labels[i], `in [0, ${vocab}), or ${ignoreIndex} to be ignored`)
      }
      if (i - shift >= first) {
        targets[i - shift] = low
        count++
      }
    }
    counts[s] = count
  }
}

/** Refuses sequences without active tokens. */
export function refuseEmpty(counts: Int32Array): void {
  const empty = counts.indexOf(0)
  if (empty >= 0) throw invalidValue('labels', `leave sequence ${empty} without active tokens (emptySequence: 'error')`)
}
