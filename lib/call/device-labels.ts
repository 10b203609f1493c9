/**
 * Labels in device memory: their place and size. Their values are only known once a call has run.
 */
import { type DeviceRange, deviceRange, gpuDeviceOf, isDeviceMemory } from '../backends/device-memory.js'
import { invalidType, invalidValue, shapeMismatch } from '../errors.js'
import type { DeviceLabels } from '../job.js'
import { type TokenOptions, tokenOptions } from '../options/token-options.js'
import type { DeviceData } from '../types/index.js'

/** Checks labels in device memory, and the mask that is there too. `logits`: where these lie. */
export function deviceLabels(
  labels: DeviceData,
  { mask, ignoreIndex }: TokenOptions,
  rows: number,
  shift: boolean,
  logits: DeviceRange | undefined,
): DeviceLabels {
  if (logits === undefined)
    throw invalidValue('labels', 'are device memory, so logits, or hidden and weight, must be too')
  const gpuDevice = gpuDeviceOf(logits)
  const range = deviceRange(labels, 'labels', 4, gpuDevice)
  if (range.byteLength !== 4 * rows && range.byteLength !== 8 * rows) {
    const wanted = `${4 * rows} bytes of int32 or ${8 * rows} of int64, one per position`
    throw shapeMismatch('labels', `must have ${wanted}; got ${range.byteLength}`)
  }
  const wide = range.byteLength === 8 * rows
  checkElements(range, 'labels', wide ? 8 : 4, rows)
  if (wide) deviceRange(labels, 'labels', 8, gpuDevice)
  const found: DeviceLabels = {
    data: range.place,
    wide,
    ignoreIndex: tokenOptions.ignoreIndex.read(ignoreIndex),
    shift,
    invalid: new Int32Array(1),
  }
  if (range.device !== logits.device)
    throw invalidValue('labels', 'must be on the device of the logits, or of hidden and weight')
  if (mask === undefined) return found
  if (!isDeviceMemory(mask)) throw invalidType('options.mask', 'device memory, as the labels are', mask)
  const bytes = deviceRange(mask, 'options.mask', 1, gpuDevice)
  if (!isMaskOf(bytes, rows)) {
    throw shapeMismatch('options.mask', `must have ${rows} bytes, one per label; got ${bytes.byteLength}`)
  }
  if (bytes.byteLength === rows) checkElements(bytes, 'options.mask', 1, rows)
  if (bytes.device !== logits.device)
    throw invalidValue('options.mask', 'must be on the device of the logits, or of hidden and weight')
  found.mask = bytes.place
  return found
}

// As many bytes may be those of another shape and type: of half as many int64, say.
function checkElements(range: DeviceRange, name: string, size: number, rows: number): void {
  const known = range.kind === 'cuda' ? range.elementSize : undefined
  if (known === undefined || known === size) return
  throw shapeMismatch(name, `must have ${rows} elements, one per position; got ${range.byteLength / known}`)
}

// Sizes of GPUBuffers are multiples of 4, and their booleans are often int32.
function isMaskOf({ kind, byteLength }: DeviceRange, rows: number): boolean {
  if (byteLength === rows) return true
  return kind === 'webgpu' && (byteLength === 4 * rows || byteLength === 4 * Math.ceil(rows / 4))
}
