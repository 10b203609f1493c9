/**
 * The face of the package: log-probs of sequences, preference losses, and both in one.
 */
export type { ErrorCode } from './errors.js'
export { fusedLinearPreferenceLoss, fusedLinearPreferenceLossSync } from './functions/fused-linear-preference-loss.js'
export {
  fusedLinearUnpairedPreferenceLoss,
  fusedLinearUnpairedPreferenceLossSync,
} from './functions/fused-linear-unpaired-preference-loss.js'
export { fusedPreferenceLoss, fusedPreferenceLossSync } from './functions/fused-preference-loss.js'
export {
  fusedUnpairedPreferenceLoss,
  fusedUnpairedPreferenceLossSync,
} from './functions/fused-unpaired-preference-loss.js'
export { getBackends } from './functions/get-backends.js'
export { linearSequenceLogProbs, linearSequenceLogProbsSync } from './functions/linear-sequence-log-probs.js'
export { preferenceLoss, preferenceLossSync } from './functions/preference-loss.js'
export { runningRewardMean } from './functions/running-reward-mean.js'
export { sequenceLogProbs, sequenceLogProbsSync } from './functions/sequence-log-probs.js'
export { unpairedPreferenceLoss, unpairedPreferenceLossSync } from './functions/unpaired-preference-loss.js'
export type {
  Backends,
  DeviceMemory,
  DType,
  FDivergence,
  Flags,
  Float16ArrayLike,
  FusedLinearOptions,
  FusedLinearPreferenceLoss,
  FusedLinearUnpairedOptions,
  FusedLinearUnpairedPreferenceLoss,
  FusedOptions,
  FusedPreferenceLoss,
  FusedUnpairedOptions,
  FusedUnpairedPreferenceLoss,
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
  LinearSequenceOptions,
  LinearUnpairedReference,
  Logits,
  LossOptions,
  LossType,
  MeansByKind,
  Normalizer,
  PreferenceLoss,
  PreferenceOptions,
  PreferencePairs,
  Reference,
  ReferenceLogProbs,
  RunningMean,
  RunOptions,
  SequenceLayout,
  SequenceLogProbs,
  SequenceOptions,
  SequenceReference,
  TokenOptions,
  TokenOutput,
  TokenOutputs,
  TokenValues,
  UnpairedLayout,
  UnpairedLossOptions,
  UnpairedLossType,
  UnpairedNormalizer,
  UnpairedPreferenceLoss,
  UnpairedPreferenceOptions,
  UnpairedReference,
  UnpairedSequences,
  UnpairedTokenOptions,
  WeightedLoss,
} from './types/index.js'
