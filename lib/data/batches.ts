/**
 * `preferenceBatches`: records to token ids, labels and what the loss wants to know of their layout.
 */
import { invalidType } from '../errors.js'
import type { PreferenceRecord } from './records.js'
import {
  type BatchOptions,
  type Completion,
  completionOf,
  cutCompletion,
  cutPrompt,
  inBatches,
  layOut,
  promptOf,
  type Settings,
  settingsOf,
  those,
  warning,
  warnOfEmpty,
} from './sequences.js'

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
  const make = (record: PreferenceRecord, place: string) => {
    const pair = pairOf(record, place, settings)
    return pair.identical && settings.skipsIdentical ? undefined : pair
  }
  for await (const pairs of inBatches(records, settings.batchSize, make)) yield batchOf(pairs, settings)
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

/** Pairs laid out as sequences. */
function batchOf(pairs: readonly Pair[], settings: Settings): PreferenceBatch {
  const sequences = (['chosen', 'rejected'] as const).flatMap((side) =>
    pairs.map((pair) => ({ prompt: pair.prompt, completion: pair[side] })),
  )
  const { inputIds, labels, shape, lengths, sequenceOffsets } = layOut(sequences, pairs.length, settings)
  return {
    inputIds,
    labels,
    shape,
    lengths,
    pairs: Int32Array.from({ length: sequences.length }, (_, i) => (i >> 1) + (i & 1) * pairs.length),
    ...(sequenceOffsets && { sequenceOffsets }),
    records: pairs.map(({ record }) => record),
    empty: those(sequences, 'empty'),
    truncated: those(sequences, 'truncated'),
    identical: [...pairs.keys()].filter((i) => pairs[i].identical),
  }
}
