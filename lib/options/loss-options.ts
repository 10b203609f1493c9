/**
 * The loss options: each is declared here and nowhere else.
 */
import {
  FINITE,
  NOT_NEGATIVE,
  optionsObject,
  POSITIVE,
  positive as positiveNumber,
  unknownName,
} from '../check/options.js'
import { invalidType } from '../errors.js'
import type { FDivergence, LossType, Normalizer, PerEach, SftNormalization, WeightedLoss } from '../types/index.js'
import {
  checkedLater,
  finite,
  flag,
  type Given,
  namesOf,
  notNegative,
  oneOf,
  option,
  optionTable,
  perEach,
  positive,
  takenBy,
} from './option.js'

/** The losses of a difference from which an offset is taken. */
const WITH_OFFSET: readonly LossType[] = [
  ...['sigmoid', 'robust', 'hinge', 'exo_pair', 'aot', 'aot_unpaired', 'discopop', 'sigmoid_norm'],
  ...['dpop', 'simpo', 'cpo'],
] as LossType[]

/** The declarations. Letters in shapes: P pairs. */
export const lossOptions = optionTable({
  /** A loss, 'sigmoid' being DPO, or a list whose weighted losses are summed (rewards are then those of the first). Defaults to 'sigmoid'. */
  lossType: checkedLater<LossType | readonly WeightedLoss[]>(),
  /** Strength of the pull towards the reference, > 0; of all pairs or, `[P]`, of each. Defaults to 0.1. */
  beta: perEach(POSITIVE, 0.1),
  /**
   * Probability ε that a preference is flipped, of all pairs or, `[P]`, of each; of 'sigmoid', 'robust', 'exo_pair', 'aot',
   * 'aot_unpaired', 'simpo' and 'cpo'. Defaults to 0 (to 1e-3 for 'exo_pair').
   */
  labelSmoothing: takenBy(
    ['sigmoid', 'robust', 'exo_pair', 'aot', 'aot_unpaired', 'simpo', 'cpo'],
    option<PerEach>(0, (value) => value as PerEach), // its range, and its default, depend on the loss
  ),
  /**
   * What a loss of the difference z of two rewards takes from it: z - offset stands in the place of z. As a margin that the
   * chosen reward has to keep it is positive (ODPO, Amini et al. 2024). Of all pairs or, `[P]`, of each. Not in the rewards
   * of the result. Defaults to 0.
   */
  offset: takenBy(WITH_OFFSET, perEach(FINITE, 0)),
  /**
   * Factor >= 0 of the losses of all pairs or, `[P]`, of each; treated as a constant. A pair of factor 0 takes no part.
   * Defaults to 1.
   */
  pairWeights: perEach(NOT_NEGATIVE, 1),
  /** Target margin γ of 'simpo'. Defaults to 0.5. */
  gamma: takenBy(['simpo'], finite(0.5)),
  /** δ of 'bco_pair': the running mean of the rewards. Defaults to 0. */
  rewardShift: takenBy(['bco_pair'], finite(0)),
  /**
   * The difference of the true rewards, scaled as βΔ is, that 'rpo_sq', 'rpo_bwd_kl' and 'rpo_fwd_kl' need: of all pairs or,
   * `[P]`, of each.
   */
  targetMargin: takenBy(['rpo_sq', 'rpo_bwd_kl', 'rpo_fwd_kl'], perEach(FINITE, undefined)),
  /** λ ≥ 0 of 'dpop': weight of the penalty for a chosen sequence that has become less likely. Defaults to 50. */
  dpopLambda: takenBy(['dpop'], notNegative(50)),
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
  /**
   * α of AlphaPO (Gupta et al. 2025): (1 - p^-α) / α in the place of a log-prob log p; of 'simpo', 'cpo' and, with
   * `referenceFree`, of 'hinge', 'ipo' and 'ipo_norm'. Defaults to 0, at which it is log p.
   */
  rewardAlpha: takenBy(['hinge', 'ipo', 'ipo_norm', 'simpo', 'cpo'], finite(0)),
  /**
   * What 'sft' is a mean of: the batch's tokens; or, over pairs, each chosen sequence's mean over its tokens ('sequences') or
   * its sum ('sum'). Defaults to 'tokens'.
   */
  sftNormalization: takenBy(['sft'], oneOf<SftNormalization>(['tokens', 'sequences', 'sum'], 'tokens')),
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
