/**
 * A call from logits to a loss of single sequences, whatever the logits come from: which tokens count, which sequences are
 * desirable, the reference, and stages 1 to 3 on them.
 */
import type { NamedArray, Watched } from '../check/arrays.js'
import { invalidValue } from '../errors.js'
import type { ForwardStage, Job, UnpairedLossStage } from '../job.js'
import type {
  DeviceMemory,
  FusedUnpairedPreferenceLoss,
  Labels,
  MeansByKind,
  UnpairedLossOptions,
  UnpairedPreferenceLoss,
  UnpairedTokenOptions,
} from '../types/index.js'
import { addTokenOutputs, copyTokenOutputs, forwardStage, type LogitsSource } from './forward-stage.js'
import { warnOfMeans } from './reference.js'
import { RUN_OPTIONS } from './run.js'
import { checkDeviceLabels, TOKEN_OPTIONS, type TokenPlan, tokenArrays, tokensOf } from './tokens.js'
import {
  desirableOf,
  UNPAIRED_LOSS_OPTIONS,
  unpairedArrays,
  unpairedLossOf,
  unpairedLossStage,
} from './unpaired-losses.js'
import { unpairedReferenceOf, unpairedWaysOf } from './unpaired-reference.js'

/** The names of the token options but for those about pairs. */
const UNPAIRED_TOKEN_OPTIONS = TOKEN_OPTIONS.filter((name) => name !== 'ldAlpha' && name !== 'pairs')

/** The names of the options that all such calls share. */
export const UNPAIRED_OPTIONS = [
  ...UNPAIRED_TOKEN_OPTIONS,
  ...UNPAIRED_LOSS_OPTIONS,
  ...RUN_OPTIONS,
  'reference',
] as const

/** Options that are looked at here. */
interface UnpairedOptions extends UnpairedTokenOptions, Partial<UnpairedLossOptions> {
  reference?: object
}

/** How a reference may be given other than as log-probs. */
export interface UnpairedReferenceModel {
  /** The names of its parts. */
  parts: readonly string[]
  /** Checks it, and adds its arrays to `arrays`. */
  sourceOf(reference: Record<string, unknown>, name: string, watched: Watched[], arrays: NamedArray[]): LogitsSource
}

/** Stages 1 to 3 of a call that has been checked, and what they will fill. */
export interface UnpairedCall {
  tokenPlan: TokenPlan
  policy: ForwardStage
  loss: UnpairedLossStage
  job: Job
  /** The caller's arrays but those of the policy; none may be overwritten by a gradient. */
  arrays: NamedArray[]
}

/** Checks such a call; arrays in use meanwhile are added to `watched`. */
export function unpairedCall(
  source: LogitsSource,
  labels: Labels | DeviceMemory,
  options: UnpairedOptions,
  model: UnpairedReferenceModel,
  watched: Watched[],
): UnpairedCall {
  const lossPlan = unpairedLossOf(options)
  const tokenPlan = tokensOf(labels, source.rows, options, false, source.range)
  const { tokens } = tokenPlan
  const sequences = tokens.counts.length
  const loss = unpairedLossStage(lossPlan, desirableOf(options.desirable, sequences))
  const policy = forwardStage(source, sequences)
  addTokenOutputs(policy, options.outputs)
  const job: Job = { tokens, policy, unpairedLoss: loss }
  const arrays = [...tokenArrays(labels, options), ...unpairedArrays(options)]
  const { referenceFree } = lossPlan
  const name = 'options.reference'
  if (options.reference === undefined) {
    if (!referenceFree) throw invalidValue(name, `is needed (unless referenceFree): ${unpairedWaysOf(model.parts)}`)
  } else {
    const reference = unpairedReferenceOf(options.reference, name, model.parts, tokens, !referenceFree)
    arrays.push(...reference.arrays)
    if (reference.logProbs === undefined) {
      const used: Watched[] = []
      const referenceSource = model.sourceOf(reference.parts, name, used, arrays)
      if (!referenceFree) {
        job.reference = forwardStage(referenceSource, sequences)
        watched.push(...used)
      }
    } else if (!referenceFree) loss.referenceLogProbs = reference.logProbs
  }
  if (job.reference === undefined) loss.referenceLogProbs ??= new Float64Array(sequences)
  return { tokenPlan, policy, loss, job, arrays }
}

/** What a call that has run gives to the caller, but for gradients. */
export function unpairedCallResult({ tokenPlan, policy, loss }: UnpairedCall): FusedUnpairedPreferenceLoss {
  checkDeviceLabels(tokenPlan, policy.logits.vocab)
  const { tokens, shift, packed } = tokenPlan
  const { logProbs } = policy
  if (loss.referenceLogProbs) {
    const sides = { chosen: logProbs, rejected: logProbs, average: tokens.average }
    const references = { referenceChosen: loss.referenceLogProbs, referenceRejected: loss.referenceLogProbs }
    warnOfMeans({ ...sides, ...references }, 'options.reference', (_, sequence) => tokens.counts[sequence])
  }
  const fused = unpairedLossResult(loss) as FusedUnpairedPreferenceLoss
  fused.logProbs = logProbs
  fused.tokenCounts = tokens.counts
  fused.layout = { desirable: loss.desirable, shift }
  if (packed) fused.layout.sequenceOffsets = tokens.offsets
  copyTokenOutputs(policy, tokenPlan, fused)
  return fused
}

/** What stage 3 found, as the caller gets it. */
export function unpairedLossResult({
  summary,
  losses,
  rewards,
  gradient,
  kl,
  desirable,
}: UnpairedLossStage): UnpairedPreferenceLoss {
  const [loss, desirableReward, undesirableReward, desirableLogProb, undesirableLogProb] = summary
  const has = { desirable: desirable.includes(1), undesirable: desirable.includes(0) }
  const means = (ofDesirable: number, ofUndesirable: number): MeansByKind => ({
    ...(has.desirable && { desirable: ofDesirable }),
    ...(has.undesirable && { undesirable: ofUndesirable }),
  })
  return {
    loss,
    losses,
    rewards,
    gradient,
    kl,
    meanRewards: means(desirableReward, undesirableReward),
    meanLogProbs: means(desirableLogProb, undesirableLogProb),
    ...(has.desirable && has.undesirable && { margin: desirableReward - undesirableReward }),
  }
}
