/**
 * `preferenceBatches`: records to token ids, labels and what the loss wants to know of their layout.
 */

import { integer, oneOf, optionsObject } from '../check/options.js'
import { invalidType, outOfRange } from '../errors.js'
import { callersResult } from './callers.js'
import type { PreferenceRecord } from './records.js'
import { type OnWarning, placeOf, warner, warnerOnce } from './warnings.js'

/** Options of {@link preferenceBatches}. */
export interface BatchOptions {
  /**
   * Text to token ids. Adds no special tokens of its own (`add_special_tokens: false`); those of a chat template are
   * in the text, and those that are not come from `bosId` and `eosId`.
   */
  tokenizer: (text: string) => ArrayLike<number>
  /** Pairs of a batch; the last batch may have fewer. */
  batchSize: number
  /** Most tokens of a sequence. Defaults to no limit. */
  maxLength?: number
  /**
   * Most tokens of a prompt; what is dropped is its start. Defaults to what `maxLength` leaves beside the longer
   * completion, and at least half of `maxLength`.
   */
  maxPromptLength?: number
  /**
   * 'padded': `[batch, time]`, padded at the end. 'packed': all sequences one behind the other, `[tokens]`, with
   * `sequenceOffsets`. Defaults to 'padded'.
   */
  layout?: 'padded' | 'packed'
  /** Make the time of padded batches a multiple of this, for trainers that compile for every shape. Defaults to 1. */
  padToMultipleOf?: number
  /** Fills `inputIds` past the end of a sequence. Defaults to 0. */
  padId?: number
  /**
   * Begins every sequence, and is not dropped with the start of a prompt. Not added to a prompt that begins with it.
   * Defaults to none.
   */
  bosId?: number
  /** Ends every completion that is not cut. Not added where one ends with it, white space aside. Defaults to none. */
  eosId?: number
  /** The label of tokens that do not count. Defaults to -100. */
  ignoreIndex?: number
  /** What becomes of a pair whose sequences are the same: it stays, or is left out with a warning. Defaults to 'keep'. */
  onIdentical?: 'keep' | 'skip'
  /**
   * Is told of every empty completion, of the first pair whose sequences are the same and of every such pair that is
   * left out, and once of special tokens that are there already. Defaults to a warning of the process for each.
   */
  onWarning?: OnWarning
}

/** P pairs, 2 P sequences: the chosen completions first, then the rejected ones in the same order. */
export interface PreferenceBatch {
  /** `[2 P, time]`, or `[tokens]` when packed. */
  inputIds: Int32Array
  /** The same with `ignoreIndex` at prompts and padding; not shifted (`shift` of the loss does that). */
  labels: Int32Array
  /** That of `inputIds`; with the vocabulary behind it, that of the logits. */
  shape: number[]
  /** `[2 P]` tokens of each sequence, its prompt included and padding left out. */
  lengths: Int32Array
  /** `[2 P]` (chosen sequence, rejected sequence) per pair, as the loss takes them. */
  pairs: Int32Array
  /** `[2 P + 1]` where each packed sequence begins, and the end. */
  sequenceOffsets?: Int32Array
  /** `[P]` */
  records: PreferenceRecord[]
  /** Sequences whose completion has no token (besides `eosId`). */
  empty: number[]
  /** Sequences that lost tokens to a limit. */
  truncated: number[]
  /**
   * Pairs, as indices of `records`, whose two sequences are the same, in the data or once cut: their loss is constant
   * and their gradient 0.
   */
  identical: number[]
}

const OPTIONS: ReadonlySet<string> = new Set([
  'tokenizer',
  'batchSize',
  'maxLength',
  'maxPromptLength',
  'layout',
  'padToMultipleOf',
  'padId',
  'bosId',
  'eosId',
  'ignoreIndex',
  'onIdentical',
  'onWarning',
])
const ON_IDENTICAL = ['keep', 'skip'] as const
const LAYOUTS = ['padded', 'packed'] as const
const MAX = 2 ** 31 - 1

type Settings = ReturnType<typeof settingsOf>

/**
 * Batches of token ids for a causal model, and labels with the prompt masked: with a model's logits of
 * `[...shape, vocab]`, `labels` and `sequenceOffsets` go into `fusedPreferenceLoss` as they are. Prompt and completions
 * are tokenized apart. A pair too long loses the start of its prompt first, then the ends of its completions.
 *
 * @param records `{ prompt, chosen, rejected }` texts, as `readPreferences` gives them or from anywhere else. When they
 *   end with an error, the records before it come as a last batch, and then the error.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`.
 */
