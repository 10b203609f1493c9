/**
 * The memory that a result keeps for its `backward` and releases when it is disposed of. Programs use dist.
 */
import { describe, expect, test } from 'vitest'
import {
  linearSequenceLogProbs,
  linearSequenceLogProbsSync,
  type SequenceLogProbs,
  sequenceLogProbs,
  sequenceLogProbsSync,
} from '../lib/index.js'
import { IS_BROWSER, runProgram } from './platform.js'
import { DIST, TARGETS } from './support.js'

const disposeSymbol: typeof Symbol.dispose = Symbol.dispose ?? Symbol.for('Symbol.dispose')

const [vocab, width] = [7, 3]
const data = (length: number) => Float32Array.from({ length }, (_, i) => (i * 5) % 7)
const logits = { data: data(2 * 4 * vocab), shape: [2, 4, vocab] }
const hidden = { data: data(2 * 4 * width), shape: [2, 4, width] }
const weight = { data: data(vocab * width), shape: [vocab, width] }
const labels = Int32Array.from({ length: 8 }, (_, i) => i % vocab)

describe.each(TARGETS)('$name', ({ run }) => {
  const results = () => [
    sequenceLogProbsSync(logits, labels, run),
    sequenceLogProbs(logits, labels, run),
    linearSequenceLogProbsSync(hidden, weight, labels, run),
    linearSequenceLogProbs(hidden, weight, labels, run),
  ]

  test('a result that has been disposed of has its numbers, and no backward', async () => {
    for (const given of results()) {
      const sums = (await given) as SequenceLogProbs
      const before = sums.logProbs.slice()
      expect(Object.keys(sums.backwardSync([1, -1])).length).toBeGreaterThan(0)
      sums.dispose()
      sums.dispose()
      expect(() => sums.backwardSync([1, -1])).toThrow(
        expect.objectContaining({ code: 'ERR_DISPOSED', message: 'backward: the result has been disposed of' }),
      )
      expect(sums.logProbs).toEqual(before)
      expect(sums.tokenCounts).toEqual(Int32Array.of(3, 3))
    }
  })

  test('by using, too', async () => {
    for (const given of results()) {
      const sums = (await given) as SequenceLogProbs
      sums[disposeSymbol]()
      expect(() => sums.backwardSync([1, -1])).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }))
    }
  })

  test('one does not dispose of another', () => {
    const [one, other] = [0, 1].map(() => sequenceLogProbsSync(logits, labels, run))
    const wanted = other.backwardSync([1, -1]).gradLogits
    one.dispose()
    expect(other.backwardSync([1, -1]).gradLogits).toEqual(wanted)
    expect(Object.keys(one)).toEqual(['logProbs', 'tokenCounts', 'backward', 'backwardSync'])
  })
})

test.skipIf(IS_BROWSER)('results that are kept keep the arrays of their calls until they are disposed of', async () => {
  const code = `
    import * as fpl from ${JSON.stringify(DIST.href)}
    const [vocab, width] = [500, 8]
    const used = []
    const tensor = (...shape) => {
      const data = new Float32Array(shape.reduce((a, b) => a * b))
      used.push(new WeakRef(data))
      return { data, shape }
    }
    const labels = new Int32Array(20)
    const calls = [
      () => fpl.sequenceLogProbsSync(tensor(2, 10, vocab), labels),
      () => fpl.sequenceLogProbs(tensor(2, 10, vocab), labels),
      () => fpl.linearSequenceLogProbsSync(tensor(2, 10, width), tensor(vocab, width), labels),
      () => fpl.linearSequenceLogProbs(tensor(2, 10, width), tensor(vocab, width), labels),
    ]
    const results = []
    for (let i = 0; i < 10; i++) for (const call of calls) results.push(await call())
    const alive = async () => {
      for (let i = 0; i < 5; i++) { await new Promise((resolve) => setTimeout(resolve, 5)); gc() }
      return used.filter((ref) => ref.deref() !== undefined).length
    }
    const before = await alive()
    for (const result of results) result.dispose()
    console.log(JSON.stringify({ before, after: await alive(), results: results.length }))`
  const { stdout } = await runProgram(code, '--expose-gc')
  const { before, after, results } = JSON.parse(stdout)
  expect([before, results]).toEqual([60, 40])
  // The last result may still be on the stack.
  expect(after).toBeLessThanOrEqual(2)
})
