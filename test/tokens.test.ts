/**
 * lib/call/tokens.ts: labels and token options, as the backends see them.
 */
import { describe, expect, test } from 'vitest'
import { tokensOf } from '../lib/call/tokens.js'
import type { Rows } from '../lib/job.js'
import type { TokenOptions } from '../lib/options/index.js'

function rows(batch: number, time: number, vocab = 10): Rows {
  const data = new Float32Array(0)
  return { data, dtype: 'float32', batch, time, vocab, batchStride: time * vocab, timeStride: vocab }
}

function tokens(labels: number[], batch: number, options: TokenOptions = {}) {
  return tokensOf(Int32Array.from(labels), rows(batch, labels.length / batch), options, false).tokens
}

const list = (values?: ArrayLike<number>) => (values === undefined ? undefined : Array.from(values))

describe('targets and counts', () => {
  test('a row predicts the label after it, the last of each sequence none', () => {
    const { targets, counts, offsets, weights } = tokens([1, 2, 3, 4, 5, 6], 2)
    expect(list(targets)).toEqual([2, 3, -1, 5, 6, -1])
    expect(list(counts)).toEqual([2, 2])
    expect(list(offsets)).toEqual([0, 3, 6])
    expect(weights).toBeUndefined()
  })

  test('without shift a row predicts its own label', () => {
    const { targets, counts } = tokens([1, 2, 3, 4], 2, { shift: false })
    expect(list(targets)).toEqual([1, 2, 3, 4])
    expect(list(counts)).toEqual([2, 2])
  })

  test('ignored labels and masked positions are inactive, aligned with the labels', () => {
    expect(list(tokens([1, -100, 3, 4, 5, 6], 2).targets)).toEqual([-1, 3, -1, 5, 6, -1])
    const masks = [[0, 1, 0, 1, 0, 1], [false, true, false, true, false, true], Uint8Array.of(0, 7, 0, 1, 0, 1)]
    for (const mask of masks) {
      const { targets, counts } = tokens([1, 2, 3, 4, 5, 6], 2, { mask })
      expect(list(targets)).toEqual([2, -1, -1, -1, 6, -1])
      expect(list(counts)).toEqual([1, 1])
    }
  })

  test('64-bit masks, offsets and pairs are as good as others', () => {
    const mask = BigInt64Array.of(0n, 7n, 0n, 2n ** 40n, 0n, -1n)
    expect(list(tokens([1, 2, 3, 4, 5, 6], 2, { mask }).targets)).toEqual([2, -1, -1, -1, 6, -1])
    expect(list(tokens([1, 2, 3, 4, 5, 6], 2, { mask: Array.from(mask) }).targets)).toEqual([2, -1, -1, -1, 6, -1])
    const packed = { sequenceOffsets: BigInt64Array.of(0n, 2n, 6n), pairs: BigInt64Array.of(1n, 0n) }
    const plan = tokensOf(Int32Array.of(1, 2, 3, 4, 5, 6), rows(1, 6), packed, true)
    expect(list(plan.tokens.offsets)).toEqual([0, 2, 6])
    expect(list(plan.pairs)).toEqual([1, 0])
  })

  test('a mask of negative zeros masks', () => {
    expect(list(tokens([1, 2, 3], 1, { mask: [-0, -0, 1] }).targets)).toEqual([-1, 3, -1])
  })

  test('ignoreIndex may be a token, and wins over the range check', () => {
    expect(list(tokens([1, 2, 0, 2], 1, { ignoreIndex: 2 }).targets)).toEqual([-1, 0, -1, -1])
    expect(list(tokens([1, 99, 0, 99], 1, { ignoreIndex: 99 }).targets)).toEqual([-1, 0, -1, -1])
  })

  test('labels at masked positions are not looked at', () => {
    expect(list(tokens([1, 77, 3], 1, { mask: [1, 0, 1] }).targets)).toEqual([-1, 3, -1])
  })

  test('a sequence of one token has no active row under shift', () => {
    expect(list(tokens([1, 2], 2).counts)).toEqual([0, 0])
  })

  test('packed sequences do not look into each other', () => {
    const packed = (options: TokenOptions) =>
      tokensOf(Int32Array.of(1, 2, 3, 4, 5, 6), rows(1, 6), { sequenceOffsets: [0, 1, 3, 6], ...options }, false).tokens
    expect(list(packed({}).targets)).toEqual([-1, 3, -1, 5, 6, -1])
    expect(list(packed({}).counts)).toEqual([0, 1, 2])
    expect(list(packed({ shift: false }).targets)).toEqual([1, 2, 3, 4, 5, 6])
    expect(list(packed({ tokenWeights: [1, 2, 3, 4, 5, 6] }).weights)).toEqual([1, 3, 1, 5, 6, 1])
  })
})

