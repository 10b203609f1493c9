/**
 * How rows are swept on devices that are software and as on a GPU: log-probs, gradients, entropies and argmax are those of the
 * js backend, wherever in a row its large logits, infinities and NaN lie.
 */
import { expect, test } from 'vitest'
import { crossEntropy, fusedPreferenceLoss, sequenceLogProbs } from '../../lib/index.js'
import { bytes, fillRow, gaussian, random, ulp, ulpsOf, vanishingOf } from '../support.js'
import { AS_SOFTWARE, DEVICE, download, upload } from './device.js'

const { NaN: nan, POSITIVE_INFINITY: inf } = Number
const ULPS = ulpsOf({ backend: 'webgpu' })
const VANISHING = vanishingOf({ backend: 'webgpu' })

/** Rows whose largest logits so far come late, and far apart; the last two have no distribution. */
function rowsOf(vocab: number): Float32Array[] {
  const next = random(vocab)
  const styles = (['model', 'far', 'wide', 'rising', 'certain', 'holes'] as const).map((style) => {
    const row = new Float32Array(vocab)
    fillRow(row, 0, vocab, 'float32', style, next)
    return row
  })
  const at = Math.floor(vocab / 2)
  // Nothing counts at first, and then little; each thread's next vector is far larger than all before.
  const step = (i: number) => Math.floor((i - vocab / 3) / 97)
  const steps = Float32Array.from({ length: vocab }, (_, i) => (i < vocab / 3 ? -inf : 40 * step(i) - 1000))
  // So little that it is 0 in the unit of nothing, and at the end even less.
  const low = Float32Array.from({ length: vocab }, (_, i) => (i < vocab / 3 ? -inf : i < vocab - 1200 ? -1000 : -2000))
  const huge = Float32Array.from({ length: vocab }, () => 4000 * gaussian(next))
  const broken = [nan, inf].map((bad) => styles[0]!.map((x, i) => (i === at ? bad : x)))
  return [...styles, steps, low, huge, ...broken]
}

test.each([
  ['software', 3],
  ['software', 2021],
  ['software', 66_001],
  ['a GPU', 3],
  ['a GPU', 8001],
  ['a GPU', 17_001],
] as const)('on %s, rows of %i tokens', async (kind, vocab) => {
  const gpuDevice = (kind === 'software' ? AS_SOFTWARE : DEVICE)!
  const rows = rowsOf(vocab)
  const data = Float32Array.from(rows.flatMap((row) => [...row]))
  const shape = [1, rows.length, vocab]
  const next = random(7)
  const labels = Int32Array.from(rows, () => Math.floor(vocab * next()))
  const options = { shift: false, normalizer: 'sum' } as const
  const wanted = await crossEntropy({ data, shape }, labels, { ...options, gradient: true, backend: 'js' })
  const onGpu = upload(gpuDevice, bytes(data))
  const outputs = ['tokenEntropies', 'tokenArgmax'] as const
  const ofTokens = await sequenceLogProbs({ data: onGpu, shape }, labels, { shift: false, outputs, gpuDevice })
  const wantedOfTokens = await sequenceLogProbs({ data, shape }, labels, { shift: false, outputs, backend: 'js' })
  const got = await crossEntropy({ data: onGpu, shape }, labels, { ...options, gradient: 'in-place', gpuDevice })
  const gradient = new Float32Array((await download(gpuDevice, onGpu)).buffer as ArrayBuffer)

  const valid = rows.length - 2
  for (let row = 0; row < valid; row++) {
    const loss = wanted.losses[row]!
    const bound = ULPS.logProb * ulp(loss) + VANISHING
    if (Number.isFinite(loss)) expect(Math.abs(got.losses[row]! - loss)).toBeLessThanOrEqual(bound)
    else expect(got.losses[row]).toBe(loss)
    const entropy = wantedOfTokens.tokenEntropies[row]!
    expect(Math.abs(ofTokens.tokenEntropies[row]! - entropy)).toBeLessThanOrEqual(1e-6 * (1 + entropy))
  }
  expect([...ofTokens.tokenArgmax].slice(0, valid)).toEqual([...wantedOfTokens.tokenArgmax].slice(0, valid))
  const wrong = gradient.findIndex((x, i) => {
    const exact = wanted.gradLogits.data[i]!
    if (i >= valid * vocab) return !Number.isNaN(x)
    return !(Math.abs(x - exact) <= ULPS.gradient * ulp(exact) + VANISHING)
  })
  expect(wrong, `${gradient[wrong]}, not ${wanted.gradLogits.data[wrong]}`).toBe(-1)
  expect(got.losses.slice(valid)).toEqual(new Float64Array(2).fill(nan))
})

test('what vanishes is 0 whatever the sign of its coefficient', async () => {
  // Chosen and rejected: the slopes of their log-probs have different signs.
  const row = [0, -300, 1]
  const data = upload(DEVICE!, bytes(Float32Array.from([...row, ...row])))
  const labels = Int32Array.of(0, 0)
  const options = { shift: false, reference: { chosen: [0], rejected: [0] }, gpuDevice: DEVICE! } as const
  await fusedPreferenceLoss({ data, shape: [2, 1, 3] }, labels, { ...options, gradient: 'in-place' })
  const gradient = new Float32Array((await download(DEVICE!, data)).buffer as ArrayBuffer)
  expect([...gradient].map(Math.sign)).toEqual([-1, 0, 1, 1, 0, -1])
})
