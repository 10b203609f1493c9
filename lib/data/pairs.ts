/**
 * Records in tokens: tokenized, with the special tokens at their places, and cut to the limits.
 */
import { invalidType, outOfRange } from '../errors.js'
import { MAX, type Settings } from './batch-options.js'
import { callersResult } from './callers.js'
import type { PreferenceRecord } from './records.js'

/** The tokens of a completion. */
export interface Completion {
  ids: number[]
  empty: boolean
  truncated: boolean
}

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
  const { bosId, maxLength = Number.POSITIVE_INFINITY, maxPromptLength } = settings
  const prompt = promptOf(record, place, settings)
  const completions = {
    chosen: completionOf('chosen', record, place, settings),
    rejected: completionOf('rejected', record, place, settings),
  }
  const longest = Math.max(completions.chosen.length, completions.rejected.length)

  const promptLimit = maxPromptLength ?? Math.max(maxLength - longest, Math.floor(maxLength / 2))
  const dropped = Math.max(0, prompt.length - promptLimit)
  prompt.splice(bosId === undefined ? 0 : 1, dropped)
  const cut = (field: 'chosen' | 'rejected'): Completion => {
    const all = completions[field]
    const ids = all.slice(0, maxLength - prompt.length)
    const empty = all.every((id) => id === settings.eosId)
    if (empty) {
      settings.warn(
        warning(`${place}.${field} is an empty completion: it gives the model nothing to learn from`, record),
      )
    }
    return { ids, empty, truncated: dropped > 0 || ids.length < all.length }
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

/** The tokens of a prompt, with `bosId` at the start. */
function promptOf(record: PreferenceRecord, place: string, settings: Settings): number[] {
  const { bosId } = settings
  const ids = tokensOf(record.prompt, `${place}.prompt`, settings)
  if (bosId === undefined) return ids
  if (ids[0] !== bosId) return [bosId, ...ids]
  const problem = `${place}.prompt begins with options.bosId${ids[1] === bosId ? ' twice' : ''}, so none is added`
  const remedy = 'have the chat template or the tokenizer leave it to bosId'
  settings.warnOnce('bosId', warning(`${problem}: ${remedy}`, record))
  return ids
}

/** The tokens of a completion, with `eosId` at the end. */
function completionOf(
  field: 'chosen' | 'rejected',
  record: PreferenceRecord,
  place: string,
  settings: Settings,
): number[] {
  const { bosId, eosId, ignoreIndex } = settings
  const name = `${place}.${field}`
  const ids = tokensOf(record[field], name, settings)
  if (bosId !== undefined && bosId !== eosId && ids[0] === bosId) {
    const problem = `${name} begins with options.bosId, which then stands amid the sequence`
    settings.warnOnce('bosId inside', warning(`${problem}: have the tokenizer add no special tokens`, record))
  }
  if (ids.includes(ignoreIndex)) {
    const problem = `${name} has the token ${ignoreIndex}, which as a label is options.ignoreIndex: it does not count`
    settings.warnOnce('ignoreIndex', warning(`${problem}; use an ignoreIndex below 0`, record))
  }
  if (eosId === undefined) return ids
  const end = ids.at(-1) === eosId ? ids : withoutSpace(ids, record[field], name, settings)
  if (end.at(-1) !== eosId) return [...ids, eosId]
  const problem = `${name} ends with options.eosId${end.at(-2) === eosId ? ' twice' : ''}, so none is added`
  const remedy = 'leave eosId out where the chat template or the tokenizer writes it'
  settings.warnOnce('eosId', warning(`${problem}: ${remedy}`, record))
  return ids
}

/** The tokens without the white space at the end, as after the turn of a chat template, if `eosId` is among them. */
function withoutSpace(ids: number[], text: string, name: string, settings: Settings): number[] {
  const trimmed = text.trimEnd()
  if (trimmed.length === text.length || !ids.includes(settings.eosId!)) return ids
  return tokensOf(trimmed, name, settings)
}

function tokensOf(text: string, name: string, { tokenizer }: Settings): number[] {
  return idsOf(
    callersResult('options.tokenizer', name, () => tokenizer(text)),
    `options.tokenizer(${name})`,
  )
}

function warning(message: string, record: PreferenceRecord) {
  return Object.assign(new Error(message), { record })
}

function areSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((id, i) => id === b[i])
}

function idsOf(value: ArrayLike<number>, name: string): number[] {
  if (typeof value !== 'object' || value === null || typeof value.length !== 'number') {
    throw invalidType(name, 'an array of token ids', value)
  }
  const ids = Array.from(value)
  const bad = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id > MAX)
  if (bad >= 0) throw outOfRange(`${name}[${bad}]`, 'a token id', ids[bad])
  return ids
}
