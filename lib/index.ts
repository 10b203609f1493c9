/**
 * The face of the package: log-probs of sequences, preference losses, and both in one.
 */
export type { ErrorCode } from './errors.js'
export { fusedLinearPreferenceLoss, fusedLinearPreferenceLossSync } from './functions/fused-linear-preference-loss.js'
export { fusedPreferenceLoss, fusedPreferenceLossSync } from './functions/fused-preference-loss.js'
export { getBackends } from './functions/get-backends.js'
export { linearSequenceLogProbs, linearSequenceLogProbsSync } from './functions/linear-sequence-log-probs.js'
export { preferenceLoss, preferenceLossSync } from './functions/preference-loss.js'
export { sequenceLogProbs, sequenceLogProbsSync } from './functions/sequence-log-probs.js'
export type {
  FusedLinearOptions,
  FusedOptions,
  LinearSequenceOptions,
  LossOptions,
  PreferenceOptions,
  SequenceOptions,
  TokenOptions,
  TokenOutput,
} from './options/index.js'
export type {
  Backends,
  DeviceMemory,
  DType,
  FDivergence,
  Float16ArrayLike,
  FusedLinearPreferenceLoss,
  FusedPreferenceLoss,
  HeadGradientOptions,
  HeadGradientRequest,
  HeadGradients,
  HeadOptions,
  HeadWeight,
  Hidden,
  HostArray,
  Indices,
  InstructionSet,
  Labels,
  LinearReference,
  LinearSequenceLogProbs,
  Logits,
  LossType,
  Normalizer,
  PreferenceLoss,
  PreferencePairs,
  Reference,
  ReferenceLogProbs,
  ResultGradients,
  RunOptions,
  SequenceLayout,
  SequenceLogProbs,
  TokenOutputs,
  TokenValues,
  WeightedLoss,
} from './types/index.js'
