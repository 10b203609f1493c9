/**
 * A call from logits to the loss, for logits of any origin: which tokens count, which sequences form pairs, the
 * reference, and stages 1 to 3 on them.
 */
import type { DeviceRange } from '../backends/device-memory.js'
import type { NamedArray } from '../check/arrays.js'
import { oneOf } from '../check/options.js'
import { invalidValue } from '../errors.js'
import type { GivenOnDevice, Job, LossStage } from '../job.js'
import { LOSS_OPTIONS, type LossOptions } from '../options/loss-options.js'
import { TOKEN_OPTIONS, type TokenOptions, tokenOptions } from '../options/token-options.js'
import type { DeviceData, Labels, ShardOptions } from '../types/index.js'
import type { LossCall } from './loss-call.js'
import { type LossPlan, lossOf } from './losses.js'
import { addPairConstants, pairArrays } from './per-each.js'
import { type ModelNames, referenceOf, waysOf } from './reference.js'
import { RUN_OPTIONS } from './run.js'
import { forwardStage, lossStage } from './stages.js'
import type { LogitsSource } from './tensor.js'
import { type TokenPlan, tokensOf } from './tokens.js'

/** The names of the options that all such calls share. */
export const PAIRED_OPTIONS = [...TOKEN_OPTIONS, ...LOSS_OPTIONS, ...RUN_OPTIONS, 'reference', 'weighting'] as const

const WEIGHTINGS = ['wpo'] as const
const REFERENCE = 'options.reference'

/** Options that are read here. */
interface PairedOptions extends TokenOptions, LossOptions, ShardOptions {
  reference?: object
  weighting?: 'wpo'
  gpuDevice?: unknown
}

/** How a reference may be given other than as log-probs. */
export interface ReferenceModel {
  names: ModelNames
  /** Checks it against the source of the policy's logits. */
  sourceOf(
    reference: Record<string, unknown>,
    name: string,
    policy: LogitsSource,
    packed: boolean,
    gpuDevice: unknown,
  ): LogitsSource
}

/** Stages 1 to 3 of a call that has been checked, and what they will fill. */
export interface PairedCall extends LossCall {
  tokenPlan: TokenPlan
  loss: LossStage
  /** A loss makes use of log-probs that were given for the reference. */
  compares: boolean
}

/** Checks such a call. */
export function pairedCall(
  source: LogitsSource,
  labels: Labels | DeviceData,
  options: PairedOptions,
  model: ReferenceModel,
): PairedCall {
  const lossPlan = lossOf(options)
  const weighting =
    options.weighting === undefined ? undefined : oneOf(options.weighting, 'options.weighting', WEIGHTINGS, 'wpo')
  const tokenPlan = tokensOf(labels, source.rows, options, true, source.range)
  const outputs = tokenOptions.outputs.read(options.outputs)
  const { tokens } = tokenPlan
  if (!lossPlan.hasLikelihood) delete tokens.plainWeights
  const reference = referenceGiven(options.reference, lossPlan, tokenPlan, model.names, source.range)
  const { parts, logProbs, given } = reference
  const other = parts && model.sourceOf(parts, REFERENCE, source, tokenPlan.packed, options.gpuDevice)
  const compared = lossPlan.referenceFree ? undefined : other
  const pairs = tokenPlan.pairs!
  const size = pairs.length / 2
  const sequences = tokens.counts.length

  const policy = forwardStage(source, sequences, outputs)
  const loss = lossStage(lossPlan.config, size, undefined, undefined, logProbs?.[0], logProbs?.[1])
  loss.pairs = pairs
  addPairConstants(loss, options)
  if (lossPlan.usesLengths) {
    loss.chosenTokenCounts = new Float64Array(size)
    loss.rejectedTokenCounts = new Float64Array(size)
    for (let i = 0; i < size; i++) {
      loss.chosenTokenCounts[i] = tokens.counts[pairs[2 * i]]
      loss.rejectedTokenCounts[i] = tokens.counts[pairs[2 * i + 1]]
    }
  }
  if (weighting === 'wpo') policy.logWeights = new Float64Array(sequences)
  const job: Job = { tokens, policy, loss }
  if (given) job.given = given
  if (compared) job.reference = forwardStage(compared, sequences)
  return {
    tokenPlan,
    policy,
    loss,
    job,
    compares: lossPlan.needsReference !== undefined && compared === undefined,
    arrays: () => [...tokenPlan.arrays(), ...pairArrays(options), ...reference.arrays, ...(other?.arrays ?? [])],
    watched: compared?.watched ?? [],
  }
}

/** The reference of a call: its log-probs, or the parts of a model; neither where the call has no reference. */
interface GivenReference {
  logProbs?: [chosen: Float64Array, rejected: Float64Array]
  given?: GivenOnDevice
  parts?: Record<string, unknown>
  arrays: readonly NamedArray[]
}

function referenceGiven(
  value: object | undefined,
  { referenceFree, needsReference }: LossPlan,
  { tokens, pairs }: TokenPlan,
  names: ModelNames,
  beside: DeviceRange | undefined,
): GivenReference {
  const needed = needsReference !== undefined
  if (value === undefined) {
    if (!needed) return { arrays: [] }
    const problem = `is needed by lossType '${needsReference}' (unless referenceFree): ${waysOf(names)}`
    throw invalidValue(REFERENCE, problem)
  }
  const { parts, arrays, logProbs, given } = referenceOf(value, REFERENCE, names, pairs!, tokens, needed, beside)
  if (logProbs === undefined) return { parts, arrays }
  return referenceFree ? { arrays } : { logProbs, given, arrays }
}