describe('64-bit labels', () => {
  const wide = (labels: bigint[], options: TokenOptions = {}) =>
    tokensOf(BigInt64Array.from(labels), rows(1, labels.length), options, false).tokens

  test('read like 32-bit ones', () => {
    expect(list(wide([1n, 2n, -100n, 3n]).targets)).toEqual([2, -1, 3, -1])
  })

  test('every bit counts', () => {
    for (const label of [2n ** 32n + 1n, -(2n ** 32n) + 1n, -1n, 2n ** 31n, 2n ** 63n - 1n, -(2n ** 63n)]) {
      expect(() => wide([1n, label])).toThrow(`sequence 0, position 1 is ${label}`)
    }
  })

  test('ignoreIndex may need them', () => {
    for (const ignoreIndex of [2 ** 40 + 3, -(2 ** 40) - 3, -(2 ** 31), 2 ** 31, 4294967296]) {
      expect(list(wide([1n, BigInt(ignoreIndex), 3n], { ignoreIndex }).targets)).toEqual([-1, 3, -1])
      expect(() => wide([1n, -100n], { ignoreIndex })).toThrow('position 1 is -100')
    }
  })

  test('at an offset into their buffer', () => {
    const labels = BigInt64Array.of(9n, 1n, 2n, 3n).subarray(1)
    expect(list(tokensOf(labels, rows(1, 3), {}, false).tokens.targets)).toEqual([2, 3, -1])
  })
})

describe('weights', () => {
  test('tokenWeights move with their labels', () => {
    const { weights } = tokens([1, 2, 3, 4, 5, 6], 2, { tokenWeights: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6] })
    expect(list(weights)).toEqual([0.2, 0.3, 1, 0.5, 0.6, 1])
    const unshifted = tokens([1, 2], 2, { tokenWeights: [3, -4], shift: false })
    expect(list(unshifted.weights)).toEqual([3, -4])
  })

  test('ldAlpha weighs the tokens past the shorter response of the pair', () => {
    const labels = [1, 2, 3, 4, 5, 1, 2, -100, 4, -100]
    const { weights } = tokens(labels, 2, { ldAlpha: 0.5 })
    expect(list(weights)).toEqual([1, 1, 0.5, 0.5, 1, 1, 1, 1, 1, 1])
    const both = tokens(labels, 2, { ldAlpha: 0.5, tokenWeights: new Float64Array(10).fill(4) })
    expect(list(both.weights)).toEqual([4, 4, 2, 2, 1, 4, 4, 4, 4, 1])
  })

  test('ldAlpha counts active tokens, not positions, and leaves sequences without a pair alone', () => {
    const labels = [1, -100, 3, 4, 1, 2, -100, -100, 1, 2, 3, 4]
    const { weights } = tokens(labels, 3, { ldAlpha: 0, pairs: [1, 0] })
    expect(list(weights)).toEqual([1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
  })
})

describe('pairs', () => {
  const pairs = (batch: number, options: TokenOptions = {}) =>
    list(tokensOf(new Int32Array(batch * 2), rows(batch, 2), options, true).pairs)

  test('default to the two halves', () => {
    expect(pairs(6)).toEqual([0, 3, 1, 4, 2, 5])
  })

  test('are copied', () => {
    expect(pairs(3, { pairs: [0, 1, 0, 2] })).toEqual([0, 1, 0, 2])
    const given = Int32Array.of(2, 0)
    const plan = tokensOf(new Int32Array(6), rows(3, 2), { pairs: given }, true)
    expect(plan.pairs).not.toBe(given)
  })
})

test('the constants reach the backend', () => {
  const { temperature, average, emptyLogProb } = tokens([1, 2], 1, {
    temperature: 2,
    averageLogProb: true,
    emptySequence: 'nan',
  })
  expect({ temperature, average, emptyLogProb }).toEqual({ temperature: 2, average: true, emptyLogProb: Number.NaN })
  expect(tokens([1, 2], 1)).toMatchObject({ temperature: 1, average: false, emptyLogProb: 0 })
})
