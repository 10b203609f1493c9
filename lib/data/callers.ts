/**
 * Functions of the caller's that are called for every record: chat templates and tokenizers. Where they fail, the error
 * says at which record.
 */
import { describe, invalidType, invalidValue } from '../errors.js'

// By name: an error may be from another realm.
const ENGINE_ERRORS: ReadonlySet<unknown> = new Set([
  'EvalError',
  'RangeError',
  'ReferenceError',
  'SyntaxError',
  'TypeError',
  'URIError',
])

const faults = new WeakSet<object>()

/** Whether an error comes from a fault in the caller's function, which would fail at the next record too. */
export function isFault(error: unknown): boolean {
  return typeof error === 'object' && error !== null && faults.has(error)
}

/**
 * Calls a function of the caller's and returns its result.
 * @param name of the option.
 * @param place of what it was given.
 * @throws TypeError `ERR_INVALID_ARG_VALUE`, with what the function has thrown as `cause`.
 */
export function callersResult<T>(name: string, place: string, run: () => T): T {
  try {
    return run()
  } catch (cause) {
    const what = cause instanceof Error ? `${cause.name}: ${cause.message}` : describe(cause)
    const error = Object.assign(invalidValue(name, `throws at ${place}: ${what}`), { cause })
    if (ENGINE_ERRORS.has((cause as Error | undefined)?.name)) faults.add(error)
    throw error
  }
}

/** The error for a result of the wrong type. */
export function invalidResult(name: string, wanted: string, got: unknown) {
  const error = invalidType(name, wanted, got)
  faults.add(error)
  return error
}
