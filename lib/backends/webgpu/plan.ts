/**
 * A job as steps on the device, and its results on their way back.
 */
import type { ForwardStage, GradientStage, Head, HeadGradientStage, Job, Rows, Tokens } from '../../job.js'
import type { GpuDevice, GpuLimits } from '../../types/index.js'
import { Arenas, type Region } from './arena.js'
import type { Writing } from './elements.js'
import { HeadGradients } from './head-gradient.js'
import { HeadLogits, LogitsScratch } from './head-logits.js'
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
import { isVector, type Window, type WindowedLogits, windowsOf } from './windows.js'

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
  private readonly scratch: LogitsScratch
  private readonly heads = new Map<Head, HeadLogits>()

  constructor(
    private readonly job: Job,
    private readonly device: GpuDevice,
    /** Of a job on an output layer: which rows of its hidden states it is on. */
    private readonly headRows: Int32Array = new Int32Array(0),
  ) {
    const { minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment } = device.limits
    this.arenas = new Arenas(Math.max(minStorageBufferOffsetAlignment, minUniformBufferOffsetAlignment))
    this.copies = new HostCopies(device)
    this.tokenRegions = job.tokens && tokenRegions(job.tokens, this.arenas.inputs)
    this.scratch = new LogitsScratch(this.arenas.logits, job.headGradient?.logitsBudget)
  }

  get limits(): GpuLimits {
    return this.device.limits
  }

  /** The logits of an output layer. */
  private headLogits(head: Head, { vocab }: Rows): HeadLogits {
    let logits = this.heads.get(head)
    if (logits === undefined) {
      logits = new HeadLogits(this, head, vocab, this.headRows, this.scratch)
      this.heads.set(head, logits)
    }
    return logits
  }

  private logitsOf({ logits: rows, head }: ForwardStage): WindowedLogits {
    if (head) return this.headLogits(head, rows)
    const logits = this.copies.rows(rows)
    return { ...logits, vector: isVector(logits), windows: windowsOf([logits], false, this.limits) }
  }

  private get tokens(): Tokens & { on: TokenRegions } {
    return { ...(this.job.tokens as Tokens), on: this.tokenRegions as TokenRegions }
  }

  /** Stages 1 and 2. */
  forward(stage: ForwardStage, finds: Finds): FoundRows {
    const { work } = this.arenas
    const rowCount = rowsOf(stage.logits)
    const states = work.room(rowCount * SIZES.TokenState)
    const results = finds === 'sums' ? undefined : work.room(rowCount * SIZES.RowResults)
    this.tokenLogProbs(this.logitsOf(stage), rowCount, finds, states, results)
    this.sequenceSums(stage, states, results)
    this.takeResults(stage, states, results)
    return { states, results }
  }

  /** Stage 1. */
  private tokenLogProbs(
    logits: WindowedLogits,
    rowCount: number,
    finds: Finds,
    states: Region,
    results: Region | undefined,
  ): void {
    const { targets } = this.tokens.on
    const { temperature, capScale } = this.tokens
    const { vocab, dtype, vector } = logits
    const segments = Math.ceil(vocab / SEGMENT)
    const segmentLength = 4 * Math.ceil(vocab / segments / 4)
    const size = finds === 'sums' ? SIZES.SweptSums : SIZES.SweptAll
    const partials = this.arenas.work.room(rowCount * segments * size)
    const classWeights = this.classWeights()
    const sweeping = { finds, dtype, vector, CAPS: capScale !== undefined }
    for (const window of logits.windows) {
      const { first, count, views } = window
      const [view] = views
      logits.make?.(window)
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

  private get HAS_CLASSES(): boolean {
    return this.job.tokenLoss?.classWeights !== undefined
  }

  /** `[V]` the weights of classes. */
  private classWeights(): Region {
    const { inputs } = this.arenas
    const { classWeights } = this.job.tokenLoss ?? {}
    return classWeights ? inputs.put(classWeights) : inputs.room(0)
  }

  /** Stage 4. */
  gradient(stage: GradientStage): void {
    const logits = this.copies.rows(stage.logits)
    const out = this.copies.rows(stage.out, stage.skipInactive)
    const values = this.rowValues(stage, stage.rowScale)
    const shared = logits.data.buffer === out.data.buffer
    const vector = isVector(logits) && isVector(out)
    const writing = { dtype: logits.dtype, outDType: out.dtype, vector, shared }
    for (const window of windowsOf([logits, out], shared, this.limits)) {
      this.logitsGradient(stage, window, writing, values, stage.skipInactive)
    }
    this.copies.readBack(stage.out, this.results)
  }

  /** Stage 4 of an output layer. */
  headGradient(stage: HeadGradientStage): void {
    const logits = this.headLogits(stage.head, stage.logits)
    const values = this.rowValues(stage)
    const gradients = new HeadGradients(this, logits, stage, this.headRows, values)
    const writing = { dtype: 'float32', outDType: 'float32', vector: true, shared: true } as const
    for (const chunk of logits.windows) {
      logits.make(chunk)
      this.logitsGradient(stage, chunk, writing, values)
      gradients.add(chunk)
    }
    gradients.finish()
  }

  private logitsGradient(
    { logits: { vocab }, tokenCoefficients: own }: GradientStage | HeadGradientStage,
    { first, count, views }: Window,
    writing: Writing,
    values: Region,
    skipInactive = false,
  ): void {
    const { temperature, capScale, on } = this.tokens
    const [of, to = of] = views
    const tiles = Math.ceil(vocab / (16 * WORKGROUP))
    const constants = [temperatureConstants(temperature), of.rows, to.rows, capConstants(capScale)]
    const params = uniforms(...constants, 0, first, count, vocab, tiles, Number(skipInactive))
    const bindings: Region[] = [on.targets, values, ...(writing.shared ? [of] : views)]
    const { HAS_CLASSES } = this
    if (HAS_CLASSES) bindings.push(this.classWeights())
    const FULL = own?.entropy !== undefined || own?.meanLogit !== undefined
    const shader = logitsGradientShader({ ...writing, FULL, CAPS: capScale !== undefined, HAS_CLASSES })
    this.step(shader, params, bindings, count * tiles)
  }

  /** What the logits of each row are turned into. */
  private rowValues(stage: GradientStage | HeadGradientStage, scales?: Float64Array): Region {
    const { targets, sequences, weights, hasWeights: WEIGHS } = this.tokens.on
    const { temperature, average, capScale } = this.tokens
    const { HAS_CLASSES } = this
    const { work } = this.arenas
    const rowCount = rowsOf(stage.logits)
    const values = work.room(rowCount * SIZES.RowValues)
    const states = work.put(stage.states as Float64Array)
    const { length } = stage.coefficients
    const coefficients = work.put(twoFloats([...stage.coefficients, ...(stage.plainCoefficients ?? [])]))
    const slopes = ownSlopes(stage, rowCount)
    const own = slopes ? work.put(slopes) : work.room(0)
    const perLogit = twoFloats([(capScale ?? 1) / temperature])
    const plain = stage.plainCoefficients ? length : 0
    const params = uniforms(perLogit, 0, rowCount, length, Number(average), stage.logits.vocab, plain)
    const bindings = [targets, sequences, weights, states, coefficients, own, values]
    const DEFERS = scales !== undefined
    if (scales) {
      const rowScale = work.room(rowCount * SIZES.TwoFloat)
      bindings.push(rowScale)
      this.results.float64(rowScale, scales)
    } else if (HAS_CLASSES) {
      bindings.push(this.classWeights())
    }
    const finishing = { WEIGHS, HAS_OWN: slopes !== undefined, DEFERS, HAS_CLASSES }
    this.step(finishGradientShader(finishing), params, bindings, Math.ceil(rowCount / WORKGROUP))
    return values
  }

  step(shader: Step['shader'], params: Uint32Array, bindings: readonly Region[], groups: number): void {
    if (groups === 0) return
    this.steps.push({ shader, bindings: [this.arenas.inputs.put(params), ...bindings], groups })
  }

  destroy(): void {
    this.arenas.destroy()
    this.copies.destroy()
    this.results.destroy()
  }
}

function rowsOf({ batch, time }: Rows): number {
  return batch * time
}

/** `[R]` `Slopes` of finish-gradient.wgsl. */
function ownSlopes({ tokenCoefficients, entropies }: GradientStage | HeadGradientStage, rowCount: number): Float32Array | undefined {
  if (tokenCoefficients === undefined) return undefined
  const { logProb, logSumExp, entropy, meanLogit } = tokenCoefficients
  const slopes = new Float32Array(10 * rowCount)
  for (const [i, values] of [logProb, logSumExp, entropy, meanLogit, entropy && entropies].entries()) {
    if (values) for (let row = 0; row < rowCount; row++) setTwoFloat(slopes, 10 * row + 2 * i, values[row])
  }
  return slopes
}
