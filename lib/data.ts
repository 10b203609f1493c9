/**
 * Preference data: records read from JSON Lines, and batches of token ids that go straight into `fusedPreferenceLoss`.
 */
export { type BatchOptions, type PreferenceBatch, preferenceBatches } from './data/batches.js'
export { type ReadOptions, readPreferences } from './data/read.js'
export type { ChatMessage, ChatTemplate, PreferenceRecord } from './data/records.js'
