/**
 * The options of losses of single sequences: each is declared here and nowhere else. Letters in shapes: B sequences.
 */
import * as check from '../check/options.js'
import { invalidType } from '../errors.js'
import type { Flags, UnpairedLossType, UnpairedNormalizer } from '../types/index.js'
import { finite, flag, type Given, list, namesOf, notNegative, oneOf, option, optionTable, perEach } from './option.js'

/** The declarations. */
export const unpairedLossOptions = optionTable({
  /** Which loss. Defaults to 'kto'. */
  lossType: oneOf<UnpairedLossType>(['kto', 'apo_zero_unpaired', 'bco', 'regression'], 'kto'),
  /** Strength of the pull towards the reference, > 0; of all sequences or, `[B]`, of each. Defaults to 0.1. */
  beta: perEach(check.POSITIVE, 0.1),
  /** Factor of the losses of desirable sequences, >= 0. Of factor 0 they take no part, whatever they are. Defaults to 1. */
  desirableWeight: notNegative(1),
  /** The same for undesirable sequences. Defaults to 1. */
  undesirableWeight: notNegative(1),
  /** Another factor >= 0, of the losses of all sequences or, `[B]`, of each. Of factor 0 they take no part. Defaults to 1. */
  sequenceWeights: perEach(check.NOT_NEGATIVE, 1),
  /** `[B]` for 'regression', which needs them: what the reward of each sequence should be. */
  targets: list<ArrayLike<number>>(),
  /**
   * For 'kto': log-probs, under the policy, of completions that belong to other prompts, usually `[B]`. κ is their mean
   * less that of `referenceKlLogProbs`, or 0 if that is negative, and has no gradient.
   */
  klLogProbs: list<ArrayLike<number>>(),
  /** The log-probs of the same completions under the reference. Not needed with `referenceFree`. */
  referenceKlLogProbs: list<ArrayLike<number>>(),
  /** The difference of the two means, in place of the arrays: that over all processes, say. If negative, κ is 0. */
  kl: option<number, number | undefined>(undefined, (value, name) => check.finite(value, name, 0)),
  /** δ of 'bco': the running mean of the rewards (`runningRewardMean`). Defaults to 0. */
  rewardShift: finite(0),
  /** Use a reference log-prob of 0, whatever reference is given. Defaults to false. */
  referenceFree: flag(false),
  /** What the loss and its gradient are divided by; means of rewards and log-probs stay means. Defaults to 'mean'. */
  normalizer: option<UnpairedNormalizer>('mean', normalizer),
  /**
   * Factor of all gradients of the result, not of the loss: what comes from above, such as a loss scale. What is divided
   * by when gradients of several batches are added up is the `normalizer`. Defaults to 1.
   */
  gradientScale: finite(1),
})

/**
 * Which loss of single sequences, its constants, and which sequences are desirable. A constant that the loss does not take
 * is refused (`ERR_INVALID_ARG_VALUE`), unless it is the default.
 */
export interface UnpairedLossOptions extends Given<typeof unpairedLossOptions> {
  /** `[B]` true or 1 for a sequence that is desirable, false or 0 for one that is not. All may be alike. */
  desirable: Flags
}

/** The names of {@link UnpairedLossOptions}. */
export const UNPAIRED_LOSS_OPTIONS = [...namesOf(unpairedLossOptions), 'desirable'] as const

const DIVISORS = new Set(['sequences'])

function normalizer(value: unknown, name: string): UnpairedNormalizer {
  if (value === 'mean' || value === 'sum') return value
  if (typeof value === 'number') return check.positive(value, name, 1)
  if (typeof value === 'string') throw check.unknownName(name, value, ['mean', 'sum'])
  if (typeof value !== 'object' || value === null) {
    throw invalidType(name, "'mean', 'sum', a number > 0 or an object { sequences }", value)
  }
  const { sequences } = check.optionsObject(value as { sequences?: number }, name, DIVISORS)
  if (sequences === undefined) throw invalidType(`${name}.sequences`, 'a finite number > 0', sequences)
  return { sequences: check.positive(sequences, `${name}.sequences`, 1) }
}
