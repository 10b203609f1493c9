/**
 * The gradients of an output layer, from those of its logits chunk by chunk:
 *
 *   hidden [R, D]  Σ_v gradient(r, v) · weight(v, d)
 *   weight [V, D]  Σ_r gradient(r, v) · hidden(r, d)
 *   bias   [V]     Σ_r gradient(r, v)
 *
 * Sums are float32. Those of the weight are made where they belong, where that is memory of float32; others in scratch, from
 * which they are rounded once.
 */
import type { HeadGradientStage, Place } from '../../job.js'
import type { Region } from './arena.js'
import type { Chunk, HeadLogits } from './head-logits.js'
import { multiply } from './head-product.js'
import { headBiasShader, headFinishShader, headPlacesShader } from './head-shaders.js'
import { cutsOf, partOf, partsOf, regionOf } from './parts.js'
import type { Plan } from './plan.js'
import { WORKGROUP } from './shader.js'
import { uniforms } from './uniforms.js'
import { SIZES } from './windows.js'

/** A gradient to be finished from its sums: that many rows, and elements of each. */
interface Finish {
  out: Place
  sums: Region
  count: number
  length: number
  /** Those that have sums; all of them when absent. */
  rows?: Int32Array
}

export class HeadGradients {
  private readonly hiddenSums: Region | undefined
  private readonly weightSums: Region | undefined
  private readonly biasSums: Region | undefined
  /** The weight's sums are made where its gradient belongs. */
  private readonly isDirect: boolean = false
  private readonly takingPlaces: Region

  /** `values`: what stage 4 turns the logits of each row into. */
  constructor(
    private readonly plan: Plan,
    private readonly logits: HeadLogits,
    private readonly stage: HeadGradientStage,
    values: Region,
  ) {
    const { arenas, copies } = plan
    const { width, vocab, places, hidden, rows } = logits
    const { accumulate } = stage
    if (stage.hidden) this.hiddenSums = arenas.sums.room(rows.length * width * 4)
    if (stage.weight) {
      const out = copies.slice(stage.weight, accumulate)
      this.isDirect = stage.dtype === 'float32' && out.buffer !== hidden.data.buffer
      this.weightSums = this.isDirect ? regionOf(out) : arenas.sums.room(vocab * width * 4)
    }
    if (stage.bias) this.biasSums = arenas.sums.room(vocab * 4)
    this.takingPlaces = arenas.work.room(rows.length * 4)
    const groups = Math.ceil(rows.length / WORKGROUP)
    plan.step(headPlacesShader(), uniforms(rows.length), [places, values, this.takingPlaces], groups)
  }

  /** Multiplies the gradient of a chunk's logits on. */
  add(chunk: Chunk): void {
    if (this.hiddenSums) this.addHidden(chunk, this.hiddenSums)
    if (this.weightSums) this.addWeight(chunk, this.weightSums)
    if (this.biasSums) this.addBias(chunk, this.biasSums)
  }

  private addHidden(chunk: Chunk, sums: Region): void {
    const { plan, logits, stage } = this
    const { width, vocab, byWord } = logits
    const { first: firstRow, count: m } = chunk
    const rowBytes = width * 4
    const out = partOf(sums, firstRow * rowBytes, (firstRow + m) * rowBytes, 4, plan.limits)
    const product = { a: 'float32', b: stage.head.weight.dtype } as const
    for (const { first, count, operand: b } of logits.weightFactors('words')) {
      const [word, feature] = byWord ? [first, 0] : [0, first]
      multiply(plan, product, {
        m,
        ...(byWord ? { n: width, k: count } : { n: count, k: vocab }),
        a: logits.logitsOf(chunk, word),
        b,
        c: { part: out, start: out.start + feature, rowStep: width, columnStep: 1 },
        begins: word === 0,
        places: logits.places,
        firstRow,
      })
    }
  }

