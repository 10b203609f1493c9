/**
 * A shared vocabulary on the cuda backend: device memory, several segments of a rank, and what a call holds while it waits
 * for other ranks. Without a GPU the kernels run on the host. Golden cases and the bits of one process are tested in
 * sharded-golden.test.ts and shard.test.ts.
 */
import { describe, expect, test } from 'vitest'
import { DeviceBuffer, prepareFusedPreferenceLoss, Stream } from '../lib/cuda/index.js'
import {
  crossEntropy,
  fusedLinearPreferenceLoss,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLoss,
  getBackends,
  linearSequenceLogProbs,
} from '../lib/index.js'
import type {
  Communicator,
  DeviceData,
  DType,
  HeadWeight,
  HostArray,
  Logits,
  ShardOptions,
} from '../lib/types/index.js'
import { onRanks, onRanksSync, outcomes, type Rank } from './ranks.js'
import { copyOfColumns, joined } from './shards.js'
import { bytes, CUDA, gaussian, hex, logitsOf, random, storage, values } from './support.js'

const RUN = { backend: 'cuda' } as const
const CHUNK_VARIABLE = 'FUSED_PREFERENCE_LOSS_CHUNK_BYTES'
const hasHead = getBackends().cuda.cublasLt?.available === true

const next = random(28)
const logitsWith = (vocab: number, dtype: DType = 'float32') =>
  logitsOf(
    dtype,
    [4, 3, vocab],
    Float64Array.from({ length: 12 * vocab }, () => 3 * gaussian(next)),
  )

/** Labels on both sides of the borders, and at both ends. */
const labelsAt = (borders: readonly number[]) => {
  const [, border, vocab] = borders
  const own = [border - 1, border, 0, vocab - 1, border + 1, -100, border - 2, 5]
  return Int32Array.from({ length: 12 }, (_, i) => (i % 3 === 0 ? 0 : own[Math.floor(i / 3) * 2 + (i % 3) - 1]))
}

const sharedBy = ({ rank }: Communicator, borders: readonly number[], communicator: Communicator): ShardOptions => ({
  shard: { start: borders[rank], vocab: borders.at(-1) as number },
  communicator,
})

/** An array of the type and length of `like`, with the content of device memory. */
function fetched(memory: DeviceData | HostArray, like: HostArray): HostArray {
  const copy = (like as Float32Array).slice()
  ;(memory as DeviceBuffer).copyTo(copy)
  return copy
}

