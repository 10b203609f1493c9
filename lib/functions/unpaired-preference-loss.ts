/**
 * `unpairedPreferenceLoss`: stage 3 of single sequences alone, for log-probs the caller already has.
 */
import type { CudaRange } from '../backends/cuda/addresses.js'
import { isDeviceMemory } from '../backends/device-memory.js'
import { type LogProbs, logProbsOf, logProbsRange } from '../call/log-probs.js'
import { checkSequencesLogProbs } from '../call/reference.js'
import { unpairedLossResult } from '../call/results.js'
import { type Planned, RUN_OPTIONS, run, runnerOf, runSync } from '../call/run.js'
import { unpairedLossStage } from '../call/stages.js'
import { addSequenceValues, desirableOf, unpairedLossOf } from '../call/unpaired-losses.js'
import { optionsObject } from '../check/options.js'
import { invalidType, invalidValue, shapeMismatch } from '../errors.js'
import type { Job } from '../job.js'
import type { UnpairedPreferenceOptions } from '../options/index.js'
import { UNPAIRED_LOSS_OPTIONS } from '../options/unpaired-options.js'
import type { LogProbValues, UnpairedPreferenceLoss, UnpairedSequences } from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...UNPAIRED_LOSS_OPTIONS, ...RUN_OPTIONS])
const SEQUENCES: ReadonlySet<string> = new Set(['logProbs', 'referenceLogProbs'])

/**
 * The preference loss of B sequences that stand alone, each of them desirable or not, from their log-probs, and its exact
 * gradient with respect to these. Everything is float64. The formulas and their papers are in docs/losses.md; the default
 * is KTO (Ethayarajh et al. 2024): with r = log π − log ρ, 1 − σ(β (r − κ)) of a desirable sequence and 1 − σ(β (κ − r))
 * of an undesirable one.
 *
 * @param sequences arrays of length B: log-probs in nats under the policy and, unless `referenceFree`, under the
 *   reference; or all of these in memory of CUDA.
 * @param options which sequences are desirable, the loss, its constants, and where the call runs.
 * @returns the mean loss, and per sequence losses, rewards and gradients of the mean loss.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA`; the reason of `options.signal`.
 */
export async function unpairedPreferenceLoss(
  sequences: UnpairedSequences<LogProbValues>,
  options: UnpairedPreferenceOptions,
): Promise<UnpairedPreferenceLoss> {
  return run(plan(sequences, options))
}

/** {@link unpairedPreferenceLoss} on the calling thread. */
export function unpairedPreferenceLossSync(
  sequences: UnpairedSequences<LogProbValues>,
  options: UnpairedPreferenceOptions,
): UnpairedPreferenceLoss {
  const planned = plan(sequences, options)
  return runSync(planned)
}

/** Checks a call. */
export function plan(
  given: UnpairedSequences<LogProbValues>,
  givenOptions: UnpairedPreferenceOptions,
): Planned<UnpairedPreferenceLoss> {
  if (given === undefined) throw invalidType('sequences', 'an object { logProbs, referenceLogProbs }', given)
  const sequences = optionsObject(given, 'sequences', SEQUENCES)
  const options = optionsObject(givenOptions, 'options', OPTIONS)
  const lossPlan = unpairedLossOf(options)
  const { referenceFree } = lossPlan

  const beside = logProbsRange(sequences.logProbs, 'sequences.logProbs')
  const like = 'sequences.logProbs are'
  const { values: logProbs, given: onDevice } = logProbsOf(sequences.logProbs, 'sequences.logProbs', { beside, like })
  const size = logProbs.length
  if (size === 0) throw shapeMismatch('sequences.logProbs', 'must have at least one element; got 0')
  const reference = referenceOf(sequences.referenceLogProbs, logProbs, !referenceFree, beside)
  const stage = unpairedLossStage(lossPlan, desirableOf(options.desirable, size))
  addSequenceValues(stage, options)
  stage.logProbs = logProbs
  stage.referenceLogProbs = referenceFree ? new Float64Array(size) : reference?.values
  const job: Job = { unpairedLoss: stage }
  if (onDevice) job.given = { logProbs: onDevice }
  if (reference?.given && !referenceFree) job.given = { ...job.given, referenceLogProbs: reference.given }
  const arrays = () =>
    (['logProbs', 'referenceLogProbs'] as const).map((name) => [`sequences.${name}`, sequences[name]] as const)
  return {
    job,
    runner: runnerOf(options, beside, arrays),
    watched: [],
    result: () => unpairedLossResult(stage),
  }
}

function referenceOf(
  value: unknown,
  logProbs: Float64Array,
  needed: boolean,
  beside: CudaRange | undefined,
): LogProbs | undefined {
  const name = 'sequences.referenceLogProbs'
  if (value === undefined) {
    if (needed) throw invalidValue(name, 'are needed (unless referenceFree)')
    return undefined
  }
  const like = 'sequences.logProbs are'
  if (beside && !isDeviceMemory(value)) throw invalidType(name, `device memory, as ${like}`, value)
  const found = logProbsOf(value, name, {
    length: logProbs.length,
    sizes: ', that of sequences.logProbs',
    beside,
    like,
  })
  if (found.given) return found
  const { values } = found
  // It may be NaN where the policy is: what `emptySequence: 'nan'` gives for both.
  const mayBeNaN = (s: number) => Number.isNaN(logProbs[s])
  checkSequencesLogProbs({ values, nameOf: (s) => `${name}[${s}]` }, needed, mayBeNaN)
  return found
}
