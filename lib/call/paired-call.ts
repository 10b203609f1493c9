/**
 * A call from logits to the loss, whatever the logits come from: which tokens count, which sequences form pairs, the
 * reference, and stages 1 to 3 on them.
 */
import type { NamedArray, Watched } from '../check/arrays.js'
import { oneOf } from '../check/options.js'
import { invalidValue } from '../errors.js'
import type { ForwardStage, Job, LossStage } from '../job.js'
import { LOSS_OPTIONS, type LossOptions } from '../options/loss-options.js'
import { TOKEN_OPTIONS, type TokenOptions, tokenOptions } from '../options/token-options.js'
import type { DeviceMemory, Labels } from '../types/index.js'
import { type LossPlan, lossOf } from './losses.js'
import { type ModelNames, referenceOf, waysOf } from './reference.js'
import { RUN_OPTIONS } from './run.js'
import { forwardStage, lossStage } from './stages.js'
import type { LogitsSource } from './tensor.js'
import { type TokenPlan, tokensOf } from './tokens.js'

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
  /** Checks it against what the policy's logits come from. */
  sourceOf(reference: Record<string, unknown>, name: string, policy: LogitsSource, packed: boolean): LogitsSource
}

/** Stages 1 to 3 of a call that has been checked, and what they will fill. */
export interface PairedCall {
  tokenPlan: TokenPlan
  policy: ForwardStage
  loss: LossStage
  job: Job
  /** A loss makes use of log-probs that were given for the reference. */
  compares: boolean
  /** The caller's arrays but those of the policy; none may be overwritten by a gradient. */
  arrays: readonly NamedArray[]
  /** Those of them that the call uses where they lie. */
  watched: readonly Watched[]
}

/** Checks such a call. */
export function pairedCall(
  source: LogitsSource,
  labels: Labels | DeviceMemory,
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
  const reference = given(options.reference, lossPlan, tokenPlan, model, source)
  const pairs = tokenPlan.pairs!
  const size = pairs.length / 2
  const sequences = tokens.counts.length

  const policy = forwardStage(source, sequences, outputs)
  const loss = lossStage(lossPlan.config, size, undefined, undefined, ...(reference.logProbs ?? []))
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
  const job: Job = { tokens, policy, loss }
  if (reference.source) job.reference = forwardStage(reference.source, sequences)
  return {
    tokenPlan,
    policy,
    loss,
    job,
    compares: lossPlan.needsReference !== undefined && reference.source === undefined,
    arrays: [...tokenPlan.arrays, ...reference.arrays],
    watched: reference.source?.watched ?? [],
  }
}

/** The reference of a call: its log-probs, or what they have to be made of; neither where it has none. */
interface GivenReference {
  logProbs?: [chosen: Float64Array, rejected: Float64Array]
  source?: LogitsSource
  arrays: readonly NamedArray[]
}

function given(
  value: object | undefined,
  { referenceFree, needsReference }: LossPlan,
  { tokens, pairs, packed }: TokenPlan,
  model: ReferenceModel,
  policy: LogitsSource,
): GivenReference {
  const name = 'options.reference'
  const needed = needsReference !== undefined
  if (value === undefined) {
    if (!needed) return { arrays: [] }
    const problem = `is needed by lossType '${needsReference}' (unless referenceFree): ${waysOf(model.names)}`
    throw invalidValue(name, problem)
  }
  const { parts, arrays, logProbs } = referenceOf(value, name, model.names, pairs!, tokens, needed)
  if (logProbs !== undefined) return referenceFree ? { arrays } : { logProbs, arrays }
  const source = model.sourceOf(parts, name, policy, packed)
  const all = [...arrays, ...source.arrays]
  return referenceFree ? { arrays: all } : { source, arrays: all }
}
