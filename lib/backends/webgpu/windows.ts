/**
 * Windows: where rows take more memory than a binding may show, a shader runs once for each window of them.
 */
import { failure } from '../../errors.js'
import type { GpuSlice, Rows } from '../../job.js'
import type { DType, GpuBuffer, GpuLimits } from '../../types/index.js'
import type { Region } from './arena.js'
import { uniforms } from './uniforms.js'

/** Rows in a buffer of the device. */
export interface GpuRows extends Omit<Rows, 'data'> {
  data: GpuSlice
}

/** Rows `first` to `first + count`, and what bindings show of each tensor. */
export interface Window {
  first: number
  count: number
  views: View[]
}

/** What a binding shows of a tensor, and the `Rows` of shaders that see it. */
export interface View extends Region {
  rows: Uint32Array
}

/** Bytes of an element. */
export const SIZES = { float32: 4, float16: 2, bfloat16: 2 }

/** Logits as stages see them, window by window. */
export interface WindowedLogits {
  dtype: DType
  vocab: number
  /** Rows can be read four elements at a time. */
  vector: boolean
  windows: readonly Window[]
  /** Plans to make those of a window, where they are not in memory. */
  make?(window: Window): void
}

/** Logits in memory. */
export function windowedLogits(rows: GpuRows, limits: GpuLimits): WindowedLogits {
  const { dtype, vocab } = rows
  return { dtype, vocab, vector: isVector(rows), windows: windowsOf([rows], false, limits) }
}

/** R */
export function rowCountOf({ batch, time }: Pick<Rows, 'batch' | 'time'>): number {
  return batch * time
}

/** Whether rows can be read and written four elements at a time. */
export function isVector({ data, dtype, vocab, batchStride, timeStride }: GpuRows): boolean {
  const first = data.byteOffset / SIZES[dtype]
  return [first, vocab, batchStride, timeStride].every((elements) => elements % 4 === 0)
}

/** What a binding shows of a slice, and the elements of that many bytes that it shows before the slice. */
export function sliceView(
  { buffer, byteOffset, byteLength }: GpuSlice,
  elementSize: number,
  { minStorageBufferOffsetAlignment }: GpuLimits,
) {
  const offset = Math.floor(byteOffset / minStorageBufferOffsetAlignment) * minStorageBufferOffsetAlignment
  const size = Math.ceil((byteOffset + byteLength - offset) / 4) * 4
  return { region: { buffer, offset, size }, begin: (byteOffset - offset) / elementSize }
}

/** First element of a row in its buffer. */
function rowStart({ data, dtype, time, batchStride, timeStride }: GpuRows, row: number): number {
  return data.byteOffset / SIZES[dtype] + Math.floor(row / time) * batchStride + (row % time) * timeStride
}

/** Bytes of a buffer from the first to the end of the last of some rows. */
interface Span {
  buffer: GpuBuffer
  begin: number
  end: number
}

function spanOf(rows: GpuRows, row: number): Span {
  const begin = rowStart(rows, row) * SIZES[rows.dtype]
  return { buffer: rows.data.buffer, begin, end: begin + rows.vocab * SIZES[rows.dtype] }
}

function union(a: Span, b: Span): Span {
  return { buffer: a.buffer, begin: Math.min(a.begin, b.begin), end: Math.max(a.end, b.end) }
}

/** Cuts all rows into windows in which each of the tensors, or all in one binding where they share a buffer, fits. */
export function windowsOf(tensors: readonly GpuRows[], isShared: boolean, limits: GpuLimits): Window[] {
  const { maxStorageBufferBindingSize: most, minStorageBufferOffsetAlignment: alignment } = limits
  const spansOf = (row: number) => {
    const spans = tensors.map((rows) => spanOf(rows, row))
    return isShared ? [spans.reduce(union)] : spans
  }
  const view = ({ buffer, begin, end }: Span): Region => {
    const offset = Math.floor(begin / alignment) * alignment
    return { buffer, offset, size: Math.ceil((end - offset) / 4) * 4 }
  }
  const count = tensors[0].batch * tensors[0].time
  const windows: Window[] = []
  let first = 0
  let spans = spansOf(0)
  const close = (end: number) => {
    const regions = spans.map(view)
    const views = tensors.map((rows, i) => {
      const region = regions[isShared ? 0 : i]
      return { ...region, rows: rowsUniform(rows, region) }
    })
    windows.push({ first, count: end - first, views })
  }
  const fits = (candidates: readonly Span[]) => candidates.every((span) => view(span).size <= most)
  for (let row = 0; row < count; row++) {
    const own = spansOf(row)
    if (!fits(own)) {
      const bytes = Math.max(...own.map((span) => view(span).size))
      const problem = `a row needs a binding of ${bytes} bytes, and the device's maxStorageBufferBindingSize is ${most}`
      throw failure('ERR_WEBGPU', problem)
    }
    if (row === first) {
      spans = own
      continue
    }
    const both = spans.map((span, i) => union(span, own[i]))
    if (fits(both)) {
      spans = both
    } else {
      close(row)
      first = row
      spans = own
    }
  }
  close(count)
  return windows
}

/** The `Rows` of rows.wgsl. */
function rowsUniform({ data, dtype, time, batchStride, timeStride }: GpuRows, region: Region): Uint32Array {
  const start = (region.offset - data.byteOffset) / SIZES[dtype]
  // Of a window that begins before the tensor it is negative.
  return uniforms(time, batchStride, timeStride, start)
}
