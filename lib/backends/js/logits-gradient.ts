/**
 * Stage 4, logits gradient: d loss / d logits of every row (row-gradient.ts), 0 where nothing is predicted. A row is read
 * whole before it is written, so `out` may be the logits themselves.
 */
import type { GradientStage, Tokens } from '../../job.js'
import { logProbSlope, rowGradient } from './row-gradient.js'
import { clearRow, readRow, writeRow } from './rows.js'

/** Yields after every row written. */
export function* logitsGradient(stage: GradientStage, tokens: Tokens): Generator<void, void> {
  const { logits, out, skipInactive, rowScale } = stage
  const { targets, offsets } = tokens
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
    const gradient = rowGradient(stage, tokens, s, row)
    if (rowScale) rowScale[row] = logProbSlope(stage, tokens, s, row)
    if (gradient === undefined) {
      // Even if the row holds NaN or ∞.
      clearRow(out, row)
      continue
    }
    readRow(logits, row, values)
    for (let i = 0; i < values.length; i++) values[i] = gradient(values[i], i)
    writeRow(out, row, values)
    yield
  }
}
