/**
 * The entry point of the package: log-probs of sequences, preference losses, and both in one call.
 */
export type { ErrorCode } from './errors.js'
export { close } from './functions/close.js'
export { crossEntropy, crossEntropySync } from './functions/cross-entropy.js'
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
export { linearCrossEntropy, linearCrossEntropySync } from './functions/linear-cross-entropy.js'
export { linearSequenceLogProbs, linearSequenceLogProbsSync } from './functions/linear-sequence-log-probs.js'
export { loadWasm } from './functions/load-wasm.js'
export { preferenceLoss, preferenceLossSync } from './functions/preference-loss.js'
export { runningRewardMean } from './functions/running-reward-mean.js'
export { sequenceLogProbs, sequenceLogProbsSync } from './functions/sequence-log-probs.js'
export { unpairedPreferenceLoss, unpairedPreferenceLossSync } from './functions/unpaired-preference-loss.js'
export type {
  CrossEntropyOptions,
  FusedLinearOptions,
  FusedLinearUnpairedOptions,
  FusedOptions,
  FusedUnpairedOptions,
  LinearCrossEntropyOptions,
  LinearSequenceOptions,
  LossOptions,
  PreferenceOptions,
  SequenceOptions,
  TokenLossOptions,
  TokenOptions,
  TokenOutput,
  UnpairedLossOptions,
  UnpairedPreferenceOptions,
  UnpairedTokenOptions,
} from './options/index.js'
export type {
  Backends,
  BackwardOptions,
  CrossEntropy,
  DeviceMemory,
  DType,
  FDivergence,
  Flags,
  Float16ArrayLike,
  FusedLinearPreferenceLoss,
  FusedLinearUnpairedPreferenceLoss,
  FusedPreferenceLoss,
  FusedUnpairedPreferenceLoss,
  GpuBuffer,
  GpuDevice,
  GpuMemory,
  GpuRange,
  GradientPrecision,
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
  LinearBackwardOptions,
  LinearCrossEntropy,
  LinearReference,
  LinearSequenceLogProbs,
  LinearUnpairedReference,
  LoadWasmOptions,
  Logits,
  LogitsBudgetOptions,
  LogitsGradient,
  LogitsGradientOptions,
  LogProbValues,
  LossType,
  MeansByKind,
  Normalizer,
  PairLogProbs,
  PreferenceLoss,
  Reference,
  ReferenceLogProbs,
  ResultGradients,
  RunningMean,
  RunOptions,
  SequenceLayout,
  SequenceLogProbs,
  SequenceReference,
  SequenceSums,
  ShardOptions,
  TensorData,
  TokenNormalizer,
  TokenOutputs,
  TokenValues,
  TypedLogits,
  UnpairedLayout,
  UnpairedLossType,
  UnpairedNormalizer,
  UnpairedPreferenceLoss,
  UnpairedReference,
  UnpairedSequences,
  WasmSource,
  WeightedLoss,
} from './types/index.js'
