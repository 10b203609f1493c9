/**
 * The rewards that are reported: β times what the first loss of the sum compares, so that this loss is below that of the
 * pair with its sequences exchanged exactly where the chosen reward is above the rejected one.
 */
import type { LossStage } from '../../job.js'
import type { LossType } from '../../types/index.js'
import { wholeScore } from './divergences.js'
import { alphaReward, type Constants, constantsOf, lengthDivisor } from './formulas.js'

/** A sequence and its number of active tokens. */
interface Sequence {
  logProb: number
  reference: number
  length: number | undefined
}

type Compared = (sequence: Sequence, constants: Constants) => number

/** The log-ratio. Of undivided scores, which rise with it, it says the same. */
const logRatio: Compared = ({ logProb, reference }) => logProb - reference

/** The log-ratio per token, or its score as the losses divide it. */
const meanLogRatio: Compared = (sequence, { fDivergence, alpha, average }) => {
  const x = logRatio(sequence, {} as Constants)
  const tokens = sequence.length || 1
  if (fDivergence === 'reverse_kl') return average ? x : x / tokens
  return wholeScore(fDivergence, average ? x * tokens : x, alpha).value / tokens
}

const meanLogProb = ({ logProb, length }: Sequence, { average }: Constants) =>
  logProb / lengthDivisor(length === undefined ? undefined : Float64Array.of(length), 0, average)

const rewarded =
  (compared: Compared): Compared =>
  (sequence, constants) =>
    alphaReward(compared(sequence, constants), constants).value

/** Where it is not the log-ratio. */
const COMPARED: Partial<Record<LossType, Compared>> = {
  hinge: rewarded(logRatio),
  ipo: rewarded((sequence, constants) => (constants.average ? meanLogRatio : logRatio)(sequence, constants)),
  ipo_norm: rewarded(meanLogRatio),
  sigmoid_norm: meanLogRatio,
  simpo: rewarded(meanLogProb),
  cpo: rewarded(({ logProb }) => logProb),
  // A sequence without tokens has even odds.
  orpo: (sequence, constants) =>
    sequence.length === 0 && sequence.logProb === 0 ? -Math.LN2 : meanLogProb(sequence, constants),
}

/** Fills the rewards of a stage. */
export function rewardsOf(stage: LossStage): void {
  const { constants, pairConstants } = stage
  const [{ lossType, labelSmoothing }] = constants.terms
  const compared = COMPARED[lossType] ?? logRatio
  for (let i = 0; i < stage.chosen.length; i++) {
    const own = constantsOf({ ...constants, pairConstants, labelSmoothing }, i)
    const chosen = {
      logProb: stage.chosen[i],
      reference: stage.referenceChosen[i],
      length: stage.chosenTokenCounts?.[i],
    }
    const rejected = {
      logProb: stage.rejected[i],
      reference: stage.referenceRejected[i],
      length: stage.rejectedTokenCounts?.[i],
    }
    stage.chosenRewards[i] = own.beta * compared(chosen, own)
    stage.rejectedRewards[i] = own.beta * compared(rejected, own)
  }
}
