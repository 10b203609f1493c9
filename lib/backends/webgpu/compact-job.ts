/**
 * A job on an output layer as a job on the rows that predict something: the others are not multiplied, and their logits take
 * no memory.
 */
import type { ForwardStage, HeadGradientStage, Job, TokenCoefficients, Tokens } from '../../job.js'

type Values = Float64Array | Float32Array | Int32Array

/** A job whose rows are some of those of another. */
export interface CompactJob {
  job: Job
  /** `[R']` which of the other's rows they are. */
  rows: Int32Array
  /** Brings the results of rows to those of the other job. */
  expand(): void
}

export function compactJob(given: Job & { tokens: Tokens }): CompactJob {
  const { tokens, policy, reference, tokenLoss, headGradient } = given
  const rows = Int32Array.from(tokens.targets.keys()).filter((row) => tokens.targets[row] >= 0)
  const outs: [values: Values, out: Values][] = []

  const gathered = <T extends Values | undefined>(values: T): T => {
    if (values === undefined) return values
    const some = new (values.constructor as new (length: number) => Values)(rows.length)
    for (let i = 0; i < rows.length; i++) some[i] = values[rows[i]]
    return some as T
  }
  const out = <T extends Values | undefined>(values: T): T => {
    const some = gathered(values)
    if (some !== undefined) outs.push([some, values as Values])
    return some
  }
  // What is a backend's own from job to job is of these rows alone.
  const own = (values: Float64Array | undefined, size: number) => values?.subarray(0, size * rows.length)

  const forward = (stage: ForwardStage): ForwardStage => ({
    ...stage,
    logits: { ...stage.logits, batch: 1, time: rows.length },
    states: own(stage.states, 4),
    entropies: own(stage.entropies, 1),
    tokenLogProbs: out(stage.tokenLogProbs),
    tokenEntropies: out(stage.tokenEntropies),
    tokenArgmax: out(stage.tokenArgmax),
    logSumExp: out(stage.logSumExp),
    sumSquaredProbs: out(stage.sumSquaredProbs),
    tokenMeanLogits: out(stage.tokenMeanLogits),
  })
  const coefficients = (of: TokenCoefficients): TokenCoefficients => ({
    logProb: gathered(of.logProb),
    logSumExp: gathered(of.logSumExp),
    entropy: gathered(of.entropy),
    meanLogit: gathered(of.meanLogit),
  })
  const gradient = (stage: HeadGradientStage): HeadGradientStage => ({
    ...stage,
    logits: { ...stage.logits, batch: 1, time: rows.length },
    states: own(stage.states, 4),
    entropies: own(stage.entropies, 1),
    tokenCoefficients: stage.tokenCoefficients && coefficients(stage.tokenCoefficients),
  })

  const job: Job = { ...given, tokens: compactTokens(tokens, rows, gathered) }
  if (policy) job.policy = forward(policy)
  if (reference) job.reference = forward(reference)
  if (tokenLoss) job.tokenLoss = { ...tokenLoss, losses: out(tokenLoss.losses) }
  if (headGradient) job.headGradient = gradient(headGradient)
  const expand = () => {
    for (const [values, out] of outs) for (let i = 0; i < rows.length; i++) out[rows[i]] = values[i]
  }
  return { job, rows, expand }
}

function compactTokens(
  tokens: Tokens,
  rows: Int32Array,
  gathered: <T extends Values | undefined>(values: T) => T,
): Tokens {
  const offsets = new Int32Array(tokens.offsets.length)
  let before = 0
  for (let s = 0; s < offsets.length; s++) {
    while (before < rows.length && rows[before] < tokens.offsets[s]) before++
    offsets[s] = before
  }
  return {
    ...tokens,
    targets: gathered(tokens.targets),
    weights: gathered(tokens.weights),
    plainWeights: gathered(tokens.plainWeights),
    offsets,
  }
}
