/**
 * The JSON Lines file that keeps the metrics of a run.
 */
import { closeSync, constants, fstatSync, openSync, readSync, writeFileSync } from 'node:fs'
import { metricsLine } from './metrics-line.js'
import type { StepMetrics } from './step-metrics.js'

/**
 * Appends a line to a JSON Lines file, which is made if need be. The line is written at once, so that a reader never
 * sees parts of two; after a run that was cut off inside a line it starts one of its own. Numbers JSON has no word for
 * are written as 'NaN', 'Infinity' and '-Infinity'.
 *
 * @param file a path or `file:` URL.
 * @param metrics those of `stepMetrics`, and whatever else is worth keeping: numbers, text, booleans, in a plain object.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; the errors of the file system; Error
 *   `ERR_FEATURE_UNAVAILABLE_ON_PLATFORM` in browsers, where `metricsLine` gives the line.
 */
export function appendMetrics(file: string | URL, metrics: Readonly<Record<string, unknown>> | StepMetrics): void {
  const line = metricsLine(metrics)
  const { O_APPEND, O_CREAT, O_RDWR } = constants
  const descriptor = openSync(file, O_APPEND | O_CREAT | O_RDWR)
  try {
    writeFileSync(descriptor, `${endsInsideLine(descriptor) ? '\n' : ''}${line}`)
  } finally {
    closeSync(descriptor)
  }
}

function endsInsideLine(descriptor: number): boolean {
  const { size } = fstatSync(descriptor)
  if (size === 0) return false
  const last = new Uint8Array(1)
  readSync(descriptor, last, 0, 1, size - 1)
  return last[0] !== 10
}
