/**
 * Parts of the results that calls ask for one by one. Letters in shapes: B sequences, T positions.
 */
import type { TensorData, TypedLogits } from './tensors.js'

/** Per-token results, each present when `outputs` names it. Shapes: see {@link SequenceLogProbs}. */
export interface TokenOutputs {
  /** log p(label). 0 where inactive. */
  tokenLogProbs?: Float32Array
  /** Entropy of the predicted distribution, in nats. 0 where inactive. */
  tokenEntropies?: Float32Array
  /** Index of the largest logit, the first of equal ones. -1 where inactive or NaN. */
  tokenArgmax?: Int32Array
  /** log Σ exp(logits / temperature). 0 where inactive. */
  logSumExp?: Float32Array
  /** Σ p² over the vocabulary. 0 where inactive. */
  sumSquaredProbs?: Float32Array
  /** Mean of logits / temperature over the vocabulary. 0 where inactive. */
  tokenMeanLogits?: Float32Array
}

/** What `backward` of {@link SequenceLogProbs} gives. */
export interface LogitsGradient<Data extends TensorData = TensorData> {
  /** d loss / d logits, exactly 0 at inactive positions (unless `zeroInactive` is false). */
  gradLogits: TypedLogits<Data>
  /**
   * With `deferredScale`: d loss / d log p(label) of each token, by which the caller multiplies its row of `gradLogits`. 0
   * where inactive.
   */
  rowScale?: Float64Array
}

/** The requested gradients, of the `gradientDType`; the others are absent. */
export interface HeadGradients<Data extends TensorData = TensorData> {
  /** With respect to hidden, in its shape, contiguous. */
  gradHidden?: TypedLogits<Data>
  /** With respect to the weight, `[vocab, width]`, with strides `[1, vocab]` where the weight has those strides. */
  gradWeight?: TypedLogits<Data>
  /** With respect to the bias, `[vocab]`. */
  gradBias?: Data
}
