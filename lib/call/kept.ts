/**
 * The values that a result keeps for its `backward` until it is disposed of.
 */
import { disposeSymbol } from '../check/dispose-symbol.js'
import { failure } from '../errors.js'

/**
 * Gives a result its `dispose` and returns a function that returns the kept values; after `dispose` it throws
 * `ERR_DISPOSED`. `dispose` is not enumerable, as a method of a class would not be.
 */
export function keep<T extends object>(result: object, kept: T): () => T {
  let held: T | undefined = kept
  const dispose = {
    value: () => {
      held = undefined
    },
  }
  Object.defineProperties(result, { dispose, [disposeSymbol]: dispose })
  return () => {
    if (held === undefined) throw failure('ERR_DISPOSED', 'backward: the result has been disposed of')
    return held
  }
}
