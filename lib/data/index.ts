/**
 * Preference data: records read from JSON Lines, and batches of token ids that go straight into `fusedPreferenceLoss` and
 * `fusedUnpairedPreferenceLoss`.
 */
export type { BatchOptions } from './batch-options.js'
export { type PreferenceBatch, preferenceBatches } from './batches.js'
export { type ReadOptions, readPreferences, readUnpairedPreferences } from './read.js'
export type { ChatMessage, ChatTemplate, PreferenceRecord } from './records.js'
export type { RecordSource } from './source.js'
export {
  type SequenceBatch,
  type UnpairedBatch,
  type UnpairedBatchOptions,
  unpairedBatches,
} from './unpaired-batches.js'
export type { UnpairedRecord } from './unpaired-records.js'
