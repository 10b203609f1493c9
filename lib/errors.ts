/**
 * The errors of this package: ordinary TypeError, RangeError and Error with a Node-style `code`. A message names the
 * argument, the value that is wanted and the value that came.
 */

/** The codes an error of this package can carry. */
export type ErrorCode =
  | 'ERR_INVALID_ARG_TYPE'
  | 'ERR_INVALID_ARG_VALUE'
  | 'ERR_OUT_OF_RANGE'
  | 'ERR_SHAPE_MISMATCH'
  | 'ERR_LABEL_OUT_OF_RANGE'
  | 'ERR_BACKEND_UNAVAILABLE'
  | 'ERR_CUDA'
  | 'ERR_WEBGPU'
  | 'ERR_DEVICE_LOST'
  | 'ERR_MPI'
  | 'ERR_NCCL'
  | 'ERR_RANK_FAILED'
  | 'ERR_DISPOSED'
  | 'ERR_OUT_OF_MEMORY'
  | 'ERR_FEATURE_UNAVAILABLE_ON_PLATFORM'

type FailureCode = Exclude<
  ErrorCode,
  | 'ERR_INVALID_ARG_TYPE'
  | 'ERR_INVALID_ARG_VALUE'
  | 'ERR_OUT_OF_RANGE'
  | 'ERR_SHAPE_MISMATCH'
  | 'ERR_LABEL_OUT_OF_RANGE'
>

function withCode<E extends Error>(error: E, code: ErrorCode): E & { code: ErrorCode } {
  return Object.assign(error, { code })
}

/** A description of the value that came, in a few words. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return `'${value.length > 60 ? `${value.slice(0, 60)}…` : value}'`
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'function') return 'a function'
  if (typeof value !== 'object' || value === null) return String(value)
  try {
    if (Array.isArray(value)) return `an array of length ${value.length}`
    const name = value.constructor?.name || 'Object'
    return ArrayBuffer.isView(value) && 'length' in value ? `${name}(${value.length})` : `an instance of ${name}`
  } catch {
    return 'an object that cannot be inspected'
  }
}

/** The first elements of an array, however long it is. */
export function describeList(values: readonly unknown[]): string {
  const shown: string[] = []
  try {
    for (let i = 0; i < 8 && i < values.length; i++) shown.push(describe(values[i]))
    if (values.length > 8) shown.push('…')
  } catch {
    shown.push('an element that cannot be inspected')
  }
  return `[${shown.join(', ')}]`
}

/** A value of the wrong type, or none at all. */
export function invalidType(name: string, wanted: string, got: unknown) {
  return withCode(new TypeError(`${name} must be ${wanted}; got ${describe(got)}`), 'ERR_INVALID_ARG_TYPE')
}

/** A value of the right type that cannot be used, or that cannot be combined with the other arguments. */
export function invalidValue(name: string, problem: string) {
  return withCode(new TypeError(`${name} ${problem}`), 'ERR_INVALID_ARG_VALUE')
}

/** A number outside its range. */
export function outOfRange(name: string, wanted: string, got: unknown) {
  return withCode(new RangeError(`${name} must be ${wanted}; got ${describe(got)}`), 'ERR_OUT_OF_RANGE')
}

/** Sizes that do not match. */
export function shapeMismatch(name: string, problem: string) {
  return withCode(new RangeError(`${name} ${problem}`), 'ERR_SHAPE_MISMATCH')
}

/** A label that is neither in the vocabulary nor ignored. */
export function labelOutOfRange(sequence: number, position: number, value: number | bigint, wanted: string) {
  const message = `labels: sequence ${sequence}, position ${position} is ${value}; it must be ${wanted}`
  return withCode(new RangeError(message), 'ERR_LABEL_OUT_OF_RANGE')
}

/** Labels in device memory that are neither in the vocabulary nor ignored. */
export function labelsOutOfRange(problem: string) {
  return withCode(new RangeError(`labels: ${problem}`), 'ERR_LABEL_OUT_OF_RANGE')
}

/** A failure that the arguments did not cause. */
export function failure(code: FailureCode, message: string) {
  return withCode(new Error(message), code)
}
