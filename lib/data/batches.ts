/**
 * `preferenceBatches`: records to token ids, labels and what the loss wants to know of their layout.
 */

import { outOfRange } from '../errors.js'
import { type BatchOptions, MAX, type Settings, settingsOf } from './batch-options.js'
import { type Pair, pairOf } from './pairs.js'
import type { PreferenceRecord } from './records.js'
import { placeOf } from './warnings.js'

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