export async function* preferenceBatches(
  records: AsyncIterable<PreferenceRecord> | Iterable<PreferenceRecord>,
  options: BatchOptions,
): AsyncGenerator<PreferenceBatch> {
  const settings = settingsOf(options)
  let pending: Pair[] = []
  let count = 0
  try {
    for await (const record of records) {
      const pair = pairOf(record, placeOf(record) ?? `records[${count}]`, settings)
      count++
      if (pair.identical && settings.skipsIdentical) continue
      pending.push(pair)
      if (pending.length === settings.batchSize) {
        const full = pending
        pending = []
        yield batchOf(full, settings)
      }
    }
  } catch (error) {
    if (pending.length > 0) yield batchOf(pending, settings)
    throw error
  }
  if (pending.length > 0) yield batchOf(pending, settings)
}

function settingsOf(options: BatchOptions) {
  if (options === undefined) throw invalidType('options', 'an object', options)
  const given = optionsObject(options, 'options', OPTIONS)
  const { tokenizer } = given
  if (typeof tokenizer !== 'function') throw invalidType('options.tokenizer', 'a function', tokenizer)
  const optional = (name: keyof BatchOptions, low: number, high = MAX): number | undefined =>
    given[name] === undefined ? undefined : integer(given[name], `options.${name}`, low, high)
  const bosId = optional('bosId', 0)
  // A token of the prompt to predict from, and one to predict.
  const maxLength = optional('maxLength', bosId === undefined ? 2 : 3)
  const warn = warner(given.onWarning)
  return {
    tokenizer,
    bosId,
    maxLength,
    batchSize: integer(given.batchSize, 'options.batchSize', 1, MAX),
    maxPromptLength: optional('maxPromptLength', bosId === undefined ? 0 : 1, maxLength && maxLength - 1),
    packed: oneOf(given.layout, 'options.layout', LAYOUTS, 'padded') === 'packed',
    multiple: optional('padToMultipleOf', 1) ?? 1,
    padId: optional('padId', 0) ?? 0,
    eosId: optional('eosId', 0),
    ignoreIndex: optional('ignoreIndex', -MAX) ?? -100,
    skipsIdentical: oneOf(given.onIdentical, 'options.onIdentical', ON_IDENTICAL, 'keep') === 'skip',
    warn,
    warnOnce: warnerOnce(warn),
  }
}

interface Completion {
  ids: number[]
  empty: boolean
  truncated: boolean
}

interface Pair {
  record: PreferenceRecord
  prompt: number[]
  chosen: Completion
  rejected: Completion
  identical: boolean
}

/** A record in tokens, cut to the limits. */
function pairOf(record: PreferenceRecord, place: string, settings: Settings): Pair {
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

/** Pairs laid out as sequences. */
function batchOf(pairs: readonly Pair[], settings: Settings): PreferenceBatch {
  const { packed, padId, ignoreIndex, multiple } = settings
  const sequences = (['chosen', 'rejected'] as const).flatMap((side) =>
    pairs.map((pair) => ({ prompt: pair.prompt, completion: pair[side] })),
  )
  const lengths = Int32Array.from(sequences, ({ prompt, completion }) => prompt.length + completion.ids.length)
  // Every sequence has a place, even one without any token.
  const longest = lengths.reduce((most, length) => Math.max(most, length), 1)
  const time = Math.ceil(longest / multiple) * multiple
  const offsets = [0]
  for (const [s, length] of lengths.entries()) offsets.push(offsets[s] + (packed ? Math.max(1, length) : time))
  const total = offsets[sequences.length]
  if (total > MAX)
    throw outOfRange('options.batchSize', `so small that a batch has at most ${MAX} tokens`, pairs.length)

  const inputIds = new Int32Array(total).fill(padId)
  const labels = new Int32Array(total).fill(ignoreIndex)
  for (const [s, { prompt, completion }] of sequences.entries()) {
    inputIds.set(prompt, offsets[s])
    inputIds.set(completion.ids, offsets[s] + prompt.length)
    labels.set(completion.ids, offsets[s] + prompt.length)
  }
  const those = (what: 'empty' | 'truncated') => [...sequences.keys()].filter((s) => sequences[s].completion[what])
  return {
    inputIds,
    labels,
    shape: packed ? [total] : [sequences.length, time],
    lengths,
    pairs: Int32Array.from({ length: sequences.length }, (_, i) => (i >> 1) + (i & 1) * pairs.length),
    ...(packed && { sequenceOffsets: Int32Array.from(offsets) }),
    records: pairs.map(({ record }) => record),
    empty: those('empty'),
    truncated: those('truncated'),
    identical: [...pairs.keys()].filter((i) => pairs[i].identical),
  }
}
