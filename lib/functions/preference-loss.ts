/**
 * `preferenceLoss`: stage 3 alone, for log-probs the caller already has.
 */

import { lossOf } from '../call/losses.js'
import { addPairConstants } from '../call/per-each.js'
import { areNegative, checkLogProbs } from '../call/reference.js'
import { lossResult, warnOfMeans } from '../call/results.js'
import { type Planned, RUN_OPTIONS, run, runnerOf, runSync } from '../call/run.js'
import { lossStage } from '../call/stages.js'
import { numbers, tokenNumbers } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { invalidType, invalidValue, shapeMismatch } from '../errors.js'
import type { LossStage } from '../job.js'
import type { PreferenceOptions } from '../options/index.js'
import { LOSS_OPTIONS } from '../options/loss-options.js'
import type { PairLogProbs, PreferenceLoss } from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...LOSS_OPTIONS, ...RUN_OPTIONS])
const LOG_PROBS: ReadonlySet<string> = new Set([
  'chosen',
  'rejected',
  'referenceChosen',
  'referenceRejected',
  'chosenTokenCounts',
  'rejectedTokenCounts',
])

/**
 * The preference loss of P pairs of sequence log-probs, and its exact gradient with respect to them. Everything is
 * float64. The formulas and their papers are in docs/losses.md; the default is DPO (Rafailov et al. 2023),
 * −log σ(β ((chosen − referenceChosen) − (rejected − referenceRejected))).
 *
 * @param logProbs arrays of length P: log-probs in nats under the policy and, unless the loss is reference-free, under the
 *   reference; numbers of active tokens for the losses that divide by them.
 * @param options the loss, its constants, and where the call runs.
 * @returns the mean loss, and per pair losses, rewards and gradients of the mean loss.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA`; the reason of `options.signal`.
 */
export async function preferenceLoss(logProbs: PairLogProbs, options?: PreferenceOptions): Promise<PreferenceLoss> {
  return run(plan(logProbs, options))
}

/** {@link preferenceLoss} on the calling thread. */
export function preferenceLossSync(logProbs: PairLogProbs, options?: PreferenceOptions): PreferenceLoss {
  const planned = plan(logProbs, options)
  return runSync(planned)
}

function plan(given: PairLogProbs, givenOptions: PreferenceOptions | undefined): Planned<PreferenceLoss> {
  if (given === undefined) throw invalidType('logProbs', 'an object { chosen, rejected, … }', given)
  const logProbs = optionsObject(given, 'logProbs', LOG_PROBS)
  refuseWeighting(givenOptions)
  const options = optionsObject(givenOptions, 'options', OPTIONS)
  const { config, referenceFree, needsReference, needsLengths } = lossOf(options)

  const chosen = numbers(logProbs.chosen, 'logProbs.chosen')
  const size = chosen.length
  if (size === 0) throw shapeMismatch('logProbs.chosen', 'must have at least one element; got 0')
  const rejected = numbers(logProbs.rejected, 'logProbs.rejected', size, ', that of logProbs.chosen')
  const reference = both(logProbs, 'referenceChosen', 'referenceRejected', numbers, size)
  const lengths = both(logProbs, 'chosenTokenCounts', 'rejectedTokenCounts', tokenNumbers, size)
  if (reference && !(areNegative(reference[0]) && areNegative(reference[1]))) {
    checkReference(reference, chosen, rejected, needsReference !== undefined)
  }
  if (needsReference && !reference) {
    const problem = `and logProbs.referenceRejected are needed by lossType '${needsReference}' (unless referenceFree)`
    throw invalidValue('logProbs.referenceChosen', problem)
  }
  if (needsLengths && !lengths) {
    throw invalidValue(
      'logProbs.chosenTokenCounts',
      `and logProbs.rejectedTokenCounts are needed by lossType '${needsLengths}'`,
    )
  }
  const used = referenceFree ? undefined : reference
  const stage = lossStage(config, size, chosen, rejected, used?.[0], used?.[1])
  if (lengths) {
    stage.chosenTokenCounts = lengths[0]
    stage.rejectedTokenCounts = lengths[1]
  }
  addPairConstants(stage, options)
  return {
    job: { loss: stage },
    runner: runnerOf(options),
    watched: [],
    result: () => result(stage, needsReference !== undefined),
  }
}

/** `compares`: a loss makes use of the reference. */
function result(stage: LossStage, compares: boolean): PreferenceLoss {
  const { chosenTokenCounts, rejectedTokenCounts } = stage
  if (compares && chosenTokenCounts && rejectedTokenCounts) {
    const lengthOf = (side: 0 | 1, pair: number) => (side === 0 ? chosenTokenCounts : rejectedTokenCounts)[pair]
    warnOfMeans(stage, stage.constants.average, 'logProbs.referenceChosen', lengthOf)
  }
  return lossResult(stage)
}

// The reference may be NaN where the policy is: `emptySequence: 'nan'` makes both NaN.
function checkReference(
  [referenceChosen, referenceRejected]: [Float64Array, Float64Array],
  chosen: Float64Array,
  rejected: Float64Array,
  needed: boolean,
): void {
  checkLogProbs(
    { values: referenceChosen, nameOf: (pair) => `logProbs.referenceChosen[${pair}]` },
    { values: referenceRejected, nameOf: (pair) => `logProbs.referenceRejected[${pair}]` },
    needed,
    (side, pair) => Number.isNaN((side === 0 ? chosen : rejected)[pair]),
  )
}

function refuseWeighting(options: object | undefined): void {
  if (typeof options === 'object' && options !== null && 'weighting' in options) {
    const problem = 'needs the logits: use fusedPreferenceLoss, or pass pairWeights'
    throw invalidValue('options.weighting', problem)
  }
}

/** The two arrays, or undefined when neither was given. */
function both(
  logProbs: PairLogProbs,
  first: 'referenceChosen' | 'chosenTokenCounts',
  second: 'referenceRejected' | 'rejectedTokenCounts',
  copy: typeof tokenNumbers,
  size: number,
): [Float64Array, Float64Array] | undefined {
  const { [first]: one, [second]: other } = logProbs
  if (one === undefined && other === undefined) return undefined
  const sizes = ', that of logProbs.chosen'
  return [copy(one, `logProbs.${first}`, size, sizes), copy(other, `logProbs.${second}`, size, sizes)]
}
