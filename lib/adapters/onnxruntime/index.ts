/**
 * onnxruntime and transformers.js: takes their tensors as logits, without a copy, and computes the log-probs of a whole
 * data set under a reference model, in memory or in a small file.
 */
export type { ReferenceBatch } from './reference-batch.js'
export { referenceLogProbs } from './reference-log-probs.js'
export type { KeptBatches, ReferenceLogProbs, ReferenceLogProbsOptions, WithReference } from './reference-pass.js'
export { type OrtTensor, toLogits } from './tensors.js'
export {
  readReferenceLogProbs,
  type WriteReferenceLogProbsOptions,
  writeReferenceLogProbs,
} from './write-reference.js'
