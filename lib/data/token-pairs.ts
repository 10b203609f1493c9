/**
 * Records of pairs in tokens: cut to the limits, and compared.
 */
import { invalidType } from '../errors.js'
import type { Settings } from './batch-options.js'
import type { PreferenceRecord } from './records.js'
import { type Completion, completionOf, cutCompletion, cutPrompt, promptOf, warning, warnOfEmpty } from './sequences.js'

/** A record in tokens. */
export interface Pair {
  record: PreferenceRecord
  prompt: number[]
  chosen: Completion
  rejected: Completion
  identical: boolean
}

/** A record in tokens, cut to the limits. */
export function pairOf(record: PreferenceRecord, place: string, settings: Settings): Pair {
  if (typeof record !== 'object' || record === null) throw invalidType(place, 'a record', record)
  for (const field of ['prompt', 'chosen', 'rejected'] as const) {
    const wanted = 'text (readPreferences makes it of lists of messages)'
    if (typeof record[field] !== 'string') throw invalidType(`${place}.${field}`, wanted, record[field])
  }
  const { maxLength } = settings
  const wholePrompt = promptOf(record, place, settings)
  const tokensOf = (field: 'chosen' | 'rejected') => completionOf(record[field], `${place}.${field}`, record, settings)
  const completions = { chosen: tokensOf('chosen'), rejected: tokensOf('rejected') }
  const longest = Math.max(completions.chosen.length, completions.rejected.length)
  const prompt = cutPrompt(wholePrompt, longest, settings)
  const cut = (field: 'chosen' | 'rejected'): Completion => {
    const isCut = prompt.length < wholePrompt.length
    const completion = cutCompletion(completions[field], prompt.length, isCut, settings)
    if (completion.empty) warnOfEmpty(`${place}.${field}`, record, settings)
    return completion
  }
  const [chosen, rejected] = [cut('chosen'), cut('rejected')]
  const identical = areSame(chosen.ids, rejected.ids)
  if (identical) {
    const cause = areSame(completions.chosen, completions.rejected) ? '' : ` once cut to maxLength ${maxLength}`
    const problem = `${place}: chosen and rejected have the same tokens${cause}: the pair teaches nothing`
    if (settings.skipsIdentical) settings.warn(warning(`${problem}; it is left out`, record))
    else {
      const remedy = "batches count all such pairs as identical, and onIdentical: 'skip' leaves them out"
      settings.warnOnce('identical', warning(`${problem}; ${remedy}`, record))
    }
  }
  return { record, prompt, chosen, rejected, identical }
}

function areSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((id, i) => id === b[i])
}
