/**
 * Stage 4 as steps.
 */
import type { GradientStage } from '../../job.js'
import type { Region } from './arena.js'
import { classWeightsOf } from './forward.js'
import type { Plan } from './plan.js'
import { WORKGROUP } from './shader.js'
import { finishGradientShader, logitsGradientShader } from './shaders.js'
import { capConstants, setTwoFloat, temperatureConstants, twoFloats } from './two-floats.js'
import { uniforms } from './uniforms.js'
import { isVector, rowCountOf, windowsOf } from './windows.js'

const SIZES = { RowValues: 32, TwoFloat: 8 }

/** Logits in the tile of a workgroup. */
const TILE = 16 * WORKGROUP

/** What earlier stages leave for stage 4. */
export interface Found {
  states: Region
  /** `[S]`, and where `hasPlain` as many of plain log-probs. */
  coefficients: Region
  hasPlain: boolean
  /** `[R]` `Slopes`, where rows have coefficients of their own. */
  slopes?: Region
}

/** What another job has left, which the host has kept. */
export function foundByOther({ arenas: { work } }: Plan, stage: GradientStage): Found {
  const { coefficients, plainCoefficients } = stage
  const slopes = slopesOf(stage)
  return {
    states: work.put(stage.states as Float64Array),
    coefficients: work.put(twoFloats([...coefficients, ...(plainCoefficients ?? [])])),
    hasPlain: plainCoefficients !== undefined,
    slopes: slopes && work.put(slopes),
  }
}

/** Adds stage 4. */
export function gradient(plan: Plan, stage: GradientStage, found: Found): void {
  const { device, copies, tokenRegions, tokens, results } = plan
  const logits = copies.rows(stage.logits)
  const out = copies.rows(stage.out, stage.skipInactive)
  const { vocab } = logits
  const values = plan.arenas.work.room(rowCountOf(logits) * SIZES.RowValues)
  rowValues(plan, stage, found, values)
  const own = stage.tokenCoefficients
  const shared = logits.data.buffer === out.data.buffer
  const HAS_CLASSES = plan.job.tokenLoss?.classWeights !== undefined
  const writing = {
    dtype: logits.dtype,
    outDType: out.dtype,
    vector: isVector(logits) && isVector(out),
    shared,
    FULL: own?.entropy !== undefined || own?.meanLogit !== undefined || (plan.job.tokenLoss?.labelSmoothing ?? 0) !== 0,
    CAPS: tokens.capScale !== undefined,
    HAS_CLASSES,
  }
  const tiles = Math.ceil(vocab / TILE)
  const temperature = temperatureConstants(tokens.temperature)
  const cap = capConstants(tokens.capScale)
  const classWeights = HAS_CLASSES ? [classWeightsOf(plan)] : []
  const skips = Number(stage.skipInactive ?? false)
  for (const { first, count, views } of windowsOf([logits, out], shared, device.limits)) {
    const [of, to] = views
    const params = uniforms(temperature, of.rows, to.rows, cap, 0, first, count, vocab, tiles, skips)
    const tensors = shared ? [of] : [of, to]
    const bindings = [tokenRegions.targets, values, ...tensors, ...classWeights]
    plan.step(logitsGradientShader(writing), params, bindings, count * tiles)
  }
  copies.readBack(stage.out, results)
}

/** What the logits of each row are turned into. */
function rowValues(plan: Plan, stage: GradientStage, found: Found, values: Region): void {
  const { targets, sequences, weights, hasWeights: WEIGHS } = plan.tokenRegions
  const { temperature, average, capScale } = plan.tokens
  const { work } = plan.arenas
  const rowCount = rowCountOf(stage.logits)
  const { length } = stage.coefficients
  const { states, coefficients, slopes, hasPlain } = found
  const perLogit = twoFloats([(capScale ?? 1) / temperature])
  const plain = hasPlain ? length : 0
  const params = uniforms(perLogit, 0, rowCount, length, Number(average), stage.logits.vocab, plain)
  const bindings = [targets, sequences, weights, states, coefficients, slopes ?? work.room(0), values]
  const HAS_CLASSES = plan.job.tokenLoss?.classWeights !== undefined
  if (stage.rowScale) {
    const rowScale = work.room(rowCount * SIZES.TwoFloat)
    bindings.push(rowScale)
    plan.results.float64(rowScale, stage.rowScale)
  } else if (HAS_CLASSES) {
    bindings.push(classWeightsOf(plan))
  }
  const finishing = { WEIGHS, HAS_OWN: slopes !== undefined, DEFERS: stage.rowScale !== undefined, HAS_CLASSES }
  plan.step(finishGradientShader(finishing), params, bindings, Math.ceil(rowCount / WORKGROUP))
}

/** `[R]` `Slopes` of slopes.wgsl. */
function slopesOf({ tokenCoefficients, entropies, logits }: GradientStage): Float32Array | undefined {
  if (tokenCoefficients === undefined) return undefined
  const { logProb, logSumExp, entropy, meanLogit } = tokenCoefficients
  const rowCount = rowCountOf(logits)
  const slopes = new Float32Array(10 * rowCount)
  for (const [i, values] of [logProb, logSumExp, entropy, meanLogit, entropy && entropies].entries()) {
    if (values) for (let row = 0; row < rowCount; row++) setTwoFloat(slopes, 10 * row + 2 * i, values[row])
  }
  return slopes
}
