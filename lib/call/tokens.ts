/**
 * Labels and token options turned into what each row of the logits predicts, and how rows form sequences.
 */

import { type DeviceRange, deviceRange, isDeviceMemory } from '../backends/cuda/memory.js'
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
import { between, flag, integer, oneOf } from '../check/options.js'
import { warnOnce } from '../check/warn-once.js'
import { invalidType, invalidValue, labelOutOfRange, labelsOutOfRange, outOfRange, shapeMismatch } from '../errors.js'
import type { DeviceLabels, Rows, Tokens } from '../job.js'
import type { DeviceMemory, Labels, TokenOptions } from '../types/index.js'
import { pairsOf } from './pairs.js'

/** The names of {@link TokenOptions}. */
export const TOKEN_OPTIONS = [
  'shift',
  'ignoreIndex',
  'mask',
  'tokenWeights',
  'averageLogProb',
  'temperature',
  'sequenceOffsets',
  'emptySequence',
  'outputs',
  'ldAlpha',
  'pairs',
] as const

/** Tokens, and the pairs of sequences where the call or an option needs them. */
export interface TokenPlan {
  tokens: Tokens
  pairs?: Int32Array
  shift: boolean
  packed: boolean
  /** Nobody has said what a sequence without tokens gives, so that a call without any is warned of. */
  warnsIfEmpty: boolean
}

