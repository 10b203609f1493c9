/**
 * Stages 1 and 2 as steps.
 */
import type { ForwardStage, Job } from '../../job.js'
import type { Region } from './arena.js'
import { hasSubgroups, isSoftware } from './device.js'
import type { Heads } from './head-logits.js'
import type { Plan } from './plan.js'
import { asksForResults, STATE_BYTES, takeLogProbs, takeResults, wordsOfStates } from './row-results.js'
import { WORKGROUP } from './shader.js'
import {
  type Finds,
  findsAll,
  findsClasses,
  finishRowsShader,
  partsOfSegment,
  type Summing,
  sequenceSumsShader,
  tokenLogProbsShader,
} from './shaders.js'
import { capConstants, temperatureConstants, twoFloats } from './two-floats.js'
import { uniforms } from './uniforms.js'
import { rowCountOf, type WindowedLogits, windowedLogits } from './windows.js'

/** Bytes of structures in shaders. */
const SIZES = { sums: 16, means: 24, classMeans: 24, all: 56, classes: 56, RowResults: 32, TwoFloat: 8 }

/** Most logits of a segment: what one workgroup reads, where it merges what its threads have found or does not. */
const SEGMENTS = { merged: 16384, kept: 65536 }

/** Where sums over sequences go: the elements of `logProbs` where those of each kind begin. */
export interface Sums {
  logProbs: Region
  own: number
  plain?: number
  logWeights?: number
}

/** What stage 1 leaves of rows. */
export interface FoundRows {
  states: Region
  results?: Region
  /** `[R]` what the cross-entropy of a job smooths with, before its losses take their place. */
  meanLogits?: Region
}

/** What the sweeps of a job's policy have to find. */
export function findsOf(stage: ForwardStage, { tokenLoss }: Job): Finds {
  const isAll = asksForResults(stage) || stage.logWeights !== undefined
  if (tokenLoss?.classWeights) return isAll ? 'classes' : 'classMeans'
  if (isAll) return 'all'
  return tokenLoss?.labelSmoothing ? 'means' : 'sums'
}

/** Room for the `[R]` `TokenState` of rows. */
export function statesRoom({ arenas: { work } }: Plan, { logits }: ForwardStage): Region {
  return work.room(rowCountOf(logits) * STATE_BYTES)
}

/** Adds stages 1 and 2. */
export function forward(
  plan: Plan,
  heads: Heads,
  stage: ForwardStage,
  finds: Finds,
  sums: Sums,
  states: Region,
): FoundRows {
  const { work } = plan.arenas
  const { logits: rows, head } = stage
  const logits = head ? heads.of(head, rows.vocab) : windowedLogits(plan.copies.rows(rows), plan.limits)
  const rowCount = rowCountOf(rows)
  const found: FoundRows = { states }
  if (findsAll(finds)) found.results = work.room(rowCount * SIZES.RowResults)
  if (finds !== 'sums') found.meanLogits = work.room(rowCount * SIZES.TwoFloat)
  sweep(plan, logits, rowCount, finds, found)
  add(plan, stage.logProbs, 'own', found, sums.logProbs, sums.own)
  if (sums.plain !== undefined) add(plan, stage.logProbs, 'plain', found, sums.logProbs, sums.plain)
  if (stage.logWeights) add(plan, stage.logWeights, 'logWeights', found, sums.logProbs, sums.logWeights as number)
  takeBack(plan, stage, found, sums)
  return found
}

/** Stage 1. */
function sweep(plan: Plan, logits: WindowedLogits, rowCount: number, finds: Finds, found: FoundRows): void {
  const { states, results, meanLogits } = found
  const { targets } = plan.tokenRegions
  const { temperature, capScale } = plan.tokens
  const { vocab, dtype, vector } = logits
  const merges = !isSoftware(plan.device)
  const segments = Math.ceil(vocab / (merges ? SEGMENTS.merged : SEGMENTS.kept))
  const segmentLength = 4 * Math.ceil(vocab / segments / 4)
  const subgroups = finds === 'sums' && hasSubgroups(plan.device)
  const parts = segments * partsOfSegment({ merges, subgroups })
  const partials = plan.arenas.scratch.roomOver(rowCount * parts * SIZES[finds])
  const sweeping = { finds, dtype, vector, CAPS: capScale !== undefined, merges, subgroups }
  const temperatures = temperatureConstants(temperature)
  const cap = capConstants(capScale)
  const inverse = twoFloats([1 / temperature])
  const classWeights = findsClasses(finds) ? [classWeightsOf(plan)] : []
  const outs = [states, results, meanLogits].filter((region) => region !== undefined)
  for (const window of logits.windows) {
    const { first, count, views } = window
    const [view] = views
    logits.make?.(window)
    const common = [temperatures, view.rows, cap, inverse, 0, first, count]
    const sweep = uniforms(...common, vocab, segments, segmentLength)
    plan.step(tokenLogProbsShader(sweeping), sweep, [targets, partials, view, ...classWeights], count * segments)
    const finish = uniforms(...common, parts, vocab)
    plan.step(finishRowsShader(sweeping), finish, [targets, partials, ...outs, view], Math.ceil(count / WORKGROUP))
  }
}

/** `[V]` the weights of classes of a job that has any. */
export function classWeightsOf({ job, arenas }: Plan): Region {
  return arenas.inputs.put(job.tokenLoss?.classWeights as Float32Array)
}

/** Stage 2, for sums of one kind. */
function add(
  plan: Plan,
  { length }: Float64Array,
  of: Summing['of'],
  { states, results }: FoundRows,
  sums: Region,
  begin: number,
): void {
  const { targets, sequences, weights, hasWeights } = plan.tokenRegions
  const { average, emptyLogProb } = plan.tokens
  const isOfWeights = of === 'logWeights'
  const ofNone = Float32Array.of(isOfWeights ? 0 : emptyLogProb)
  const params = uniforms(0, length, Number(average || isOfWeights), ofNone, begin)
  const bindings = [targets, sequences, weights, states, sums]
  if (isOfWeights) bindings.push(results as Region)
  plan.step(sequenceSumsShader({ of, WEIGHS: hasWeights }), params, bindings, length)
}

/** Brings back what the stage has outs for. */
function takeBack({ results: back, tokenRegions }: Plan, stage: ForwardStage, found: FoundRows, sums: Sums): void {
  const { states, results } = found
  const { found: targets } = tokenRegions
  const rowCount = rowCountOf(stage.logits)
  back.float64(sums.logProbs, stage.logProbs, sums.own)
  if (stage.logWeights) back.float64(sums.logProbs, stage.logWeights, sums.logWeights)
  if (stage.states) back.words(states, wordsOfStates(stage.states, rowCount))
  if (stage.tokenLogProbs) {
    back.bytes(states, rowCount * STATE_BYTES, (bytes) => takeLogProbs(bytes, stage, targets))
  }
  if (results && asksForResults(stage)) {
    back.bytes(results, rowCount * SIZES.RowResults, (bytes) => takeResults(bytes, stage, targets))
  }
}
