/**
 * Log-probs under the reference in the forms that callers give them, the values that are refused, and warnings about
 * values that are unlikely to be log-probs of sequences.
 */
import { type DeviceRange, isDeviceMemory } from '../backends/device-memory.js'
import { type NamedArray, tokenNumbers } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { warnOnce } from '../check/warn-once.js'
import { invalidType, invalidValue, outOfRange } from '../errors.js'
import type { GivenOnDevice, Tokens } from '../job.js'
import { TOKEN_OUTPUTS } from '../options/token-options.js'
import { type LogProbs, logProbsOf, type WantedLogProbs } from './log-probs.js'

const LOG_PROBS = ['chosen', 'rejected', 'logProbs'] as const

/** The other fields of a result of `sequenceLogProbs`, which may be passed whole. */
export const OF_RESULT = ['tokenCounts', 'backward', 'backwardSync', 'dispose', ...TOKEN_OUTPUTS] as const

/** A reference whose names have been checked. */
export interface GivenReference {
  /** `[P]` each, unless it is a model. */
  logProbs?: [chosen: Float64Array, rejected: Float64Array]
  /** Where they are to be found, if that is in device memory. */
  given?: GivenOnDevice
  /** All its fields, each read once. */
  parts: Record<string, unknown>
  /** The caller's arrays of log-probs. */
  arrays: NamedArray[]
}

/** How a reference may be given other than as log-probs. */
export interface ModelNames {
  /** The names of its parts. */
  parts: readonly string[]
  /** These, and those of log-probs. */
  known: ReadonlySet<string>
  /** And those of a result of `sequenceLogProbs`. */
  withResult: ReadonlySet<string>
}

/** The names that a reference may have if its model has these parts. */
export function modelNames(...parts: string[]): ModelNames {
  const known = [...LOG_PROBS, ...parts]
  return { parts, known: new Set(known), withResult: new Set([...known, ...OF_RESULT]) }
}

/**
 * Reads a reference of log-probs, per pair or per sequence; a model is left to the caller. `needed`: a loss of the call
 * makes use of it. `beside`: where the logits lie.
 */
export function referenceOf(
  given: unknown,
  name: string,
  names: ModelNames,
  pairs: Int32Array,
  tokens: Tokens,
  needed: boolean,
  beside: DeviceRange | undefined,
): GivenReference {
  checkObject(given, name, waysOf(names))
  const known = 'logProbs' in given ? names.withResult : names.known
  const parts = optionsObject(given as Record<string, unknown>, name, known)
  const { chosen, rejected, logProbs } = parts
  const perPair = chosen !== undefined || rejected !== undefined
  const perSequence = logProbs !== undefined
  const model = names.parts.some((part) => parts[part] !== undefined)
  if (perPair ? perSequence || model : perSequence && model) {
    throw invalidType(name, `one of ${waysOf(names)}, not two`, given)
  }
  const arrays: NamedArray[] = [
    [`${name}.chosen`, chosen],
    [`${name}.rejected`, rejected],
    [`${name}.logProbs`, logProbs],
  ]
  if (model) return { parts, arrays }
  if ([chosen, rejected, logProbs].some(isDeviceMemory)) {
    if (tokens.shard) throw invalidValue(name, 'must be in host memory, as options.shard wants')
    const size = pairs.length / 2
    const given = perSequence
      ? { referenceLogProbs: sequencesLogProbs(parts, name, tokens, beside).given }
      : {
          referenceChosen: onDevice(chosen, `${name}.chosen`, size, beside),
          referenceRejected: onDevice(rejected, `${name}.rejected`, size, beside),
        }
    return { parts, arrays, given, logProbs: [new Float64Array(size), new Float64Array(size)] }
  }
  const read = perSequence ? ofSequences(parts, name, pairs, tokens) : ofPairs(parts, name, pairs.length / 2)
  // NaN is the log-prob that `emptySequence: 'nan'` gives a sequence without active tokens. On the GPU active tokens
  // are counted later: their number is still 0 here.
  const mayBeEmpty = (side: 0 | 1, pair: number) =>
    Number.isNaN(tokens.emptyLogProb) && tokens.counts[pairs[2 * pair + side]] === 0
  checkLogProbs(read[0], read[1], needed, mayBeEmpty)
  return { parts, arrays, logProbs: [read[0].values, read[1].values] }
}

/** Refuses what is no object that could be a reference in one of these ways. */
export function checkObject(given: unknown, name: string, ways: string): asserts given is object {
  if (typeof given !== 'object' || given === null || Array.isArray(given) || ArrayBuffer.isView(given)) {
    throw invalidType(name, `an object: ${ways}`, given)
  }
  if (typeof (given as PromiseLike<unknown>).then === 'function') {
    throw invalidType(name, 'the result itself: await it', given)
  }
}

/** The ways to give a reference. */
export function waysOf({ parts }: ModelNames): string {
  return `{ chosen, rejected }, { logProbs } or { ${parts.join(', ')} }`
}

/** `[P]` log-probs of one side of the pairs, or `[B]` of all sequences, and what each is called in messages. */
export interface Side {
  values: Float64Array
  nameOf: (pair: number) => string
}

