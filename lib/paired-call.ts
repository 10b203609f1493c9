/**
 * A call from logits to the loss, whatever the logits come from: which tokens count, which sequences form pairs, the
 * reference, and stages 1 to 3 on them.
 */
import { type NamedArray, numbers, type Watched } from './arrays.js'
import type { ForwardStage, Job, LossStage } from './backends/backend.js'
import { invalidType, invalidValue } from './errors.js'
import { addTokenOutputs, copyTokenOutputs, forwardStage, type LogitsSource } from './forward-stage.js'
import { LOSS_OPTIONS, type LossPlan, lossOf } from './loss-options.js'
import { lossResult, lossStage } from './loss-stage.js'
import { oneOf, optionsObject } from './options.js'
import { RUN_OPTIONS } from './run.js'
import { checkDeviceLabels, TOKEN_OPTIONS, type TokenPlan, tokensOf } from './tokens.js'
import type { DeviceMemory, FusedPreferenceLoss, Labels, LossOptions, TokenOptions } from './types.js'

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
  /** The names of what it has, and those of log-probs. */
  known: ReadonlySet<string>
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
  const loss = addReference(job, options.reference, lossPlan, size, model, watched)
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
  return { tokenPlan, policy, loss, job }
}

/** What a call that has run gives to the caller, but for gradients. */
export function pairedResult({ tokenPlan, policy, loss }: PairedCall): FusedPreferenceLoss {
  checkDeviceLabels(tokenPlan.tokens, policy.logits.vocab)
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
  size: number,
  model: ReferenceModel,
  watched: Watched[],
): LossStage {
  const name = 'options.reference'
  if (given === undefined) {
    if (needsReference === undefined) return lossStage(config, size)
    const problem = `is needed by lossType '${needsReference}' (unless referenceFree): ${waysOf(model)}`
    throw invalidValue(name, problem)
  }
  const reference = optionsObject(given as Record<string, unknown>, name, model.known)
  const { chosen, rejected } = reference
  model.arrays.push([`${name}.chosen`, chosen], [`${name}.rejected`, rejected])
  if (isLogProbs(reference)) {
    const chosenLogProbs = numbers(chosen, `${name}.chosen`, size, ', one per pair')
    const rejectedLogProbs = numbers(rejected, `${name}.rejected`, size, ', one per pair')
    if (referenceFree) return lossStage(config, size)
    return lossStage(config, size, undefined, undefined, chosenLogProbs, rejectedLogProbs)
  }
  if (chosen !== undefined || rejected !== undefined) {
    throw invalidType(name, `either ${waysOf(model)}, not both`, given)
  }
  const used: Watched[] = []
  const source = model.sourceOf(reference, name, used)
  if (!referenceFree) {
    job.reference = forwardStage(source, job.tokens!.counts.length)
    watched.push(...used)
  }
  return lossStage(config, size)
}

/** Whether a reference has nothing but log-probs. */
function isLogProbs(reference: Record<string, unknown>): boolean {
  for (const key in reference) {
    if (key !== 'chosen' && key !== 'rejected' && reference[key] !== undefined) return false
  }
  return true
}

/** The ways to give a reference. */
function waysOf({ known }: ReferenceModel): string {
  const [chosen, rejected, ...parts] = known
  return `{ ${chosen}, ${rejected} } or { ${parts.join(', ')} }`
}
