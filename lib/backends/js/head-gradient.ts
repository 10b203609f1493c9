/**
 * Stage 4 of a head: the gradient of its logits, multiplied on into the gradients of hidden states, weight and bias.
 * Sums are float64. Logits are computed again rather than stored. Where the stage's precision is bfloat16, the gradient of
 * every logit but the label's is rounded to it for the two products.
 */
import type { HeadGradientStage, Place, Tokens } from '../../job.js'
import type { DType } from '../../types/index.js'
import { logitOf, reader } from './head.js'
import { decodeBfloat16, encodeBfloat16 } from './numbers.js'
import { type RowGradient, rowGradient } from './row-gradient.js'
import { elementsOf, readRow } from './rows.js'

/** Words whose gradients are summed at a time. */
const BLOCK = 64

/** Yields after every row of every block of words. */
export function* headGradient(stage: HeadGradientStage, tokens: Tokens): Generator<void, void> {
  const { head, logits, accumulate, dtype, sharesHidden } = stage
  const outOf = (data: Place | undefined, type: DType) => (data === undefined ? undefined : elementsOf(data, type))
  const hiddenOut = outOf(stage.hidden, sharesHidden ? 'float32' : dtype)
  const addsToHidden = accumulate && !sharesHidden
  const [weightOut, biasOut] = [outOf(stage.weight, dtype), outOf(stage.bias, dtype)]
  const { targets, offsets, counts } = tokens
  const { hidden, weight } = head
  const width = hidden.vocab
  const logit = logitOf(head)
  const rounded = (gradient: number) => decodeBfloat16(encodeBfloat16(gradient))
  const weightAt = reader(weight.data, weight.dtype)

  const active: number[] = []
  const gradients: RowGradient[] = []
  for (let s = 0; s < counts.length; s++) {
    for (let row = offsets[s]; row < offsets[s + 1]; row++) {
      if (targets[row] < 0) {
        if (!stage.skipInactive) hiddenOut?.clear(row * width, (row + 1) * width)
        continue
      }
      const gradient = rowGradient(stage, tokens, s, row)
      if (gradient === undefined) {
        // The row takes no part, even if its hidden states are NaN.
        if (!addsToHidden) hiddenOut?.clear(row * width, (row + 1) * width)
        continue
      }
      active.push(row)
      gradients.push(gradient)
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
      for (let v = 0; v < words; v++) {
        const word = first + v
        const exact = gradients[i](logit(state, word), word)
        const isLabel = word === targets[row] - (tokens.shard?.start ?? 0)
        const gradient = stage.precision === 'bfloat16' && !isLabel ? rounded(exact) : exact
        biasSums[v] += exact
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
      biasOut?.put(first + v, biasSums[v], accumulate)
      if (!weightOut) continue
      for (let d = 0; d < width; d++) {
        const at = weight.columnStride === 1 ? (first + v) * width + d : d * logits.vocab + first + v
        weightOut.put(at, weightSums[v * width + d], accumulate)
      }
    }
  }
  if (!hiddenOut) return
  for (let i = 0; i < active.length; i++) {
    for (let d = 0; d < width; d++) hiddenOut.put(active[i] * width + d, hiddenSums[i * width + d], addsToHidden)
  }
}
