/**
 * `tf.variableGrads` of a loss, as a promise: for backends whose memory only promises read, as 'webgpu'. There logits and
 * their gradient stay where they are; on other backends they are copied.
 */
import * as tf from '@tensorflow/tfjs-core'
import { PAIRED_OPTIONS } from '../../call/paired-call.js'
import { SINGLE_TOKEN_OPTIONS } from '../../call/token-loss-call.js'
import { UNPAIRED_OPTIONS } from '../../call/unpaired-call.js'
import { invalidType } from '../../errors.js'
import { crossEntropy, fusedPreferenceLoss, fusedUnpairedPreferenceLoss } from '../../index.js'
import type {
  CrossEntropy,
  FusedPreferenceLoss,
  FusedUnpairedPreferenceLoss,
  GpuBuffer,
  HeadGradients,
  Labels,
  Logits,
  RunOptions,
  TensorData,
} from '../../types/index.js'
import { optionsReader } from '../options.js'
import type { CrossEntropyOptions } from './cross-entropy.js'
import { bufferOf, forget, gpuOf, newTensor, submit } from './gpu-memory.js'
import type { FusedPreferenceLossOptions, FusedUnpairedPreferenceLossOptions } from './logits-losses.js'
import { isInPlace, OWNED } from './passes.js'
import { trace } from './tape.js'
import { alias, checkRows, idsOf, rowsShape } from './tensor-access.js'
import { withArrays } from './tensor-options.js'

/** Options of {@link fusedPreferenceLossVariableGrads}. */
export type PreferenceGradsOptions = Omit<FusedPreferenceLossOptions, 'onResult'>

/** Options of {@link fusedUnpairedPreferenceLossVariableGrads}. */
export type UnpairedPreferenceGradsOptions = Omit<FusedUnpairedPreferenceLossOptions, 'onResult'>

/** Options of {@link crossEntropyVariableGrads}. */
export type CrossEntropyGradsOptions = Omit<CrossEntropyOptions, 'onResult'>

/** What a step gives. */
export interface VariableGrads<Result> {
  /** The mean loss. */
  loss: number
  /** The loss and all else that is known of it. */
  metrics: Omit<Result, 'gradLogits' | 'rowScale' | keyof HeadGradients>
  /** d loss / d variable by the names of the variables, as `optimizer.applyGradients` takes them. The caller's to dispose of. */
  grads: tf.NamedTensorMap
}

const preferenceOptions = optionsReader([...PAIRED_OPTIONS, 'gradient'], OWNED)
const unpairedOptions = optionsReader([...UNPAIRED_OPTIONS, 'gradient'], OWNED)
const entropyOptions = optionsReader([...SINGLE_TOKEN_OPTIONS, 'gradient'], OWNED)

/**
 * The mean preference loss of a batch and its gradients with respect to variables, on every backend of TensorFlow.js.
 * The backward pass runs when the loss is there: variables must not change before the promise has settled.
 *
 * @param f gives the logits, as `fusedPreferenceLoss` takes them. It runs at once, and only once.
 * @param labels as in `fusedPreferenceLoss`. Tensors, these and those of the options, are read before the loss begins.
 * @param options those of `fusedPreferenceLoss` but `onResult`. Logits of a reference stay where they are, too.
 * @param variables those to differentiate with respect to. Defaults to all that are trainable.
 * @throws what `fusedPreferenceLoss` throws.
 *
 * @example
 * const { loss, grads } = await fusedPreferenceLossVariableGrads(() => model.apply(inputs), labels, { reference })
 * optimizer.applyGradients(grads)
 * tf.dispose(grads)
 */
export async function fusedPreferenceLossVariableGrads(
  f: () => tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: PreferenceGradsOptions,
  variables?: tf.Variable[],
): Promise<VariableGrads<FusedPreferenceLoss>> {
  const given = preferenceOptions(options)
  return gradsOf(f, labels, given, variables, (logits, ids, output, place) =>
    fusedPreferenceLoss(logits, ids, { ...withArrays(given, output, 'the logits'), ...place }),
  )
}

/**
 * The same for sequences that stand alone.
 *
 * @param f as in {@link fusedPreferenceLossVariableGrads}.
 * @param labels as in {@link fusedPreferenceLossVariableGrads}.
 * @param options those of `fusedUnpairedPreferenceLoss` but `onResult`.
 * @param variables as in {@link fusedPreferenceLossVariableGrads}.
 * @throws what `fusedUnpairedPreferenceLoss` throws.
 */
