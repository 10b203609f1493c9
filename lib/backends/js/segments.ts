/**
 * The states of segments of rows (lib/call/segments.ts), as the js backend makes them and begins from them. A state is, as
 * in native code: base and exponent of its unit, Σe in that unit, and where the stage needs them Σe·log e, Σe², the maximum
 * and its column, the sum of the logits, and that of the logits times the weights of their classes. A unit of this backend
 * is e^(base / T), its exponent 0.
 */
import type { ForwardStage, SegmentStates, TokenLossStage, Tokens } from '../../job.js'
import { type Others, othersOf } from './row-summary.js'

/** What a row, or a segment of it, adds up to. */
export interface RowSums extends Others {
  sumOfLogits: number
  /** Each times the weight of its class. */
  weightedSum: number
}

/** The states of a stage. */
export class Segments {
  private readonly view: DataView
  private readonly wants: Record<'entropy' | 'squares' | 'argmax' | 'sum', boolean>
  private readonly classWeights: Float32Array | undefined
  private readonly size: number

  constructor(
    private readonly segments: SegmentStates,
    stage: ForwardStage,
    private readonly tokens: Tokens,
    loss: TokenLossStage | undefined,
  ) {
    const { buffer, byteOffset, byteLength } = segments.states
    this.view = new DataView(buffer, byteOffset, byteLength)
    this.classWeights = loss?.classWeights
    const smooths = loss !== undefined && loss.labelSmoothing !== 0 && !loss.classWeights
    this.wants = {
      entropy: (stage.entropies ?? stage.tokenEntropies) !== undefined,
      squares: (stage.logWeights ?? stage.sumSquaredProbs) !== undefined,
      argmax: stage.tokenArgmax !== undefined,
      sum: stage.tokenMeanLogits !== undefined || smooths,
    }
    this.size = 8 * (2 + [...Object.values(this.wants), this.classWeights].filter(Boolean).length)
  }

  /** Leaves the states of the segments of a row, whose logits are capped already. */
  sweep(row: number, values: Float64Array): void {
    const { bounds = new Int32Array(0), count, labelLogits } = this.segments
    const { targets, shard, temperature } = this.tokens
    const start = shard?.start ?? 0
    const label = targets[row] - start
    const found: RowSums[] = []
    for (let s = 0; s + 1 < bounds.length; s++) {
      found.push(this.sumsOf(values.subarray(bounds[s], bounds[s + 1]), label - bounds[s], start + bounds[s]))
    }
    const kept = count === found.length ? found : [merged(found, temperature)]
    for (const [s, sums] of kept.entries()) this.put(row, s, sums)
    if (label >= 0 && label < values.length) labelLogits[row] = values[label]
  }

  /** What all segments of a row add up to. */
  sums(row: number): RowSums {
    const found = Array.from({ length: this.segments.count }, (_, s) => this.get(row, s))
    return merged(found, this.tokens.temperature)
  }

  private sumsOf(values: Float64Array, label: number, first: number): RowSums {
    const others = othersOf(values, label, this.tokens.temperature)
    let sumOfLogits = 0
    let weightedSum = 0
    for (const [i, value] of values.entries()) {
      sumOfLogits += value
      const weight = this.classWeights?.[first + i] ?? 0
      if (weight !== 0) weightedSum += weight * value
    }
    return { ...others, top: others.top < 0 ? -1 : first + others.top, sumOfLogits, weightedSum }
  }

  private put(row: number, segment: number, sums: RowSums): void {
    const { view, wants } = this
    let at = this.at(row, segment)
    const base = Math.fround(sums.maximum)
    // From the maximum to the base.
    const shift = (sums.maximum - base) / this.tokens.temperature
    const factor = sums.top < 0 ? 0 : Math.exp(shift)
    const total = 1 + sums.rest
    const put = (value: number) => {
      view.setFloat64(at, value, true)
      at += 8
    }
    view.setFloat32(at, base, true)
    view.setInt32(at + 4, 0, true)
    at += 8
    put(factor * total)
    if (wants.entropy) put(factor * (sums.timesExponent + shift * total))
    if (wants.squares) put(factor * factor * (1 + sums.restSquared))
    if (wants.argmax) {
      view.setFloat32(at, base, true)
      view.setInt32(at + 4, sums.top, true)
      at += 8
    }
    if (wants.sum) put(sums.sumOfLogits)
    if (this.classWeights) put(sums.weightedSum)
  }

  private get(row: number, segment: number): RowSums {
    const { view, wants } = this
    let at = this.at(row, segment)
    const next = () => {
      at += 8
      return view.getFloat64(at - 8, true)
    }
    const maximum = view.getFloat32(at, true)
    at += 8
    const rest = next() - 1
    const sums: RowSums = { ...NOTHING, maximum, rest, top: rest === -1 ? -1 : 0 }
    if (wants.entropy) sums.timesExponent = next()
    if (wants.squares) sums.restSquared = next() - 1
    if (wants.argmax) {
      sums.top = view.getInt32(at + 4, true)
      at += 8
    }
    if (wants.sum) sums.sumOfLogits = next()
    if (this.classWeights) sums.weightedSum = next()
    return sums
  }

  private at(row: number, segment: number): number {
    return (row * this.segments.count + segment) * this.size
  }
}

const NOTHING: RowSums = {
  maximum: 0,
  rest: 0,
  timesExponent: 0,
  restSquared: 0,
  top: -1,
  sumOfLogits: 0,
  weightedSum: 0,
}

/** The sums of segments together, in the order of their columns. */
function merged(segments: readonly RowSums[], temperature: number): RowSums {
  let largest = NOTHING
  for (const segment of segments) {
    if (segment.top >= 0 && (largest.top < 0 || segment.maximum > largest.maximum)) largest = segment
  }
  const out = { ...largest, sumOfLogits: 0, weightedSum: 0 }
  for (const segment of segments) {
    out.sumOfLogits += segment.sumOfLogits
    out.weightedSum += segment.weightedSum
    if (segment === largest || segment.top < 0) continue
    const shift = (segment.maximum - out.maximum) / temperature
    const factor = Math.exp(shift)
    const total = 1 + segment.rest
    out.rest += factor * total
    if (factor !== 0) out.timesExponent += factor * (segment.timesExponent + shift * total)
    out.restSquared += factor * factor * (1 + segment.restSquared)
  }
  return out
}
