/**
 * Values of rows of logits, in the layout of the labels that callers pass.
 */
import type { ForwardStage } from '../job.js'
import type { TokenPlan } from './tokens.js'

/** Values of rows as callers get them: `[B, T - 1]` where the last row of each sequence is none. */
export function inLayout<T extends Float64Array | Float32Array | Int32Array>(
  values: T,
  { logits: { batch, time } }: ForwardStage,
  { shift, packed }: TokenPlan,
): T {
  if (!shift || packed) return values
  const kept = time - 1
  const found = values.slice(0, batch * kept) as T
  for (let b = 1; b < batch; b++) found.set(values.subarray(b * time, b * time + kept), b * kept)
  return found
}
