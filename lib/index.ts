/**
 * The face of the package: log-probs of sequences, preference losses, and both in one.
 */
export type { ErrorCode } from './errors.js'
export { crossEntropy, crossEntropySync } from './functions/cross-entropy.js'
export { fusedLinearPreferenceLoss, fusedLinearPreferenceLossSync } from './functions/fused-linear-preference-loss.js'
export { fusedPreferenceLoss, fusedPreferenceLossSync } from './functions/fused-preference-loss.js'
export { getBackends } from './functions/get-backends.js'
export { linearCrossEntropy, linearCrossEntropySync } from './functions/linear-cross-entropy.js'
export { linearSequenceLogProbs, linearSequenceLogProbsSync } from './functions/linear-sequence-log-probs.js'
export { preferenceLoss, preferenceLossSync } from './functions/preference-loss.js'
export { sequenceLogProbs, sequenceLogProbsSync } from './functions/sequence-log-probs.js'
export type {
  CrossEntropyOptions,
  FusedLinearOptions,
  FusedOptions,
  LinearCrossEntropyOptions,
  LinearSequenceOptions,
  LossOptions,
  PreferenceOptions,
  SequenceOptions,
  TokenLossOptions,
  TokenOptions,
  TokenOutput,
} from './options/index.js'
export type {
  Backends,
  CrossEntropy,
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
  LinearCrossEntropy,
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
  TokenNormalizer,
  TokenOutputs,
  TokenValues,
  WeightedLoss,
} from './types/index.js'
