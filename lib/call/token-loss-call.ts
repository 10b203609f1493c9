/**
 * A call from logits to a loss of single tokens, whatever the logits come from: which tokens count, and stages 1 to 3 on
 * them.
 */
import { numbers } from '../check/arrays.js'
import { outOfRange } from '../errors.js'
import type { Job, TokenLossStage, Tokens } from '../job.js'
import { TOKEN_LOSS_OPTIONS, type TokenLossOptions, tokenLossOptions } from '../options/token-loss-options.js'
import { TOKEN_OPTIONS, type TokenOptions, tokenOptions } from '../options/token-options.js'
import type { DeviceData, Labels, ShardOptions, TokenNormalizer } from '../types/index.js'
import type { LossCall } from './loss-call.js'
import { RUN_OPTIONS } from './run.js'
import { forwardStage } from './stages.js'
import type { LogitsSource } from './tensor.js'
import { type TokenPlan, tokensOf } from './tokens.js'

/** The token options that are about sums over sequences. */
const OF_SEQUENCES: ReadonlySet<string> = new Set(['averageLogProb', 'emptySequence', 'ldAlpha', 'pairs'])

/** The names of the options that all such calls share. */
export const SINGLE_TOKEN_OPTIONS = [
  ...TOKEN_OPTIONS.filter((name) => !OF_SEQUENCES.has(name)),
  ...TOKEN_LOSS_OPTIONS,
  ...RUN_OPTIONS,
] as const

/** Stages 1 to 3 of a call that has been checked, and what they will fill. */
export interface TokenLossCall extends LossCall {
  tokenPlan: TokenPlan
  loss: TokenLossStage
  job: Job & { tokens: Tokens }
}

/** Checks such a call. */
export function tokenLossCall(
  source: LogitsSource,
  labels: Labels | DeviceData,
  options: TokenOptions & TokenLossOptions & ShardOptions,
): TokenLossCall {
  const { batch, time } = source.rows
  const labelSmoothing = tokenLossOptions.labelSmoothing.read(options.labelSmoothing)
  const zLoss = tokenLossOptions.zLoss.read(options.zLoss)
  const dft = tokenLossOptions.dft.read(options.dft)
  const normalizer = tokenLossOptions.normalizer.read(options.normalizer)
  const gradientScale = tokenLossOptions.gradientScale.read(options.gradientScale)
  const tokenPlan = tokensOf(labels, source.rows, options, false, source.range)
  const classWeights = classWeightsOf(options.classWeights, tokenPlan.vocab, labelSmoothing !== 0)
  const outputs = tokenOptions.outputs.read(options.outputs)
  const { tokens } = tokenPlan
  const divisor = divisorOf(normalizer, tokens, classWeights)
  const policy = forwardStage(source, tokens.counts.length, outputs)
  const loss: TokenLossStage = {
    labelSmoothing,
    zLoss,
    dft,
    divisor,
    gradientScale,
    losses: new Float64Array(batch * time),
    summary: new Float64Array(1),
  }
  if (classWeights instanceof Float32Array) {
    loss.classWeights = classWeights
    loss.meanClassWeight = meanOf(classWeights)
  } else if (classWeights && tokens.labels) loss.weightsOfLabels = classWeights
  else if (classWeights) weighByClass(tokens, classWeights)
  return {
    tokenPlan,
    policy,
    loss,
    ownForm: labelSmoothing !== 0 ? 'labelSmoothing' : zLoss !== 0 ? 'zLoss' : undefined,
    job: { tokens, policy, tokenLoss: loss },
    arrays: () => [...tokenPlan.arrays(), ['options.classWeights', options.classWeights]],
    watched: [],
  }
}

/** Float32 where all classes have a part in the loss of each token. */
function classWeightsOf(value: unknown, vocab: number, smooths: boolean): Float64Array | Float32Array | undefined {
  if (value === undefined) return undefined
  const name = 'options.classWeights'
  const weights = numbers(value, name, vocab, ', one per token of the vocabulary')
  for (const [v, weight] of weights.entries()) {
    if (!(weight >= 0 && weight < Number.POSITIVE_INFINITY)) {
      throw outOfRange(`${name}[${v}]`, 'a finite number >= 0', weight)
    }
  }
  if (!smooths) return weights
  const rounded = Float32Array.from(weights)
  const infinite = rounded.indexOf(Number.POSITIVE_INFINITY)
  if (infinite >= 0) throw outOfRange(`${name}[${infinite}]`, 'a number that float32 holds', weights[infinite])
  return rounded
}

function meanOf(values: Float32Array): number {
  let sum = 0
  for (const value of values) sum += value
  return sum / values.length
}

/** What the sum over tokens is divided by. */
function divisorOf(
  normalizer: TokenNormalizer,
  { targets, counts, labels }: Tokens,
  classWeights: Float64Array | Float32Array | undefined,
): number {
  if (normalizer === 'sum') return 1
  if (typeof normalizer === 'number') return normalizer
  if (normalizer !== 'mean') return normalizer.tokens
  if (labels) return 0 // the backend's to find
  let total = 0
  if (classWeights) {
    for (const target of targets) if (target >= 0) total += classWeights[target]
  } else {
    for (const count of counts) total += count
  }
  // Nothing counts, and the sum is 0.
  return total === 0 ? 1 : total
}

/** Multiplies the weights of the tokens by those of their labels. */
function weighByClass(tokens: Tokens, classWeights: Float64Array): void {
  const { targets } = tokens
  const weights = tokens.weights ?? new Float64Array(targets.length).fill(1)
  for (let row = 0; row < targets.length; row++) if (targets[row] >= 0) weights[row] *= classWeights[targets[row]]
  tokens.weights = weights
}
