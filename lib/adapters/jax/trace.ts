/**
 * The forward pass of `apply` as it is traced, the checks of what goes in and comes out, and the count of arrays.
 */
import { Array as JaxArray, type JsTree, tree, vjp } from '@jax-js/jax'
import { failure, invalidType, shapeMismatch } from '../../errors.js'

type PullBack<Params> = ((cotangent: JaxArray) => [Params]) & { dispose(): void }

/**
 * What `read` gives, the output of `apply`, and the way back. Whatever is thrown, `params` and `batch` are used up.
 */
export function trace<Params extends JsTree<JaxArray>, Batch, Out, Options>(
  apply: (params: Params, batch: Batch) => Out,
  params: Params,
  batch: Batch,
  read: () => Options,
): [Options, Out, PullBack<Params>] {
  const given = handedOver([params, batch])
  try {
    checkAlive(params)
    const options = read()
    const traced = vjp((traced: Params) => checkOutput(apply(traced, batch)) as never, [params] as never)
    return [options, ...(traced as unknown as [Out, PullBack<Params>])]
  } catch (error) {
    // `apply` may have used up some of them.
    for (const [array, left] of given) while (array.refCount > Math.max(0, left)) array.dispose()
    throw error
  }
}

/** A tree of arrays, as `apply` has to give one; without the bias of a layer that has none. */
function checkOutput<Out>(out: Out): Out {
  if (typeof out === 'object' && out !== null && 'bias' in out && out.bias === undefined) delete out.bias
  const leaves = tree.leaves(out as never) as Partial<JaxArray>[]
  const bad = leaves.findIndex((leaf) => typeof leaf?.dispose !== 'function')
  if (bad < 0) return out
  for (const leaf of leaves) leaf?.dispose?.()
  throw invalidType('apply(params, batch)', 'an array of jax-js or a tree of arrays, at once', leaves[bad])
}

/** The arrays in a tree, each with the references to it that remain once the tree is used up. */
function handedOver(all: unknown): Map<JaxArray, number> {
  const found = new Map<JaxArray, number>()
  for (const leaf of tree.leaves(all as never) as unknown[]) {
    if (leaf instanceof JaxArray) found.set(leaf, (found.get(leaf) ?? leaf.refCount) - 1)
  }
  return found
}

export function checkFunction(apply: unknown): void {
  if (typeof apply !== 'function') throw invalidType('apply', 'a function of parameters and a batch', apply)
}

/** Refuses arrays that have fewer references than there are places where they stand. */
function checkAlive(params: JsTree<JaxArray>): void {
  for (const left of handedOver(params).values()) {
    if (left < 0) throw failure('ERR_DISPOSED', 'params: an array is disposed of or used up; pass a .ref')
  }
}

/** Shape and device of logits that are what they should be; whatever else `apply` gave is disposed of. */
export function checkLogits(logits: JaxArray): { shape: number[]; device: JaxArray['device'] } {
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
export function checkArray(array: JaxArray, name: string): { shape: number[]; device: JaxArray['device'] } {
  // A tree, or within jit, grad and vmap something without values.
  if (typeof array?.data !== 'function')
    throw invalidType(`${name} of apply(params, batch)`, 'an array of jax-js', array)
  const { shape, dtype, device } = array
  if (dtype !== 'float32') throw invalidType(name, 'float32, as by .astype(numpy.float32)', dtype)
  return { shape, device }
}

export function checkDimensions(shape: number[], name: string, last: string): void {
  if (shape.length === 2 || shape.length === 3) return
  throw shapeMismatch(name, `must be [batch, time, ${last}] or [tokens, ${last}]; got [${shape.join(', ')}]`)
}
