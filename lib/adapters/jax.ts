/**
 * jax-js: the loss between the two halves of a vector-Jacobian product. The model's forward pass is traced by `vjp`, the
 * logits leave jax-js, loss and gradient are computed here, and the gradient goes back in as the cotangent.
 */
import { type Array as JaxArray, type JsTree, numpy, tree, vjp } from '@jax-js/jax'
import { failure, invalidType, shapeMismatch } from '../errors.js'
import { fusedLinearPreferenceLoss, fusedPreferenceLoss } from '../index.js'
import { flag } from '../options.js'
import type { FusedLinearOptions, FusedOptions, FusedPreferenceLoss, Labels } from '../types.js'

/** Options of the function that {@link preferenceValueAndGrad} returns. */
export type PreferenceGradOptions = Omit<FusedOptions, 'gradient' | 'zeroInactive'>

/** What a step gives. */
export interface PreferenceValueAndGrad<Params> {
  /** Mean loss over the pairs. */
  loss: number
  /** Rewards, accuracy, margin, log-probs and all else that is known of the loss. */
  metrics: Omit<FusedPreferenceLoss, 'gradLogits'>
  /** d loss / d params, a tree like `params`. The caller's to use up or to dispose of. */
  gradParams: Params
}

/**
 * `valueAndGrad` of the preference loss of a model. As with every function of jax-js, arrays that are passed belong to
 * the callee: pass `tree.ref(params)` to use them again, and have `apply` use up what it is given.
 *
 * @param apply gives the logits, float32 `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`. It is
 *   traced, so it must not look at values; `batch` is handed through to it, whatever it is.
 * @returns a function of the parameters, a batch, its labels (`[batch, time]`, or `[tokens]`) and the options of
 *   `fusedPreferenceLoss`. It rejects with what `fusedPreferenceLoss` throws, and `ERR_DISPOSED` for parameters
 *   disposed of before; the arrays passed are used up all the same.
 *
 * @example
 * const step = preferenceValueAndGrad(apply)
 * const { loss, metrics, gradParams } = await step(tree.ref(params), inputIds, labels, { reference })
 */
export function preferenceValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxArray,
): (
  params: Params,
  batch: Batch,
  labels: Labels,
  options?: PreferenceGradOptions,
) => Promise<PreferenceValueAndGrad<Params>> {
  checkFunction(apply)
  return async (params, batch, labels, options) => {
    checkAlive(params)
    const [logits, pullBack] = trace(apply, params, batch)
    try {
      const { shape, device } = checkLogits(logits)
      // A copy, as jax-js keeps its memory to itself. It becomes the gradient; the logits are free from here on.
      const data = (await logits.data()) as Float32Array<ArrayBuffer>
      const result = await fusedPreferenceLoss({ data, shape }, labels, { ...options, gradient: 'in-place' })
      delete result.gradLogits
      const [gradParams] = pullBack(numpy.array(data, { shape, device }))
      return { loss: result.loss, metrics: result, gradParams }
    } finally {
      pullBack.dispose()
    }
  }
}

/** What goes into the output layer, and the layer: logits = hidden · weightᵀ + bias. */
export interface JaxHead {
  /** float32, `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`. */
  hidden: JaxArray
  /** float32, `[vocab, width]`, or `[width, vocab]` with `transposed`. */
  weight: JaxArray
  /** float32, `[vocab]`. Defaults to none. */
  bias?: JaxArray
}

/** Options of the function that {@link linearPreferenceValueAndGrad} returns. */
export interface LinearPreferenceGradOptions
  extends Omit<FusedLinearOptions, 'gradient' | 'zeroInactive' | 'accumulate' | 'bias'> {
  /** The weight is `[width, vocab]`, as it is multiplied with. Defaults to false. */
  transposed?: boolean
}

/**
 * `valueAndGrad` of the preference loss of a model whose output layer is left to this package: the logits are never
 * stored, and neither are they copied out of jax-js. What is said of {@link preferenceValueAndGrad} holds here too.
 *
 * @param apply gives what goes into the output layer, and the layer's parameters, which may be tied to others.
 * @returns a function of the parameters, a batch, its labels and the options of `fusedLinearPreferenceLoss`.
 *
 * @example
 * const step = linearPreferenceValueAndGrad((params, ids) => ({ hidden: trunk(tree.ref(params), ids), weight: params.table }))
 */
