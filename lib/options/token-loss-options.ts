/**
 * The options of the cross-entropy: each is declared here and nowhere else.
 */
import { optionsObject, positive, unknownName } from '../check/options.js'
import { invalidType } from '../errors.js'
import type { TokenNormalizer } from '../types/index.js'
import { between, finite, flag, type Given, list, namesOf, notNegative, option, optionTable } from './option.js'

/** The declarations. */
export const tokenLossOptions = optionTable({
  /**
   * ε in [0, 1]: the label has the target probability 1 - ε + ε / V and every other token ε / V (Szegedy et al. 2016), as
   * PyTorch's `label_smoothing`. A logit of -∞ then makes the loss +∞. Defaults to 0.
   */
  labelSmoothing: between(0, 1, 0),
  /** λ ≥ 0: adds λ · (log Σ exp(logits / temperature))² to each token's loss (Chowdhery et al. 2022). Defaults to 0. */
  zLoss: notNegative(0),
  /**
   * Multiply each token's cross-entropy, not its z-loss, by the label's probability, treated as a constant: DFT (Wu et al.
   * 2025). Defaults to false.
   */
  dft: flag(false),
  /**
   * `[V]` numbers ≥ 0: factor of the loss of each token with that label; the mean is then divided by the sum of these
   * factors over the active tokens, as PyTorch's `weight`. With `labelSmoothing` the other tokens have their own factors:
   * (1 - ε) · w_label · -log p(label) + (ε / V) · Σ w_j · -log p_j, each w rounded to float32. Defaults to 1.
   */
  classWeights: list<ArrayLike<number>>(),
  /** What the loss and its gradient are divided by. Defaults to 'mean'. */
  normalizer: option<TokenNormalizer>('mean', normalizer),
  /**
   * Factor of all gradients of the result, not of the loss: what comes from above, such as a loss scale. What is divided
   * by when gradients of several batches are added up is the `normalizer`. Defaults to 1.
   */
  gradientScale: finite(1),
})

/** What the loss of a token is, and what their sum is divided by. */
export interface TokenLossOptions extends Given<typeof tokenLossOptions> {}

/** The names of {@link TokenLossOptions}. */
export const TOKEN_LOSS_OPTIONS = namesOf(tokenLossOptions)

const DIVISORS = new Set(['tokens'])

function normalizer(value: unknown, name: string): TokenNormalizer {
  if (typeof value === 'number') return positive(value, name, 1)
  if (typeof value === 'string') {
    if (value === 'mean' || value === 'sum') return value
    throw unknownName(name, value, ['mean', 'sum'])
  }
  if (typeof value !== 'object' || value === null) {
    throw invalidType(name, "'mean', 'sum', a number > 0 or an object { tokens }", value)
  }
  const { tokens } = optionsObject(value as { tokens: number }, name, DIVISORS)
  if (tokens === undefined) throw invalidType(`${name}.tokens`, 'a finite number > 0', tokens)
  return { tokens: positive(tokens, `${name}.tokens`, 1) }
}
