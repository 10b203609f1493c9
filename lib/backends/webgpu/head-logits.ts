/**
 * The logits of an output layer, which are multiplied chunk by chunk: a chunk has some of the rows that predict something,
 * and is to the stages what a window is of logits in memory.
 */
import type { Head, Rows } from '../../job.js'
import type { GpuLimits } from '../../types/index.js'
import type { Region } from './arena.js'
import { multiply, type Operand } from './head-product.js'
import { GROUP, ROW_GROUP } from './head-shaders.js'
import { type Part, partOf, partsOf, type RowsPart, regionOf } from './parts.js'
import type { Plan } from './plan.js'
import { uniforms } from './uniforms.js'
import { type GpuRows, SIZES, type View, type Window, type WindowedLogits } from './windows.js'

/** Bytes of logits at a time where the caller has no say. */
const CHUNK = 2 ** 26

/** Logits of some rows, and the part of the hidden states in which theirs are. */
export interface Chunk extends Window {
  views: [View]
  hidden: Part
}

/** The output layers of a job, and memory for their logits: of one chunk after the other, or of all. */
export class Heads {
  private readonly logits = new Map<Head, HeadLogits>()
  private readonly slots: Region[] = []

  /** `rows`: which of the rows of hidden states have logits. */
  constructor(
    private readonly plan: Plan,
    readonly rows: Int32Array,
  ) {}

  of(head: Head, vocab: number): HeadLogits {
    let logits = this.logits.get(head)
    if (logits === undefined) {
      logits = new HeadLogits(this.plan, head, vocab, this)
      this.logits.set(head, logits)
    }
    return logits
  }

  /** Room for a chunk, which every output layer of the job has in its turn. */
  slot(index: number, byteLength: number): Region {
    let slot = this.slots[index]
    if (slot === undefined || slot.size < byteLength) {
      slot = this.plan.arenas.logits.room(byteLength)
      this.slots[index] = slot
    }
    return slot
  }
}

/** The logits of the output layer for some of the rows of its hidden states. */
export class HeadLogits implements WindowedLogits {
  readonly dtype = 'float32'
  readonly vector = true
  readonly rows: Int32Array
  readonly hidden: GpuRows
  readonly width: number
  /** Elements from row to row. */
  readonly stride: number
  readonly windows: readonly Chunk[]
  /** Where rows begin in their chunk's part of the hidden states. */
  readonly places: Region
  /** The weights of a word are neighbours: the weight is stored as [vocab, width]. */
  readonly byWord: boolean
  private readonly weight: readonly RowsPart[]
  private readonly bias: Part | undefined
  private readonly kept: Set<Chunk> | undefined

  constructor(
    private readonly plan: Plan,
    private readonly head: Head,
    readonly vocab: number,
    heads: Heads,
  ) {
    const { copies, limits, arenas, job } = plan
    const { rows } = heads
    const budget = job.headGradient?.logitsBudget
    this.rows = rows
    this.hidden = copies.rows(head.hidden)
    this.width = head.hidden.vocab
    this.stride = 4 * Math.ceil(vocab / 4)
    this.byWord = head.weight.columnStride === 1
    this.weight = this.weightParts()
    if (head.bias) {
      const size = SIZES[head.bias.dtype]
      this.bias = partOf(regionOf(copies.slice(head.bias.data)), 0, vocab * size, size, limits)
    }

    const rowBytes = 4 * this.stride
    const chunkRows = this.rowsAtOnce(budget ?? CHUNK)
    const spans = spansOf(this.hidden, rows, chunkRows, limits)
    const chunkBytes = Math.max(1, Math.min(chunkRows, rows.length)) * rowBytes
    const isKept = spans.length * chunkBytes <= Math.min(budget ?? 0, limits.maxBufferSize)
    if (isKept) this.kept = new Set()
    const places = new Uint32Array(rows.length)
    this.windows = spans.map(({ first, count, begin, end }, i) => {
      const size = SIZES[this.hidden.dtype]
      const hidden = partOf(regionOf(this.hidden.data), begin * size, end * size, size, limits)
      for (let row = first; row < first + count; row++) {
        places[row] = hidden.start + startOf(this.hidden, rows[row]) - begin
      }
      const logits = partOf(heads.slot(isKept ? i : 0, chunkBytes), 0, chunkBytes, 4, limits)
      const view = Object.assign(logits, { rows: uniforms(rows.length, 0, this.stride, first * this.stride) })
      return { first, count, views: [view], hidden }
    })
    this.places = arenas.inputs.put(places)
  }

