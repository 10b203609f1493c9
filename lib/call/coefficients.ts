/**
 * What `backward` is given: derivatives of the caller's loss with respect to the results of the call, checked and moved to
 * the rows of the logits.
 */
import { type NamedArray, numbers } from '../check/arrays.js'
import { finite, optionsObject } from '../check/options.js'
import { invalidValue } from '../errors.js'
import type { ForwardStage, GradientStage, TokenCoefficients } from '../job.js'
import type { ResultGradients } from '../types/index.js'
import type { TokenPlan } from './tokens.js'

/** Where in a job the derivatives with respect to a per-token result stand. */
const FIELDS = {
  tokenLogProbs: 'logProb',
  logSumExp: 'logSumExp',
  tokenEntropies: 'entropy',
  tokenMeanLogits: 'meanLogit',
} as const satisfies Partial<Record<keyof ResultGradients, keyof TokenCoefficients>>

const PER_TOKEN = Object.keys(FIELDS) as (keyof typeof FIELDS)[]
const RESULTS: ReadonlySet<string> = new Set(['logProbs', ...PER_TOKEN])

/** Derivatives that have been checked. */
export interface Coefficients {
  /** What stage 4 takes of them. */
  stage: Pick<GradientStage, 'coefficients' | 'tokenCoefficients' | 'entropies'>
  /** The caller's arrays, none of which a gradient may overwrite. */
  arrays: readonly NamedArray[]
  /** The one of them that makes the gradient of a row more than a multiple of onehot − softmax. */
  ownForm?: string
}

/**
 * Checks the first argument of `backward`, a number per sequence or arrays by the names of the results they belong to, and
 * multiplies it by the option `gradientScale`.
 */
export function coefficientsOf(
  value: unknown,
  plan: TokenPlan,
  forward: ForwardStage,
  gradientScale: unknown,
): Coefficients {
  const scale = finite(gradientScale, 'options.gradientScale', 1)
  const coefficients = unscaledCoefficients(value, plan, forward)
  if (scale === 1) return coefficients
  const { stage } = coefficients
  for (const array of [stage.coefficients, ...Object.values(stage.tokenCoefficients ?? {})]) {
    for (let i = 0; i < array.length; i++) array[i] *= scale
  }
  return coefficients
}

function unscaledCoefficients(value: unknown, plan: TokenPlan, forward: ForwardStage): Coefficients {
  const name = 'gradient'
  const sequences = plan.tokens.counts.length
  const perSequence = ', one per sequence'
  if (!isNamed(value)) {
    return { stage: { coefficients: numbers(value, name, sequences, perSequence) }, arrays: [[name, value]] }
  }
  const given = optionsObject(value as ResultGradients, name, RESULTS)
  const arrays: NamedArray[] = []
  let tokenCoefficients: TokenCoefficients | undefined
  let coefficients: Float64Array | undefined
  let ownForm: string | undefined
  if (given.logProbs !== undefined) {
    arrays.push([`${name}.logProbs`, given.logProbs])
    coefficients = numbers(given.logProbs, `${name}.logProbs`, sequences, perSequence)
  }
  for (const result of PER_TOKEN) {
    const array = given[result]
    if (array === undefined) continue
    const arrayName = `${name}.${result}`
    arrays.push([arrayName, array])
    if (result === 'tokenEntropies' && forward.entropies === undefined) {
      throw invalidValue(arrayName, "needs 'tokenEntropies' among options.outputs of the call")
    }
    if (result !== 'tokenLogProbs') ownForm ??= arrayName
    tokenCoefficients ??= {}
    tokenCoefficients[FIELDS[result]] = rowsOf(array, arrayName, plan, forward)
  }
  if (arrays.length === 0) throw invalidValue(name, `has none of ${[...RESULTS].join(', ')}`)
  coefficients ??= new Float64Array(sequences)
  return { stage: { coefficients, tokenCoefficients, entropies: forward.entropies }, arrays, ownForm }
}

/** Whether a value is an object of arrays rather than one array. */
function isNamed(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !('length' in value)
}

/** `[R]` a number for each row of the logits, from an array that is laid out as the per-token results are. */
function rowsOf(value: unknown, name: string, { shift, packed }: TokenPlan, { logits }: ForwardStage): Float64Array {
  const { batch, time } = logits
  const kept = shift && !packed ? time - 1 : time
  const given = numbers(value, name, batch * kept, ', as the per-token results have')
  if (kept === time) return given
  const rows = new Float64Array(batch * time)
  for (let b = 0; b < batch; b++) rows.set(given.subarray(b * kept, (b + 1) * kept), b * time)
  return rows
}
