/**
 * `unpairedBatches`: records of single completions to token ids, labels, and what the loss wants to know of them.
 */
import { invalidType } from '../errors.js'
import { BATCH_OPTIONS, type BatchOptions, type Settings, settingsOf } from './batch-options.js'
import {
  completionOf,
  cutCompletion,
  cutPrompt,
  inBatches,
  layOut,
  promptOf,
  type Sequence,
  those,
  warnOfEmpty,
} from './sequences.js'
import { labelOf, type UnpairedRecord } from './unpaired-records.js'

/** Options of {@link unpairedBatches}. */
export interface UnpairedBatchOptions extends Omit<BatchOptions, 'onIdentical'> {}

/** Sequences of token ids in a layout: B of them, the records of a batch. */
export interface SequenceBatch {
  /** `[B, time]`, or `[tokens]` when packed. */
  inputIds: Int32Array
  /** The same with `ignoreIndex` at prompts and padding; not shifted (`shift` of the loss does that). */
  labels: Int32Array
  /** That of `inputIds`; with the vocabulary behind it, that of the logits. */
  shape: number[]
  /** `[B]` tokens of each sequence, its prompt included and padding left out. */
  sequenceLengths: Int32Array
  /** `[B + 1]` where each packed sequence begins, and the end. */
  sequenceOffsets?: Int32Array
}

/** B records, a sequence each. */
export interface UnpairedBatch extends SequenceBatch {
  /** `[B]` whether each completion is desirable, as the loss takes it. */
  desirable: boolean[]
  /**
   * Each prompt with the completion of the record before it, the first with the last one's: what KTO's κ is estimated
   * from (`klLogProbs`). Absent where the batch has one record, whose completion belongs to its prompt.
   */
  mismatched?: SequenceBatch
  /** `[B]` */
  records: UnpairedRecord[]
  /** Sequences whose completion has no token (besides `eosId`). */
  empty: number[]
  /** Sequences that lost tokens to a limit. */
  truncated: number[]
}

const OPTIONS: ReadonlySet<string> = new Set([...BATCH_OPTIONS].filter((name) => name !== 'onIdentical'))

/**
 * Batches of token ids for a causal model, and labels with the prompt masked: with a model's logits of
 * `[...shape, vocab]`, `labels`, `desirable` and `sequenceOffsets` go into `fusedUnpairedPreferenceLoss` as they are.
 * Prompt and completion are tokenized apart. A sequence too long loses the start of its prompt first, then the end of its
 * completion.
 *
 * @param records `{ prompt, completion, label }`, as `readUnpairedPreferences` gives them or from anywhere else. When they
 *   end with an error, the records before it come as a last batch, and then the error.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`.
 */
export async function* unpairedBatches(
  records: AsyncIterable<UnpairedRecord> | Iterable<UnpairedRecord>,
  options: UnpairedBatchOptions,
): AsyncGenerator<UnpairedBatch> {
  const settings = settingsOf(options, OPTIONS)
  const make = (record: UnpairedRecord, place: string) => exampleOf(record, place, settings)
  for await (const examples of inBatches(records, settings.batchSize, make)) yield batchOf(examples, settings)
}

/** A record in tokens, none of them cut. */
interface Example {
  record: UnpairedRecord
  desirable: boolean
  prompt: number[]
  completion: number[]
}

function exampleOf(record: UnpairedRecord, place: string, settings: Settings): Example {
  if (typeof record !== 'object' || record === null) throw invalidType(place, 'a record', record)
  for (const field of ['prompt', 'completion'] as const) {
    const wanted = 'text (readUnpairedPreferences makes it of lists of messages)'
    if (typeof record[field] !== 'string') throw invalidType(`${place}.${field}`, wanted, record[field])
  }
  const desirable = labelOf(record.label, `${place}.label`)
  const prompt = promptOf(record, place, settings)
  const completion = completionOf(record.completion, `${place}.completion`, record, settings)
  if (completion.every((id) => id === settings.eosId)) warnOfEmpty(`${place}.completion`, record, settings)
  return { record, desirable, prompt, completion }
}

/** A prompt and a completion, cut to the limits. */
function sequenceOf(whole: readonly number[], completion: readonly number[], settings: Settings): Sequence {
  const prompt = cutPrompt(whole, completion.length, settings)
  return { prompt, completion: cutCompletion(completion, prompt.length, prompt.length < whole.length, settings) }
}

function batchOf(examples: readonly Example[], settings: Settings): UnpairedBatch {
  const size = examples.length
  const sequences = examples.map(({ prompt, completion }) => sequenceOf(prompt, completion, settings))
  const mismatched = examples.map(({ prompt }, i) =>
    sequenceOf(prompt, examples[(i + size - 1) % size].completion, settings),
  )
  return {
    ...layOut(sequences, size, settings),
    desirable: examples.map(({ desirable }) => desirable),
    ...(size > 1 && { mismatched: layOut(mismatched, size, settings) }),
    records: examples.map(({ record }) => record),
    empty: those(sequences, 'empty'),
    truncated: those(sequences, 'truncated'),
  }
}