  /** Rows of a chunk: whole groups, so that no bit depends on how many there are. */
  private rowsAtOnce(budget: number): number {
    const { maxStorageBufferBindingSize, maxBufferSize } = this.plan.limits
    const fitting = Math.min(maxStorageBufferBindingSize, maxBufferSize) / (4 * Math.max(this.stride, this.width))
    const most = Math.min(budget / (4 * this.stride), fitting)
    return ROW_GROUP * Math.max(1, Math.floor(most / ROW_GROUP))
  }

  private weightParts(): RowsPart[] {
    const { copies, limits } = this.plan
    const { data, dtype, rowStride, columnStride } = this.head.weight
    const region = regionOf(copies.slice(data))
    const elementSize = SIZES[dtype]
    const [vocab, width] = [this.vocab, this.head.hidden.vocab]
    const matrix = this.byWord
      ? { count: vocab, length: width, stride: rowStride }
      : { count: width, length: vocab, stride: columnStride }
    return partsOf(region, { elementSize, ...matrix }, GROUP, limits)
  }

  /** The parts of the weight as factors, [vocab, width] or [width, vocab]. */
  weightFactors(rows: 'words' | 'features'): { first: number; count: number; operand: Operand }[] {
    const { rowStride, columnStride } = this.head.weight
    const steps =
      rows === 'words'
        ? { rowStep: rowStride, columnStep: columnStride }
        : { rowStep: columnStride, columnStep: rowStride }
    return this.weight.map((part) => {
      const { first, count, start } = part
      return { first, count, operand: { part, start, ...steps } }
    })
  }

  /** The logits of a chunk, or their gradient, from that word on. */
  logitsOf({ views: [view] }: Chunk, word = 0): Operand {
    return { part: view, start: word, rowStep: this.stride, columnStep: 1 }
  }

  /** Multiplies a chunk's logits, unless they are there. */
  make(chunk: Chunk): void {
    if (this.kept?.has(chunk)) return
    this.kept?.add(chunk)
    const { plan, head, vocab, width, places, bias } = this
    const product = { a: head.hidden.dtype, b: head.weight.dtype, gathers: 'a', bias: head.bias?.dtype } as const
    for (const { first, count, operand: b } of this.weightFactors('features')) {
      const [word, feature] = this.byWord ? [first, 0] : [0, first]
      multiply(plan, product, {
        m: chunk.count,
        ...(this.byWord ? { n: count, k: width } : { n: vocab, k: count }),
        a: { part: chunk.hidden, start: feature, rowStep: 0, columnStep: 1 },
        b,
        c: this.logitsOf(chunk, word),
        begins: feature === 0,
        places,
        firstRow: chunk.first,
        bias: bias && { part: bias, start: bias.start + word },
      })
    }
  }
}

/** First element of a row. */
function startOf({ time, batchStride, timeStride }: Rows, row: number): number {
  return Math.floor(row / time) * batchStride + (row % time) * timeStride
}

/** Rows that follow each other in a list, and the elements from the first to the last that they have. */
interface Span {
  first: number
  count: number
  begin: number
  end: number
}

/** Cuts a list of rows into spans of no more than so many rows, and of no more hidden states than a binding shows. */
function spansOf(hidden: GpuRows, rows: Int32Array, most: number, limits: GpuLimits): Span[] {
  const room = limits.maxStorageBufferBindingSize - limits.minStorageBufferOffsetAlignment
  const spans: Span[] = []
  for (let first = 0; first < rows.length; first += ROW_GROUP) {
    const count = Math.min(ROW_GROUP, rows.length - first)
    const starts = Array.from(rows.subarray(first, first + count), (row) => startOf(hidden, row))
    const group = { first, count, begin: Math.min(...starts), end: Math.max(...starts) + hidden.vocab }
    const last = spans.at(-1)
    const begin = Math.min(last?.begin ?? 0, group.begin)
    const end = Math.max(last?.end ?? 0, group.end)
    if (last && last.count + count <= most && (end - begin) * SIZES[hidden.dtype] <= room) {
      Object.assign(last, { count: last.count + count, begin, end })
    } else {
      spans.push(group)
    }
  }
  // A chunk of no rows makes sums of nothing.
  return spans.length > 0 ? spans : [{ first: 0, count: 0, begin: 0, end: hidden.vocab }]
}
