/**
 * Stages 1 and 2 as all functions of logits use them: the arrays they fill, and the per-token results made of these.
 */

import type { DeviceRange } from '../backends/cuda/memory.js'
import { unknownName } from '../check/options.js'
import { invalidType } from '../errors.js'
import type { ForwardStage, Head, Rows } from '../job.js'
import type { TokenOutput, TokenOutputs } from '../types/index.js'
import type { TokenPlan } from './tokens.js'

const TOKEN_OUTPUTS: readonly TokenOutput[] = [
  'tokenLogProbs',
  'tokenEntropies',
  'tokenArgmax',
  'logSumExp',
  'sumSquaredProbs',
]

/** What logits come from: an array of them, or a head. */
export interface LogitsSource {
  rows: Rows
  head?: Head
  /** Where device memory lies. */
  range?: DeviceRange
}

/** The stages for these logits. */
export function forwardStage({ rows, head }: LogitsSource, sequences: number): ForwardStage {
  const stage: ForwardStage = { logits: rows, logProbs: new Float64Array(sequences) }
  if (head) stage.head = head
  return stage
}

/** Keeps what a gradient that is to follow needs. */
export function keepStates(stage: ForwardStage): Float64Array {
  stage.states = new Float64Array(4 * stage.logits.batch * stage.logits.time)
  return stage.states
}

/** Adds the arrays of the per-token results in `options.outputs`. */
export function addTokenOutputs(stage: ForwardStage, outputs: unknown): void {
  if (outputs === undefined) return
  if (!Array.isArray(outputs)) throw invalidType('options.outputs', 'an array of names of per-token results', outputs)
  const rows = stage.logits.batch * stage.logits.time
  for (let i = 0; i < outputs.length; i++) {
    const name = outputs[i] as TokenOutput
    if (typeof name !== 'string') throw invalidType(`options.outputs[${i}]`, 'the name of a per-token result', name)
    if (!TOKEN_OUTPUTS.includes(name)) throw unknownName(`options.outputs[${i}]`, name, TOKEN_OUTPUTS)
    if (name === 'tokenArgmax') stage.tokenArgmax = new Int32Array(rows).fill(-1)
    else stage[name] = new Float32Array(rows)
  }
}

/** Copies the per-token results to the caller's result, `[B, T - 1]` where the last row of each sequence is none. */
export function copyTokenOutputs(stage: ForwardStage, plan: TokenPlan, result: TokenOutputs): void {
  const { batch, time } = stage.logits
  const dropLast = plan.shift && !plan.packed
  if (stage.tokenArgmax) result.tokenArgmax = dropLast ? withoutLast(stage.tokenArgmax, batch, time) : stage.tokenArgmax
  for (const name of TOKEN_OUTPUTS) {
    if (name === 'tokenArgmax') continue
    const values = stage[name]
    if (values) result[name] = dropLast ? withoutLast(values, batch, time) : values
  }
}

function withoutLast<T extends Float32Array | Int32Array>(values: T, batch: number, time: number): T {
  const kept = time - 1
  for (let b = 1; b < batch; b++) values.copyWithin(b * kept, b * time, b * time + kept)
  return values.slice(0, batch * kept) as T
}
