/**
 * A forward pass whose backward pass may come later: what `tf.variableGrads` does at once, in two halves with time between
 * them. TensorFlow.js has no public API for it.
 */
import * as tf from '@tensorflow/tfjs-core'
import { failure, invalidType, invalidValue } from '../../errors.js'
import { unknownTape } from './tensor-access.js'

/** The parts of the engine that this file uses. */
interface Engine {
  startTape(): void
  endTape(): void
  state: { gradientDepth: number; activeTape: { saved?: tf.Tensor[] }[] | null }
  gradients(
    f: () => tf.Tensor,
    xs: tf.Variable[],
    dy: tf.Tensor,
    allowNoGradients: boolean,
  ): { value: tf.Tensor; grads: (tf.Tensor | null)[] }
}

/** What a function gave, and the way back to the variables that it used. */
export interface Traced {
  output: tf.Tensor
  /** The gradients of the variables by their names, given that of the output; once. */
  pullBack(dy: tf.Tensor): tf.NamedTensorMap
  /** Gives up the output and what the backward pass would have needed. */
  dispose(): void
}

/**
 * Runs the forward pass.
 *
 * @param variables those to differentiate with respect to. Defaults to all that are trainable.
 */
export function trace(f: () => tf.Tensor, variables: readonly tf.Variable[] | undefined): Traced {
  if (typeof f !== 'function') throw invalidType('f', 'a function that gives a tensor', f)
  const all = variables ?? Object.values(tf.engine().registeredVariables)
  const trainable = all.filter((variable) => variable.trainable)
  if (trainable.length === 0) throw invalidValue('variables', 'must have at least one that is trainable')
  const engine = tf.engine() as unknown as Engine
  if (typeof engine.startTape !== 'function' || typeof engine.state?.gradientDepth !== 'number') throw unknownTape()
  if (engine.state.gradientDepth > 0) {
    throw failure('ERR_BACKEND_UNAVAILABLE', 'a gradient function cannot wait for gradients that a promise gives')
  }
  let tape: { saved?: tf.Tensor[] }[] = []
  const release = () => {
    for (const { saved = [] } of tape.splice(0)) for (const tensor of saved) tensor.dispose()
  }
  try {
    // A tensor of its own, on the same memory: the function may have given a variable.
    const output = recorded(engine, f, (found) => {
      tape = found
    })
    return {
      output,
      pullBack(dy) {
        const nodes = tape.splice(0)
        const rerun = () => {
          engine.state.activeTape!.push(...nodes)
          return output
        }
        const { grads } = engine.gradients(rerun, trainable, dy, true)
        if (!grads.some((gradient) => gradient)) {
          throw invalidValue('f', 'must use at least one of the variables for what it gives')
        }
        const named = trainable.map(({ name }, i) => [name, grads[i]] as const)
        return Object.fromEntries(named.filter(([, gradient]) => gradient)) as tf.NamedTensorMap
      },
      dispose() {
        release()
        output.dispose()
      },
    }
  } catch (error) {
    release()
    throw error
  }
}

/** The output of `f`, whose tape `found` is told whether it throws or not. */
function recorded(engine: Engine, f: () => tf.Tensor, found: (tape: { saved?: tf.Tensor[] }[]) => void): tf.Tensor {
  engine.startTape()
  try {
    return tf.tidy(() => {
      const output = f()
      if (!(output instanceof tf.Tensor)) throw invalidType('f()', 'a tensor, at once', output)
      return tf.keep(tf.reshape(output, output.shape))
    })
  } finally {
    engine.endTape()
    found(engine.state.activeTape ?? [])
    engine.state.activeTape = null
  }
}
