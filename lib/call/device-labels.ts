/**
 * Labels in device memory: their place and size. Their values are only known once a call has run.
 */
import { type DeviceRange, deviceRange, isDeviceMemory } from '../backends/cuda/addresses.js'
import { invalidType, invalidValue, shapeMismatch } from '../errors.js'
import type { DeviceLabels } from '../job.js'
import { type TokenOptions, tokenOptions } from '../options/token-options.js'
import type { DeviceMemory } from '../types/index.js'

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
