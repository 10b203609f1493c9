/**
 * The reference of sequences that stand alone: their log-probs under it, or a model.
 */
import type { DeviceRange } from '../backends/device-memory.js'
import type { NamedArray } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { invalidType, invalidValue } from '../errors.js'
import type { GivenLogProbs, Tokens } from '../job.js'
import { checkObject, checkSequencesLogProbs, OF_RESULT, sequencesLogProbs } from './reference.js'

/** A reference whose names have been checked: its log-probs, or the parts of a model. */
export interface GivenReference {
  /** `[B]` */
  logProbs?: Float64Array
  /** Where they are to be found, if that is in device memory. */
  given?: GivenLogProbs
  /** Each read once. */
  parts?: Record<string, unknown>
  /** The caller's arrays of log-probs. */
  arrays: NamedArray[]
}

/**
 * Reads a reference of log-probs, where there is one; a model, by the names of its parts, is left to the caller. `needed`:
 * the loss makes use of it. `beside`: where the logits lie.
 */
export function unpairedReferenceOf(
  given: unknown,
  name: string,
  model: readonly string[],
  tokens: Tokens,
  needed: boolean,
  beside: DeviceRange | undefined,
): GivenReference | undefined {
  if (given === undefined) return undefined
  const ways = unpairedWaysOf(model)
  checkObject(given, name, ways)
  const known = ['logProbs', ...model, ...('logProbs' in given ? OF_RESULT : [])]
  const parts = optionsObject(given as Record<string, unknown>, name, new Set(known))
  const { logProbs } = parts
  const isModel = model.some((part) => parts[part] !== undefined)
  if (logProbs !== undefined && isModel) throw invalidType(name, `one of ${ways}, not two`, given)
  const arrays: NamedArray[] = [[`${name}.logProbs`, logProbs]]
  if (isModel) return { parts, arrays }
  const { values, given: onDevice } = sequencesLogProbs(parts, name, tokens, beside)
  if (onDevice) {
    if (tokens.shard) throw invalidValue(name, 'must be in host memory, as options.shard wants')
    return { logProbs: values, given: onDevice, arrays }
  }
  // What `emptySequence: 'nan'` gives for a sequence without active tokens. On the GPU these are counted later: 0 as yet.
  const mayBeEmpty = (s: number) => Number.isNaN(tokens.emptyLogProb) && tokens.counts[s] === 0
  checkSequencesLogProbs({ values, nameOf: (s) => `${name}.logProbs[${s}]` }, needed, mayBeEmpty)
  return { logProbs: values, arrays }
}

/** The ways to give such a reference. */
export function unpairedWaysOf(model: readonly string[]): string {
  return `{ logProbs } or { ${model.join(', ')} }`
}
