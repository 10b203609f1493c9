/**
 * `preferenceBatches`: records to token ids, labels and what the loss wants to know of their layout.
 */
import { invalidType, outOfRange } from '../errors.js'
import { integer, oneOf, optionsObject } from '../options.js'
import type { PreferenceRecord } from './records.js'
import { type OnWarning, placeOf, warner } from './warnings.js'

/** Options of {@link preferenceBatches}. */
export interface BatchOptions {
  /** Text to token ids, without special tokens: those come from `bosId` and `eosId`. */
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
  /** Begins every sequence, and is not dropped with the start of a prompt. Defaults to none. */
  bosId?: number
  /** Ends every completion that is not cut. Defaults to none. */
  eosId?: number
  /** The label of tokens that do not count. Defaults to -100. */
  ignoreIndex?: number
  /** Is told of every empty completion. Defaults to a warning of the process for each. */
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
  'onWarning',
])
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
      pending.push(pairOf(record, placeOf(record) ?? `records[${count}]`, settings))
      count++
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
    warn: warner(given.onWarning),
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
}

/** A record in tokens, cut to the limits. */
function pairOf(record: PreferenceRecord, place: string, settings: Settings): Pair {
  if (typeof record !== 'object' || record === null) throw invalidType(place, 'a record', record)
  for (const field of ['prompt', 'chosen', 'rejected'] as const) {
    if (typeof record[field] !== 'string') throw invalidType(`${place}.${field}`, 'text', record[field])
  }
  const { bosId, eosId, maxLength = Number.POSITIVE_INFINITY, maxPromptLength } = settings
  const tokens = (field: 'prompt' | 'chosen' | 'rejected') =>
    idsOf(settings.tokenizer(record[field]), `options.tokenizer(${place}.${field})`)
  const bos = bosId === undefined ? [] : [bosId]
  const prompt = [...bos, ...tokens('prompt')]
  const completions = { chosen: tokens('chosen'), rejected: tokens('rejected') }
  const eos = eosId === undefined ? [] : [eosId]
  const longest = Math.max(completions.chosen.length, completions.rejected.length) + eos.length

  const promptLimit = maxPromptLength ?? Math.max(maxLength - longest, Math.floor(maxLength / 2))
  const dropped = Math.max(0, prompt.length - promptLimit)
  prompt.splice(bos.length, dropped)
  const completion = (field: 'chosen' | 'rejected'): Completion => {
    const all = completions[field].concat(eos)
    const ids = all.slice(0, maxLength - prompt.length)
    const empty = completions[field].length === 0
    if (empty) {
      const message = `${place}.${field} is an empty completion: it gives the model nothing to learn from`
      settings.warn(Object.assign(new Error(message), { record }))
    }
    return { ids, empty, truncated: dropped > 0 || ids.length < all.length }
  }
  return { record, prompt, chosen: completion('chosen'), rejected: completion('rejected') }
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
  const time = Math.ceil(Math.max(1, ...lengths) / multiple) * multiple
  const offsets = new Int32Array(sequences.length + 1)
  for (const [s, length] of lengths.entries()) offsets[s + 1] = offsets[s] + (packed ? Math.max(1, length) : time)
  const total = offsets[sequences.length]

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
    ...(packed && { sequenceOffsets: offsets }),
    records: pairs.map(({ record }) => record),
    empty: those('empty'),
    truncated: those('truncated'),
  }
}
