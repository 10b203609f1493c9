/**
 * `valueAndGrad` of a loss of the user's own, written in operations of jax-js on what is known of each token: GRPO, PPO and
 * the like. jax-js differentiates the loss, and the one sweep back over the logits is done here.
 */
import { type Array as JaxArray, type JsTree, numpy, valueAndGrad } from '@jax-js/jax'
import { invalidType, shapeMismatch } from '../../errors.js'
import { linearSequenceLogProbs, sequenceLogProbs } from '../../index.js'
import type { Labels, SequenceLogProbs, TokenOutputs } from '../../types/index.js'
import { optionsReader, type ProductsOption } from '../options.js'
import {
  type DifferentiableOutput,
  differentiableOutputs,
  outputShape,
  TOKEN_OUTPUT_OPTIONS,
  type TokenOutputOptions,
} from '../token-outputs.js'
import { type JaxHead, OF_LAYER, OF_LOGITS, ofLayer, ofLogits } from './steps.js'

/**
 * A loss of what is known of each token: arrays `[batch, time - 1]` (`[batch, time]` without `shift`, `[tokens]` with
 * `sequenceOffsets`) by their names, 0 where inactive. It is traced, and like every function of jax-js it uses up what it is
 * given; it returns a scalar.
 */
export type TokenLoss<Name extends DifferentiableOutput> = (tokens: Record<Name, JaxArray>) => JaxArray

/** Options of the function that {@link tokenLossValueAndGrad} returns. */
export interface TokenLossGradOptions<Name extends DifferentiableOutput> extends Omit<TokenOutputOptions, 'outputs'> {
  /** The per-token results that the loss is given. Defaults to `['tokenLogProbs']`. */
  outputs?: readonly Name[] | undefined
}

/** Options of the function that {@link linearTokenLossValueAndGrad} returns. */
export interface LinearTokenLossGradOptions<Name extends DifferentiableOutput>
  extends TokenLossGradOptions<Name>,
    ProductsOption {
  /** The weight is `[width, vocab]`, as it is multiplied with. Defaults to false. */
  transposed?: boolean | undefined
}

/** What a step with a loss of tokens gives. */
export interface TokenLossValueAndGrad<Params> {
  /** The value of the loss. */
  loss: number
  /** The loss, sums, token counts, and the per-token results that the loss was given. */
  metrics: { loss: number } & Pick<SequenceLogProbs, 'logProbs' | 'tokenCounts'> & TokenOutputs
  /** d loss / d params, a tree like `params`. The caller's to use up or to dispose of. */
  gradParams: Params
}

const logitsOptions = optionsReader(TOKEN_OUTPUT_OPTIONS, OF_LOGITS)
const layerOptions = optionsReader([...TOKEN_OUTPUT_OPTIONS, 'products', 'transposed'], OF_LAYER)

/**
 * `valueAndGrad` of a loss of single tokens. What is said of `fusedPreferenceLossValueAndGrad` of parameters, batch and `apply` holds
 * here too.
 *
 * @param apply gives the logits, as in `fusedPreferenceLossValueAndGrad`.
 * @returns a function of the parameters, a batch, its labels, the loss of this step, and the options of `sequenceLogProbs`
 *   that are about single tokens.
 *
 * @example
 * const step = tokenLossValueAndGrad(apply)
 * const reinforce = ({ tokenLogProbs }) => np.mean(tokenLogProbs.mul(advantages.ref)).mul(-1)
 * const { loss, gradParams } = await step(tree.ref(params), inputIds, labels, reinforce)
 */
