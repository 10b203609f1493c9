/**
 * Random calls of every element type, shape, layout and option of tokens, and their comparison with what the js backend
 * makes of them.
 */
import fc from 'fast-check'
import { expect } from 'vitest'
import type { Logits, SequenceLogProbs } from '../lib/types/index.js'
import { DTYPES, decode, encode, OUTPUTS, type Problem, random, type Spec, STYLES, ulp, values } from './support.js'

/** The most logits of one call: js takes about 0.1 µs for each. */
const MOST_LOGITS = 60_000

const vocab = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 40 }) },
  {
    weight: 5,
    arbitrary: fc
      .tuple(fc.constantFrom(16, 64, 2048, 16384), fc.integer({ min: 1, max: 3 }), fc.integer({ min: -1, max: 1 }))
      .map(([unit, times, more]) => unit * times + more),
  },
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 20_000 }) },
)

export const spec: fc.Arbitrary<Spec> = fc
  .record({
    seed: fc.nat(),
    dtype: fc.constantFrom(...DTYPES),
    style: fc.constantFrom(...STYLES),
    vocab,
    lengths: fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 6 }),
    packed: fc.boolean(),
    padding: fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 5 }), fc.nat({ max: 9 })),
    bigint: fc.boolean(),
    masked: fc.boolean(),
    ignored: fc.boolean(),
    weighted: fc.boolean(),
    options: fc.record(
      {
        shift: fc.boolean(),
        ignoreIndex: fc.constantFrom(-100, 0, -1),
        averageLogProb: fc.boolean(),
        temperature: fc.oneof(fc.constantFrom(1, 0.7, 1e-3, 1e3), fc.double({ min: 0.1, max: 10, noNaN: true })),
        emptySequence: fc.constantFrom('zero' as const, 'nan' as const),
      },
      { requiredKeys: [] },
    ),
  })
  .map((drawn) => {
    const lengths = drawn.packed ? drawn.lengths : drawn.lengths.map(() => drawn.lengths[0])
    let rows = lengths.reduce((a, b) => a + b)
    while (rows * drawn.vocab > MOST_LOGITS && lengths.length > 1) rows -= lengths.pop()!
    if (rows * drawn.vocab > MOST_LOGITS) lengths[0] = Math.max(1, Math.floor(MOST_LOGITS / drawn.vocab))
    return { ...drawn, lengths }
  })

/** Fails unless `got` is within `bound` of `wanted`; equal infinities, and NaN and NaN, have the distance 0. */
export function near(got: number, wanted: number, bound: number, what: string, at?: number): void {
  if (Object.is(got, wanted) || Math.abs(got - wanted) <= bound || got === wanted) return
  const where = at === undefined ? what : `${what}[${at}]`
  throw new Error(`${where}: ${got}, where js has ${wanted}, ${Math.abs(got - wanted) / bound} times the bound apart`)
}

const UNIT_TOKEN = (x: number) => ulp(Math.max(Math.abs(x), 1))

/** Stages 1 and 2. */
export function compareForward(
  got: SequenceLogProbs,
  wanted: SequenceLogProbs,
  problem: Problem,
  lengths: number[],
  ulps = 2,
): void {
  expect(got.tokenCounts).toEqual(wanted.tokenCounts)
  const { options, active } = problem
  const drop = options.shift !== false && options.sequenceOffsets === undefined ? 1 : 0
  const average = options.averageLogProb === true
  let row = 0
  let k = 0
  for (const [s, length] of lengths.entries()) {
    let bound = 0
    for (let t = 0; t < length; t++, row++) {
      if (t >= length - drop) continue
      const [logProb, wantedLogProb] = [got.tokenLogProbs![k], wanted.tokenLogProbs![k]]
      const step = UNIT_TOKEN(wantedLogProb)
      if (!active(row)) {
        for (const name of OUTPUTS) if (got[name]) expect(got[name][k]).toBe(name === 'tokenArgmax' ? -1 : 0)
      }
      near(logProb, wantedLogProb, ulps * step, `tokenLogProbs[${k}]`)
      if (wanted.logSumExp) {
        near(got.logSumExp![k], wanted.logSumExp[k], ulps * UNIT_TOKEN(wanted.logSumExp[k]), `logSumExp[${k}]`)
        near(
          got.tokenEntropies![k],
          wanted.tokenEntropies![k],
          2 * ulps * UNIT_TOKEN(wanted.tokenEntropies![k]),
          `tokenEntropies[${k}]`,
        )
        near(got.sumSquaredProbs![k], wanted.sumSquaredProbs![k], 1e-6 * wanted.sumSquaredProbs![k], `Σp²[${k}]`)
        near(got.tokenArgmax![k], wanted.tokenArgmax![k], 0, `tokenArgmax[${k}]`)
        near(got.tokenMeanLogits![k], wanted.tokenMeanLogits![k], ulp(wanted.tokenMeanLogits![k]), `mean[${k}]`)
      }
      if (active(row)) {
        const label = problem.labels.length === problem.rows ? row + (options.shift === false ? 0 : 1) : row
        bound += ulps * step * Math.abs(options.tokenWeights?.[label] ?? 1)
      }
      k++
    }
    near(got.logProbs[s], wanted.logProbs[s], average ? bound / wanted.tokenCounts[s] : bound, `logProbs[${s}]`)
  }
}

/** The same logits, exactly, in float32. */
export function widened(logits: Logits): Logits {
  return { ...logits, data: Float32Array.from(logits.data as Uint16Array, decode[logits.dtype!]), dtype: 'float32' }
}

/** Stage 4; `wanted` is the gradient in float32. */
export function compareGradient(
  got: Logits,
  wanted: Logits,
  vocabulary: number,
  { active }: Problem,
  boundOf?: (i: number) => number,
): void {
  const dtype = got.dtype!
  const [g, w] = [values(got), values(wanted)]
  expect(g.length).toBe(w.length)
  for (let i = 0; i < g.length; i++) {
    const bound = boundOf?.(i) ?? 4 * ulp(w[i]) + 1e-38
    if (!active(Math.floor(i / vocabulary))) {
      if (!Object.is(g[i], 0)) throw new Error(`gradient[${i}] of an inactive row is ${g[i]}`)
    } else if (dtype === 'float32') {
      near(g[i], w[i], bound, 'gradient', i)
    } else {
      const low = decode[dtype](encode[dtype](w[i] - bound))
      const high = decode[dtype](encode[dtype](w[i] + bound))
      if (Number.isNaN(g[i]) && Number.isNaN(w[i])) continue
      if (!(g[i] >= low && g[i] <= high)) throw new Error(`gradient[${i}]: ${g[i]}, wanted ${low} … ${high} (${w[i]})`)
    }
  }
}

/** A factor for each sequence, some 0. */
export const coefficients = (seed: number, count: number) => {
  const next = random(seed ^ 0x5555)
  return Array.from({ length: count }, () => (next() < 0.1 ? 0 : (next() - 0.5) * 10 ** (4 * next() - 2)))
}