/** The caller's arrays among labels and token options, none of which a gradient may overwrite. */
export function tokenArrays(labels: Labels | DeviceMemory, options: TokenOptions): NamedArray[] {
  return [
    ['labels', labels],
    ['options.mask', options.mask],
    ['options.tokenWeights', options.tokenWeights],
    ['options.sequenceOffsets', options.sequenceOffsets],
    ['options.pairs', options.pairs],
  ]
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

const EMPTY_SEQUENCE = ['zero', 'nan', 'error'] as const

/**
 * Checks labels and token options against the rows of the logits. `paired`: the call works on pairs of sequences.
 * `device`: where logits in device memory lie.
 */
export function tokensOf(
  labels: unknown,
  { batch, time, vocab }: Rows,
  options: TokenOptions,
  paired: boolean,
  device?: DeviceRange,
): TokenPlan {
  const shift = flag(options.shift, 'options.shift', true)
  const average = flag(options.averageLogProb, 'options.averageLogProb', false)
  const temperature = between(options.temperature, 'options.temperature', 1e-3, 1e3, 1)
  const emptySequence = oneOf(options.emptySequence, 'options.emptySequence', EMPTY_SEQUENCE, 'zero')
  const ldAlpha = between(options.ldAlpha, 'options.ldAlpha', 0, 1, 1)
  const offsets = offsetsOf(options.sequenceOffsets, batch, time)
  const sequences = offsets.length - 1
  const rows = batch * time

  const counts = new Int32Array(sequences)
  const onDevice = isDeviceMemory(labels)
  const targets = new Int32Array(onDevice ? 0 : rows).fill(-1)
  if (onDevice) {
    if (ldAlpha !== 1) throw invalidValue('options.ldAlpha', 'needs labels in host memory')
    if (emptySequence === 'error') throw invalidValue('options.emptySequence', "'error' needs labels in host memory")
  } else {
    const words = wordsOf(labels, rows, shift)
    const watched = [watch('labels', words.labels)]
    const mask = options.mask === undefined ? undefined : maskOf(options.mask, rows)
    fillTargets(targets, counts, words, offsets, mask, shift ? 1 : 0, ignoreIndexOf(options.ignoreIndex), vocab)
    checkUnchanged(watched) // the mask's elements may be the caller's code
    if (emptySequence === 'error') refuseEmpty(counts)
    else if (options.emptySequence === undefined) warnOfNoTokens(counts, shift)
  }

  const tokens: Tokens = {
    targets,
    offsets,
    counts,
    temperature,
    average,
    emptyLogProb: emptySequence === 'nan' ? Number.NaN : 0,
  }
  if (onDevice) tokens.labels = deviceLabels(labels, options, rows, shift, device)
  if (options.tokenWeights !== undefined) tokens.weights = weightsOf(options.tokenWeights, offsets, shift ? 1 : 0, rows)
  const plan: TokenPlan = {
    tokens,
    shift,
    packed: isPacked(options),
    warnsIfEmpty: options.emptySequence === undefined,
  }
  if (paired || ldAlpha !== 1 || options.pairs !== undefined) plan.pairs = pairsOf(options.pairs, sequences)
  if (ldAlpha !== 1) desensitiseLength(tokens, plan.pairs!, ldAlpha)
  return plan
}

function deviceLabels(
  labels: DeviceMemory,
  { mask, ignoreIndex }: TokenOptions,
  rows: number,
  shift: boolean,
  logits: DeviceRange | undefined,
): DeviceLabels {
  const range = deviceRange(labels, 'labels', 4)
  if (logits === undefined)
    throw invalidValue('labels', 'are device memory, so logits, or hidden and weight, must be too')
  if (range.byteLength !== 4 * rows && range.byteLength !== 8 * rows) {
    const wanted = `${4 * rows} bytes of int32 or ${8 * rows} of int64, one per position`
    throw shapeMismatch('labels', `must have ${wanted}; got ${range.byteLength}`)
  }
  const wide = range.byteLength === 8 * rows
  if (wide) deviceRange(labels, 'labels', 8)
  const found: DeviceLabels = {
    data: range.address,
    wide,
    ignoreIndex: ignoreIndexOf(ignoreIndex),
    shift,
    invalid: new Int32Array(1),
  }
  if (range.device !== logits.device)
    throw invalidValue('labels', 'must be on the device of the logits, or of hidden and weight')
  if (mask === undefined) return found
  if (!isDeviceMemory(mask)) throw invalidType('options.mask', 'device memory, as the labels are', mask)
  const bytes = deviceRange(mask, 'options.mask', 1)
  if (bytes.byteLength !== rows) {
    throw shapeMismatch('options.mask', `must have ${rows} bytes, one per label; got ${bytes.byteLength}`)
  }
  if (bytes.device !== logits.device)
    throw invalidValue('options.mask', 'must be on the device of the logits, or of hidden and weight')
  found.mask = bytes.address
  return found
}

/** Refuses labels in device memory that turned out not to be in the vocabulary, and warns when none of them counts. */
export function checkDeviceLabels({ tokens: { labels, counts }, shift, warnsIfEmpty }: TokenPlan, vocab: number): void {
  if (labels === undefined) return
  if (labels.invalid[0] === 0) {
    if (warnsIfEmpty) warnOfNoTokens(counts, shift)
    return
  }
  const count = `${labels.invalid[0]} of the labels in device memory`
  throw labelsOutOfRange(`${count} are neither in [0, ${vocab}) nor ${labels.ignoreIndex}, and their rows are NaN`)
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

// Which of the two words of a 64-bit label is the low one.
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

/** How to make labels of what else holds numbers. */
function conversionOf(labels: unknown): string {
  if (viewKind(labels) !== undefined) return ', as Int32Array.from(labels, Number) is'
  try {
    if (!Array.isArray(labels)) return ''
    return `, as Int32Array.from(labels${Array.isArray(labels[0]) ? '.flat()' : ''}) is`
  } catch {
    return '' // a proxy that does not let itself be looked at
  }
}

function ignoreIndexOf(value: unknown): number {
  return value === undefined
    ? -100
    : integer(value, 'options.ignoreIndex', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
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

function refuseEmpty(counts: Int32Array): void {
  const empty = counts.indexOf(0)
  if (empty >= 0) throw invalidValue('labels', `leave sequence ${empty} without active tokens (emptySequence: 'error')`)
}

// Whoever says what a sequence without tokens gives has thought of it.
function warnOfNoTokens(counts: Int32Array, shift: boolean): void {
  for (let s = 0; s < counts.length; s++) if (counts[s] !== 0) return
  const how = `ignored or masked${shift ? ', or the first of its sequence, which no row predicts' : ''}`
  const problem = `no token of the call counts: every label is ${how}. Log-probs and gradients are 0`
  warnOnce('FUSED_PREFERENCE_LOSS_NO_ACTIVE_TOKENS', `${problem}; emptySequence says what else is wanted`)
}

/** `[R]` weights moved from the labels to the rows that predict them. */
function weightsOf(value: unknown, offsets: Int32Array, shift: number, length: number): Float64Array {
  const name = 'options.tokenWeights'
  const given = lengthOf(value, name, 'an array of numbers')
  if (given !== length) {
    throw shapeMismatch(name, `must have ${length} elements, one per label; got ${given}`)
  }
  const weights = new Float64Array(length).fill(1)
  for (let s = 0; s + 1 < offsets.length; s++) {
    const first = offsets[s]
    const end = offsets[s + 1]
    for (let i = first; i < end; i++) {
      const weight = (value as ArrayLike<unknown>)[i]
      if (typeof weight !== 'number') throw invalidType(`${name}[${i}]`, 'a finite number', weight)
      if (!Number.isFinite(weight)) throw outOfRange(`${name}[${i}]`, 'a finite number', weight)
      if (i - shift >= first) weights[i - shift] = weight
    }
  }
  return weights
}

// LD-DPO (Liu et al. 2024): the active tokens of a pair past the shorter response's number of them.
function desensitiseLength(tokens: Tokens, pairs: Int32Array, ldAlpha: number): void {
  const { targets, offsets, counts } = tokens
  const plain = tokens.weights ?? new Float64Array(targets.length).fill(1)
  const weights = plain.slice()
  const paired = new Uint8Array(counts.length)
  for (let i = 0; i < pairs.length; i++) {
    const sequence = pairs[i]
    if (paired[sequence]) {
      throw invalidValue(
        `options.pairs[${i}]`,
        `repeats sequence ${sequence}; with ldAlpha each may be in one pair only`,
      )
    }
    paired[sequence] = 1
    let remaining = Math.min(counts[sequence], counts[pairs[i ^ 1]])
    for (let row = offsets[sequence]; row < offsets[sequence + 1]; row++) {
      if (targets[row] >= 0 && --remaining < 0) weights[row] *= ldAlpha
    }
  }
  tokens.weights = weights
  tokens.plainWeights = plain
}