export function tokenLossValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxArray,
): <Name extends DifferentiableOutput = 'tokenLogProbs'>(
  params: Params,
  batch: Batch,
  labels: Labels,
  loss: TokenLoss<Name>,
  options?: TokenLossGradOptions<Name>,
) => Promise<TokenLossValueAndGrad<Params>> {
  const step = ofLogits(apply, readWith(logitsOptions), async (logits, labels, { lossOf, ...options }, out) => {
    const { backward, backwardSync: _, ...result } = await sequenceLogProbs(logits, labels, options)
    const [loss, gradient] = await differentiate(lossOf, result, options.outputs, logits.shape)
    await backward(gradient, { gradient: out })
    return { ...result, loss }
  })
  return (params, batch, labels, lossOf, options) => step(params, batch, labels, { lossOf, options })
}

/**
 * {@link tokenLossValueAndGrad} of a model whose output layer is left to this package: the logits are never stored.
 *
 * @param apply as in `fusedLinearPreferenceLossValueAndGrad`.
 * @returns a function of the parameters, a batch, its labels, the loss of this step, and the options.
 */
export function linearTokenLossValueAndGrad<Params extends JsTree<JaxArray>, Batch>(
  apply: (params: Params, batch: Batch) => JaxHead,
): <Name extends DifferentiableOutput = 'tokenLogProbs'>(
  params: Params,
  batch: Batch,
  labels: Labels,
  loss: TokenLoss<Name>,
  options?: LinearTokenLossGradOptions<Name>,
) => Promise<TokenLossValueAndGrad<Params>> {
  const step = ofLayer(apply, readWith(layerOptions), async (layer, labels, { lossOf, ...options }, out) => {
    const { hidden, weight, bias } = layer
    const {
      backward,
      backwardSync: _,
      ...result
    } = await linearSequenceLogProbs(hidden, weight, labels, { ...options, bias })
    const [loss, gradient] = await differentiate(lossOf, result, options.outputs, hidden.shape)
    return { ...result, ...(await backward(gradient, { gradient: out })), loss }
  })
  return (params, batch, labels, lossOf, options) => step(params, batch, labels, { lossOf, options })
}

type AnyLoss = TokenLoss<DifferentiableOutput>
type AnyOptions = LinearTokenLossGradOptions<DifferentiableOutput>

/** Checks the loss and the options of a step. */
function readWith(read: (options: AnyOptions | undefined) => AnyOptions) {
  return (given: { lossOf: AnyLoss; options?: AnyOptions } | undefined) => {
    const { lossOf, options } = given!
    if (typeof lossOf !== 'function') throw invalidType('loss', 'a function of what is known of each token', lossOf)
    const { outputs = ['tokenLogProbs'], ...others } = read(options)
    return { ...others, outputs: differentiableOutputs(outputs), lossOf }
  }
}

/** The value of a loss, and its derivatives with respect to the results of these names. */
async function differentiate(
  lossOf: AnyLoss,
  result: TokenOutputs,
  names: readonly DifferentiableOutput[],
  rows: readonly number[],
): Promise<[number, Record<string, ArrayLike<number>>]> {
  const arrays = names.map((name) => {
    const values = result[name]!
    return [name, numpy.array(values, { shape: outputShape(rows, values.length) })] as const
  })
  try {
    const tokens = Object.fromEntries(arrays) as Record<DifferentiableOutput, JaxArray>
    const [value, gradients] = valueAndGrad((traced: typeof tokens) => checkScalar(lossOf(traced)))(tokens as never)
    const [loss] = await value.data()
    const derivatives = names.map(async (name) => [name, await (gradients as typeof tokens)[name].data()] as const)
    return [loss!, Object.fromEntries(await Promise.all(derivatives))]
  } catch (error) {
    // The loss may have used up some of them.
    for (const [, array] of arrays) while (array.refCount > 0) array.dispose()
    throw error
  }
}

function checkScalar(value: JaxArray): JaxArray {
  if (typeof value?.dispose !== 'function')
    throw invalidType('loss(tokens)', 'a scalar array of jax-js, at once', value)
  const { shape } = value
  if (shape.length === 0) return value
  value.dispose()
  throw shapeMismatch('loss(tokens)', `must be a scalar; got [${shape.join(', ')}]`)
}
