/**
 * The output layer on every backend against TRL's, whose trainers use it for SFT, DPO and GRPO:
 * results and gradients of `trl.kernels.ChunkedLogProbFunction`, TRL 1.16, from hidden states and weight with bias,
 * temperature, logit scale and soft-cap. It computes in float32, so they agree to what that leaves.
 */
import { describe, expect, test } from 'vitest'
import type { TokenOutput } from '../lib/options/index.js'
import { linearSequenceLogProbs } from './calls.js'
import { ALL_TARGETS, goldenCases, tooFar } from './support.js'

interface Case {
  /** Rows, width, vocabulary. */
  shape: [number, number, number]
  temperature: number
  logitSoftcap: number | null
  logitScale: number
  hidden: number[]
  weight: number[]
  bias: number[] | null
  labels: number[]
  dTokenLogProbs: number[]
  dTokenEntropies: number[]
  tokenLogProbs: number[]
  tokenEntropies: number[]
  /** log Σp² */
  logSumSquaredProbs: number[]
  tokenMeanLogits: number[]
  /** Whether the label's logit is the first of the largest. */
  isTop1: boolean[]
  gradHidden: number[]
  gradWeight: number[]
  gradBias: number[] | null
}

const CASES = await goldenCases<Case>('fused-head')

const OUTPUTS: TokenOutput[] = ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'sumSquaredProbs', 'tokenMeanLogits']

/** Of the largest of the numbers. */
const RELATIVE = 2e-5

function expectNear(got: ArrayLike<number>, wanted: readonly number[]): void {
  const largest = Math.max(1e-3, ...wanted.map(Math.abs))
  expect(tooFar(got, wanted, () => RELATIVE * largest)).toBe(undefined)
}

describe.each(ALL_TARGETS)('$name', ({ run }) => {
  test.each(CASES.map((peer, k) => [k, peer] as const))('case %i', async (_, peer) => {
    const [rows, width, vocab] = peer.shape
    const { temperature, logitScale, logitSoftcap, bias } = peer
    const got = await linearSequenceLogProbs(
      { data: Float32Array.from(peer.hidden), shape: [1, rows, width] },
      { data: Float32Array.from(peer.weight), shape: [vocab, width] },
      Int32Array.from(peer.labels),
      {
        shift: false,
        temperature,
        logitScale,
        logitSoftcap,
        ...(bias === null ? {} : { bias: Float32Array.from(bias) }),
        outputs: OUTPUTS,
        ...run,
      },
    )
    expectNear(got.tokenLogProbs!, peer.tokenLogProbs)
    expectNear(got.tokenEntropies!, peer.tokenEntropies)
    expectNear(got.sumSquaredProbs!.map(Math.log), peer.logSumSquaredProbs)
    expectNear(got.tokenMeanLogits!, peer.tokenMeanLogits)
    expect(peer.labels.map((label, row) => got.tokenArgmax![row] === label)).toEqual(peer.isTop1)
    const { gradHidden, gradWeight, gradBias } = await got.backward({
      tokenLogProbs: peer.dTokenLogProbs,
      tokenEntropies: peer.dTokenEntropies,
    })
    expectNear(gradHidden!.data as Float32Array, peer.gradHidden)
    expectNear(gradWeight!.data as Float32Array, peer.gradWeight)
    if (peer.gradBias === null) expect(gradBias).toBe(undefined)
    else expectNear(gradBias as Float32Array, peer.gradBias)
  })
})

test('the cases have every option', () => {
  expect(CASES).toHaveLength(50)
  expect(new Set(CASES.map(({ logitSoftcap }) => logitSoftcap))).toEqual(new Set([null, 3, 5, 30]))
  expect(new Set(CASES.map(({ logitScale }) => logitScale))).toEqual(new Set([1, 3, 0.0625, 0.25, 2.5]))
  expect(new Set(CASES.map(({ temperature }) => temperature))).toEqual(new Set([0.5, 0.7, 1, 1.7, 2]))
  expect(new Set(CASES.map(({ bias }) => bias === null))).toEqual(new Set([true, false]))
})
