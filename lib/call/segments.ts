/**
 * The segments of a row of logits, whose states ranks that share a vocabulary gather: where they begin, how they are
 * packed for the way, and how they are put together again.
 *
 * Where segments begin depends on the vocabulary alone, with an output layer on its width, too. They are those of a call
 * that has the whole vocabulary (native/cpu/token_log_probs.cc, native/cpu/head.cc), which merges their states in order. A
 * segment in which the columns of another rank begin is one segment on each side. On a GPU (native/cuda/token_log_probs.cu)
 * all segments but the last have the same length, and are counted from the first column of each rank.
 */
import type { Backend, ForwardStage, SegmentStates, Shard, TokenLossStage, Tokens } from '../job.js'

/** Columns start … end of the vocabulary. */
export interface Columns {
  start: number
  end: number
}

/** Most columns of a segment of logits, and what its number of columns is a multiple of; on a GPU, what it has. */
const MOST = 16384
const TILE = 64

/** Columns of a segment. */
function segmentLength(vocab: number, width: number | undefined): number {
  const multipleOf = (count: number, size: number) => Math.ceil(count / size) * size
  if (width === undefined) return multipleOf(Math.ceil(vocab / Math.ceil(vocab / MOST)), TILE)
  // With an output layer: so many tiles that there are at most 64 segments. The weights of a tile take 1 MB.
  const tile = Math.min(2, Math.max(1, Math.floor(2 ** 20 / (4 * width * 192)))) * 192
  return Math.ceil(Math.ceil(vocab / tile) / 64) * tile
}

/** The segments that a rank's columns have a part of: where the parts begin, in the vocabulary, and the end of the last. */
export function segmentsOf(
  { start, end }: Columns,
  vocab: number,
  width: number | undefined,
  backend: Backend['name'],
): number[] {
  const length = backend === 'cuda' ? MOST : segmentLength(vocab, width)
  const first = backend === 'cuda' ? start : Math.floor(start / length) * length
  const bounds = [start]
  for (let at = first + length; at < end; at += length) bounds.push(at)
  return [...bounds, end]
}

/** 32-bit words of a state: unit, sum, and two for each result that needs more than these. */
export function wordsOf(stage: ForwardStage, loss: TokenLossStage | undefined): number {
  const { entropies, tokenEntropies, logWeights, sumSquaredProbs, tokenArgmax, tokenMeanLogits } = stage
  const smooths = loss !== undefined && loss.labelSmoothing !== 0
  const more = [
    entropies ?? tokenEntropies,
    logWeights ?? sumSquaredProbs,
    tokenArgmax,
    tokenMeanLogits ?? (smooths && !loss.classWeights ? loss : undefined),
    loss?.classWeights,
  ]
  return 4 + 2 * more.filter((result) => result !== undefined).length
}

/** How the states of one stage travel. */
export class SegmentExchange {
  private readonly words: number
  /** States of a row that each rank has. */
  private readonly counts: readonly number[]
  private readonly bounds: readonly number[]
  private readonly most: number
  /** Labels in the columns of each rank. */
  private readonly labels: number[]
  private readonly active: readonly number[]
  /** Bytes that every rank sends. */
  readonly byteLength: number

  /** `columns`: those of all ranks. */
  constructor(
    private readonly stage: ForwardStage,
    loss: TokenLossStage | undefined,
    private readonly tokens: Tokens & { shard: Shard },
    private readonly columns: readonly Columns[],
    private readonly rank: number,
    merges: boolean,
    backend: Backend['name'],
  ) {
    const { targets, shard } = tokens
    const segments = columns.map((own) => segmentsOf(own, shard.vocab, stage.head?.hidden.vocab, backend))
    this.words = wordsOf(stage, loss)
    this.bounds = segments[rank].map((column) => column - shard.start)
    this.counts = segments.map((bounds) => (merges ? 1 : bounds.length - 1))
    this.most = Math.max(...this.counts)
    const active: number[] = []
    for (let row = 0; row < targets.length; row++) if (targets[row] >= 0) active.push(row)
    this.active = active
    this.labels = columns.map(({ start, end }) => {
      return active.filter((row) => targets[row] >= start && targets[row] < end).length
    })
    this.byteLength = 4 * (active.length * this.most * this.words + Math.max(...this.labels))
  }

  /** The stage of the job that fills the states of this rank. */
  swept(): ForwardStage & { segments: SegmentStates } {
    const segments = { bounds: Int32Array.from(this.bounds), ...this.states(this.counts[this.rank]) }
    return { ...this.stage, segments }
  }

  /** Packs what that job has left, active rows alone; each label's logit is sent by the rank that has its column. */
  pack({ states, labelLogits, count }: SegmentStates, message: Uint8Array): void {
    const words = count * this.words
    const to = this.statesIn(message)
    for (const [i, row] of this.active.entries()) copy(states, row * words, to, i * this.most * this.words, words)
    const labels = this.labelsIn(message, this.rank)
    this.forEachLabel(this.rank, (row, i) => {
      labels[i] = labelLogits[row]
    })
  }

  /** The stage of the job that begins from the states of all ranks, whose messages these are. */
  gathered(messages: readonly Uint8Array[]): ForwardStage {
    const total = this.counts.reduce((sum, count) => sum + count, 0)
    const segments = this.states(total)
    let before = 0
    for (const r of this.inOrder()) {
      const from = this.statesIn(messages[r])
      const words = this.counts[r] * this.words
      for (const [i, row] of this.active.entries()) {
        copy(from, i * this.most * this.words, segments.states, (row * total + before) * this.words, words)
      }
      const labels = this.labelsIn(messages[r], r)
      this.forEachLabel(r, (row, i) => {
        segments.labelLogits[row] = labels[i]
      })
      before += this.counts[r]
    }
    return { ...this.stage, segments }
  }

  /** Where a message has the states. What is before them, its header, must be whole words of 4 bytes (it has 320). */
  private statesIn({ buffer, byteOffset }: Uint8Array): Int32Array {
    return new Int32Array(buffer, byteOffset, this.active.length * this.most * this.words)
  }

  /** Where the message of a rank has its labels' logits. */
  private labelsIn(message: Uint8Array, rank: number): Float32Array {
    const { byteLength } = this.statesIn(message)
    return new Float32Array(message.buffer, message.byteOffset + byteLength, this.labels[rank])
  }

  /** The ranks in the order of their columns. */
  private inOrder(): number[] {
    return this.columns.map((_, r) => r).sort((a, b) => this.columns[a].start - this.columns[b].start)
  }

  private forEachLabel(rank: number, work: (row: number, index: number) => void): void {
    const { start, end } = this.columns[rank]
    let index = 0
    for (const row of this.active) {
      const target = this.tokens.targets[row]
      if (target >= start && target < end) work(row, index++)
    }
  }

  private states(count: number): SegmentStates {
    const rows = this.tokens.targets.length
    return { count, states: new Int32Array(rows * count * this.words), labelLogits: new Float32Array(rows) }
  }
}

/** Copies words. They are few, and the views that `set` needs would take longer to make. */
function copy(from: Int32Array, at: number, to: Int32Array, toAt: number, words: number): void {
  for (let i = 0; i < words; i++) to[toAt + i] = from[at + i]
}
