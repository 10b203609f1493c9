/**
 * `globalKl` and `globalRunningRewardMean`: κ of 'kto' and δ of 'bco' over the batches of all ranks, as TRL has them.
 */
import { hashOf } from '../call/agreement.js'
import { runSteps, runStepsSync, type Steps } from '../call/steps.js'
import { numbers } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { outOfRange, shapeMismatch } from '../errors.js'
import { runningRewardMean } from '../index.js'
import type { Communicator, RunningMean } from '../types/index.js'
import { agreed } from './agreed.js'

/** Log-probs of completions that belong to other prompts, as the options of the same names. */
export interface KlLogProbs {
  /** `[N]` under the policy. */
  klLogProbs: ArrayLike<number>
  /** `[N]` under the reference; left out with `referenceFree`. */
  referenceKlLogProbs?: ArrayLike<number> | undefined
}

const NAMES: ReadonlySet<string> = new Set(['klLogProbs', 'referenceKlLogProbs'])

/**
 * The `kl` of 'kto': the mean over the completions of all ranks of their log-prob under the policy less that under the
 * reference. One exchange of a few bytes.
 *
 * @param communicator the ranks, all of which call this.
 * @param logProbs of this rank; undefined where it has none.
 * @returns the mean, which the loss takes for 0 if it is negative; 0 where no rank has a completion.
 * @throws as {@link globalCounts}.
 */
export function globalKl(communicator: Communicator, logProbs: KlLogProbs | undefined): Promise<number> {
  return runSteps(klSteps(communicator, logProbs))
}

/** {@link globalKl} on the calling thread. */
export function globalKlSync(communicator: Communicator, logProbs: KlLogProbs | undefined): number {
  return runStepsSync(klSteps(communicator, logProbs))
}

function* klSteps(communicator: Communicator, logProbs: KlLogProbs | undefined): Steps<number> {
  const ranks = yield* agreed(communicator, () => ({ call: 'globalKl', numbers: differences(logProbs) }))
  const [count, sum] = ranks.reduce(([count, sum], [ofRank, part]) => [count + ofRank, sum + part])
  return count === 0 ? 0 : sum / count
}

/** Their number, and their sum. */
function differences(logProbs: KlLogProbs | undefined): [number, number] {
  if (logProbs === undefined) return [0, 0]
  const { klLogProbs, referenceKlLogProbs } = optionsObject(logProbs, 'logProbs', NAMES)
  const policy = finiteNumbers(klLogProbs, 'logProbs.klLogProbs')
  if (referenceKlLogProbs === undefined) return [policy.length, policy.reduce((sum, logProb) => sum + logProb, 0)]
  const reference = finiteNumbers(referenceKlLogProbs, 'logProbs.referenceKlLogProbs')
  if (reference.length !== policy.length) {
    const sizes = `must have length ${policy.length}, that of logProbs.klLogProbs; got ${reference.length}`
    throw shapeMismatch('logProbs.referenceKlLogProbs', sizes)
  }
  return [policy.length, policy.reduce((sum, logProb, i) => sum + (logProb - reference[i]), 0)]
}

/**
 * `runningRewardMean` over all ranks: the mean of all rewards so far, with those of one more batch of every rank. One
 * exchange of a few bytes.
 *
 * @param communicator the ranks, all of which call this.
 * @param previous what the call for the batches before has returned, the same on every rank; undefined for the first.
 * @param rewards those of this rank's batch; none where it has no batch.
 * @returns the mean, and how many rewards it is of: the same on every rank.
 * @throws as {@link globalCounts}.
 */
export function globalRunningRewardMean(
  communicator: Communicator,
  previous: RunningMean | undefined,
  ...rewards: readonly ArrayLike<number>[]
): Promise<RunningMean> {
  return runSteps(meanSteps(communicator, previous, rewards))
}

/** {@link globalRunningRewardMean} on the calling thread. */
export function globalRunningRewardMeanSync(
  communicator: Communicator,
  previous: RunningMean | undefined,
  ...rewards: readonly ArrayLike<number>[]
): RunningMean {
  return runStepsSync(meanSteps(communicator, previous, rewards))
}

function* meanSteps(
  communicator: Communicator,
  given: RunningMean | undefined,
  rewards: readonly ArrayLike<number>[],
): Steps<RunningMean> {
  let previous: RunningMean = { mean: 0, count: 0 }
  const ranks = yield* agreed(communicator, () => {
    previous = runningRewardMean(given)
    const { mean, count } = runningRewardMean(undefined, ...rewards)
    const words = new Int32Array(Float64Array.of(previous.mean, previous.count).buffer)
    return { call: 'globalRunningRewardMean', equal: { previous: hashOf(words) }, numbers: [count, mean] }
  })
  return ranks.reduce((all, [count, mean]) => {
    if (count === 0) return all
    const total = all.count + count
    return { mean: all.mean + (mean - all.mean) * (count / total), count: total }
  }, previous)
}

function finiteNumbers(value: unknown, name: string): Float64Array {
  const copy = numbers(value, name)
  const bad = copy.findIndex((element) => !Number.isFinite(element))
  if (bad >= 0) throw outOfRange(`${name}[${bad}]`, 'a finite number', copy[bad])
  return copy
}
