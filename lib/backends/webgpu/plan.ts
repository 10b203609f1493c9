/**
 * A job as steps on the device, and its results on their way back.
 */
import type { ForwardStage, GradientStage, Job, Tokens } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import { Arenas, type Region } from './arena.js'
import { ReadBack } from './read-back.js'
import { asksForResults, takeLogProbs, takeResults } from './row-results.js'
import {
  type Finds,
  finishGradientShader,
  finishRowsShader,
  logitsGradientShader,
  type Summing,
  sequenceSumsShader,
  tokenLogProbsShader,
  WORKGROUP,
} from './shaders.js'
import type { Step } from './steps.js'
import { HostCopies } from './tensors.js'
import { type TokenRegions, tokenRegions } from './token-regions.js'
import { capConstants, setTwoFloat, temperatureConstants, twoFloats } from './two-floats.js'
import { uniforms } from './uniforms.js'
import { type GpuRows, isVector, windowsOf } from './windows.js'

/** Bytes of structures in shaders. */
const SIZES = { TokenState: 32, SweptSums: 16, SweptAll: 56, RowResults: 40, RowValues: 32, TwoFloat: 8 }

/** Most logits of a segment: what one workgroup reads. */
const SEGMENT = 16384

/** What stage 1 has left of rows. */
export interface FoundRows {
  states: Region
  results: Region | undefined
}

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
  forward(stage: ForwardStage, finds: Finds): FoundRows {
    const { work } = this.arenas
    const logits = this.copies.rows(stage.logits)
    const states = work.room(rowsOf(logits) * SIZES.TokenState)
    const results = finds === 'sums' ? undefined : work.room(rowsOf(logits) * SIZES.RowResults)
    this.tokenLogProbs(logits, finds, states, results)
    this.sequenceSums(stage, states, results)
    this.takeResults(stage, states, results)
    return { states, results }
  }

  /** Stage 1. */
  private tokenLogProbs(logits: GpuRows, finds: Finds, states: Region, results: Region | undefined): void {
    const { targets } = this.tokens.on
    const { temperature, capScale } = this.tokens
    const { vocab, dtype } = logits
    const segments = Math.ceil(vocab / SEGMENT)
    const segmentLength = 4 * Math.ceil(vocab / segments / 4)
    const size = finds === 'sums' ? SIZES.SweptSums : SIZES.SweptAll
    const partials = this.arenas.work.room(rowsOf(logits) * segments * size)
    const classWeights = this.classWeights()
    const sweeping = { finds, dtype, vector: isVector(logits), CAPS: capScale !== undefined }
    for (const { first, count, views } of windowsOf([logits], false, this.device.limits)) {
      const [view] = views
      const common = [
        temperatureConstants(temperature),
        view.rows,
        capConstants(capScale),
        twoFloats([1 / temperature]),
        0,
        first,
        count,
      ]
      const sweep = uniforms(...common, vocab, segments, segmentLength)
      const inputs = finds === 'classes' ? [view, classWeights] : [view]
      this.step(tokenLogProbsShader(sweeping), sweep, [targets, partials, ...inputs], count * segments)
      const finish = uniforms(...common, segments, vocab)
      const outs = results ? [states, results] : [states]
      this.step(finishRowsShader(sweeping), finish, [targets, partials, ...outs, view], Math.ceil(count / WORKGROUP))
    }
  }

  /** Stage 2. */
  private sequenceSums(stage: ForwardStage, states: Region, results: Region | undefined): void {
    this.sequenceSum(stage.logProbs, 'own', states)
    if (stage.plainLogProbs) this.sequenceSum(stage.plainLogProbs, 'plain', states)
    if (stage.logWeights) this.sequenceSum(stage.logWeights, 'logWeights', states, results)
  }

  private sequenceSum(out: Float64Array, of: Summing['of'], states: Region, results?: Region): void {
    const { targets, sequences, weights, hasWeights } = this.tokens.on
    const { average, emptyLogProb } = this.tokens
    const sums = this.arenas.work.room(out.length * SIZES.TwoFloat)
    const divides = average || of === 'logWeights'
    const params = uniforms(0, out.length, Number(divides), Float32Array.of(of === 'logWeights' ? 0 : emptyLogProb), 0)
    const inputs = [targets, sequences, weights, states, sums]
    if (results) inputs.push(results)
    this.step(sequenceSumsShader({ of, WEIGHS: hasWeights }), params, inputs, out.length)
    this.results.float64(sums, out)
  }

  /** Brings back what is asked for of single rows. */
  private takeResults(stage: ForwardStage, states: Region, results: Region | undefined): void {
    const { targets } = this.tokens
    if (stage.states) this.results.words(states, stage.states)
    if (stage.tokenLogProbs) {
      this.results.bytes(states, targets.length * SIZES.TokenState, (bytes) => takeLogProbs(bytes, stage, targets))
    }
    if (results && asksForResults(stage)) {
      this.results.bytes(results, targets.length * SIZES.RowResults, (bytes) => takeResults(bytes, stage, targets))
    }
  }

  /** `[V]` the weights of classes. */
  private classWeights(): Region {
    const { inputs } = this.arenas
    const { classWeights } = this.job.tokenLoss ?? {}
    return classWeights ? inputs.put(classWeights) : inputs.room(0)
  }

  /** Stage 4. */
  gradient(stage: GradientStage): void {
    const { device } = this
    const { targets } = this.tokens.on
    const { temperature, capScale } = this.tokens
    const { work } = this.arenas
    const logits = this.copies.rows(stage.logits)
    const out = this.copies.rows(stage.out, stage.skipInactive)
    const { vocab } = logits
    const values = work.room(rowsOf(logits) * SIZES.RowValues)
    const own = stage.tokenCoefficients
    const HAS_CLASSES = this.job.tokenLoss?.classWeights !== undefined
    this.rowValues(stage, rowsOf(logits), values, HAS_CLASSES)
    const shared = logits.data.buffer === out.data.buffer
    const writing = {
      dtype: logits.dtype,
      outDType: out.dtype,
      vector: isVector(logits) && isVector(out),
      shared,
      FULL: own?.entropy !== undefined || own?.meanLogit !== undefined,
      CAPS: capScale !== undefined,
      HAS_CLASSES,
    }
    const tiles = Math.ceil(vocab / (16 * WORKGROUP))
    const constants = [temperatureConstants(temperature), capConstants(capScale)] as const
    for (const { first, count, views } of windowsOf([logits, out], shared, device.limits)) {
      const [of, to] = views
      const skips = Number(stage.skipInactive ?? false)
      const tile = uniforms(constants[0], of.rows, to.rows, constants[1], 0, first, count, vocab, tiles, skips)
      const tensors: Region[] = shared ? [of] : [of, to]
      if (HAS_CLASSES) tensors.push(this.classWeights())
      this.step(logitsGradientShader(writing), tile, [targets, values, ...tensors], count * tiles)
    }
    this.copies.readBack(stage.out, this.results)
  }

  /** What the logits of each row are turned into. */
  private rowValues(stage: GradientStage, rowCount: number, values: Region, HAS_CLASSES: boolean): void {
    const { targets, sequences, weights, hasWeights: WEIGHS } = this.tokens.on
    const { temperature, average, capScale } = this.tokens
    const { work } = this.arenas
    const states = work.put(stage.states as Float64Array)
    const { length } = stage.coefficients
    const coefficients = work.put(twoFloats([...stage.coefficients, ...(stage.plainCoefficients ?? [])]))
    const slopes = ownSlopes(stage, rowCount)
    const own = slopes ? work.put(slopes) : work.room(0)
    const perLogit = twoFloats([(capScale ?? 1) / temperature])
    const plain = stage.plainCoefficients ? length : 0
    const params = uniforms(perLogit, 0, rowCount, length, Number(average), stage.logits.vocab, plain)
    const bindings = [targets, sequences, weights, states, coefficients, own, values]
    const DEFERS = stage.rowScale !== undefined
    if (stage.rowScale) {
      const rowScale = work.room(rowCount * SIZES.TwoFloat)
      bindings.push(rowScale)
      this.results.float64(rowScale, stage.rowScale)
    } else if (HAS_CLASSES) {
      bindings.push(this.classWeights())
    }
    const finishing = { WEIGHS, HAS_OWN: slopes !== undefined, DEFERS, HAS_CLASSES }
    this.step(finishGradientShader(finishing), params, bindings, Math.ceil(rowCount / WORKGROUP))
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
