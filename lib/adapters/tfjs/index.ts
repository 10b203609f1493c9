/**
 * TensorFlow.js: the loss and the sequence log-probs as ops with gradients, for use inside `tf.variableGrads` and the
 * like. Logits are read, and gradients written, where the backend keeps them: nothing is copied on 'cpu' and 'wasm', nor
 * on 'webgpu' by the functions that give promises.
 */
export type { DifferentiableOutput } from '../token-outputs.js'
export {
  type CrossEntropyOptions,
  crossEntropy,
  type LinearCrossEntropyOptions,
  linearCrossEntropy,
  type SparseSoftmaxCrossEntropyOptions,
  sparseSoftmaxCrossEntropy,
} from './cross-entropy.js'
export {
  type FusedLinearPreferenceLossOptions,
  type FusedLinearUnpairedPreferenceLossOptions,
  fusedLinearPreferenceLoss,
  fusedLinearUnpairedPreferenceLoss,
  type LinearSequenceLogProbsOptions,
  linearSequenceLogProbs,
} from './linear.js'
export {
  fusedLinearPreferenceLossVariableGrads,
  fusedLinearUnpairedPreferenceLossVariableGrads,
  type LayerReference,
  type LayerTensors,
  type LinearCrossEntropyGradsOptions,
  type LinearPreferenceGradsOptions,
  type LinearUnpairedPreferenceGradsOptions,
  linearCrossEntropyVariableGrads,
} from './linear-variable-grads.js'
export {
  type FusedPreferenceLossOptions,
  type FusedUnpairedPreferenceLossOptions,
  fusedPreferenceLoss,
  fusedUnpairedPreferenceLoss,
  type SequenceLogProbsOptions,
  sequenceLogProbs,
} from './logits-losses.js'
export type { OutputLayerOptions } from './output-layer.js'
export type { ClassTensors, PairTensors, TensorReference, TokenTensors, UnpairedTensors } from './tensor-options.js'
export {
  type LinearTokenLogProbsOptions,
  type LinearTokenOutputsOptions,
  linearTokenLogProbs,
  linearTokenOutputs,
  type TokenLogProbsOptions,
  type TokenOutputsOptions,
  tokenLogProbs,
  tokenOutputs,
} from './token-outputs.js'
export {
  type CrossEntropyGradsOptions,
  crossEntropyVariableGrads,
  fusedPreferenceLossVariableGrads,
  fusedUnpairedPreferenceLossVariableGrads,
  type PreferenceGradsOptions,
  type UnpairedPreferenceGradsOptions,
  type VariableGrads,
} from './variable-grads.js'
