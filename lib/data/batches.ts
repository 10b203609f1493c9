/**
 * `preferenceBatches`: turns records into token ids, labels, and the layout that the loss needs.
 */
import { type BatchOptions, type Settings, settingsOf } from './batch-options.js'
import type { PreferenceRecord } from './records.js'
import { inBatches, layOut, those } from './sequences.js'
import { type Pair, pairOf } from './token-pairs.js'

/** P pairs, 2 P sequences: the chosen completions first, then the rejected ones in the same order. */
export interface PreferenceBatch {
  /** `[2 P, time]`, or `[tokens]` when packed. */
  inputIds: Int32Array
  /** The same with `ignoreIndex` at prompts and padding; not shifted (`shift` of the loss does that). */
  labels: Int32Array
  /** That of `inputIds`; with the vocabulary behind it, that of the logits. */
  shape: number[]
  /** `[2 P]` tokens of each sequence, its prompt included and padding left out. */
  sequenceLengths: Int32Array
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

/** Pairs laid out as sequences. */
function batchOf(pairs: readonly Pair[], settings: Settings): PreferenceBatch {
  const sequences = (['chosen', 'rejected'] as const).flatMap((side) =>
    pairs.map((pair) => ({ prompt: pair.prompt, completion: pair[side] })),
  )
  const { inputIds, labels, shape, sequenceLengths, sequenceOffsets } = layOut(sequences, pairs.length, settings)
  return {
    inputIds,
    labels,
    shape,
    sequenceLengths,
    pairs: Int32Array.from({ length: sequences.length }, (_, i) => (i >> 1) + (i & 1) * pairs.length),
    ...(sequenceOffsets && { sequenceOffsets }),
    records: pairs.map(({ record }) => record),
    empty: those(sequences, 'empty'),
    truncated: those(sequences, 'truncated'),
    identical: [...pairs.keys()].filter((i) => pairs[i].identical),
  }
}
