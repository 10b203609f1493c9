/**
 * What ranks tell each other before they go on, and what becomes of a rank that cannot.
 */
import { expect, test } from 'vitest'
import { agree, agreeSync, HEADER_BYTES, hashOf } from '../lib/call/agreement.js'
import { invalidValue } from '../lib/errors.js'
import { onRanks, onRanksSync, outcomes, ranksInMemory } from './ranks.js'

test('every rank gets the numbers of all, for the bytes of one header', async () => {
  const found = await onRanks(3, async (rank) => {
    const numbers = await agree(rank, () => ({ call: 'x', equal: { size: 7 }, numbers: [rank.rank, 0.5, Number.NaN] }))
    expect(rank.collectives).toEqual([{ kind: 'allGather', bytes: HEADER_BYTES }])
    return numbers
  })
  const wanted = [0, 1, 2].map((rank) => [rank, 0.5, Number.NaN])
  expect(found).toEqual([wanted, wanted, wanted])
})

test('the Sync form does the same', () => {
  const found = onRanksSync(2, (rank) => agreeSync(rank, () => ({ call: 'x', numbers: [rank.rank] })))
  expect(found).toEqual([
    [[0], [1]],
    [[0], [1]],
  ])
})

test('a rank that cannot take part throws its own error, and all others name it', async () => {
  const found = await outcomes(4, (rank) =>
    agree(rank, () => {
      if (rank.rank === 2) throw invalidValue('options.beta', 'is ÷ wrong')
      return { call: 'x' }
    }),
  )
  const reasons = found.map((outcome) => (outcome as PromiseRejectedResult).reason)
  expect(reasons[2]).toMatchObject({ code: 'ERR_INVALID_ARG_VALUE', message: 'options.beta is ÷ wrong' })
  for (const r of [0, 1, 3]) {
    expect(reasons[r]).toMatchObject({
      code: 'ERR_RANK_FAILED',
      message: 'rank 2 of 4 has failed: ERR_INVALID_ARG_VALUE: options.beta is ÷ wrong',
    })
  }
})

test('a long message is cut, not an error of its own', async () => {
  const found = await outcomes(2, (rank) =>
    agree(rank, () => {
      if (rank.rank === 0) throw new Error('é'.repeat(500))
      return { call: 'x' }
    }),
  )
  expect((found[1] as PromiseRejectedResult).reason.message).toMatch(/^rank 0 of 2 has failed: é{100,104}$/)
})

test('ranks that make different calls are told in what they differ', async () => {
  const differing = async (terms: (rank: number) => object) => {
    const found = await outcomes(2, (rank) => agree(rank, () => ({ call: 'x', ...terms(rank.rank) })))
    return found.map((outcome) => (outcome as PromiseRejectedResult).reason)
  }
  for (const reason of await differing((r) => ({ call: `${r}` }))) {
    expect(reason).toMatchObject({ code: 'ERR_INVALID_ARG_VALUE' })
    expect(reason.message).toMatch(/differs from rank \d in the function it calls/)
  }
  const [here] = await differing((r) => ({ equal: { sizes: 1, labels: r } }))
  expect(here.message).toBe('communicator rank 1 differs from rank 0 in labels, which all ranks must share')
})

test('a rank that is gone does not leave the others waiting', async () => {
  const { ranks, lose } = ranksInMemory(3)
  const waiting = Promise.allSettled([0, 1].map((r) => agree(ranks[r], () => ({ call: 'x' }))))
  setTimeout(() => lose(2), 5)
  for (const outcome of await waiting) expect(outcome).toMatchObject({ reason: { message: 'rank 2 is gone' } })
})

test('hashes tell words, their order and their number apart', () => {
  const found = [[], [0], [0, 0], [1, 2], [2, 1], [1, 2, 0]].map((words) => hashOf(words))
  expect(new Set(found).size).toBe(found.length)
  expect(hashOf([2], hashOf([1]))).not.toBe(hashOf([1], hashOf([2])))
})
