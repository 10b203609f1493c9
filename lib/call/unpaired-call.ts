import { invalidValue } from '../errors.js'
import type { Job, UnpairedLossStage } from '../job.js'
import type { UnpairedTokenOptions } from '../options/index.js'
import { TOKEN_OPTIONS, tokenOptions } from '../options/token-options.js'
import { UNPAIRED_LOSS_OPTIONS, type UnpairedLossOptions } from '../options/unpaired-options.js'
import type { DeviceData, Labels, ShardOptions } from '../types/index.js'
import type { LossCall } from './loss-call.js'
import type { ReferenceModel } from './paired-call.js'
import { RUN_OPTIONS } from './run.js'
import { forwardStage, unpairedLossStage } from './stages.js'
import type { LogitsSource } from './tensor.js'
import { type TokenPlan, tokensOf } from './tokens.js'
import { addSequenceValues, desirableOf, unpairedArrays, unpairedLossOf } from './unpaired-losses.js'
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

const REFERENCE = 'options.reference'

/** Options that are looked at here. */
interface UnpairedOptions extends UnpairedTokenOptions, Partial<UnpairedLossOptions>, ShardOptions {
  reference?: object
  gpuDevice?: unknown
}

/** Stages 1 to 3 of a call that has been checked, and what they will fill. */
export interface UnpairedCall extends LossCall {
  tokenPlan: TokenPlan
  loss: UnpairedLossStage
}

/** Checks such a call. */
export function unpairedCall(
  source: LogitsSource,
  labels: Labels | DeviceData,
  options: UnpairedOptions,
  model: ReferenceModel,
): UnpairedCall {
  const lossPlan = unpairedLossOf(options)
  const { referenceFree } = lossPlan
  const tokenPlan = tokensOf(labels, source.rows, options, false, source.range)
  const outputs = tokenOptions.outputs.read(options.outputs)
  const { tokens } = tokenPlan
  const sequences = tokens.counts.length
  const loss = unpairedLossStage(lossPlan, desirableOf(options.desirable, sequences))
  addSequenceValues(loss, options)
  if (options.reference === undefined && !referenceFree) {
    throw invalidValue(REFERENCE, `is needed (unless referenceFree): ${unpairedWaysOf(model.names.parts)}`)
  }
  const { parts: names } = model.names
  const reference = unpairedReferenceOf(options.reference, REFERENCE, names, tokens, !referenceFree, source.range)
  const other =
    reference?.parts && model.sourceOf(reference.parts, REFERENCE, source, tokenPlan.packed, options.gpuDevice)
  const compared = referenceFree ? undefined : other

  const policy = forwardStage(source, sequences, outputs)
  const job: Job = { tokens, policy, unpairedLoss: loss }
  if (compared) job.reference = forwardStage(compared, sequences)
  else if (reference?.given && !referenceFree) job.given = { referenceLogProbs: reference.given }
  if (!compared)
    loss.referenceLogProbs = (referenceFree ? undefined : reference?.logProbs) ?? new Float64Array(sequences)
  const referenceArrays = [...(reference?.arrays ?? []), ...(other?.arrays ?? [])]
  return {
    tokenPlan,
    policy,
    loss,
    job,
    arrays: () => [...tokenPlan.arrays(), ...unpairedArrays(options), ...referenceArrays],
    watched: compared?.watched ?? [],
  }
}
