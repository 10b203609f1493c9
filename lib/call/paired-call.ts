/**
 * A call from logits to the loss, whatever the logits come from: which tokens count, which sequences form pairs, the
 * reference, and stages 1 to 3 on them.
 */
import type { NamedArray, Watched } from '../check/arrays.js'
import { oneOf } from '../check/options.js'
import { invalidValue } from '../errors.js'
import type { ForwardStage, Job, LossStage } from '../job.js'
import type { DeviceMemory, FusedPreferenceLoss, Labels, LossOptions, TokenOptions } from '../types/index.js'
import { addTokenOutputs, copyTokenOutputs, forwardStage, type LogitsSource } from './forward-stage.js'
import { LOSS_OPTIONS, type LossPlan, lossOf } from './loss-options.js'
import { lossResult, lossStage } from './loss-stage.js'
import { type ModelNames, referenceOf, warnOfMeans, waysOf } from './reference.js'
import { RUN_OPTIONS } from './run.js'
import { checkDeviceLabels, TOKEN_OPTIONS, type TokenPlan, tokensOf } from './tokens.js'

/** The names of the options that all such calls share. */
export const PAIRED_OPTIONS = [...TOKEN_OPTIONS, ...LOSS_OPTIONS, ...RUN_OPTIONS, 'reference', 'weighting'] as const

const WEIGHTINGS = ['wpo'] as const

/** Options that are looked at here. */
interface PairedOptions extends TokenOptions, LossOptions {
  reference?: object
  weighting?: 'wpo'
}

/** How a reference may be given other than as log-probs. */
export interface ReferenceModel {
  names: ModelNames
  /** The caller's arrays in it, once it has been checked. */
  arrays: NamedArray[]
  /** Checks it. */
  sourceOf(reference: Record<string, unknown>, name: string, watched: Watched[]): LogitsSource
}

/** Stages 1 to 3 of a call that has been checked, and what they will fill. */
export interface PairedCall {
  tokenPlan: TokenPlan
  policy: ForwardStage
  loss: LossStage
  job: Job
  /** A loss makes use of log-probs that were given for the reference. */
  compares: boolean
}

/** Checks such a call; arrays in use meanwhile are added to `watched`. */
export function pairedCall(
  source: LogitsSource,
  labels: Labels | DeviceMemory,
  options: PairedOptions,
  model: ReferenceModel,
  watched: Watched[],
): PairedCall {
  const lossPlan = lossOf(options)
  const weighting =
    options.weighting === undefined ? undefined : oneOf(options.weighting, 'options.weighting', WEIGHTINGS, 'wpo')
  const tokenPlan = tokensOf(labels, source.rows, options, true, source.range)
  const { tokens } = tokenPlan
  if (!lossPlan.hasLikelihood) delete tokens.plainWeights
  const pairs = tokenPlan.pairs!
  const size = pairs.length / 2
  const sequences = tokens.counts.length

  const policy = forwardStage(source, sequences)
  addTokenOutputs(policy, options.outputs)
  const job: Job = { tokens, policy }
  const loss = addReference(job, options.reference, lossPlan, pairs, model, watched)
  loss.pairs = pairs
  if (lossPlan.usesLengths) {
    loss.chosenLengths = new Float64Array(size)
    loss.rejectedLengths = new Float64Array(size)
    for (let i = 0; i < size; i++) {
      loss.chosenLengths[i] = tokens.counts[pairs[2 * i]]
      loss.rejectedLengths[i] = tokens.counts[pairs[2 * i + 1]]
    }
  }
  if (weighting === 'wpo') {
    policy.logWeights = new Float64Array(sequences)
    loss.pairWeights = new Float64Array(size)
  }
  job.loss = loss
  const compares = lossPlan.needsReference !== undefined && job.reference === undefined
  return { tokenPlan, policy, loss, job, compares }
}

/** What a call that has run gives to the caller, but for gradients. */
export function pairedResult({ tokenPlan, policy, loss, compares }: PairedCall): FusedPreferenceLoss {
  checkDeviceLabels(tokenPlan, policy.logits.vocab)
  if (compares) {
    const { counts } = tokenPlan.tokens
    warnOfMeans(loss, 'options.reference', (side, pair) => counts[loss.pairs![2 * pair + side]])
  }
  const fused = lossResult(loss) as FusedPreferenceLoss
  fused.chosenLogProbs = loss.chosen
  fused.rejectedLogProbs = loss.rejected
  fused.tokenCounts = tokenPlan.tokens.counts
  fused.layout = { pairs: tokenPlan.pairs!, shift: tokenPlan.shift }
  if (tokenPlan.packed) fused.layout.sequenceOffsets = tokenPlan.tokens.offsets
  copyTokenOutputs(policy, tokenPlan, fused)
  return fused
}

/** The loss stage with the reference's log-probs, or with zeros and a forward stage in the job that will fill them. */
function addReference(
  job: Job,
  given: object | undefined,
  { config, referenceFree, needsReference }: LossPlan,
  pairs: Int32Array,
  model: ReferenceModel,
  watched: Watched[],
): LossStage {
  const name = 'options.reference'
  const size = pairs.length / 2
  const needed = needsReference !== undefined
  if (given === undefined) {
    if (!needed) return lossStage(config, size)
    const problem = `is needed by lossType '${needsReference}' (unless referenceFree): ${waysOf(model.names)}`
    throw invalidValue(name, problem)
  }
  const { parts, arrays, logProbs } = referenceOf(given, name, model.names, pairs, job.tokens!, needed)
  model.arrays.push(...arrays)
  if (logProbs !== undefined) {
    if (referenceFree) return lossStage(config, size)
    return lossStage(config, size, undefined, undefined, logProbs[0], logProbs[1])
  }
  const used: Watched[] = []
  const source = model.sourceOf(parts, name, used)
  if (!referenceFree) {
    job.reference = forwardStage(source, job.tokens!.counts.length)
    watched.push(...used)
  }
  return lossStage(config, size)
}
