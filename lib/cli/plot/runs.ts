/**
 * A run's metrics, read from JSON Lines with an object of numbers a step.
 */
import { createReadStream } from 'node:fs'
import { linesOf, parseLine } from '../../data/json-lines.js'
import { invalidValue } from '../../errors.js'

/** The values of one metric over the steps; null where it was not a finite number. */
export interface Curve {
  steps: number[]
  values: (number | null)[]
}

/** A run in the form that the page reads. */
export interface Run {
  name: string
  curves: Record<string, Curve>
  /** Notes on lines that were left out, with the reasons. */
  notes: string[]
}

/**
 * Reads a run and names it `name`. A line without `step` has the step after the one of the line before it. Where a step
 * comes twice, as after going back to a checkpoint, the later line counts. Lines that are not objects are left out with
 * a note.
 */
export async function readRun(path: string, name: string): Promise<Run> {
  const notes: string[] = []
  const steps = new Map<number, Record<string, unknown>>()
  let step = -1
  for await (const line of linesOf(createReadStream(path), path)) {
    let metrics: Record<string, unknown>
    try {
      metrics = parseLine(line)
    } catch (error) {
      const problem = line.ended ? (error as Error).message : 'is not complete: the run may still be writing it'
      notes.push(`${path}:${line.number} ${problem}; left out`)
      continue
    }
    step = typeof metrics.step === 'number' && Number.isFinite(metrics.step) ? metrics.step : step + 1
    steps.set(step, { ...steps.get(step), ...metrics })
  }
  const curves = curvesOf([...steps].sort(([a], [b]) => a - b))
  if (Object.keys(curves).length === 0) {
    throw invalidValue(path, ['has no metrics', ...notes].join('\n'))
  }
  return { name, curves, notes }
}

function curvesOf(steps: [number, Record<string, unknown>][]): Record<string, Curve> {
  const curves: Record<string, Curve> = {}
  for (const [step, metrics] of steps) {
    for (const [name, value] of Object.entries(metrics)) {
      if (name === 'step' || !isNumber(value)) continue
      curves[name] ??= { steps: [], values: [] }
      curves[name].steps.push(step)
      curves[name].values.push(typeof value === 'number' ? Number(value.toPrecision(7)) : null)
    }
  }
  return curves
}

// Numbers that are not finite are kept by name; other writers of JSON write null for them.
function isNumber(value: unknown): boolean {
  return typeof value === 'number' || value === null || ['NaN', 'Infinity', '-Infinity'].includes(value as string)
}
