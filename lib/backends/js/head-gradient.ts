/**
 * Stage 4 of a head: the gradient of its logits, multiplied on into the gradients of hidden states, weight and bias.
 * Sums are float64. Logits are computed again rather than stored.
 */
import type { HeadGradientStage, Tokens } from '../../job.js'
import { logitOf, reader } from './head.js'
import { readRow } from './rows.js'
import { rowCoefficient } from './sequence-sums.js'
import { STATE_SIZE } from './token-log-probs.js'

/** Words whose gradients are summed at a time. */
const BLOCK = 64

/** Yields after every row of every block of words. */
export function* headGradient(stage: HeadGradientStage, tokens: Tokens): Generator<void, void> {
  const { head, logits, accumulate } = stage
  const states = stage.states!
  const hiddenOut = stage.hidden as Float32Array | undefined
  const weightOut = stage.weight as Float32Array | undefined
  const biasOut = stage.bias as Float32Array | undefined
  const { targets, offsets, counts, temperature } = tokens
  const { hidden, weight } = head
  const width = hidden.vocab
  const logit = logitOf(head)
  const weightAt = reader(weight.data, weight.dtype)
  const put = (out: Float32Array, index: number, value: number) => {
    out[index] = accumulate ? out[index] + value : value
  }

  const active: number[] = []
  const factors: number[] = []
  for (let s = 0; s < counts.length; s++) {
    for (let row = offsets[s]; row < offsets[s + 1]; row++) {
      if (targets[row] < 0) {
        if (hiddenOut && !stage.skipInactive) hiddenOut.fill(0, row * width, (row + 1) * width)
        continue
      }
      const factor = rowCoefficient(tokens, stage, s, row) / temperature
      if (factor === 0) {
        // A row with the factor 0 takes no part, even if its hidden states are NaN.
        if (hiddenOut && !accumulate) hiddenOut.fill(0, row * width, (row + 1) * width)
        continue
      }
      active.push(row)
      factors.push(factor)
    }
  }

  const hiddenSums = new Float64Array(hiddenOut ? active.length * width : 0)
  const state = new Float64Array(width)
  for (let first = 0; first < logits.vocab; first += BLOCK) {
    const words = Math.min(BLOCK, logits.vocab - first)
    const weightSums = new Float64Array(words * width)
    const biasSums = new Float64Array(words)
    for (let i = 0; i < active.length; i++) {
      const row = active[i]
      readRow(hidden, row, state)
      // 1 − p at the label, −(1 − p) · e_j / Σe elsewhere, from the row's state (token-log-probs.ts).
      const maximum = states[row * STATE_SIZE]
      const others = factors[i] * states[row * STATE_SIZE + 1]
      for (let v = 0; v < words; v++) {
        const word = first + v
        const gradient =
          word === targets[row]
            ? factors[i] * states[row * STATE_SIZE + 2]
            : 0 - others * Math.exp((logit(state, word) - maximum) / temperature)
        biasSums[v] += gradient
        if (!weightOut && !hiddenOut) continue
        let at = word * weight.rowStride
        for (let d = 0; d < width; d++, at += weight.columnStride) {
          if (weightOut) weightSums[v * width + d] += gradient * state[d]
          if (hiddenOut) hiddenSums[i * width + d] += gradient * weightAt(at)
        }
      }
      yield
    }
    for (let v = 0; v < words; v++) {
      if (biasOut) put(biasOut, first + v, biasSums[v])
      if (!weightOut) continue
      for (let d = 0; d < width; d++) {
        const at = weight.columnStride === 1 ? (first + v) * width + d : d * logits.vocab + first + v
        put(weightOut, at, weightSums[v * width + d])
      }
    }
  }
  if (!hiddenOut) return
  for (let i = 0; i < active.length; i++) {
    for (let d = 0; d < width; d++) put(hiddenOut, active[i] * width + d, hiddenSums[i * width + d])
  }
}