describe.runIf(CUDA.length > 0)('a shared vocabulary on the cuda backend', () => {
  const BORDERS = [0, 16_384, 17_001]
  const labels = labelsAt(BORDERS)
  const REFERENCE = { reference: { chosen: [-20, -31], rejected: [-24, -30] } }

  test.each(['float32', 'bfloat16'] as const)(
    'logits in device memory, gradients there or in place, %s',
    async (dtype) => {
      const [logits, other] = [logitsWith(BORDERS[2], dtype), logitsWith(BORDERS[2], dtype)]
      const given = { outputs: ['tokenEntropies', 'tokenArgmax'], lossType: 'sigmoid' } as const
      const wanted = fusedPreferenceLossSync(logits, labels, {
        ...given,
        ...RUN,
        reference: { logits: other },
        gradient: true,
      })
      for (const inPlace of [false, true]) {
        const parts = await onRanks(2, async (rank) => {
          const stream = new Stream()
          const [mine, others] = [logits, other].map((all) =>
            copyOfColumns(all, BORDERS[rank.rank], BORDERS[rank.rank + 1]),
          )
          const there = (part: Logits) => ({ ...part, data: DeviceBuffer.from(part.data as Float32Array) })
          const result = await fusedPreferenceLoss(there(mine), labels, {
            ...given,
            ...sharedBy(rank, BORDERS, rank),
            // The reference's in host memory.
            reference: { logits: inPlace ? others : there(others) },
            gradient: inPlace ? 'in-place' : true,
            stream,
          })
          const { gradLogits, ...rest } = result
          const data = fetched(gradLogits!.data as DeviceBuffer, mine.data as Float32Array)
          return { rest, gradLogits: { ...mine, data } as Logits }
        })
        for (const { rest } of parts) {
          expect(Object.is(rest.loss, wanted.loss)).toBe(true)
          for (const name of ['tokenEntropies', 'tokenArgmax', 'losses'] as const) {
            expect(hex(bytes(rest[name] as Float32Array)), name).toBe(hex(bytes(wanted[name] as Float32Array)))
          }
        }
        const gradient = joined(
          parts.map((part) => part.gradLogits),
          BORDERS,
        )
        expect(hex(bytes(gradient.data as Float32Array))).toBe(hex(bytes(wanted.gradLogits!.data as Float32Array)))
      }
    },
  )

  test('ranks with several segments send the state of each, or one, and are within the bounds of one process', async () => {
    const borders = [0, 36_001, 40_000]
    const own = labelsAt(borders)
    const logits = logitsWith(40_000)
    const wanted = fusedPreferenceLossSync(logits, own, { ...REFERENCE, ...RUN, gradient: true })
    const sent: number[] = []
    for (const segments of ['exact', 'merged'] as const) {
      const parts = await onRanks(2, async (rank) => {
        const mine = copyOfColumns(logits, borders[rank.rank], borders[rank.rank + 1])
        const options = { ...REFERENCE, ...RUN, ...sharedBy(rank, borders, rank), segments, gradient: true } as const
        const result = await fusedPreferenceLoss(mine, own, options)
        return { result, bytes: (rank as Rank).collectives[1].bytes }
      })
      sent.push(parts[0].bytes)
      const [{ result }, { result: other }] = parts
      expect(hex(bytes(Float64Array.from(result.losses)))).toBe(hex(bytes(Float64Array.from(other.losses))))
      for (const [i, loss] of result.losses.entries()) expect(Math.abs(loss - wanted.losses[i])).toBeLessThan(1e-6)
      const gradient = joined(
        parts.map((part) => part.result.gradLogits as Logits),
        borders,
      )
      const [a, b] = [values(gradient), values(wanted.gradLogits!)]
      for (const [i, x] of b.entries()) {
        if (!(Math.abs(a[i] - x) <= 2e-6 * Math.abs(x) + 1e-9)) expect.unreachable(`${i}: ${a[i]}, not ${x}`)
      }
    }
    // Three segments of rank 0 against one state: 16 bytes more for each of the other two of 7 tokens.
    expect(sent[0] - sent[1]).toBe(7 * 2 * 16)
  })

  test('labels must be in host memory', async () => {
    const logits = logitsWith(30)
    const found = await outcomes(2, (rank) =>
      crossEntropy(
        { ...copyOfColumns(logits, 15 * rank.rank, 15 * rank.rank + 15), data: new DeviceBuffer(12 * 15 * 4) },
        DeviceBuffer.from(new Int32Array(12)),
        sharedBy(rank, [0, 15, 30], rank),
      ),
    )
    for (const { reason } of found as PromiseRejectedResult[]) {
      expect(reason.code).toBe('ERR_INVALID_ARG_VALUE')
      expect(reason.message).toContain('options.shard needs labels in host memory')
    }
  })

  test.each([
    ['of pairs', (logProbs: DeviceBuffer) => ({ chosen: logProbs, rejected: logProbs })],
    ['of sequences', (logProbs: DeviceBuffer) => ({ logProbs })],
  ])('log-probs of a reference must be in host memory: %s', async (name, reference) => {
    const found = await outcomes(2, (rank): Promise<unknown> => {
      const logits = { ...copyOfColumns(logitsWith(30), 0, 15), data: new DeviceBuffer(12 * 15 * 4) }
      const options = sharedBy(rank, [0, 15, 30], rank)
      const labels = new Int32Array(12)
      const given = reference(DeviceBuffer.from(new Float64Array(name === 'of pairs' ? 2 : 4)))
      if (name === 'of pairs') return fusedPreferenceLoss(logits, labels, { ...options, reference: given as never })
      const single = { ...options, desirable: [1, 0, 1, 0], kl: 0, reference: given as never }
      return fusedUnpairedPreferenceLoss(logits, labels, single)
    })
    for (const { reason } of found as PromiseRejectedResult[]) {
      expect(reason.message).toContain('options.reference must be in host memory, as options.shard wants')
    }
  })

  test('a call that is prepared takes no communicator of the host', () => {
    const logits = { ...logitsWith(300), data: new DeviceBuffer(12 * 300 * 4) }
    onRanksSync(1, (rank) => {
      const options = { ...REFERENCE, ...sharedBy(rank, [0, 600], rank), gradient: 'in-place' } as const
      expect(() => prepareFusedPreferenceLoss(logits, labelsAt([0, 300, 600]), options)).toThrow(
        'options.communicator of a prepared call must be one of fused-preference-loss/nccl',
      )
    })
  })

  test('logits that are disposed of while a rank waits for the others are there until the call ends', async () => {
    const logits = logitsWith(600)
    const own = labelsAt([0, 300, 600])
    const call = (disposes: boolean) =>
      onRanks(2, async (rank) => {
        const mine = copyOfColumns(logits, 300 * rank.rank, 300 * rank.rank + 300)
        const data = DeviceBuffer.from(mine.data as Float32Array)
        let gathers = 0
        const communicator: Communicator = {
          ...rank,
          allGather: async (send, receive) => {
            // Before the ranks have agreed, and before the states are there.
            if (disposes && gathers++ === rank.rank) data.dispose()
            await rank.allGather(send, receive)
          },
        }
        const result = await crossEntropy({ ...mine, data }, own, {
          ...sharedBy(rank, [0, 300, 600], communicator),
          gradient: true,
        })
        return hex(bytes(fetched(result.gradLogits!.data as DeviceBuffer, mine.data as Float32Array) as Float32Array))
      })
    expect(await call(true)).toEqual(await call(false))
  })

  describe.runIf(hasHead)('an output layer in device memory', () => {
    const [words, width] = [50, 6]
    const borders = [0, 23, 50]
    const own = labelsAt(borders)
    const numbers = (length: number) => Float64Array.from({ length }, () => gaussian(next) / 2)
    const layer = (dtype: DType) => {
      const hidden = logitsOf(dtype, [4, 3, width], numbers(12 * width))
      const weight = logitsOf(dtype, [words, width], numbers(words * width)) as HeadWeight
      const bias = logitsOf(dtype, [1, words], numbers(words)).data as Float32Array
      const part = ({ rank }: Communicator) => {
        const [start, end] = [borders[rank], borders[rank + 1]]
        const data = (weight.data as Float32Array).slice(start * width, end * width)
        return { hidden, weight: { data, dtype, shape: [end - start, width] }, bias: bias.slice(start, end) }
      }
      return part
    }
    const there = (array: HostArray) => DeviceBuffer.from(array as Float32Array)
    const onDevice = ({ hidden, weight, bias }: ReturnType<ReturnType<typeof layer>>) => ({
      hidden: { ...hidden, data: there(hidden.data as HostArray) },
      weight: { ...weight, data: there(weight.data) },
      bias: there(bias),
    })

    test.each([
      ['float32', 'float32', {}],
      ['float32', 'bfloat16', { zeroInactive: false }],
      ['bfloat16', 'float32', { accumulate: true }],
      ['float16', 'float16', { accumulate: true, zeroInactive: true }],
    ] as const)('has the bits of one in host memory: %s, gradients %s, %o', async (dtype, gradientDType, more) => {
      const part = layer(dtype)
      const results = await onRanks(2, async (rank) => {
        const mine = part(rank)
        const fill = (length: number) => (storage(gradientDType, length) as Float32Array).fill(1)
        const sizes = { hidden: 12 * width, weight: mine.weight.data.length, bias: mine.bias.length }
        const options = { ...REFERENCE, ...sharedBy(rank, borders, rank), ...more, gradientDType }
        const expected = { hidden: fill(sizes.hidden), weight: fill(sizes.weight), bias: fill(sizes.bias) }
        const { hidden, weight, bias } = mine
        const wanted = await fusedLinearPreferenceLoss(hidden, weight, own, {
          ...options,
          ...RUN,
          bias,
          gradient: expected,
        })
        const into = {
          hidden: there(fill(sizes.hidden)),
          weight: there(fill(sizes.weight)),
          bias: there(fill(sizes.bias)),
        }
        const device = onDevice(mine)
        const got = await fusedLinearPreferenceLoss(device.hidden, device.weight, own, {
          ...options,
          bias: device.bias,
          gradient: into,
        })
        expect(Object.is(got.loss, wanted.loss)).toBe(true)
        expect(got.gradHidden!.data).toBe(into.hidden)
        for (const name of ['hidden', 'weight', 'bias'] as const) {
          const found = fetched(into[name], expected[name]) as Float32Array
          expect(hex(bytes(found)), name).toBe(hex(bytes(expected[name])))
        }
        return hex(bytes(expected.hidden))
      })
      expect(results[0]).toBe(results[1])
    })

    test('has the same bits in chunks of two rows', async () => {
      const part = layer('float32')
      const call = async (chunk?: string) => {
        if (chunk) process.env[CHUNK_VARIABLE] = chunk
        try {
          return await onRanks(2, async (rank) => {
            const { hidden, weight, bias } = onDevice(part(rank))
            const options = {
              ...sharedBy(rank, borders, rank),
              bias,
              outputs: ['logSumExp', 'tokenMeanLogits'],
            } as const
            const result = await linearSequenceLogProbs(hidden, weight, own, options)
            return [result.logProbs, result.logSumExp, result.tokenMeanLogits].map((found) => hex(bytes(found)))
          })
        } finally {
          delete process.env[CHUNK_VARIABLE]
        }
      }
      const whole = await call()
      expect(await call(String(2 * 4 * 64))).toEqual(whole)
      expect(whole[0]).toEqual(whole[1])
    })

    test('a gradient that is asked for later', async () => {
      const part = layer('float32')
      const gradients = await onRanks(2, async (rank) => {
        const { hidden, weight, bias } = onDevice(part(rank))
        const sums = await linearSequenceLogProbs(hidden, weight, own, { bias, ...sharedBy(rank, borders, rank) })
        const { gradHidden } = await sums.backward([1, -1, 0.5, 0.25], { gradient: { hidden: true } })
        return values({ ...gradHidden!, data: fetched(gradHidden!.data, new Float32Array(12 * width)) } as Logits)
      })
      const host = await onRanks(2, async (rank) => {
        const { hidden, weight, bias } = part(rank)
        const options = { bias, ...RUN, ...sharedBy(rank, borders, rank) }
        const sums = await linearSequenceLogProbs(hidden, weight, own, options)
        return values((await sums.backward([1, -1, 0.5, 0.25])).gradHidden as Logits)
      })
      expect(gradients).toEqual(host)
      expect(host[0].some((x) => x !== 0)).toBe(true)
    })
  })
})
