/**
 * Results of single tokens whose derivatives `backward` takes, as adapters hand them to a loss of the user's own.
 */
import { RUN_OPTIONS } from '../call/run.js'
import { oneOf } from '../check/options.js'
import { invalidType, invalidValue } from '../errors.js'
import type { SequenceOptions } from '../options/index.js'
import { TOKEN_OPTIONS } from '../options/token-options.js'

/** The results of a token that have a gradient. */
export const DIFFERENTIABLE = ['tokenLogProbs', 'tokenEntropies', 'logSumExp', 'tokenMeanLogits'] as const

/** Names of the results of a token that have a gradient. */
export type DifferentiableOutput = (typeof DIFFERENTIABLE)[number]

type OfSums = 'averageLogProb' | 'emptySequence' | 'ldAlpha' | 'pairs' | 'tokenWeights'
const OF_SUMS: ReadonlySet<string> = new Set<OfSums>([
  'averageLogProb',
  'emptySequence',
  'ldAlpha',
  'pairs',
  'tokenWeights',
])

/** Options of `sequenceLogProbs` that are about single tokens rather than their sums. */
export type TokenOutputOptions = Omit<SequenceOptions, OfSums | 'gpuDevice'>

/** The names of {@link TokenOutputOptions}. */
export const TOKEN_OUTPUT_OPTIONS = [...TOKEN_OPTIONS.filter((name) => !OF_SUMS.has(name)), ...RUN_OPTIONS]

/** Checks the names of the results that a loss is to have. */
export function differentiableOutputs<Name extends DifferentiableOutput>(value: readonly Name[]): readonly Name[] {
  const name = 'options.outputs'
  if (!Array.isArray(value)) throw invalidType(name, 'an array of names of per-token results', value)
  if (value.length === 0) throw invalidValue(name, `must name at least one of ${DIFFERENTIABLE.join(', ')}`)
  const names = value.map((each, i) => oneOf(each ?? null, `${name}[${i}]`, DIFFERENTIABLE, 'tokenLogProbs') as Name)
  return [...new Set(names)]
}

/** `[B, T']`, or `[tokens]` of packed sequences: the shape of `length` results of tokens whose rows have this shape. */
export function outputShape(rows: readonly number[], length: number): number[] {
  return rows.length === 3 ? [rows[0]!, length / rows[0]!] : [length]
}
