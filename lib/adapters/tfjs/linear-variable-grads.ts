/**
 * The same as variable-grads.ts from what goes into the output layer: on 'webgpu' hidden states, weight and bias are read,
 * and their gradients written, where they are.
 */
import * as tf from '@tensorflow/tfjs-core'
import { PAIRED_OPTIONS } from '../../call/paired-call.js'
import { SINGLE_TOKEN_OPTIONS } from '../../call/token-loss-call.js'
import { UNPAIRED_OPTIONS } from '../../call/unpaired-call.js'
import { invalidType } from '../../errors.js'
import { fusedLinearPreferenceLoss, fusedLinearUnpairedPreferenceLoss, linearCrossEntropy } from '../../index.js'
import type {
  FusedLinearPreferenceLoss,
  FusedLinearUnpairedPreferenceLoss,
  HeadGradientRequest,
  HeadGradients,
  Labels,
  LinearCrossEntropy,
  LinearReference,
  RunOptions,
  TensorData,
} from '../../types/index.js'
import { optionsReader } from '../options.js'
import type { LinearCrossEntropyOptions } from './cross-entropy.js'
import { bufferOf, forget, gpuOf, newTensor, submit } from './gpu-memory.js'
import type { FusedLinearPreferenceLossOptions, FusedLinearUnpairedPreferenceLossOptions } from './linear.js'
import {
  type Head,
  headOf,
  type Layer,
  type LayerData,
  OWNED as OF_LAYER,
  type OutputLayerOptions,
  withoutGradients,
} from './output-layer.js'
import { trace } from './tape.js'
import { idsOf } from './tensor-access.js'
import { type TensorReference, withArrays } from './tensor-options.js'
import { dataOf, readAhead, type VariableGrads } from './variable-grads.js'

/** What goes into the output layer, and the layer: logits = hidden · weightᵀ + bias. */
export interface LayerTensors {
  /** float32, as in `fusedLinearPreferenceLoss`. */
  hidden: tf.Tensor
  /** float32, `[vocab, width]`, or `[width, vocab]` with `transposed`. */
  weight: tf.Tensor
  /** float32, `[vocab]`. Defaults to none. */
  bias?: tf.Tensor | undefined
}

/** The layer of a reference as tensors, its weight stored as the policy's is, or else as in the main module. */
export interface LayerReference {
  reference?: LinearReference | TensorReference | LayerTensors | undefined
}

/** Options of {@link fusedLinearPreferenceLossVariableGrads}. */
export type LinearPreferenceGradsOptions = Omit<FusedLinearPreferenceLossOptions, 'onResult' | 'bias' | 'reference'> &
  LayerReference

/** Options of {@link fusedLinearUnpairedPreferenceLossVariableGrads}. */
export type LinearUnpairedPreferenceGradsOptions = Omit<
  FusedLinearUnpairedPreferenceLossOptions,
  'onResult' | 'bias' | 'reference'
> & {
  reference?: Exclude<LayerReference['reference'], { chosen: unknown }> | undefined
}

/** Options of {@link linearCrossEntropyVariableGrads}. */
export type LinearCrossEntropyGradsOptions = Omit<LinearCrossEntropyOptions, 'onResult' | 'bias'>

const OWNED = { ...OF_LAYER, bias: 'is not taken: it comes from f, beside hidden and weight' }
const preferenceOptions = optionsReader([...PAIRED_OPTIONS, 'transposed', 'frozen'], OWNED)
const unpairedOptions = optionsReader([...UNPAIRED_OPTIONS, 'transposed', 'frozen'], OWNED)
const entropyOptions = optionsReader([...SINGLE_TOKEN_OPTIONS, 'transposed', 'frozen'], OWNED)

/**
 * `fusedPreferenceLossVariableGrads` from what goes into the model's output layer, of which the logits are never stored
 * as a tensor.
 *
 * @param f gives hidden states, weight and bias. It runs at once, and only once.
 * @param labels as in `fusedLinearPreferenceLoss`. Tensors, these and those of the options, are read before the loss begins.
 * @param options those of `fusedLinearPreferenceLoss` but `bias` and `onResult`. A reference's layer stays where it is, too.
 * @param variables those to differentiate with respect to. Defaults to all that are trainable.
 * @throws what `fusedLinearPreferenceLoss` throws.
 *
 * @example
 * const f = () => ({ hidden: model.hidden(inputs), weight: model.table })
 * const { loss, grads } = await fusedLinearPreferenceLossVariableGrads(f, labels, { reference })
 * optimizer.applyGradients(grads)
 * tf.dispose(grads)
 */
export async function fusedLinearPreferenceLossVariableGrads(
  f: () => LayerTensors,
  labels: Labels | tf.Tensor,
  options?: LinearPreferenceGradsOptions,
  variables?: tf.Variable[],
): Promise<VariableGrads<FusedLinearPreferenceLoss>> {
  const given = preferenceOptions<LinearPreferenceGradsOptions>(options)
  return gradsOf(f, labels, given, variables, ({ data, weight, bias }, ids, rest, place) =>
    fusedLinearPreferenceLoss(data, weight, ids, { ...rest, ...place, bias }),
  )
}

/**
 * The same for sequences that stand alone.
 *
 * @param f as in {@link fusedLinearPreferenceLossVariableGrads}.
 * @param labels as in {@link fusedLinearPreferenceLossVariableGrads}.
 * @param options those of `fusedLinearUnpairedPreferenceLoss` but `bias` and `onResult`.
 * @param variables as in {@link fusedLinearPreferenceLossVariableGrads}.
 * @throws what `fusedLinearUnpairedPreferenceLoss` throws.
 */
