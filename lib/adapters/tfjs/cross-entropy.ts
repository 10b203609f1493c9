/**
 * The cross-entropy of integer labels as an op with a gradient.
 */
import * as tf from '@tensorflow/tfjs-core'
import { RUN_OPTIONS } from '../../call/run.js'
import { between } from '../../check/options.js'
import { sequenceLogProbsSync } from '../../index.js'
import type { SequenceOptions } from '../../options/index.js'
import type { Labels, Logits, RunOptions } from '../../types/index.js'
import { optionsReader } from '../options.js'
import { type Forward, isInPlace, twoPasses } from './passes.js'
import { checkRows, idsOf } from './tensor-access.js'

/** Options of {@link sparseSoftmaxCrossEntropy}. */
export interface CrossEntropyOptions extends RunOptions {
  /** Positions with this label do not count. Defaults to -100. */
  ignoreIndex?: number | undefined
  /** Share ε of the target that is spread evenly over the vocabulary, in [0, 1]. Defaults to 0. */
  labelSmoothing?: number | undefined
  /** 'in-place': as in `FusedPreferenceLossOptions`; the logits are overwritten during the backward pass. */
  gradient?: 'in-place' | undefined
}

const crossEntropyOptions = optionsReader([...RUN_OPTIONS, 'ignoreIndex', 'labelSmoothing', 'gradient'])

/**
 * Mean cross-entropy of the labels under softmax(logits), as a scalar tensor: the mean over the rows that count, 0
 * when none does. Neither one-hot labels nor log-probs are made; the gradient is computed in the backward pass. Label
 * smoothing is that of `tf.losses.softmaxCrossEntropy` and of PyTorch: (1 - ε) CE + ε mean over the vocabulary of
 * -log p.
 *
 * @param logits float32, `[..., vocab]`, of at least two dimensions.
 * @param labels token ids, or an int32 tensor of them in the shape of the logits without the last dimension.
 * @throws as `fusedPreferenceLoss` does.
 */
export function sparseSoftmaxCrossEntropy(
  logits: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: CrossEntropyOptions,
): tf.Scalar {
  checkRows(logits, 'logits', 'vocab')
  const { gradient, labelSmoothing, ignoreIndex = -100, ...run } = crossEntropyOptions(options)
  const inPlace = isInPlace(gradient)
  const smoothing = between(labelSmoothing, 'options.labelSmoothing', 0, 1, 0)
  const ids = idsOf(labels, logits, 'the logits')
  const tokens: SequenceOptions = { ...run, ignoreIndex, shift: false, outputs: smoothing > 0 ? ['logSumExp'] : [] }
  const forward = ({ data, shape }: Logits): Forward<tf.Scalar> => {
    const values = data as Float32Array
    const vocab = shape[shape.length - 1]!
    const [batch, time] = shape.length > 2 ? shape : [1, shape[0]!]
    const result = sequenceLogProbsSync({ data: values, shape: [batch!, time!, vocab] }, ids, tokens)
    const count = Math.max(1, sum(result.tokenCounts))
    const active = (row: number) => Number(ids[row]) !== ignoreIndex
    let loss = 0
    loss -= (1 - smoothing) * sum(result.logProbs)
    for (let row = 0; smoothing > 0 && row < ids.length; row++) {
      if (!active(row)) continue
      const logits = sum(values.subarray(row * vocab, (row + 1) * vocab))
      loss -= smoothing * (logits / vocab - result.logSumExp![row]!)
    }
    return {
      value: () => tf.scalar(loss / count),
      backward: (dy, out) => {
        const factor = dy[0]! / count
        // That of the unsmoothed loss, softmax - onehot: what smoothing moves is added in the rows that count.
        const { gradLogits } = result.backwardSync(new Float64Array(batch!).fill(-factor), { gradient: out })
        const target = gradLogits.data as Float32Array
        for (let row = 0; smoothing > 0 && row < ids.length; row++) {
          if (!active(row)) continue
          target[row * vocab + Number(ids[row])]! += smoothing * factor
          const share = (smoothing * factor) / vocab
          for (let i = row * vocab; i < (row + 1) * vocab; i++) target[i]! -= share
        }
      },
    }
  }
  return twoPasses(logits, inPlace, forward)
}

function sum(values: ArrayLike<number>): number {
  let total = 0
  for (let i = 0; i < values.length; i++) total += values[i]!
  return total
}
