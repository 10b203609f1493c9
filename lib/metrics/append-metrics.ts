/**
 * The JSON Lines file that keeps the metrics of a run.
 */
import { closeSync, constants, fstatSync, openSync, readSync, writeFileSync } from 'node:fs'
import { invalidType, invalidValue } from '../errors.js'
import type { StepMetrics } from './step-metrics.js'

/**
 * Appends a line to a JSON Lines file, which is made if need be. The line is written at once, so that a reader never
 * sees parts of two; after a run that was cut off inside a line it starts one of its own. Numbers JSON has no word for
 * are written as 'NaN', 'Infinity' and '-Infinity'.
 *
 * @param file a path or `file:` URL.
 * @param metrics those of `stepMetrics`, and whatever else is worth keeping: numbers, text, booleans, in a plain object.
 */
export function appendMetrics(file: string | URL, metrics: Readonly<Record<string, unknown>> | StepMetrics): void {
  if (!isPlain(metrics)) throw invalidType('metrics', 'a plain object', metrics)
  const entries = Object.entries(metrics)
  for (const [name, value] of entries) {
    if (!['number', 'string', 'boolean', 'undefined'].includes(typeof value) && value !== null) {
      throw invalidValue(`metrics[${JSON.stringify(name)}]`, 'cannot be kept: it is no number, text or boolean')
    }
  }
  const line = JSON.stringify(Object.fromEntries(entries), (_, value) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value,
  )
  const { O_APPEND, O_CREAT, O_RDWR } = constants
  const descriptor = openSync(file, O_APPEND | O_CREAT | O_RDWR)
  try {
    writeFileSync(descriptor, `${endsInsideLine(descriptor) ? '\n' : ''}${line}\n`)
  } finally {
    closeSync(descriptor)
  }
}

// The entries of a Map, a Date or an instance of a class do not hold all its data.
function isPlain(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  const prototype = Object.getPrototypeOf(value)
  // The prototype of plain objects of another realm has no prototype either.
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

function endsInsideLine(descriptor: number): boolean {
  const { size } = fstatSync(descriptor)
  if (size === 0) return false
  const last = Buffer.alloc(1)
  readSync(descriptor, last, 0, 1, size - 1)
  return last[0] !== 10
}
