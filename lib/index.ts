/**
 * The face of the package: log-probs of sequences, preference losses, and both in one.
 */
export type { ErrorCode } from './errors.js'
export { fusedPreferenceLoss, fusedPreferenceLossSync } from './fused-preference-loss.js'
export { getBackends } from './get-backends.js'
export { preferenceLoss, preferenceLossSync } from './preference-loss.js'
export { sequenceLogProbs, sequenceLogProbsSync } from './sequence-log-probs.js'
export type {
  Backends,
  DeviceMemory,
  DType,
  FDivergence,
  Float16ArrayLike,
  FusedOptions,
  FusedPreferenceLoss,
  HostArray,
  InstructionSet,
  Labels,
  Logits,
  LossOptions,
  LossType,
  PreferenceLoss,
  PreferenceOptions,
  PreferencePairs,
  Reference,
  RunOptions,
  SequenceLogProbs,
  SequenceOptions,
  TokenOptions,
  TokenOutput,
  TokenOutputs,
  TokenValues,
  WeightedLoss,
} from './types.js'
