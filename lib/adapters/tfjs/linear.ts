/**
 * TensorFlow.js: the output layer and what follows it as one op with gradients for hidden states, weight and bias. The
 * logits are never stored.
 */
import * as tf from '@tensorflow/tfjs-core'
import { PAIRED_OPTIONS } from '../../call/paired-call.js'
import { RUN_OPTIONS } from '../../call/run.js'
import { UNPAIRED_OPTIONS } from '../../call/unpaired-call.js'
import { flag } from '../../check/options.js'
import { invalidType } from '../../errors.js'
import {
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLossSync,
  linearSequenceLogProbsSync,
} from '../../index.js'
import type { FusedLinearOptions, FusedLinearUnpairedOptions, LinearSequenceOptions } from '../../options/index.js'
import { TOKEN_OPTIONS } from '../../options/token-options.js'
import type {
  FusedLinearPreferenceLoss,
  FusedLinearUnpairedPreferenceLoss,
  HeadGradientRequest,
  HeadGradients,
  HeadWeight,
  Hidden,
  Labels,
  LinearSequenceLogProbs,
} from '../../types/index.js'
import { weightSizes } from '../layer.js'
import { callback, optionsReader } from '../options.js'
import {
  alias,
  checkRows,
  checkTensor,
  differentiable,
  fillTensors,
  idsOf,
  rowsShape,
  scaled,
  valuesOf,
} from './tensor-access.js'
import { type TensorReference, type TokenTensors, type UnpairedTensors, withArrays } from './tensor-options.js'

/** The output layer, as all its ops take it. */
export interface OutputLayerOptions {
  /** `[vocab]`. Defaults to none. */
  bias?: tf.Tensor | undefined
  /** The weight is `[width, vocab]`, as the kernel of `tf.layers.dense` is. Defaults to false. */
  transposed?: boolean | undefined
  /** Weight and bias get no gradient, which saves a third of the backward pass. Defaults to false. */
  frozen?: boolean | undefined
}

type Replaced = 'bias' | 'gradient' | 'accumulate' | 'zeroInactive' | 'reference' | keyof TokenTensors

/** Options of {@link fusedLinearPreferenceLoss}. */
export interface FusedLinearPreferenceLossOptions
  extends Omit<FusedLinearOptions, Replaced>,
    TokenTensors,
    OutputLayerOptions {
  /** As in `fusedLinearPreferenceLoss`; log-probs may be tensors. Needed unless the loss is reference-free. */
  reference?: FusedLinearOptions['reference'] | TensorReference | undefined
  /** Is given the rewards, accuracy, margin and all else that is known of the loss, at each call. */
  onResult?: ((result: Omit<FusedLinearPreferenceLoss, 'gradHidden' | 'gradWeight' | 'gradBias'>) => void) | undefined
}

/** Options of {@link fusedLinearUnpairedPreferenceLoss}. */
export interface FusedLinearUnpairedPreferenceLossOptions
  extends Omit<FusedLinearUnpairedOptions, Replaced | keyof UnpairedTensors>,
    Omit<TokenTensors, 'pairs'>,
    UnpairedTensors,
    OutputLayerOptions {
  /** As in `fusedLinearUnpairedPreferenceLoss`; log-probs may be tensors. Needed unless `referenceFree`. */
  reference?: FusedLinearUnpairedOptions['reference'] | Extract<TensorReference, { logProbs: unknown }> | undefined
  /** Is given the rewards, their means, κ and all else that is known of the loss, at each call. */
  onResult?:
    | ((result: Omit<FusedLinearUnpairedPreferenceLoss, 'gradHidden' | 'gradWeight' | 'gradBias'>) => void)
    | undefined
}

/** Options of {@link linearSequenceLogProbs}. */
export interface LinearSequenceLogProbsOptions
  extends Omit<LinearSequenceOptions, 'bias' | keyof TokenTensors>,
    TokenTensors,
    OutputLayerOptions {
  /** Is given the token counts and the per-token outputs, at each call. */
  onResult?: ((result: Omit<LinearSequenceLogProbs, 'backward' | 'backwardSync'>) => void) | undefined
}