export async function fusedLinearUnpairedPreferenceLossVariableGrads(
  f: () => LayerTensors,
  labels: Labels | tf.Tensor,
  options: LinearUnpairedPreferenceGradsOptions,
  variables?: tf.Variable[],
): Promise<VariableGrads<FusedLinearUnpairedPreferenceLoss>> {
  const given = unpairedOptions(options)
  return gradsOf(f, labels, given, variables, ({ data, weight, bias }, ids, rest, place) =>
    fusedLinearUnpairedPreferenceLoss(data, weight, ids, { ...rest, ...place, bias }),
  )
}

/**
 * The mean cross-entropy of a batch of tokens and its gradients, from what goes into the model's output layer.
 *
 * @param f as in {@link fusedLinearPreferenceLossVariableGrads}.
 * @param labels as in {@link fusedLinearPreferenceLossVariableGrads}.
 * @param options those of `linearCrossEntropy` but `bias` and `onResult`.
 * @param variables as in {@link fusedLinearPreferenceLossVariableGrads}.
 * @throws what `linearCrossEntropy` throws.
 */
export async function linearCrossEntropyVariableGrads(
  f: () => LayerTensors,
  labels: Labels | tf.Tensor,
  options?: LinearCrossEntropyGradsOptions,
  variables?: tf.Variable[],
): Promise<VariableGrads<LinearCrossEntropy>> {
  const given = entropyOptions<LinearCrossEntropyGradsOptions>(options)
  return gradsOf(f, labels, given, variables, ({ data, weight, bias }, ids, rest, place) =>
    linearCrossEntropy(data, weight, ids, { ...rest, ...place, bias }),
  )
}

/** Where a call runs, where its gradients go, and the reference's layer where it is. */
interface Place {
  gradient: HeadGradientRequest
  gpuDevice?: RunOptions['gpuDevice']
  // biome-ignore lint/suspicious/noExplicitAny: each function checks its own
  reference?: any
}

async function gradsOf<
  Given extends Pick<OutputLayerOptions, 'transposed' | 'frozen'> & { reference?: object | undefined },
  Result extends { loss: number } & HeadGradients,
>(
  f: () => LayerTensors,
  labels: Labels | tf.Tensor,
  { transposed, frozen, ...given }: Given,
  variables: tf.Variable[] | undefined,
  lossOf: (
    layer: Layer<LayerData>,
    labels: Labels,
    options: ReturnType<typeof withArrays<Omit<Given, 'transposed' | 'frozen'>>>,
    place: Place,
  ) => Promise<Result>,
): Promise<VariableGrads<Result>> {
  const { outputs, pullBack, dispose } = trace(f, tensorsOf, variables)
  const [hidden, weight, bias] = outputs as [tf.Tensor, tf.Tensor, tf.Tensor?]
  let gradients: tf.Tensor[] = []
  try {
    const head = headOf(hidden, weight, bias, transposed, frozen, namesOf('f()'))
    const { reference, ...others } = given
    const ofReference = hasLayer(reference)
      ? headOf(reference.hidden, reference.weight, reference.bias, transposed, frozen, namesOf('options.reference'))
      : undefined
    await readAhead({ labels, ...others, ...(ofReference ? undefined : reference) })
    const ids = idsOf(labels, hidden, 'hidden')
    const layer = await layerOf(head)
    const place: Place = { gradient: requestOf(head.inputs.map(() => true)) }
    const options = withArrays({ ...given }, hidden, 'hidden')
    if (ofReference) {
      const { data, ...rest } = await layerOf(ofReference)
      place.reference = { hidden: data, ...rest }
    }
    const gpu = gpuOf(hidden)
    if (gpu) {
      gradients = head.inputs.map(({ shape }) => newTensor(gpu, shape))
      for (const gradient of gradients) forget(gpu, gradient)
      place.gradient = requestOf(gradients.map((gradient) => bufferOf(gpu, gradient)))
      place.gpuDevice = gpu.device
      submit(gpu)
    }
    const result = await lossOf(layer, ids, options, place)
    if (!gpu) {
      const arrays = [result.gradHidden?.data, result.gradWeight?.data, result.gradBias] as Float32Array[]
      gradients = head.inputs.map(({ shape }, i) => tf.tensor(arrays[i]!, shape))
    }
    return { loss: result.loss, metrics: withoutGradients(result), grads: pullBack(gradients) }
  } finally {
    tf.dispose(gradients)
    dispose()
  }
}

/** The tensors of a layer in the order of a head. */
function tensorsOf(given: LayerTensors): tf.Tensor[] {
  const { hidden, weight, bias, ...others } = Object(given) as LayerTensors
  const [extra] = Object.keys(others)
  const all = bias === undefined ? [hidden, weight] : [hidden, weight, bias]
  if (extra !== undefined || !all.every((tensor) => tensor instanceof tf.Tensor)) {
    throw invalidType('f()', '{ hidden, weight, bias? } of tensors, at once', given)
  }
  return all
}

const namesOf = (prefix: string) => ({
  hidden: `${prefix}.hidden`,
  weight: `${prefix}.weight`,
  bias: `${prefix}.bias`,
})

/** The layer in its buffers, or copied. */
async function layerOf({ tensors, layer }: Head): Promise<Layer<LayerData>> {
  const data = new Map<tf.Tensor, LayerData>()
  for (const tensor of tensors) data.set(tensor, await dataOf(tensor))
  return layer((tensor) => data.get(tensor)!)
}

function requestOf([hidden, weight, bias]: (true | TensorData)[]): HeadGradientRequest {
  return { hidden, weight, bias }
}

function hasLayer(reference: object | undefined): reference is LayerTensors {
  const { hidden, weight } = (reference ?? {}) as Partial<LayerTensors>
  return hidden instanceof tf.Tensor || weight instanceof tf.Tensor
}
