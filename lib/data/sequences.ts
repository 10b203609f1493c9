/**
 * How sequences of token ids are made of texts, and how they are laid out in a batch.
 */
import { invalidType, outOfRange } from '../errors.js'
import { MAX, type Settings } from './batch-options.js'
import { callersResult } from './callers.js'
import { placeOf } from './warnings.js'

/**
 * What is made of records, a batch at a time; undefined is left out. When the records end with an error, what was made
 * before it comes as a last batch, and then the error.
 */
export async function* inBatches<Given extends object, Made>(
  records: AsyncIterable<Given> | Iterable<Given>,
  batchSize: number,
  make: (record: Given, place: string) => Made | undefined,
): AsyncGenerator<Made[]> {
  let pending: Made[] = []
  let count = 0
  try {
    for await (const record of records) {
      const made = make(record, placeOf(record) ?? `records[${count}]`)
      count++
      if (made === undefined) continue
      pending.push(made)
      if (pending.length === batchSize) {
        const full = pending
        pending = []
        yield full
      }
    }
  } catch (error) {
    if (pending.length > 0) yield pending
    throw error
  }
  if (pending.length > 0) yield pending
}

/** A completion that has been cut to the limits. */
export interface Completion {
  ids: number[]
  /** It had no token before (besides `eosId`). */
  empty: boolean
  /** It or its prompt lost tokens. */
  truncated: boolean
}

/** A prompt and its completion, in tokens. */
export interface Sequence {
  prompt: readonly number[]
  completion: Completion
}

/** The tokens of a prompt, with `bosId` at the start. */
export function promptOf(record: { prompt: string }, place: string, settings: Settings): number[] {
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
export function completionOf(text: string, name: string, record: object, settings: Settings): number[] {
  const { bosId, eosId, ignoreIndex } = settings
  const ids = tokensOf(text, name, settings)
  if (bosId !== undefined && bosId !== eosId && ids[0] === bosId) {
    const problem = `${name} begins with options.bosId, which then stands amid the sequence`
    settings.warnOnce('bosId inside', warning(`${problem}: have the tokenizer add no special tokens`, record))
  }
  if (ids.includes(ignoreIndex)) {
    const problem = `${name} has the token ${ignoreIndex}, which as a label is options.ignoreIndex: it does not count`
    settings.warnOnce('ignoreIndex', warning(`${problem}; use an ignoreIndex below 0`, record))
  }
  if (eosId === undefined) return ids
  const end = ids.at(-1) === eosId ? ids : withoutSpace(ids, text, name, settings)
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

/** Cuts the start of a prompt whose longest completion has so many tokens; returns what is left of it. */
export function cutPrompt(prompt: readonly number[], longest: number, settings: Settings): number[] {
  const { bosId, maxLength = Number.POSITIVE_INFINITY, maxPromptLength } = settings
  const limit = maxPromptLength ?? Math.max(maxLength - longest, Math.floor(maxLength / 2))
  const left = prompt.slice()
  left.splice(bosId === undefined ? 0 : 1, Math.max(0, prompt.length - limit))
  return left
}

/** Cuts the end of a completion that stands behind `before` tokens, of a prompt that may have been cut. */
export function cutCompletion(
  all: readonly number[],
  before: number,
  promptIsCut: boolean,
  { maxLength = Number.POSITIVE_INFINITY, eosId }: Settings,
): Completion {
  const ids = all.slice(0, maxLength - before)
  return { ids, empty: all.every((id) => id === eosId), truncated: promptIsCut || ids.length < all.length }
}

/** Warns of a completion without tokens. */
export function warnOfEmpty(name: string, record: object, { warn }: Settings): void {
  warn(warning(`${name} is an empty completion: it gives the model nothing to learn from`, record))
}

/** A warning about a record. */
export function warning(message: string, record: object) {
  return Object.assign(new Error(message), { record })
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

/** Sequences of token ids as a batch. */
export function layOut(sequences: readonly Sequence[], batchSize: number, settings: Settings) {
  const { packed, padId, ignoreIndex, multiple } = settings
  const sequenceLengths = Int32Array.from(sequences, ({ prompt, completion }) => prompt.length + completion.ids.length)
  // Every sequence has a place, even one without any token.
  const longest = sequenceLengths.reduce((most, length) => Math.max(most, length), 1)
  const time = Math.ceil(longest / multiple) * multiple
  const offsets = [0]
  for (const [s, length] of sequenceLengths.entries()) offsets.push(offsets[s] + (packed ? Math.max(1, length) : time))
  const total = offsets[sequences.length]
  if (total > MAX) throw outOfRange('options.batchSize', `so small that a batch has at most ${MAX} tokens`, batchSize)

  const inputIds = new Int32Array(total).fill(padId)
  const labels = new Int32Array(total).fill(ignoreIndex)
  for (const [s, { prompt, completion }] of sequences.entries()) {
    inputIds.set(prompt, offsets[s])
    inputIds.set(completion.ids, offsets[s] + prompt.length)
    labels.set(completion.ids, offsets[s] + prompt.length)
  }
  return {
    inputIds,
    labels,
    shape: packed ? [total] : [sequences.length, time],
    sequenceLengths,
    ...(packed && { sequenceOffsets: Int32Array.from(offsets) }),
  }
}

/** The sequences of which this is true. */
export function those(sequences: readonly Sequence[], what: 'empty' | 'truncated'): number[] {
  return [...sequences.keys()].filter((s) => sequences[s].completion[what])
}
