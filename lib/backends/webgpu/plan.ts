/**
 * A job as steps on the device, and its results on their way back.
 */
import type { ForwardStage, GradientStage, Job, Tokens } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import { Arenas, type Region } from './arena.js'
import { ReadBack } from './read-back.js'
import {
  finishGradientShader,
  finishRowsShader,
  logitsGradientShader,
  sequenceSumsShader,
  tokenLogProbsShader,
  WORKGROUP,
} from './shaders.js'
import type { Step } from './steps.js'
import { HostCopies } from './tensors.js'
import { type TokenRegions, tokenRegions } from './token-regions.js'
import { fromTwoFloats, setTwoFloat, temperatureConstants, twoFloats } from './two-floats.js'
import { uniforms } from './uniforms.js'
import { type GpuRows, isVector, windowsOf } from './windows.js'

/** Bytes of structures in shaders. */
const SIZES = { TokenState: 32, Swept: 16, RowValues: 32, TwoFloat: 8 }

/** Most logits of a segment: what one workgroup reads. */
const SEGMENT = 16384

export class Plan {
  readonly steps: Step[] = []
  readonly arenas: Arenas
  readonly copies: HostCopies
  readonly results = new ReadBack()
  private readonly tokenRegions: TokenRegions | undefined

  constructor(
    private readonly job: Job,
    private readonly device: GpuDevice,
  ) {
    const { minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment } = device.limits
    this.arenas = new Arenas(Math.max(minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment))
    this.copies = new HostCopies(device)
    this.tokenRegions = job.tokens && tokenRegions(job.tokens, this.arenas.inputs)
  }

  private get tokens(): Tokens & { on: TokenRegions } {
    return { ...(this.job.tokens as Tokens), on: this.tokenRegions as TokenRegions }
  }

  /** Stages 1 and 2. */
  forward(stage: ForwardStage): void {
    const { work } = this.arenas
    const logits = this.copies.rows(stage.logits)
    const states = work.room(rowsOf(logits) * SIZES.TokenState)
    this.tokenLogProbs(logits, states)
    if (stage.states) this.results.words(states, stage.states)
    if (stage.tokenLogProbs) this.tokenResult(states, stage.tokenLogProbs)
    this.sequenceSums(states, stage.logProbs, false)
    if (stage.plainLogProbs) this.sequenceSums(states, stage.plainLogProbs, true)
  }

  /** Stage 1. */
  private tokenLogProbs(logits: GpuRows, states: Region): void {
    const { targets } = this.tokens.on
    const { temperature } = this.tokens
    const { vocab, dtype } = logits
    const segments = Math.ceil(vocab / SEGMENT)
    const segmentLength = 4 * Math.ceil(vocab / segments / 4)
    const partials = this.arenas.work.room(rowsOf(logits) * segments * SIZES.Swept)
    const reading = { dtype, vector: isVector(logits) }
    const t = temperatureConstants(temperature)
    for (const { first, count, views } of windowsOf([logits], false, this.device.limits)) {
      const [view] = views
      const sweep = uniforms(t, view.rows, 0, first, count, vocab, segments, segmentLength)
      this.step(tokenLogProbsShader(reading), sweep, [targets, partials, view], count * segments)
      const finish = uniforms(t, view.rows, twoFloats([1 / temperature]), 0, first, count, segments)
      this.step(finishRowsShader(reading), finish, [targets, partials, states, view], Math.ceil(count / WORKGROUP))
    }
  }

  /** Stage 2. */
  private sequenceSums(states: Region, out: Float64Array, isPlain: boolean): void {
    const { targets, sequences, weights, hasWeights } = this.tokens.on
    const { average, emptyLogProb } = this.tokens
    const sums = this.arenas.work.room(out.length * SIZES.TwoFloat)
    const params = uniforms(0, out.length, Number(average), Float32Array.of(emptyLogProb))
    this.step(sequenceSumsShader(hasWeights, isPlain), params, [targets, sequences, weights, states, sums], out.length)
    this.results.float64(sums, out)
  }

