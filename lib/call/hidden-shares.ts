/**
 * The gradient with respect to the input of an output layer that ranks share. Each has a share of it; they are added up a
 * chunk of rows at a time, and a chunk may be on its way while the job works on the next.
 */
import { elementsOf } from '../backends/js/rows.js'
import { syncCommunicator } from '../check/communicator.js'
import type { HeadGradientStage } from '../job.js'
import type { Communicator, HostArray } from '../types/index.js'
import type { Step } from './steps.js'

/** Rows of a chunk, by their width: those that the cpu backend finishes at once, at most 4 MB unless 96 rows are more. */
export function rowsOfChunk(width: number): number {
  return 96 * Math.min(11, Math.max(1, Math.floor(2 ** 20 / (96 * width))))
}

export class HiddenShares {
  /** `[R, D]` the share of this rank, for a job to fill. Active rows then move to the front, and become the sums. */
  readonly own: Float32Array
  /** Elements of active rows. */
  private readonly total: number
  /** The row up to which active rows have been moved, and how many elements they are. */
  private row = 0
  private moved = 0
  /** Elements whose chunks have been given away. */
  private given = 0
  private sums: Promise<void> = Promise.resolve()

  constructor(
    private readonly communicator: Communicator,
    private readonly targets: Int32Array,
    private readonly width: number,
  ) {
    this.own = new Float32Array(targets.length * width)
    this.total = width * targets.reduce((count, target) => (target >= 0 ? count + 1 : count), 0)
  }

  /** Begins to add up what the job has finished: all rows before this one. One chunk is on its way at a time. */
  begin(row: number): void {
    for (const chunk of this.chunks(row)) {
      this.sums = this.sums.then(() => this.communicator.allReduceSum(chunk))
    }
    this.sums.catch(() => {}) // `end` throws it
  }

  /** Adds up the rest, when the job has ended. */
  end(): Step {
    const all = this.targets.length
    return {
      run: () => {
        this.begin(all)
        return this.sums
      },
      runSync: () => {
        const communicator = syncCommunicator(this.communicator, 'communicator')
        for (const chunk of this.chunks(all)) communicator.allReduceSumSync(chunk)
      },
    }
  }

  /** Writes the sums to the gradient that the caller gets. */
  put({ dtype, accumulate, skipInactive }: HeadGradientStage, hidden: HostArray): void {
    const { own, targets, width } = this
    const out = elementsOf(hidden, dtype)
    const copies = dtype === 'float32' && !accumulate
    let next = 0
    for (let row = 0; row < targets.length; row++) {
      const at = row * width
      if (targets[row] < 0) {
        if (!skipInactive) out.clear(at, at + width)
        continue
      }
      const from = width * next++
      if (copies) (hidden as Float32Array).set(own.subarray(from, from + width), at)
      else for (let d = 0; d < width; d++) out.put(at + d, own[from + d], accumulate)
    }
  }

  /** The chunks that are complete with the rows before this one; all ranks have the same ones. */
  private *chunks(end: number): Generator<Float32Array> {
    const { own, targets, width, total } = this
    for (; this.row < end; this.row++) {
      if (targets[this.row] < 0) continue
      const from = this.row * width
      if (this.moved !== from) own.copyWithin(this.moved, from, from + width)
      this.moved += width
    }
    const size = width * rowsOfChunk(width)
    while (this.given < total && this.moved >= Math.min(this.given + size, total)) {
      const from = this.given
      this.given = Math.min(from + size, total)
      yield own.subarray(from, this.given)
    }
  }
}
