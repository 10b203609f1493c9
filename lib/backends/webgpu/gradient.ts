/**
 * Stage 4 as steps.
 */
import type { GradientStage, HeadGradientStage } from '../../job.js'
import type { GpuDevice } from '../../types/index.js'
import type { Region } from './arena.js'
import { isSoftware } from './device.js'
import type { Writing } from './elements.js'
import { classWeightsOf } from './forward.js'
import { HeadGradients } from './head-gradient.js'
import type { Heads } from './head-logits.js'
import type { Plan } from './plan.js'
import { wordsOfStates } from './row-results.js'
import { WORKGROUP } from './shader.js'
import { finishGradientShader, logitsGradientShader } from './shaders.js'
import { capConstants, setTwoFloat, temperatureConstants, twoFloats } from './two-floats.js'
import { uniforms } from './uniforms.js'
import { isVector, rowCountOf, type Window, windowsOf } from './windows.js'

type AnyStage = GradientStage | HeadGradientStage

const TWO_FLOAT_BYTES = 8

/** Logits in a tile of a workgroup. */
const TILE = 16 * WORKGROUP

/** Tiles of a workgroup. Where a device is software, what begins a workgroup costs as much as a tile. */
const tilesOf = (device: GpuDevice) => (isSoftware(device) ? 8 : 1)

/** What earlier stages leave for stage 4. */
export interface Found {
  states: Region
  /** `[S]`, and where `hasPlain` as many of plain log-probs. */
  coefficients: Region
  hasPlain: boolean
  /** `[R]` `Slopes`, where rows have coefficients of their own. */
  slopes?: Region
  /** Slopes are in the places of the rows' values. */
  hasPlaced?: boolean
}

/** Room for the `[R]` `RowValues` of rows. */
export function valuesRoom({ arenas: { scratch } }: Plan, rowCount: number): Region {
  return scratch.roomOver(24 * rowCount)
}

/** What another job has left, which the host has kept. */
export function foundByOther({ arenas: { work } }: Plan, stage: AnyStage): Found {
  const { coefficients, plainCoefficients } = stage
  const slopes = slopesOf(stage)
  return {
    states: work.put(wordsOfStates(stage.states as Float64Array, rowCountOf(stage.logits))),
    coefficients: work.put(twoFloats([...coefficients, ...(plainCoefficients ?? [])])),
    hasPlain: plainCoefficients !== undefined,
    slopes: slopes && work.put(slopes),
  }
}

/** Adds stage 4. */
export function gradient(plan: Plan, stage: GradientStage, found: Found): void {
  const { copies, results, limits } = plan
  const logits = copies.rows(stage.logits)
  const out = copies.rows(stage.out, stage.skipInactive)
  const values = rowValues(plan, stage, found, stage.rowScale)
  const shared = logits.data.buffer === out.data.buffer
  const vector = isVector(logits) && isVector(out)
  const write = writer(plan, stage, values, { dtype: logits.dtype, outDType: out.dtype, vector, shared })
  for (const window of windowsOf([logits, out], shared, limits)) write(window)
  copies.readBack(stage.out, results)
}

/** Adds stage 4 of an output layer: the gradient of its logits takes their place. */
export function headGradient(plan: Plan, heads: Heads, stage: HeadGradientStage, found: Found): void {
  const logits = heads.of(stage.head, stage.logits.vocab)
  const values = rowValues(plan, stage, found)
  const gradients = new HeadGradients(plan, logits, stage, values)
  const write = writer(plan, stage, values, { dtype: 'float32', outDType: 'float32', vector: true, shared: true })
  for (const chunk of logits.windows) {
    logits.make(chunk)
    write(chunk)
    gradients.add(chunk)
  }
  gradients.finish()
}

/** What adds the gradient of a window's logits. */
function writer(plan: Plan, stage: AnyStage, values: Region, writing: Writing): (window: Window) => void {
  const { tokens, tokenRegions } = plan
  const {
    logits: { vocab },
    tokenCoefficients: own,
  } = stage
  const { labelSmoothing = 0, classWeights: ofClasses } = plan.job.tokenLoss ?? {}
  const FULL = own?.entropy !== undefined || own?.meanLogit !== undefined || labelSmoothing !== 0
  const HAS_CLASSES = ofClasses !== undefined
  const shader = logitsGradientShader({ ...writing, FULL, CAPS: tokens.capScale !== undefined, HAS_CLASSES })
  // Fours may begin before the row.
  const partLength = TILE * tilesOf(plan.device)
  const parts = Math.ceil((vocab + Number(!writing.vector)) / partLength)
  const temperature = temperatureConstants(tokens.temperature)
  const cap = capConstants(tokens.capScale)
  const classWeights = HAS_CLASSES ? [classWeightsOf(plan)] : []
  const skips = Number(stage.skipInactive ?? false)
  return ({ first, count, views }) => {
    const [of, to = of] = views
    const params = uniforms(temperature, of.rows, to.rows, cap, 0, first, count, vocab, parts, partLength, skips)
    const tensors = writing.shared ? [of] : views
    plan.step(shader, params, [tokenRegions.targets, values, ...tensors, ...classWeights], count * parts)
  }
}

/** What the logits of each row are turned into. */
function rowValues(plan: Plan, stage: AnyStage, found: Found, scales?: Float64Array): Region {
  const { targets, sequences, weights, hasWeights: WEIGHS } = plan.tokenRegions
  const { temperature, average, capScale } = plan.tokens
  const { work } = plan.arenas
  const rowCount = rowCountOf(stage.logits)
  const values = valuesRoom(plan, rowCount)
  const { length } = stage.coefficients
  const { states, coefficients, slopes, hasPlain, hasPlaced: HAS_PLACED = false } = found
  const perLogit = twoFloats([(capScale ?? 1) / temperature])
  const plain = hasPlain ? length : 0
  const params = uniforms(perLogit, 0, rowCount, length, Number(average), stage.logits.vocab, plain)
  const bindings = [targets, sequences, weights, states, coefficients, slopes ?? work.room(0), values]
  const HAS_CLASSES = plan.job.tokenLoss?.classWeights !== undefined
  if (scales) {
    const rowScale = work.room(rowCount * TWO_FLOAT_BYTES)
    bindings.push(rowScale)
    plan.results.float64(rowScale, scales)
  } else if (HAS_CLASSES) {
    bindings.push(classWeightsOf(plan))
  }
  const finishing = { WEIGHS, HAS_OWN: slopes !== undefined, HAS_PLACED, DEFERS: scales !== undefined, HAS_CLASSES }
  plan.step(finishGradientShader(finishing), params, bindings, Math.ceil(rowCount / WORKGROUP))
  return values
}

/** `[R]` `Slopes` of slopes.wgsl. */
function slopesOf({ tokenCoefficients, entropies, logits }: AnyStage): Float32Array | undefined {
  if (tokenCoefficients === undefined) return undefined
  const { logProb, logSumExp, entropy, meanLogit } = tokenCoefficients
  const rowCount = rowCountOf(logits)
  const slopes = new Float32Array(10 * rowCount)
  for (const [i, values] of [logProb, logSumExp, entropy, meanLogit, entropy && entropies].entries()) {
    if (values) for (let row = 0; row < rowCount; row++) setTwoFloat(slopes, 10 * row + 2 * i, values[row])
  }
  return slopes
}
