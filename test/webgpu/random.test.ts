/**
 * Random calls on WebGPU against the js backend: every element type, shape, layout and option of tokens, within the bounds
 * of docs/webgpu.md.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { sequenceLogProbsSync } from '../../lib/index.js'
import type { TokenOutput } from '../../lib/options/index.js'
import type { Logits } from '../../lib/types/index.js'
import * as calls from '../calls.js'
import '../fixed-seed.js'
import { coefficients, compareForward, compareGradient, spec, widened } from '../random-calls.js'
import { ALL_TARGETS, bytes, JS, OUTPUTS, problemOf, ulp, ulpsOf, values, vanishingOf } from '../support.js'

const [{ run }] = ALL_TARGETS

/** Nothing is larger than float32. */
const inRange = (x: number) => (Math.abs(x) >= 2 ** 128 ? x * Number.POSITIVE_INFINITY : x)

// With by-products the kernels are others.
test.each([[['tokenLogProbs']], [[...OUTPUTS, 'tokenMeanLogits']]] as TokenOutput[][][])(
  'log-probs and gradients, with %s',
  async (outputs) => {
    const ulps = ulpsOf(run)
    const property = fc.asyncProperty(spec, async (drawn) => {
      // Sums of logits as large as float32 has them are beyond it.
      fc.pre(drawn.style !== 'bits' || outputs.length === 1)
      const problem = problemOf(drawn)
      const { logits, labels, options } = problem
      const before = bytes(logits.data as Float32Array).slice()
      const got = await calls.sequenceLogProbs(logits, labels, { ...options, ...run, outputs })
      const wide: Logits = drawn.dtype === 'float32' ? logits : widened(logits)
      const wanted = sequenceLogProbsSync(wide, labels, { ...options, ...JS.run, outputs })
      compareForward(got, { ...wanted, logProbs: wanted.logProbs.map(inRange) }, problem, drawn.lengths, ulps.logProb)
      const factors = coefficients(drawn.seed, drawn.lengths.length)
      const { gradLogits } = await got.backward(factors)
      const gradient = wanted.backwardSync(factors).gradLogits
      const exact = values(gradient)
      const boundOf = (i: number) => ulps.gradient * ulp(exact[i]) + vanishingOf(run)
      compareGradient(gradLogits, gradient, drawn.vocab, problem, boundOf)
      expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)
    })
    await fc.assert(property, { numRuns: 60 })
  },
  300_000,
)
