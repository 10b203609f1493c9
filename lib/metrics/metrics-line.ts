/**
 * Metrics as a line of JSON.
 */
import { invalidType, invalidValue } from '../errors.js'
import type { StepMetrics } from './step-metrics.js'

/**
 * Metrics as a line of JSON Lines, with its line feed: what `appendMetrics` writes, for where there are no files. Numbers
 * JSON has no word for become 'NaN', 'Infinity' and '-Infinity'.
 *
 * @param metrics those of `stepMetrics`, and whatever else is worth keeping: numbers, text, booleans, in a plain object.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`.
 */
export function metricsLine(metrics: Readonly<Record<string, unknown>> | StepMetrics): string {
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
  return `${line}\n`
}

// The entries of a Map, a Date or an instance of a class do not hold all its data.
function isPlain(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  const prototype = Object.getPrototypeOf(value)
  // The prototype of plain objects of another realm has no prototype either.
  return prototype === null || Object.getPrototypeOf(prototype) === null
}
