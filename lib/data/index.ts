/**
 * Preference data: records read from JSON Lines, and batches of token ids that go straight into `fusedPreferenceLoss`.
 */
export type { BatchOptions } from './batch-options.js'
export { type PreferenceBatch, preferenceBatches } from './batches.js'
export { type ReadOptions, readPreferences } from './read.js'
export type { ChatMessage, ChatTemplate, PreferenceRecord } from './records.js'
