/**
 * Stage 4, logits gradient: coefficient · d log p / d logits for every row, 0 where nothing is predicted.
 *
 * - At the label +(1 − p), elsewhere −(1 − p) · e_j / Σe: both from the row's state (token-log-probs.ts), so nothing
 *   is summed again and nothing cancels.
 * - A row is read whole before it is written, so `out` may be the logits themselves.
 */
import type { GradientStage, Tokens } from '../../job.js'
import { clearRow, readRow, writeRow } from './rows.js'
import { rowCoefficient } from './sequence-sums.js'
import { STATE_SIZE } from './token-log-probs.js'

/** Yields after every row written. */
export function* logitsGradient(stage: GradientStage, tokens: Tokens): Generator<void, void> {
  const { logits, out, skipInactive } = stage
  const states = stage.states!
  const { targets, offsets, temperature } = tokens
  const values = new Float64Array(logits.vocab)
  const rowCount = logits.batch * logits.time
  const sequenceCount = offsets.length - 1
  let s = 0

  for (let row = 0; row < rowCount; row++) {
    while (s < sequenceCount && row >= offsets[s + 1]) s++
    if (s === sequenceCount || targets[row] < 0) {
      if (!skipInactive) clearRow(out, row)
      continue
    }
    const factor = rowCoefficient(tokens, stage, s, row) / temperature
    if (factor === 0) {
      // Even if the row holds NaN or ∞.
      clearRow(out, row)
      continue
    }
    const state = row * STATE_SIZE
    const maximum = states[state]
    const othersFactor = factor * states[state + 1]

    readRow(logits, row, values)
    // 0 − x, so that a zero gradient is 0 rather than −0; the + 0 does the same.
    for (let i = 0; i < values.length; i++) values[i] = 0 - othersFactor * Math.exp((values[i] - maximum) / temperature)
    values[targets[row]] = factor * states[state + 2] + 0
    writeRow(out, row, values)
    yield
  }
}
