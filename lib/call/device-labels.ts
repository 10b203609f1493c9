/**
 * Labels in device memory: checked for their place and size before a call, and for what is in them after it.
 */
import { type DeviceRange, deviceRange, isDeviceMemory } from '../backends/cuda/memory.js'
import { warnOnce } from '../check/warn-once.js'
import { invalidType, invalidValue, labelsOutOfRange, shapeMismatch } from '../errors.js'
import type { DeviceLabels } from '../job.js'
import { type TokenOptions, tokenOptions } from '../options/token-options.js'
import type { DeviceMemory } from '../types/index.js'
import type { TokenPlan } from './tokens.js'

/** Checks labels in device memory, and the mask that is there too. `logits`: where these lie. */
export function deviceLabels(
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
    ignoreIndex: tokenOptions.ignoreIndex.read(ignoreIndex),
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
export function checkDeviceLabels({ tokens: { labels, counts }, shift, vocab, warnsIfEmpty }: TokenPlan): void {
  if (labels === undefined) return
  if (labels.invalid[0] === 0) {
    if (warnsIfEmpty) warnOfNoTokens(counts, shift)
    return
  }
  const count = `${labels.invalid[0]} of the labels in device memory`
  throw labelsOutOfRange(`${count} are neither in [0, ${vocab}) nor ${labels.ignoreIndex}, and their rows are NaN`)
}

/** Warns of a call without active tokens, whose caller has not said what a sequence without them gives. */
export function warnOfNoTokens(counts: Int32Array, shift: boolean): void {
  for (let s = 0; s < counts.length; s++) if (counts[s] !== 0) return
  const how = `ignored or masked${shift ? ', or the first of its sequence, which no row predicts' : ''}`
  const problem = `no token of the call counts: every label is ${how}. Log-probs and gradients are 0`
  warnOnce('FUSED_PREFERENCE_LOSS_NO_ACTIVE_TOKENS', `${problem}; emptySequence says what else is wanted`)
}
