/**
 * Results of single rows as shaders leave them, into the arrays of a job.
 */
import type { ForwardStage } from '../../job.js'

/** Words of a `TokenState` and a `RowResults`. */
const STATE = 5
const RESULTS = 8

export const STATE_BYTES = 4 * STATE

/** Those of the first rows in an array that a job keeps for another. */
export function wordsOfStates({ buffer, byteOffset }: Float64Array, rows: number): Float32Array {
  return new Float32Array(buffer, byteOffset, STATE * rows)
}

/** Whether a stage asks for more of single rows than log-probs. */
export function asksForResults(stage: ForwardStage): boolean {
  const { entropies, tokenEntropies, tokenArgmax, logSumExp, sumSquaredProbs, tokenMeanLogits } = stage
  const asked = [entropies, tokenEntropies, tokenArgmax, logSumExp, sumSquaredProbs, tokenMeanLogits]
  return asked.some((array) => array !== undefined)
}

/** Takes the log-probs of active rows from states. */
export function takeLogProbs(bytes: ArrayBuffer, { tokenLogProbs }: ForwardStage, targets: Int32Array): void {
  const states = new Float32Array(bytes)
  for (let row = 0; row < targets.length; row++) if (targets[row] >= 0) tokenLogProbs![row] = states[STATE * row]
}

/** Takes the other results of active rows. */
export function takeResults(bytes: ArrayBuffer, stage: ForwardStage, targets: Int32Array): void {
  const values = new Float32Array(bytes)
  const places = new Int32Array(bytes)
  for (let row = 0; row < targets.length; row++) {
    if (targets[row] < 0) continue
    const at = RESULTS * row
    if (stage.entropies) stage.entropies[row] = values[at] + values[at + 1]
    if (stage.tokenEntropies) stage.tokenEntropies[row] = values[at]
    if (stage.logSumExp) stage.logSumExp[row] = values[at + 2]
    if (stage.tokenMeanLogits) stage.tokenMeanLogits[row] = values[at + 4]
    if (stage.sumSquaredProbs) stage.sumSquaredProbs[row] = values[at + 6]
    if (stage.tokenArgmax) stage.tokenArgmax[row] = places[at + 7]
  }
}
