/**
 * A forward pass whose backward pass may come later: what `tf.variableGrads` does at once, in two halves with time between
 * them. TensorFlow.js has no public API for it.
 */
import * as tf from '@tensorflow/tfjs-core'
import { failure, invalidType, invalidValue } from '../../errors.js'
import { alias, unknownTape } from './tensor-access.js'

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
  outputs: tf.Tensor[]
  /** The gradients of the variables by their names, given those of the first outputs; once. */
  pullBack(gradients: readonly tf.Tensor[]): tf.NamedTensorMap
  /** Gives up the outputs and what the backward pass would have needed. */
  dispose(): void
}

/**
 * Runs the forward pass.
 *
 * @param outputsOf the tensors in what `f` gives, which it checks.
 * @param variables those to differentiate with respect to. Defaults to all that are trainable.
 */
export function trace<Given>(
  f: () => Given,
  outputsOf: (given: Given) => tf.Tensor[],
  variables: readonly tf.Variable[] | undefined,
): Traced {
  if (typeof f !== 'function') throw invalidType('f', 'a function that runs the model', f)
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
    const outputs = recorded(
      engine,
      () => outputsOf(f()),
      (found) => {
        tape = found
      },
    )
    return {
      outputs,
      pullBack(gradients) {
        const nodes = tape.splice(0)
        const rerun = () => {
          engine.state.activeTape!.push(...nodes)
          return joined(outputs.slice(0, gradients.length), gradients)
        }
        const one = tf.scalar(1)
        const { value, grads } = engine.gradients(rerun, trainable, one, true)
        tf.dispose([value, one])
        if (!grads.some((gradient) => gradient)) {
          throw invalidValue('f', 'must use at least one of the variables for what it gives')
        }
        const named = trainable.map(({ name }, i) => [name, grads[i]] as const)
        return Object.fromEntries(named.filter(([, gradient]) => gradient)) as tf.NamedTensorMap
      },
      dispose() {
        release()
        tf.dispose(outputs)
      },
    }
  } catch (error) {
    release()
    throw error
  }
}

/** The tensors that `f` gives, whose tape `found` is told whether it throws or not. */
function recorded(engine: Engine, f: () => tf.Tensor[], found: (tape: { saved?: tf.Tensor[] }[]) => void): tf.Tensor[] {
  engine.startTape()
  try {
    // Tensors of their own, on the same memory: the function may have given a variable.
    return tf.tidy(() => f().map((tensor) => tf.keep(alias(tensor))))
  } finally {
    engine.endTape()
    found(engine.state.activeTape ?? [])
    engine.state.activeTape = null
  }
}

/** A number made of these tensors, of which it has these gradients. */
function joined(tensors: tf.Tensor[], gradients: readonly tf.Tensor[]): tf.Tensor {
  return tf.customGrad(() => ({ value: tf.scalar(0), gradFunc: () => gradients.map(alias) }))(...tensors)
}