export async function fusedUnpairedPreferenceLossVariableGrads(
  f: () => tf.Tensor,
  labels: Labels | tf.Tensor,
  options: UnpairedPreferenceGradsOptions,
  variables?: tf.Variable[],
): Promise<VariableGrads<FusedUnpairedPreferenceLoss>> {
  const given = unpairedOptions(options)
  return gradsOf(f, labels, given, variables, (logits, ids, output, place) =>
    fusedUnpairedPreferenceLoss(logits, ids, { ...withArrays(given, output, 'the logits'), ...place }),
  )
}

/**
 * The mean cross-entropy of a batch of tokens and its gradients with respect to variables.
 *
 * @param f as in {@link fusedPreferenceLossVariableGrads}.
 * @param labels as in {@link fusedPreferenceLossVariableGrads}.
 * @param options those of `crossEntropy` but `onResult`.
 * @param variables as in {@link fusedPreferenceLossVariableGrads}.
 * @throws what `crossEntropy` throws.
 */
export async function crossEntropyVariableGrads(
  f: () => tf.Tensor,
  labels: Labels | tf.Tensor,
  options?: CrossEntropyGradsOptions,
  variables?: tf.Variable[],
): Promise<VariableGrads<CrossEntropy>> {
  const given = entropyOptions(options)
  return gradsOf(f, labels, given, variables, (logits, ids, output, place) =>
    crossEntropy(logits, ids, { ...withArrays(given, output, 'the logits'), ...place }),
  )
}

/** Where a call runs, where its gradient goes, and the reference's logits where they are. */
interface Place {
  gradient: true | TensorData
  gpuDevice?: RunOptions['gpuDevice']
  // biome-ignore lint/suspicious/noExplicitAny: each function checks its own
  reference?: any
}

async function gradsOf<Result extends { loss: number; gradLogits?: Logits }>(
  f: () => tf.Tensor,
  labels: Labels | tf.Tensor,
  given: { gradient?: 'in-place' | undefined; reference?: unknown },
  variables: tf.Variable[] | undefined,
  lossOf: (logits: Logits, labels: Labels, output: tf.Tensor, place: Place) => Promise<Result>,
): Promise<VariableGrads<Result>> {
  const inPlace = isInPlace(given.gradient)
  const { outputs, pullBack, dispose } = trace(f, (output) => [tensorOf(output)], variables)
  const [output] = outputs as [tf.Tensor]
  let gradient: tf.Tensor | undefined
  try {
    checkRows(output, 'f()', 'vocab')
    await readAhead({ labels, ...given, ...(given.reference as object | undefined), logits: undefined })
    const ids = idsOf(labels, output, 'the logits')
    const place: Place = { gradient: true }
    const logits = await rowsOf(output)
    const { reference } = given
    if (hasLogits(reference)) {
      checkRows(reference.logits, 'options.reference.logits', 'vocab')
      place.reference = { ...reference, logits: await rowsOf(reference.logits) }
    }
    const gpu = gpuOf(output)
    if (gpu) {
      gradient = inPlace ? alias(output) : newTensor(gpu, output.shape)
      forget(gpu, gradient)
      Object.assign(place, { gpuDevice: gpu.device, gradient: bufferOf(gpu, gradient) })
      submit(gpu)
    }
    const result = await lossOf(logits, ids, output, place)
    gradient ??= tf.tensor(result.gradLogits!.data as Float32Array, output.shape)
    delete result.gradLogits
    return { loss: result.loss, metrics: result, grads: pullBack([gradient]) }
  } finally {
    gradient?.dispose()
    dispose()
  }
}

function tensorOf(output: unknown): tf.Tensor {
  if (!(output instanceof tf.Tensor)) throw invalidType('f()', 'a tensor, at once', output)
  return output
}

async function rowsOf(tensor: tf.Tensor): Promise<Logits> {
  return { data: await dataOf(tensor), shape: rowsShape(tensor) }
}

/** The elements of a float32 tensor: the buffer that holds them, or a copy. */
export async function dataOf(tensor: tf.Tensor): Promise<GpuBuffer | Float32Array> {
  const gpu = gpuOf(tensor)
  return gpu ? bufferOf(gpu, tensor) : ((await tensor.data()) as Float32Array)
}

/** Has the values of these tensors brought to the host, where they can then be read at once. */
export async function readAhead(values: Record<string, unknown>): Promise<void> {
  const tensors = Object.values(values).filter((value): value is tf.Tensor => value instanceof tf.Tensor)
  await Promise.all(tensors.map((tensor) => tensor.isDisposed || tensor.data()))
}

function hasLogits(reference: unknown): reference is { logits: tf.Tensor } {
  return (reference as { logits?: unknown } | undefined)?.logits instanceof tf.Tensor
}