/** What all log-probs must be that logits are compared with. */
const besideLogits = (beside: DeviceRange | undefined): Pick<WantedLogProbs, 'beside' | 'like'> => ({
  beside,
  like: 'the logits, or hidden and weight, are',
})

function onDevice(value: unknown, name: string, length: number, beside: DeviceRange | undefined) {
  if (!isDeviceMemory(value)) throw invalidType(name, 'in device memory, as the other side is', value)
  return logProbsOf(value, name, { length, sizes: ', one per pair', ...besideLogits(beside) }).given
}

function ofPairs({ chosen, rejected }: Record<string, unknown>, name: string, size: number): [Side, Side] {
  return [
    side(chosen, `${name}.chosen`, size, ', one per pair'),
    side(rejected, `${name}.rejected`, size, ', one per pair'),
  ]
}

/** Log-probs of one side, which are given by pairs. */
function side(value: unknown, name: string, size: number, sizes: string): Side {
  const { values } = logProbsOf(value, name, { length: size, sizes, ...besideLogits(undefined) })
  return { values, nameOf: (pair) => `${name}[${pair}]` }
}

/** The log-probs of a result of `sequenceLogProbs`, taken apart by pairs `[2 P]`. */
function ofSequences(parts: Record<string, unknown>, name: string, pairs: Int32Array, tokens: Tokens): [Side, Side] {
  const { values: all } = sequencesLogProbs(parts, name, tokens, undefined)
  const sideOf = (which: 0 | 1): Side => ({
    values: Float64Array.from({ length: pairs.length / 2 }, (_, pair) => all[pairs[2 * pair + which]]),
    nameOf: (pair) => `${name}.logProbs[${pairs[2 * pair + which]}]`,
  })
  return [sideOf(0), sideOf(1)]
}

/** The log-probs of a result of `sequenceLogProbs`, which must be of these tokens. */
export function sequencesLogProbs(
  { logProbs, tokenCounts }: Record<string, unknown>,
  name: string,
  { counts, labels }: Tokens,
  beside: DeviceRange | undefined,
): LogProbs {
  const wanted = { length: counts.length, sizes: ', one per sequence', ...besideLogits(beside) }
  const all = logProbsOf(logProbs, `${name}.logProbs`, wanted)
  // Labels on the GPU are counted there.
  if (tokenCounts !== undefined && labels === undefined) {
    const given = tokenNumbers(tokenCounts, `${name}.tokenCounts`, counts.length, ', one per sequence')
    const other = given.findIndex((count, s) => count !== counts[s])
    if (other >= 0) {
      const problem = `is ${given[other]}, where ${counts[other]} tokens count in this call: labels or token options differ`
      throw invalidValue(`${name}.tokenCounts[${other}]`, problem)
    }
  }
  return all
}

// Sums of float32 log-probs end up a little above 0, not as much as this.
const ROUNDING = 1e-3

/**
 * Refuses NaN, except where `mayBeNaN` allows it. Where a loss uses the log-probs, warns if one is above 0 or all are
 * 0.
 */
export function checkLogProbs(
  chosen: Side,
  rejected: Side,
  needed: boolean,
  mayBeNaN: (side: 0 | 1, pair: number) => boolean,
): void {
  if (areNegative(chosen.values) && areNegative(rejected.values)) return
  checkSide(chosen, needed, (pair) => mayBeNaN(0, pair))
  checkSide(rejected, needed, (pair) => mayBeNaN(1, pair))
  if (needed && isZero(chosen.values) && isZero(rejected.values)) warnOfZeros(chosen)
}

/** The same for the log-probs of single sequences. */
export function checkSequencesLogProbs(all: Side, needed: boolean, mayBeNaN: (sequence: number) => boolean): void {
  if (areNegative(all.values)) return
  checkSide(all, needed, mayBeNaN)
  if (needed && isZero(all.values)) warnOfZeros(all)
}

function warnOfZeros({ nameOf }: Side): void {
  const problem = `${nameOf(0)} and all others of the reference are 0, as if every completion were certain`
  warnOnce('FUSED_PREFERENCE_LOSS_ZERO_REFERENCE', `${problem}; to do without a reference, set referenceFree`)
}

/** Whether none of the log-probs needs a closer look. */
export function areNegative(values: Float64Array): boolean {
  for (let i = 0; i < values.length; i++) if (!(values[i] < 0)) return false
  return true
}

function checkSide({ values, nameOf }: Side, needed: boolean, mayBeNaN: (i: number) => boolean): void {
  for (let i = 0; i < values.length; i++) {
    const value = values[i]
    if (value <= ROUNDING) continue
    if (Number.isNaN(value)) {
      if (!mayBeNaN(i)) throw outOfRange(nameOf(i), 'a log-prob', value)
    } else if (needed) {
      const problem = `${nameOf(i)} is ${value}, and log-probs of sequences are at most 0: is it a loss, whose sign is turned?`
      warnOnce('FUSED_PREFERENCE_LOSS_POSITIVE_REFERENCE', problem)
    }
  }
}

function isZero(values: Float64Array): boolean {
  for (let i = 0; i < values.length; i++) if (values[i] !== 0) return false
  return true
}
