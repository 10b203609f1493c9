/** `zeroInactive`: the gradient's rows that predict nothing become zeros or stay unchanged. */
import { describe, expect, test } from 'vitest'
import { fusedPreferenceLossSync, sequenceLogProbsSync } from '../lib/index.js'
import { TARGETS } from './support.js'

const [BATCH, TIME, VOCAB] = [2, 3, 70]
const labels = Int32Array.of(0, 5, -100, 0, 69, 7)
// With shift, row t predicts label t + 1.
const inactive = [1, 2, 5]

const values = () => Float32Array.from({ length: BATCH * TIME * VOCAB }, (_, i) => Math.sin(i) * 5)
const row = (data: ArrayLike<number>, i: number) => Array.from(data).slice(i * VOCAB, (i + 1) * VOCAB)

describe.each(TARGETS)('$name', ({ run }) => {
  const call = (data: Float32Array, gradient: Float32Array | 'in-place' | true, zeroInactive?: boolean) => {
    const options = { ...run, referenceFree: true, gradient, zeroInactive }
    return fusedPreferenceLossSync({ data, shape: [BATCH, TIME, VOCAB] }, labels, options).gradLogits
      ?.data as Float32Array
  }
  const wanted = call(values(), true)

  test('zeros by default, in a new array and in a used one', () => {
    expect(call(values(), new Float32Array(values().length).fill(7))).toEqual(wanted)
    expect(call(values(), 'in-place')).toEqual(wanted)
    for (const i of inactive) expect(row(wanted, i)).toEqual(new Array(VOCAB).fill(0))
  })

  test('left as they are when asked', () => {
    for (const gradient of [new Float32Array(values().length).fill(7), 'in-place'] as const) {
      const before = gradient === 'in-place' ? values() : gradient.slice()
      const got = call(values(), gradient, false)
      for (let i = 0; i < BATCH * TIME; i++) {
        expect(row(got, i), `row ${i}`).toEqual(row(inactive.includes(i) ? before : wanted, i))
      }
    }
  })

  test('in backward too', () => {
    const logits = { data: values(), shape: [BATCH, TIME, VOCAB] }
    const sums = sequenceLogProbsSync(logits, labels, run)
    const out = new Float32Array(values().length).fill(7)
    sums.backwardSync([1, 1], { gradient: out, zeroInactive: false })
    const fresh = sums.backwardSync([1, 1]).gradLogits.data as Float32Array
    for (let i = 0; i < BATCH * TIME; i++) {
      expect(row(out, i), `row ${i}`).toEqual(inactive.includes(i) ? new Array(VOCAB).fill(7) : row(fresh, i))
    }
  })
})