  private addWeight(chunk: Chunk, sums: Region): void {
    const { plan, logits, stage } = this
    const { width, vocab, byWord, stride } = logits
    const matrix = byWord ? { count: vocab, length: width } : { count: width, length: vocab }
    const layout = { elementSize: 4, ...matrix, stride: matrix.length }
    for (const part of partsOf(sums, layout, 1, plan.limits)) {
      const [word, feature] = byWord ? [part.first, 0] : [0, part.first]
      multiply(
        plan,
        { a: 'float32', b: stage.head.hidden.dtype, gathers: 'b' },
        {
          ...(byWord ? { m: part.count, n: width } : { m: vocab, n: part.count }),
          k: chunk.count,
          a: { part: chunk.views[0], start: word, rowStep: 1, columnStep: stride },
          b: { part: chunk.hidden, start: feature, rowStep: 0, columnStep: 1 },
          c: { part, start: part.start, rowStep: byWord ? width : 1, columnStep: byWord ? 1 : vocab },
          begins: chunk.first === 0 && !(this.isDirect && stage.accumulate),
          places: this.takingPlaces,
          firstRow: chunk.first,
        },
      )
    }
  }

  private addBias({ first, count, views: [gradient] }: Chunk, sums: Region): void {
    const { vocab, stride } = this.logits
    const params = uniforms(count, vocab, stride, Number(first === 0))
    this.plan.step(headBiasShader(), params, [gradient, sums], Math.ceil(vocab / WORKGROUP))
  }

  /** Puts the sums where they belong. */
  finish(): void {
    const { stage, logits, hiddenSums, weightSums, biasSums, isDirect } = this
    const { width, vocab, byWord, hidden, rows } = logits
    if (stage.hidden && hiddenSums) {
      this.put({ out: stage.hidden, sums: hiddenSums, count: hidden.batch * hidden.time, length: width, rows })
    }
    if (stage.weight && weightSums) {
      const sizes = byWord ? { count: vocab, length: width } : { count: width, length: vocab }
      if (isDirect) this.plan.copies.readBack({ data: stage.weight }, this.plan.results)
      else this.put({ out: stage.weight, sums: weightSums, ...sizes })
    }
    if (stage.bias && biasSums) this.put({ out: stage.bias, sums: biasSums, count: vocab, length: 1 })
  }

  private put({ out, sums, count, length, rows }: Finish): void {
    const { plan, stage } = this
    const { dtype, accumulate, skipInactive } = stage
    const { arenas, copies, limits, results } = plan
    const region = regionOf(copies.slice(out, accumulate || skipInactive))
    const size = SIZES[dtype]
    const index = rows ? arenas.inputs.put(placesIn(rows, count)) : arenas.inputs.room(0)
    const shader = headFinishShader(dtype, rows !== undefined)
    for (const cut of cutsOf({ elementSize: 4, count, length, stride: length }, 1, limits)) {
      const [begin, end] = [cut.first, cut.first + cut.count]
      const part = partOf(region, begin * length * size, end * length * size, size, limits)
      const [from, to] = rows ? [countBelow(rows, begin), countBelow(rows, end)] : [begin, end]
      const found = partOf(sums, from * length * 4, to * length * 4, 4, limits)
      const elements = cut.count * length
      const words = Math.ceil(((part.start + elements) * size) / 4)
      const sumsStart = from * length - found.start
      const sizes = [elements, length, begin, part.start, sumsStart, Number(accumulate), Number(!skipInactive)]
      plan.step(shader, uniforms(0, words, ...sizes), [index, found, part], Math.ceil(words / WORKGROUP))
    }
    copies.readBack({ data: out }, results)
  }
}

/** For each of `count` rows its place in the list, −1 where it is not there. */
function placesIn(rows: Int32Array, count: number): Int32Array {
  const index = new Int32Array(count).fill(-1)
  for (const [place, row] of rows.entries()) index[row] = place
  return index
}

/** How many of these ascending numbers are below a limit. */
function countBelow(rows: Int32Array, limit: number): number {
  const place = rows.findIndex((row) => row >= limit)
  return place < 0 ? rows.length : place
}
