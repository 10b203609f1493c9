/**
 * Stage 3 as steps.
 */
import type { ForwardStage, LossStage, TokenLossStage, UnpairedLossStage } from '../../job.js'
import type { FoundRows, Sums } from './forward.js'
import { type Found, valuesRoom } from './gradient.js'
import { LOSS_WORKGROUP, pairShaders, tokenLossShaders, unpairedShaders } from './loss-shaders.js'
import { pairInputs, takePairResults } from './pair-inputs.js'
import type { Plan } from './plan.js'
import { tokenLossInputs } from './token-loss-inputs.js'
import { takeUnpairedResults, unpairedInputs } from './unpaired-inputs.js'

/** Where stage 2 puts its sums, and what stage 3 does with them. */
export interface Loss {
  policy: Sums
  reference: Sums
  /** Adds stage 3, of a job that has one. Returns the coefficients of sequences and of rows. */
  steps(found: FoundRows | undefined): Omit<Found, 'states'>
}

const groupsOf = (threads: number) => Math.ceil(threads / LOSS_WORKGROUP)

/** Stage 3 of any kind, or of none. */
export function lossOf(plan: Plan): Loss {
  const { job } = plan
  if (job.loss) return pairLoss(plan, job.loss)
  if (job.unpairedLoss) return unpairedLoss(plan, job.unpairedLoss)
  const { length } = (job.policy as ForwardStage).logProbs
  const sums = { logProbs: plan.arenas.work.room(8 * length), own: 0 }
  const none = () => ({ coefficients: plan.arenas.work.room(8 * length), hasPlain: false })
  const { tokenLoss } = job
  const steps = (found?: FoundRows) => {
    if (tokenLoss) rowLoss(plan, tokenLoss, found as FoundRows)
    return { ...none(), hasPlaced: tokenLoss !== undefined }
  }
  return { policy: sums, reference: sums, steps }
}

function pairLoss(plan: Plan, stage: LossStage): Loss {
  const { job, results: back } = plan
  const { inputs, work } = plan.arenas
  const given = pairInputs(job)
  const { begins } = given
  const logProbs = work.put(given.logProbs)
  const hasPlain = job.policy !== undefined && job.tokens?.plainWeights !== undefined
  const steps = () => {
    const shaders = pairShaders(job)
    const pairs = inputs.put(new Uint8Array(given.pairs))
    const sequences = job.tokens ? plan.tokenRegions.sequences : inputs.room(0)
    const ranks = work.room(given.ranks)
    const results = work.room(given.results)
    const summary = work.room(given.summary)
    Object.assign(plan.kept, { logProbs, summary })
    const ofPairs = [pairs, logProbs, sequences, ranks]
    const size = stage.losses.length
    if (shaders.rankPairs) plan.step(shaders.rankPairs, given.stage, ofPairs, groupsOf(size))
    plan.step(shaders.preferenceLoss, given.stage, [...ofPairs, results], groupsOf(size))
    plan.step(shaders.pairSums, given.stage, [results, summary], 1)
    const coefficients = work.room(given.coefficients)
    const { lastStage } = plan
    if (lastStage) {
      const { length } = lastStage.coefficients
      const bindings = [inputs.put(given.uses), results, coefficients]
      plan.step(shaders.pairCoefficients, given.stage, bindings, groupsOf(length))
      back.float64(coefficients, lastStage.coefficients)
    }
    back.twoFloats([results, summary], [given.results, given.summary], (found) => {
      takePairResults(found[0], found[1], stage)
      gather(plan, stage)
    })
    return { coefficients, hasPlain }
  }
  return {
    policy: { logProbs, own: begins.policy, plain: hasPlain ? begins.plain : undefined, logWeights: begins.logWeights },
    reference: { logProbs, own: begins.reference },
    steps,
  }
}

/** Fills the pairs' log-probs from the sequences'. */
function gather({ job: { policy, reference } }: Plan, stage: LossStage): void {
  const { pairs } = stage
  if (pairs === undefined || policy === undefined) return
  for (let i = 0; i < stage.chosen.length; i++) {
    const [chosen, rejected] = [pairs[2 * i], pairs[2 * i + 1]]
    stage.chosen[i] = policy.logProbs[chosen]
    stage.rejected[i] = policy.logProbs[rejected]
    if (reference === undefined) continue
    stage.referenceChosen[i] = reference.logProbs[chosen]
    stage.referenceRejected[i] = reference.logProbs[rejected]
  }
}

function unpairedLoss(plan: Plan, stage: UnpairedLossStage): Loss {
  const { job, results: back } = plan
  const { inputs, work } = plan.arenas
  const given = unpairedInputs(job)
  const logProbs = work.put(given.logProbs)
  const { length } = stage.losses
  const steps = () => {
    const shaders = unpairedShaders(job)
    const results = work.room(given.results)
    const summary = work.room(given.summary)
    const coefficients = work.room(given.coefficients)
    const ofSequences = [inputs.put(new Uint8Array(given.inputs)), logProbs, results]
    const groups = groupsOf(length)
    plan.step(shaders.unpairedPreferenceLoss, given.stage, [...ofSequences, coefficients], groups)
    plan.step(shaders.unpairedSums, given.stage, [...ofSequences, summary], 1)
    back.twoFloats([results, summary], [given.results, given.summary], (found) =>
      takeUnpairedResults(found[0], found[1], stage),
    )
    if (plan.lastStage) back.float64(coefficients, plan.lastStage.coefficients)
    return { coefficients, hasPlain: false }
  }
  return { policy: { logProbs, own: 0 }, reference: { logProbs, own: length }, steps }
}

/** The loss of single tokens, whose coefficients take the places of the rows' values. */
function rowLoss(plan: Plan, stage: TokenLossStage, { states, meanLogits }: FoundRows): void {
  const { job, results: back } = plan
  const { inputs, work } = plan.arenas
  const rows = stage.losses.length
  const given = tokenLossInputs(job, rows)
  const shaders = tokenLossShaders(job)
  const { targets, weights } = plan.tokenRegions
  const classWeights = inputs.put(given.classWeights)
  const divisor = work.put(given.divisor)
  const losses = meanLogits ?? work.room(8 * rows)
  const slopes = valuesRoom(plan, plan.lastStage ? rows : 0)
  const summary = work.room(given.summary)
  if (shaders.tokenDivisor) plan.step(shaders.tokenDivisor, given.sumParams, [targets, classWeights, divisor], 1)
  const ofRows = [targets, weights, classWeights, states, divisor, losses, slopes]
  plan.step(shaders.tokenLoss, given.params, ofRows, groupsOf(rows))
  plan.step(shaders.tokenSums, given.sumParams, [losses, divisor, summary], 1)
  back.float64(losses, stage.losses)
  back.float64(summary, stage.summary)
}