const LAYER_OPTIONS = ['bias', 'transposed', 'frozen', 'onResult'] as const
const OWNED = {
  gradient: 'is not taken: TensorFlow.js is given the gradients it asks for, none of weight and bias with frozen',
  accumulate: 'is not taken: TensorFlow.js adds gradients up itself',
  zeroInactive: 'is not taken: the memory that the gradients get is not zero, so that all of it has to be written',
}
const preferenceOptions = optionsReader([...PAIRED_OPTIONS, ...LAYER_OPTIONS], OWNED)
const unpairedOptions = optionsReader([...UNPAIRED_OPTIONS, ...LAYER_OPTIONS], OWNED)
const sequenceOptions = optionsReader([...TOKEN_OPTIONS, ...RUN_OPTIONS, ...LAYER_OPTIONS])

/**
 * The mean preference loss of a batch of sequences as a scalar tensor, from what goes into the model's output layer.
 * Inside a gradient function, loss and gradients are computed together, at once; outside of one, the loss alone.
 *
 * @param hidden float32, `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`. Of more dimensions, all
 *   before the last two count as batch.
 * @param weight float32, `[vocab, width]`, as an embedding that is tied to it; `transposed`: `[width, vocab]`.
 * @param labels token ids, or an int32 tensor of them in the shape of hidden without the last dimension.
 * @param options those of `fusedLinearPreferenceLoss`, and of the layer.
 * @throws what `fusedLinearPreferenceLoss` throws; `ERR_DISPOSED` for a disposed tensor; `ERR_BACKEND_UNAVAILABLE`
 *   where TensorFlow.js keeps tensors in memory that cannot be read synchronously.
 */
export function fusedLinearPreferenceLoss(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: FusedLinearPreferenceLossOptions,
): tf.Scalar {
  const { bias, transposed, frozen, onResult, ...given } = preferenceOptions(options)
  const told = callback(onResult, 'options.onResult')
  const head = headOf(hidden, weight, bias, transposed, frozen)
  const ids = idsOf(labels, hidden, 'hidden')
  const loss = withArrays(given, hidden, 'hidden')
  refuseTensors(loss.reference)
  return onePass(head, (gradient) => {
    const { data, weight: matrix, bias: values } = head.values()
    const result = fusedLinearPreferenceLossSync(data, matrix, ids, { ...loss, bias: values, gradient })
    told?.(withoutGradients(result))
    return result.loss
  })
}

/**
 * The same for sequences that stand alone: the mean of the losses of `fusedLinearUnpairedPreferenceLoss` as a scalar
 * tensor.
 *
 * @param hidden as in {@link fusedLinearPreferenceLoss}.
 * @param weight as in {@link fusedLinearPreferenceLoss}.
 * @param labels as in {@link fusedLinearPreferenceLoss}.
 * @param options those of `fusedLinearUnpairedPreferenceLoss`, and of the layer.
 * @throws what `fusedLinearUnpairedPreferenceLoss` throws, and as {@link fusedLinearPreferenceLoss} does.
 */
export function fusedLinearUnpairedPreferenceLoss(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  options: FusedLinearUnpairedPreferenceLossOptions,
): tf.Scalar {
  const { bias, transposed, frozen, onResult, ...given } = unpairedOptions(options)
  const told = callback(onResult, 'options.onResult')
  const head = headOf(hidden, weight, bias, transposed, frozen)
  const ids = idsOf(labels, hidden, 'hidden')
  const loss = withArrays(given, hidden, 'hidden')
  refuseTensors(loss.reference)
  return onePass(head, (gradient) => {
    const { data, weight: matrix, bias: values } = head.values()
    const result = fusedLinearUnpairedPreferenceLossSync(data, matrix, ids, { ...loss, bias: values, gradient })
    told?.(withoutGradients(result))
    return result.loss
  })
}

/** A result without its gradients, which TensorFlow.js has. */
function withoutGradients<Result extends HeadGradients>(result: Result): Result {
  delete result.gradHidden
  delete result.gradWeight
  delete result.gradBias
  return result
}

/** An op whose value and gradients are computed together; `run` writes the gradients it is asked for. */
function onePass(head: Head, run: (gradient?: HeadGradientRequest) => number): tf.Scalar {
  return differentiable(head.inputs, (taped) => {
    if (!taped) return { value: tf.scalar(run()) }
    let value = 0
    const saved = head.fill((gradient) => {
      value = run(gradient)
    })
    const gradient = (dy: tf.Tensor) => {
      const factor = dy.dataSync()[0]!
      return saved.map((tensor) => scaled(tensor, factor))
    }
    return { value: tf.scalar(value), saved, gradient }
  })
}

