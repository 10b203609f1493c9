/**
 * The loss options: each is declared here and nowhere else.
 */
import { optionsObject, positive as positiveNumber, unknownName } from '../check/options.js'
import { invalidType } from '../errors.js'
import type { FDivergence, LossType, Normalizer, WeightedLoss } from '../types/index.js'
import {
  checkedLater,
  finite,
  flag,
  type Given,
  namesOf,
  oneOf,
  option,
  optionTable,
  positive,
  takenBy,
} from './option.js'

/** The declarations. */
export const lossOptions = optionTable({
  /** A loss, 'sigmoid' being DPO, or a list whose weighted losses are summed (rewards are then those of the first). Defaults to 'sigmoid'. */
  lossType: checkedLater<LossType | readonly WeightedLoss[]>(),
  /** Strength of the pull towards the reference, > 0. Defaults to 0.1. */
  beta: positive(0.1),
  /**
   * Probability ε that a preference is flipped; of 'sigmoid', 'robust', 'exo_pair', 'aot', 'aot_unpaired', 'simpo' and
   * 'cpo'. Defaults to 0 (to 1e-3 for 'exo_pair').
   */
  labelSmoothing: takenBy(
    ['sigmoid', 'robust', 'exo_pair', 'aot', 'aot_unpaired', 'simpo', 'cpo'],
    option<number>(0, (value) => value as number), // its range, and its default, depend on the loss
  ),
  /** Target margin γ of 'simpo'. Defaults to 0.5. */
  gamma: takenBy(['simpo'], finite(0.5)),
  /** δ of 'bco_pair': the running mean of the rewards. Defaults to 0. */
  rewardShift: takenBy(['bco_pair'], finite(0)),
  /** Temperature τ of 'discopop'. Defaults to 0.05. */
  discopopTau: takenBy(['discopop'], positive(0.05)),
  /** Use a reference log-prob of 0, whatever reference is given. Defaults to false. */
  referenceFree: flag(false),
  /**
   * Divergence whose scores replace the log-ratios in losses of their difference. 'sigmoid_norm', 'ipo_norm', and 'ipo'
   * on means, divide the score of the whole sequence's log-ratio by its length. Defaults to 'reverse_kl'.
   */
  fDivergence: oneOf<FDivergence>(['reverse_kl', 'forward_kl', 'js', 'alpha'], 'reverse_kl'),
  /** α of the 'alpha' divergence. Defaults to 0.5. */
  alpha: finite(0.5),
  /** The log-probs are means over active tokens, not sums. Defaults to false. */
  averageLogProb: flag(false),
  /**
   * The divisor of the loss and its gradient; `accuracy` and `margin` stay means over this call's pairs. Only 'mean'
   * for 'aot' and 'aot_unpaired'. Defaults to 'mean'.
   */
  normalizer: option<Normalizer>('mean', normalizer),
  /**
   * Factor of all gradients of the result, not of the loss: what comes from above, such as a loss scale. What is divided
   * by when gradients of several batches are added up is the `normalizer`. Defaults to 1.
   */
  gradientScale: finite(1),
})

/**
 * The loss and its constants. A constant that no loss of the call takes is refused (`ERR_INVALID_ARG_VALUE`), unless it
 * has its default value.
 */
export interface LossOptions extends Given<typeof lossOptions> {}

/** The names of {@link LossOptions}. */
export const LOSS_OPTIONS = namesOf(lossOptions)

type Table = typeof lossOptions

/** A constant that not every loss takes. */
export type Constant = {
  [Name in keyof Table]: Table[Name] extends { takers: readonly LossType[] } ? Name : never
}[keyof Table]

/** The losses that take each of these constants. */
export const TAKERS = Object.fromEntries(
  Object.entries(lossOptions as Record<string, { takers?: readonly LossType[] }>).flatMap(([name, { takers }]) =>
    takers ? [[name, takers]] : [],
  ),
) as Readonly<Record<Constant, readonly LossType[]>>

const DIVISORS = new Set(['pairs', 'tokens'])

function normalizer(value: unknown, name: string): Normalizer {
  if (typeof value === 'number') return positiveNumber(value, name, 1)
  if (typeof value === 'string') {
    if (value === 'mean' || value === 'sum') return value
    throw unknownName(name, value, ['mean', 'sum'])
  }
  if (typeof value !== 'object' || value === null) {
    throw invalidType(name, "'mean', 'sum', a number > 0 or an object { pairs, tokens }", value)
  }
  const { pairs, tokens } = optionsObject(value as { pairs?: number; tokens?: number }, name, DIVISORS)
  if (pairs !== undefined) positiveNumber(pairs, `${name}.pairs`, 1)
  if (tokens !== undefined) positiveNumber(tokens, `${name}.tokens`, 1)
  return { pairs, tokens }
}