export function linearPreferenceValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxHead,
): (
  params: Params,
  batch: Batch,
  labels: Labels,
  options?: LinearPreferenceGradOptions,
) => Promise<PreferenceValueAndGrad<Params>> {
  checkFunction(apply)
  return async (params, batch, labels, { transposed, ...options } = {}) => {
    checkAlive(params)
    const [head, pullBack] = trace(apply, params, batch)
    const left = new Set(tree.leaves(head as never) as JaxArray[])
    try {
      const across = flag(transposed, 'options.transposed', false)
      const { hidden, weight, bias } = head
      const { shape, device } = checkArray(hidden, 'hidden')
      checkDimensions(shape, 'hidden', 'width')
      const { shape: sizes } = checkArray(weight, 'weight')
      if (sizes.length !== 2) {
        const wanted = across ? '[width, vocab]' : '[vocab, width]'
        throw shapeMismatch('weight', `must be ${wanted}; got [${sizes.join(', ')}]`)
      }
      if (bias) checkArray(bias, 'bias')
      const read = (array: JaxArray) => {
        left.delete(array)
        return array.data() as Promise<Float32Array<ArrayBuffer>>
      }
      const [rows, columns] = sizes as [number, number]
      const matrix = across
        ? { data: await read(weight), shape: [columns, rows], strides: [1, columns] }
        : { data: await read(weight), shape: [rows, columns] }
      const result = await fusedLinearPreferenceLoss({ data: await read(hidden), shape }, matrix, labels, {
        ...options,
        ...(bias && { bias: await read(bias) }),
        gradient: true,
      })
      const { gradHidden, gradWeight, gradBias, ...metrics } = result
      const cotangent = {
        hidden: numpy.array(gradHidden!.data as Float32Array<ArrayBuffer>, { shape, device }),
        weight: numpy.array(gradWeight!.data as Float32Array<ArrayBuffer>, { shape: sizes, device }),
        ...(gradBias && { bias: numpy.array(gradBias as Float32Array<ArrayBuffer>, { device }) }),
      }
      const [gradParams] = pullBack(cotangent as never)
      return { loss: metrics.loss, metrics, gradParams }
    } finally {
      for (const array of left) array.dispose?.()
      pullBack.dispose()
    }
  }
}

type PullBack<Params> = ((cotangent: JaxArray) => [Params]) & { dispose(): void }

function trace<Params, Batch, Out>(apply: (params: Params, batch: Batch) => Out, params: Params, batch: Batch) {
  return vjp((traced: Params) => apply(traced, batch) as never, [params] as never) as unknown as [Out, PullBack<Params>]
}

function checkFunction(apply: unknown): void {
  if (typeof apply !== 'function') throw invalidType('apply', 'a function of parameters and a batch', apply)
}

function checkAlive(params: JsTree<JaxArray>): void {
  for (const leaf of tree.leaves(params) as JaxArray[]) {
    if (leaf.refCount === 0) throw failure('ERR_DISPOSED', 'params: an array is disposed of or used up; pass a .ref')
  }
}

/** Shape and device of logits that are what they should be; whatever else `apply` gave is disposed of. */
function checkLogits(logits: JaxArray): { shape: number[]; device: JaxArray['device'] } {
  try {
    const checked = checkArray(logits, 'logits')
    checkDimensions(checked.shape, 'logits', 'vocab')
    return checked
  } catch (error) {
    tree.dispose(logits)
    throw error
  }
}

/** Shape and device of an array that is what it should be. */
function checkArray(array: JaxArray, name: string): { shape: number[]; device: JaxArray['device'] } {
  // A tree, or within jit, grad and vmap something without values.
  if (typeof array?.data !== 'function')
    throw invalidType(`${name} of apply(params, batch)`, 'an array of jax-js', array)
  const { shape, dtype, device } = array
  if (dtype !== 'float32') throw invalidType(name, 'float32, as by .astype(numpy.float32)', dtype)
  return { shape, device }
}

function checkDimensions(shape: number[], name: string, last: string): void {
  if (shape.length === 2 || shape.length === 3) return
  throw shapeMismatch(name, `must be [batch, time, ${last}] or [tokens, ${last}]; got [${shape.join(', ')}]`)
}
