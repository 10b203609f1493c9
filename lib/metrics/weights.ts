/**
 * How many pairs, sequences or tokens the metrics of a step are means of.
 */
import type { FusedPreferenceLoss, FusedUnpairedPreferenceLoss } from '../types/index.js'
import { sequencesOf } from './token-means.js'

/** Metrics that are means, in the order of `stepMetrics`. */
export const MEANS = [
  'loss',
  'kl',
  'rewards/chosen',
  'rewards/rejected',
  'rewards/accuracies',
  'rewards/margins',
  'logps/chosen',
  'logps/rejected',
  'logits/chosen',
  'logits/rejected',
  'entropy',
  'mean_token_accuracy',
] as const

export type Mean = (typeof MEANS)[number]

type Result = Omit<FusedPreferenceLoss, 'gradLogits'> | Omit<FusedUnpairedPreferenceLoss, 'gradLogits'>

/** What each mean has been divided by. Of unpaired sequences, 'rewards/margins' is no mean but a difference of two. */
export function weightsOf(result: Result): Record<Mean, number> {
  const tokensOf = (sequences: readonly number[]) => sequences.reduce((sum, s) => sum + result.tokenCounts[s], 0)
  const sides = [sequencesOf(result, 'chosen'), sequencesOf(result, 'rejected')] as const
  const [chosenTokens, rejectedTokens] = sides.map(tokensOf)
  const all = result.losses.length
  const [chosen, rejected] = 'meanRewards' in result ? sides.map(({ length }) => length) : [all, all]
  return {
    loss: all,
    kl: all,
    'rewards/chosen': chosen,
    'rewards/rejected': rejected,
    'rewards/accuracies': all,
    'rewards/margins': all,
    'logps/chosen': chosen,
    'logps/rejected': rejected,
    'logits/chosen': chosenTokens,
    'logits/rejected': rejectedTokens,
    entropy: result.tokenCounts.reduce((sum, count) => sum + count, 0),
    mean_token_accuracy: chosenTokens,
  }
}
