/**
 * `runningRewardMean`: what the losses of BCO are shifted by.
 */
import { numbers } from '../check/arrays.js'
import { finite, integer, optionsObject } from '../check/options.js'
import { invalidType, outOfRange } from '../errors.js'
import type { RunningMean } from '../types/index.js'

const RUNNING_MEAN: ReadonlySet<string> = new Set(['mean', 'count'])

/**
 * The mean of all rewards so far, with those of one more batch: δ of BCO (Jung et al. 2024), the `rewardShift` of 'bco'
 * and 'bco_pair'. Nothing is kept here: what it returns goes into the next call, and into checkpoints.
 *
 * @param previous what the call for the batch before has returned; undefined for the first batch.
 * @param rewards those of the batch: `rewards`, or `chosenRewards` and `rejectedRewards`.
 * @returns the mean, and how many rewards it is of.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`.
 */
export function runningRewardMean(
  previous: RunningMean | undefined,
  ...rewards: readonly ArrayLike<number>[]
): RunningMean {
  const given = optionsObject<Partial<RunningMean>>(previous, 'previous', RUNNING_MEAN)
  if (previous !== undefined && given.mean === undefined) throw invalidType('previous.mean', 'a number', given.mean)
  let mean = finite(given.mean, 'previous.mean', 0)
  let count = previous === undefined ? 0 : integer(given.count, 'previous.count', 0, Number.MAX_SAFE_INTEGER)
  for (let k = 0; k < rewards.length; k++) {
    const name = rewards.length === 1 ? 'rewards' : `rewards[${k}]`
    const batch = numbers(rewards[k], name)
    if (batch.length === 0) continue
    const bad = batch.findIndex((reward) => !Number.isFinite(reward))
    if (bad >= 0) throw outOfRange(`${name}[${bad}]`, 'a finite number', batch[bad])
    count += batch.length
    mean += batch.reduce((sum, reward) => sum + (reward - mean), 0) / count
  }
  return { mean, count }
}
