/**
 * jax-js: the loss between the two halves of a vector-Jacobian product. The model's forward pass is traced by `vjp`, the
 * logits leave jax-js, loss and gradient are computed here, and the gradient goes back in as the cotangent.
 */
import { type Array as JaxArray, type JsTree, numpy, tree, vjp } from '@jax-js/jax'
import { failure, invalidType, shapeMismatch } from '../errors.js'
import { fusedPreferenceLoss } from '../index.js'
import type { FusedOptions, FusedPreferenceLoss, Labels } from '../types.js'

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
  if (typeof apply !== 'function') throw invalidType('apply', 'a function of parameters and a batch', apply)
  return async (params, batch, labels, options) => {
    checkAlive(params)
    const [logits, pullBack] = vjp((traced: Params) => apply(traced, batch), [params] as never) as unknown as [
      JaxArray,
      ((cotangent: JaxArray) => [Params]) & { dispose(): void },
    ]
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

function checkAlive(params: JsTree<JaxArray>): void {
  for (const leaf of tree.leaves(params) as JaxArray[]) {
    if (leaf.refCount === 0) throw failure('ERR_DISPOSED', 'params: an array is disposed of or used up; pass a .ref')
  }
}

/** Shape and device of logits that are what they should be; whatever else `apply` gave is disposed of. */
function checkLogits(logits: JaxArray): { shape: number[]; device: JaxArray['device'] } {
  const { shape, dtype, device } = logits
  try {
    // A tree, or within jit, grad and vmap something without values.
    if (typeof logits.data !== 'function') throw invalidType('apply(params, batch)', 'an array of jax-js', logits)
    if (dtype !== 'float32') throw invalidType('logits', 'float32, as by .astype(numpy.float32)', dtype)
    if (shape.length < 2 || shape.length > 3) {
      throw shapeMismatch('logits', `must be [batch, time, vocab] or [tokens, vocab]; got [${shape.join(', ')}]`)
    }
    return { shape, device }
  } catch (error) {
    tree.dispose(logits)
    throw error
  }
}
