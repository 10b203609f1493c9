/**
 * The inputs and constants that each loss needs and takes, found by calls of `preferenceLossSync`.
 */
import { preferenceLossSync } from 'fused-preference-loss'

const PAIRS = {
  chosen: [-3, -4],
  rejected: [-5, -3],
  referenceChosen: [-3, -3],
  referenceRejected: [-4, -4],
  chosenTokenCounts: [2, 2],
  rejectedTokenCounts: [2, 2],
}
const { chosenTokenCounts: _, rejectedTokenCounts: __, ...WITHOUT_COUNTS } = PAIRS
const { referenceChosen: ___, referenceRejected: ____, ...WITHOUT_REFERENCE } = PAIRS

/** Constants that not every loss takes, with values other than their defaults. */
const CONSTANTS = {
  labelSmoothing: 0.25,
  offset: 1,
  gamma: 1,
  rewardShift: 0.1,
  dpopLambda: 1,
  discopopTau: 0.1,
  rewardAlpha: 0.5,
  sftNormalization: 'sum',
}
/** What some losses need. */
const TARGET = { targetMargin: 1 }

/** @param {{ type: import('typescript').UnionType }} lossType */
export function lossTable({ type }) {
  const types = /** @type {import('typescript').StringLiteralType[]} */ (type.types)
  const names = /** @type {import('fused-preference-loss').LossType[]} */ (types.map(({ value }) => value))
  const rows = names.map((lossType) => {
    const aims = runs(PAIRS, { lossType, ...TARGET })
    const needed = aims ? { lossType, ...TARGET } : { lossType }
    const taken = Object.entries(CONSTANTS).filter(([name, value]) =>
      runs(PAIRS, { ...needed, referenceFree: name === 'rewardAlpha', [name]: value }),
    )
    const takes = taken.map(([name]) => name)
    if (runs(PAIRS, { ...needed, fDivergence: 'js' })) takes.push('fDivergence')
    if (runs(PAIRS, { ...needed, normalizer: 'sum' })) takes.push('normalizer')
    const needs = []
    if (!runs(WITHOUT_REFERENCE, needed)) needs.push('reference')
    if (!runs(WITHOUT_COUNTS, needed)) needs.push('token counts')
    if (aims) needs.push('`targetMargin`')
    return `| [\`${lossType}\`](losses.md#formulas) | ${needs.join(', ')} | ${takes.map((name) => `\`${name}\``).join(', ')} |`
  })
  return ['| `lossType` | needs | takes, besides `beta` and `pairWeights` |', '| --- | --- | --- |', ...rows]
    .join('\n')
    .replaceAll('|  |', '| |')
}

function runs(
  /** @type {import('fused-preference-loss').PairLogProbs} */ pairs,
  /** @type {import('fused-preference-loss').LossOptions} */ options,
) {
  try {
    preferenceLossSync(pairs, options)
    return true
  } catch {
    return false
  }
}
