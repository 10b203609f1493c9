/**
 * `preferenceLoss`: stage 3 alone, for log-probs the caller already has.
 */

import { isDeviceMemory } from '../backends/device-memory.js'
import { type LogProbs, logProbsOf, logProbsRange } from '../call/log-probs.js'
import { lossOf } from '../call/losses.js'
import { addPairConstants } from '../call/per-each.js'
import { areNegative, checkLogProbs } from '../call/reference.js'
import { lossResult, warnOfMeans } from '../call/results.js'
import { type Planned, RUN_OPTIONS, run, runnerOf, runSync } from '../call/run.js'
import { lossStage } from '../call/stages.js'
import { tokenNumbers } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { invalidType, invalidValue, shapeMismatch } from '../errors.js'
import type { GivenOnDevice, Job, LossStage } from '../job.js'
import type { PreferenceOptions } from '../options/index.js'
import { LOSS_OPTIONS } from '../options/loss-options.js'
import type { LogProbValues, PairLogProbs, PreferenceLoss } from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...LOSS_OPTIONS, ...RUN_OPTIONS])
const LOG_PROB_NAMES = ['chosen', 'rejected', 'referenceChosen', 'referenceRejected'] as const
const LOG_PROBS: ReadonlySet<string> = new Set([...LOG_PROB_NAMES, 'chosenTokenCounts', 'rejectedTokenCounts'])
const SIZES = ', that of logProbs.chosen'

/**
 * The preference loss of P pairs of sequence log-probs, and its exact gradient with respect to them. Everything is
 * float64. The formulas and their papers are in docs/losses.md; the default is DPO (Rafailov et al. 2023),
 * −log σ(β ((chosen − referenceChosen) − (rejected − referenceRejected))).
 *
 * @param logProbs arrays of length P: log-probs in nats under the policy and, unless the loss is reference-free, under the
 *   reference, or all of these in memory of CUDA; numbers of active tokens for the losses that divide by them.
 * @param options the loss, its constants, and where the call runs.
 * @returns the mean loss, and per pair losses, rewards and gradients of the mean loss.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA`; the reason of `options.signal`.
 */
export async function preferenceLoss(
  logProbs: PairLogProbs<LogProbValues>,
  options?: PreferenceOptions,
): Promise<PreferenceLoss> {
  return run(plan(logProbs, options))
}

/** {@link preferenceLoss} on the calling thread. */
export function preferenceLossSync(logProbs: PairLogProbs<LogProbValues>, options?: PreferenceOptions): PreferenceLoss {
  const planned = plan(logProbs, options)
  return runSync(planned)
}

/** Checks a call. */
export function plan(
  given: PairLogProbs<LogProbValues>,
  givenOptions: PreferenceOptions | undefined,
): Planned<PreferenceLoss> {
  if (given === undefined) throw invalidType('logProbs', 'an object { chosen, rejected, … }', given)
  const logProbs = optionsObject(given, 'logProbs', LOG_PROBS)
  refuseWeighting(givenOptions)
  const options = optionsObject(givenOptions, 'options', OPTIONS)
  const { config, referenceFree, needsReference, needsLengths } = lossOf(options)

  const beside = logProbsRange(logProbs.chosen, 'logProbs.chosen')
  const read = (name: keyof GivenOnDevice & keyof PairLogProbs, length?: number): LogProbs => {
    const wanted = { length, sizes: SIZES, beside, like: 'logProbs.chosen is' }
    const value = logProbs[name]
    if (beside && !isDeviceMemory(value))
      throw invalidType(`logProbs.${name}`, 'device memory, as logProbs.chosen is', value)
    return logProbsOf(value, `logProbs.${name}`, wanted)
  }
  const { values: chosen, given: givenChosen } = read('chosen')
  const size = chosen.length
  if (size === 0) throw shapeMismatch('logProbs.chosen', 'must have at least one element; got 0')
  const { values: rejected, given: givenRejected } = read('rejected', size)
  const onDevice: GivenOnDevice | undefined = givenChosen && { chosen: givenChosen, rejected: givenRejected }
  const hasReference = logProbs.referenceChosen !== undefined || logProbs.referenceRejected !== undefined
  const sides = hasReference ? [read('referenceChosen', size), read('referenceRejected', size)] : undefined
  const reference: [Float64Array, Float64Array] | undefined = sides && [sides[0].values, sides[1].values]
  const lengths = lengthsOf(logProbs, size)
  if (reference && !beside && !(areNegative(reference[0]) && areNegative(reference[1]))) {
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
  if (onDevice && sides && !referenceFree) {
    onDevice.referenceChosen = sides[0].given
    onDevice.referenceRejected = sides[1].given
  }
  if (lengths) {
    stage.chosenTokenCounts = lengths[0]
    stage.rejectedTokenCounts = lengths[1]
  }
  addPairConstants(stage, options)
  const job: Job = { loss: stage }
  if (onDevice) job.given = onDevice
  const arrays = () => LOG_PROB_NAMES.map((name) => [`logProbs.${name}`, logProbs[name]] as const)
  return {
    job,
    runner: runnerOf(options, beside, arrays),
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

/** The numbers of tokens of both sides, or undefined when neither was given. */
function lengthsOf(
  { chosenTokenCounts, rejectedTokenCounts }: PairLogProbs<LogProbValues>,
  size: number,
): [Float64Array, Float64Array] | undefined {
  if (chosenTokenCounts === undefined && rejectedTokenCounts === undefined) return undefined
  return [
    tokenNumbers(chosenTokenCounts, 'logProbs.chosenTokenCounts', size, SIZES),
    tokenNumbers(rejectedTokenCounts, 'logProbs.rejectedTokenCounts', size, SIZES),
  ]
}