/**
 * Log-probs of whole sequences as a tensor `[batch]`, from what goes into the model's output layer, to build losses
 * from. The gradients are computed in the backward pass.
 *
 * @param hidden as in {@link fusedLinearPreferenceLoss}.
 * @param weight as in {@link fusedLinearPreferenceLoss}.
 * @param labels as in {@link fusedLinearPreferenceLoss}.
 * @param options those of `linearSequenceLogProbs`, and of the layer.
 * @throws as {@link fusedLinearPreferenceLoss} does.
 */
export function linearSequenceLogProbs(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: LinearSequenceLogProbsOptions,
): tf.Tensor1D {
  const { bias, transposed, frozen, onResult, ...given } = sequenceOptions(options)
  const told = callback(onResult, 'options.onResult')
  const whole = headOf(hidden, weight, bias, transposed, frozen)
  const ids = idsOf(labels, hidden, 'hidden')
  const tokens = withArrays(given, hidden, 'hidden')
  const forward = (head: Head) => {
    const { data, weight: matrix, bias: values } = head.values()
    const isGone = () => (data.data as Float32Array).length === 0
    return { ...linearSequenceLogProbsSync(data, matrix, ids, { ...tokens, bias: values }), isGone }
  }
  return differentiable(whole.inputs, () => {
    let last = forward(whole)
    const { backward: _, backwardSync: __, isGone: ___, ...result } = last
    told?.(result)
    const saved = [alias(hidden), alias(weight), ...(bias ? [alias(bias)] : [])]
    const value = tf.tensor1d(Float32Array.from(result.logProbs))
    const gradient = (dy: tf.Tensor) => {
      const upstream = dy.dataSync()
      const head = headOf(saved[0]!, saved[1]!, saved[2], transposed, frozen)
      return head.fill((request) => {
        // The heap has grown, and what was seen of it is gone.
        if (last.isGone()) last = forward(head)
        last.backwardSync(upstream, { gradient: request })
      })
    }
    return { value, saved, gradient }
  })
}

/** Refuses the layer of a reference as tensors: which of them is transposed could not be said. */
function refuseTensors(reference: object | undefined): void {
  for (const name of ['hidden', 'weight', 'bias'] as const) {
    const part = (reference as Partial<Record<typeof name, unknown>> | undefined)?.[name]
    if (!(part instanceof tf.Tensor)) continue
    const wanted = name === 'bias' ? 'an array' : '{ data, shape }'
    throw invalidType(`options.reference.${name}`, `${wanted}; a tensor has its data in .dataSync()`, part)
  }
}

/** The tensors of a head that have been checked. */
interface Head {
  /** Those that get gradients. */
  inputs: tf.Tensor[]
  /** All of them, where they lie; until the heap grows. */
  values(): { data: Hidden; weight: HeadWeight; bias?: Float32Array }
  /** Tensors with the gradients of the inputs, written by `write`. */
  fill(write: (request: HeadGradientRequest) => void): tf.Tensor[]
}

function headOf(
  hidden: tf.Tensor,
  weight: tf.Tensor,
  bias: tf.Tensor | undefined,
  transposed: boolean | undefined,
  frozen: boolean | undefined,
): Head {
  checkRows(hidden, 'hidden', 'width')
  checkTensor(weight, 'weight', 'float32')
  const across = flag(transposed, 'options.transposed', false)
  if (bias !== undefined) checkTensor(bias, 'options.bias', 'float32')
  const width = hidden.shape.at(-1)!
  const { vocab, strides } = weightSizes(weight.shape, across, width)
  const fixed = flag(frozen, 'options.frozen', false)
  const inputs = fixed ? [hidden] : [hidden, weight, ...(bias ? [bias] : [])]
  return {
    inputs,
    values: () => ({
      data: { data: valuesOf(hidden, 'hidden'), shape: rowsShape(hidden) },
      weight: { data: valuesOf(weight, 'weight'), shape: [vocab, width], strides },
      ...(bias && { bias: valuesOf(bias, 'options.bias') }),
    }),
    fill: (write) =>
      fillTensors(
        inputs.map((input) => input.shape),
        hidden,
        ([forHidden, forWeight, forBias]) => {
          write({ hidden: forHidden!, ...(forWeight && { weight: forWeight }), ...(forBias && { bias: forBias }) })
        },
      ),
  }
}