  /** A value of each active row, from the states. */
  private tokenResult(states: Region, out: Float32Array): void {
    const { targets } = this.tokens
    this.results.bytes(states, out.length * SIZES.TokenState, (bytes) => {
      const logProbs = new Float32Array(bytes)
      for (let row = 0; row < out.length; row++) if (targets[row] >= 0) out[row] = logProbs[8 * row]
    })
  }

  /** Stage 4. */
  gradient(stage: GradientStage): void {
    const { arenas, device } = this
    const { targets, sequences, weights, hasWeights } = this.tokens.on
    const { temperature, average } = this.tokens
    const { work } = arenas
    const logits = this.copies.rows(stage.logits)
    const out = this.copies.rows(stage.out, stage.skipInactive)
    const { vocab } = logits
    const rowCount = rowsOf(logits)
    const values = work.room(rowCount * SIZES.RowValues)
    const states = work.put(stage.states as Float64Array)
    const coefficients = twoFloats([...stage.coefficients, ...(stage.plainCoefficients ?? [])])
    const plain = stage.plainCoefficients ? stage.coefficients.length : 0
    const own = ownSlopes(stage, rowCount)
    const perLogit = twoFloats([1 / temperature])
    const rowScale = work.room(stage.rowScale ? rowCount * SIZES.TwoFloat : 0)
    const params = uniforms(perLogit, 0, rowCount, stage.coefficients.length, Number(average), vocab, plain)
    this.step(
      finishGradientShader(hasWeights, own !== undefined, stage.rowScale !== undefined),
      params,
      [
        ...[targets, sequences, weights, states, work.put(coefficients)],
        ...[own ? work.put(own) : work.room(0), values, rowScale],
      ],
      Math.ceil(rowCount / WORKGROUP),
    )
    if (stage.rowScale) this.results.float64(rowScale, stage.rowScale)
    const shared = logits.data.buffer === out.data.buffer
    const vector = isVector(logits) && isVector(out)
    const writing = { dtype: logits.dtype, outDType: out.dtype, vector, shared }
    const t = temperatureConstants(temperature)
    const tiles = Math.ceil(vocab / (16 * WORKGROUP))
    const skips = Number(stage.skipInactive ?? false)
    for (const { first, count, views } of windowsOf([logits, out], shared, device.limits)) {
      const tile = uniforms(t, views[0].rows, views[1].rows, 0, first, count, vocab, tiles, skips)
      const tensors = shared ? [views[0]] : views
      this.step(logitsGradientShader(writing), tile, [targets, values, ...tensors], count * tiles)
    }
    this.copies.readBack(stage.out, this.results)
  }

  private step(shader: Step['shader'], params: Uint32Array, bindings: Region[], groups: number): void {
    this.steps.push({ shader, bindings: [this.arenas.inputs.put(params), ...bindings], groups })
  }

  destroy(): void {
    this.arenas.destroy()
    this.copies.destroy()
    this.results.destroy()
  }
}

function rowsOf({ batch, time }: GpuRows): number {
  return batch * time
}

/** `[R]` `Slopes` of finish-gradient.wgsl. */
function ownSlopes({ tokenCoefficients, entropies }: GradientStage, rowCount: number): Float32Array | undefined {
  if (tokenCoefficients === undefined) return undefined
  const { logProb, logSumExp, entropy, meanLogit } = tokenCoefficients
  const slopes = new Float32Array(10 * rowCount)
  for (const [i, values] of [logProb, logSumExp, entropy, meanLogit, entropy && entropies].entries()) {
    if (values) for (let row = 0; row < rowCount; row++) setTwoFloat(slopes, 10 * row + 2 * i, values[row])
  }
  return slopes
}

/** The log-probs in states of rows. */
export function logProbsIn(states: Float64Array): Float64Array {
  const words = new Float32Array(states.buffer, states.byteOffset, 2 * states.length)
  const logProbs = new Float32Array(words.length / 4)
  for (let row = 0; row < words.length / 8; row++) logProbs.set(words.subarray(8 * row, 8 * row + 2), 2 * row)
  return fromTwoFloats(logProbs)
}
