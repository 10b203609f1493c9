/**
 * A vocabulary cut for several ranks: what each passes of logits and of an output layer, and the parts put together again.
 * No assertions here.
 */
import type { DType, HeadWeight, HostArray, Logits } from '../lib/types/index.js'

// Not support.js, whose import of the package is the one that tests replace.
const storage = (dtype: DType, length: number) =>
  dtype === 'float32' ? new Float32Array(length) : new Uint16Array(length)

/** Where columns begin, and the end of the last. */
export type Borders = readonly number[]

/** `[0, …, vocab]` for some ranks: as even as can be, or each of another size. */
export function bordersOf(vocab: number, ranks: number, even: boolean): Borders {
  const share = (r: number) => (even ? r / ranks : (r * (r + 1)) / (ranks * (ranks + 1)))
  const borders = Array.from({ length: ranks + 1 }, (_, r) => Math.round(vocab * share(r)))
  // At least one column each.
  for (let r = 1; r < ranks; r++) borders[r] = Math.max(borders[r], borders[r - 1] + 1)
  for (let r = ranks - 1; r > 0; r--) borders[r] = Math.min(borders[r], borders[r + 1] - 1)
  return borders
}

/** Rows of the tensor: where they begin, and how many elements they have. */
function rowsOf({ shape, strides, data }: Logits): { starts: number[]; vocab: number } {
  const vocab = shape[shape.length - 1]
  const [batch, time] = shape.length === 3 ? shape : [1, shape[0]]
  const timeStride = strides?.at(-2) ?? vocab
  const batchStride = shape.length === 3 ? (strides?.[0] ?? time * vocab) : 0
  void data
  const starts = Array.from({ length: batch * time }, (_, row) => {
    return Math.floor(row / time) * batchStride + (row % time) * timeStride
  })
  return { starts, vocab }
}

/** The columns of a rank, in the memory of the whole. */
export function columnsOf(logits: Logits, start: number, end: number): Logits {
  const { starts, vocab } = rowsOf(logits)
  const { shape, dtype } = logits
  const data = (logits.data as Float32Array).subarray(start, starts.at(-1)! + end)
  const strides = logits.strides ?? (shape.length === 3 ? [shape[1] * vocab, vocab, 1] : [vocab, 1])
  return { data, dtype, shape: [...shape.slice(0, -1), end - start], strides: [...strides] }
}

/** The same in memory of its own. */
export function copyOfColumns(logits: Logits, start: number, end: number): Logits {
  const { starts } = rowsOf(logits)
  const { shape, dtype = 'float32' } = logits
  const width = end - start
  const data = storage(dtype, starts.length * width)
  for (const [row, at] of starts.entries()) {
    data.set((logits.data as Float32Array).subarray(at + start, at + end), row * width)
  }
  return { data, dtype, shape: [...shape.slice(0, -1), width] }
}

/** Contiguous columns of all ranks as one contiguous tensor. */
export function joined(parts: readonly Logits[], borders: Borders): Logits {
  const { shape, dtype = 'float32' } = parts[0]
  const vocab = borders[borders.length - 1]
  const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1)
  const data = storage(dtype, rows * vocab)
  for (const [r, part] of parts.entries()) {
    const { starts } = rowsOf(part)
    const width = borders[r + 1] - borders[r]
    for (let row = 0; row < rows; row++) {
      data.set((part.data as Float32Array).subarray(starts[row], starts[row] + width), row * vocab + borders[r])
    }
  }
  return { data, dtype, shape: [...shape.slice(0, -1), vocab] }
}

/** Words start … end of a weight, in the memory of the whole. */
export function wordsOf(weight: HeadWeight, start: number, end: number): HeadWeight {
  const { shape, dtype, strides = [shape[1], 1] } = weight
  const [row, column] = strides
  const last = (end - 1 - start) * row + (shape[1] - 1) * column + 1
  const data = (weight.data as Float32Array).subarray(start * row, start * row + last)
  return { data, dtype, shape: [end - start, shape[1]], strides: [row, column] }
}

/** Gradients of weights as one, in the layout of the first. */
export function joinedWords(parts: readonly HeadWeight[], borders: Borders): HeadWeight {
  const { shape, dtype = 'float32', strides } = parts[0]
  const vocab = borders[borders.length - 1]
  const width = shape[1]
  const data = storage(dtype, vocab * width)
  for (const [r, part] of parts.entries()) {
    const words = borders[r + 1] - borders[r]
    const elements = part.data as Float32Array
    if (strides === undefined) data.set(elements, borders[r] * width)
    else for (let d = 0; d < width; d++) data.set(elements.subarray(d * words, (d + 1) * words), d * vocab + borders[r])
  }
  return { data, dtype, shape: [vocab, width], ...(strides && { strides: [1, vocab] }) }
}

/** Arrays of all ranks, one after the other. */
export function joinedArrays(parts: readonly HostArray[]): Float32Array | Uint16Array {
  const Kind = parts[0].constructor as Float32ArrayConstructor
  const out = new Kind(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part as Float32Array, at)
    at += part.length
  }
  return out
}
