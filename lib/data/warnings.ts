/**
 * Warnings about data, and the places from which records came.
 */
import { emitWarning } from '../check/warning.js'
import { invalidType } from '../errors.js'

/** Called with data that was skipped or looks wrong. */
export type OnWarning = (warning: Error & { file?: string; line?: number }) => void

/** The caller's listener, or one that warns the process (in browsers the console). */
export function warner(onWarning: OnWarning | undefined): OnWarning {
  if (onWarning === undefined) return ({ message }) => emitWarning(message, 'FUSED_PREFERENCE_LOSS_DATA')
  if (typeof onWarning !== 'function') throw invalidType('options.onWarning', 'a function', onWarning)
  return onWarning
}

/** A listener that is told of each kind of thing once. */
export function warnerOnce(warn: OnWarning): (kind: string, warning: Error) => void {
  const told = new Set<string>()
  return (kind, warning) => {
    if (told.has(kind)) return
    told.add(kind)
    warn(warning)
  }
}

// Kept outside the records: their fields are the caller's.
const places = new WeakMap<object, string>()

/** Notes the file and line of a record. */
export function remember(record: object, place: string): void {
  places.set(record, place)
}

/** The file and line of a record, if it was read from one. */
export function placeOf(record: object): string | undefined {
  return places.get(record)
}
