/**
 * Log-probs of sequences that are in device memory already: those of a reference, or all that a loss is about. They are read
 * there on each run, and the results are those of the same numbers in arrays.
 */
import { describe, expect, it } from 'vitest'
import {
  DeviceBuffer,
  type DLTensor,
  logProbsFromDLTensor,
  prepareFusedPreferenceLoss,
  prepareFusedUnpairedPreferenceLoss,
  preparePreferenceLoss,
  prepareSequenceLogProbs,
  prepareUnpairedPreferenceLoss,
  Stream,
} from '../lib/cuda/index.js'
import {
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLossSync,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLossSync,
  preferenceLoss,
  preferenceLossSync,
  sequenceLogProbsSync,
  unpairedPreferenceLossSync,
} from '../lib/index.js'
import type { FusedOptions } from '../lib/options/index.js'
import { cudaProcess } from './cuda-process.js'
import { read, thrown } from './device-memory.js'
import { TESTS_GPU } from './platform.js'
import { CUDA, gaussian, random } from './support.js'

const [B, T, V, D] = [6, 5, 131, 8]
const P = B / 2
const shape = [B, T, V]
const LABELS = Int32Array.from({ length: B * T }, (_, i) => (i % T < 2 ? -100 : (i * 7919) % V))
const DESIRABLE = [true, false, true, false, false, true]

function floats(length: number, seed: number): Float32Array {
  const next = random(seed)
  return Float32Array.from({ length }, () => 2 * gaussian(next))
}

/** Log-probs that float32 holds, too. */
const logProbs = (length: number, seed: number) => Float64Array.from(floats(length, seed), (x) => Math.fround(x - 12))

const WIDTHS: [string, (values: Float64Array) => DeviceBuffer][] = [
  ['float64', (values) => DeviceBuffer.from(values)],
  ['float32', (values) => DeviceBuffer.from(Float32Array.from(values))],
]

describe.runIf(CUDA.length > 0).each(WIDTHS)('a reference of %s in device memory', (_, there) => {
  const data = CUDA.length > 0 ? DeviceBuffer.from(floats(B * T * V, 3)) : (undefined as never)
  const [chosen, rejected, all] = [logProbs(P, 4), logProbs(P, 5), logProbs(B, 6)]

  const CASES: [string, FusedOptions][] = [
    ['DPO', {}],
    ['weights by rank', { lossType: 'aot' }],
    ['weights by rank of single sequences', { lossType: 'aot_unpaired' }],
    [
      'WPO, and a sum of losses',
      { lossType: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight: 0.3 }], weighting: 'wpo' },
    ],
    ['pairs of its own', { pairs: [5, 0, 1, 4, 2, 3] }],
    ['no use for it', { lossType: 'ipo', referenceFree: true }],
  ]
  it.each(CASES)('of pairs gives what arrays give: %s', (_, options) => {
    const call = (given: { chosen: Float64Array | DeviceBuffer; rejected: Float64Array | DeviceBuffer }) => {
      const all = { ...options, reference: given, gradient: true as const }
      const { gradLogits, ...rest } = fusedPreferenceLossSync({ data, shape }, LABELS, all)
      return [read(gradLogits.data, new Float32Array(B * T * V)), rest]
    }
    expect(call({ chosen: there(chosen), rejected: there(rejected) })).toEqual(call({ chosen, rejected }))
  })

  it.each(CASES)('of sequences gives what arrays give: %s', (_, options) => {
    const call = (given: Float64Array | DeviceBuffer) =>
      fusedPreferenceLossSync({ data, shape }, LABELS, { ...options, reference: { logProbs: given } })
    expect(call(there(all))).toEqual(call(all))
  })

  it('gives what arrays give, of sequences that stand alone, off the calling thread, and of output layers', async () => {
    const single = { desirable: DESIRABLE, lossType: 'kto' as const, kl: 0.2 }
    const alone = (given: Float64Array | DeviceBuffer) =>
      fusedUnpairedPreferenceLossSync({ data, shape }, LABELS, { ...single, reference: { logProbs: given } })
    expect(alone(there(all))).toEqual(alone(all))
    const later = (given: Float64Array | DeviceBuffer) =>
      fusedPreferenceLoss({ data, shape }, DeviceBuffer.from(LABELS), { reference: { logProbs: given } })
    expect(await later(there(all))).toEqual(await later(all))
    const hidden = { data: DeviceBuffer.from(floats(B * T * D, 7)), shape: [B, T, D] }
    const weight = { data: DeviceBuffer.from(floats(V * D, 8)), shape: [V, D] }
    const layer = (given: Float64Array | DeviceBuffer) => [
      fusedLinearPreferenceLossSync(hidden, weight, LABELS, { reference: { logProbs: given } }),
      fusedLinearUnpairedPreferenceLossSync(hidden, weight, LABELS, { ...single, reference: { logProbs: given } }),
    ]
    expect(layer(there(all))).toEqual(layer(all))
  })

  it('is read on each run of a prepared call, in a graph too', () => {
    using stream = new Stream()
    const [first, second] = [there(chosen), there(rejected)]
    const options: FusedOptions = { stream, gradient: DeviceBuffer.from(floats(B * T * V, 1)) }
    const step = prepareFusedPreferenceLoss({ data, shape }, LABELS, {
      ...options,
      reference: { chosen: first, rejected: second },
    })
    const graph = stream.capture(() => step.enqueue())
    for (const seed of [4, 20, 21]) {
      const [left, right] = [logProbs(P, seed), logProbs(P, seed + 1)]
      first.copyFrom(there(left), { stream })
      second.copyFrom(there(right), { stream })
      graph.launch(stream)
      const { gradLogits, ...found } = step.read()
      const gradient = read(gradLogits?.data as DeviceBuffer, new Float32Array(B * T * V))
      const wanted = fusedPreferenceLossSync({ data, shape }, LABELS, {
        ...options,
        reference: { chosen: left, rejected: right },
      })
      expect(found.losses).toEqual(wanted.losses)
      expect(gradient).toEqual(read(wanted.gradLogits?.data as DeviceBuffer, new Float32Array(B * T * V)))
    }
  })

  it('of NaN makes its pair NaN', () => {
    const given = chosen.slice().fill(Number.NaN, 1, 2)
    const { losses } = fusedPreferenceLossSync({ data, shape }, LABELS, {
      reference: { chosen: there(given), rejected: there(rejected) },
    })
    expect([...losses].map(Number.isNaN)).toEqual([false, true, false])
  })
})

describe.runIf(CUDA.length > 0)('log-probs in device memory', () => {
  const data = CUDA.length > 0 ? DeviceBuffer.from(floats(B * T * V, 3)) : (undefined as never)

  it('go from one prepared call to the next without the host', () => {
    using stream = new Stream()
    const other = DeviceBuffer.from(floats(B * T * V, 9))
    const reference = prepareSequenceLogProbs({ data: other, shape }, LABELS, { stream })
    const step = prepareFusedPreferenceLoss({ data, shape }, LABELS, {
      stream,
      reference: { logProbs: reference.buffers.logProbs as DeviceBuffer },
    })
    const single = prepareFusedUnpairedPreferenceLoss({ data, shape }, LABELS, {
      stream,
      desirable: DESIRABLE,
      kl: 0,
      reference: { logProbs: reference.buffers.logProbs as DeviceBuffer },
    })
    const graph = stream.capture(() => {
      reference.enqueue()
      step.enqueue()
      single.enqueue()
    })
    other.copyFrom(floats(B * T * V, 10))
    graph.launch(stream)
    const { logProbs } = sequenceLogProbsSync({ data: other, shape }, LABELS)
    expect(step.read()).toEqual(fusedPreferenceLossSync({ data, shape }, LABELS, { reference: { logProbs } }))
    const wanted = { desirable: DESIRABLE, kl: 0, reference: { logProbs } }
    expect(single.read()).toEqual(fusedUnpairedPreferenceLossSync({ data, shape }, LABELS, wanted))
  })

  const given = {
    chosen: logProbs(P, 1),
    rejected: logProbs(P, 2),
    referenceChosen: logProbs(P, 3),
    referenceRejected: logProbs(P, 4),
  }
  const there = () =>
    Object.fromEntries(Object.entries(given).map(([name, values]) => [name, DeviceBuffer.from(values)])) as Record<
      keyof typeof given,
      DeviceBuffer
    >
  const lengths = { chosenTokenCounts: [3, 4, 5], rejectedTokenCounts: [6, 7, 8] }

  it('have the loss that arrays have, at once and prepared', async () => {
    const wanted = preferenceLossSync(given, { backend: 'cuda' })
    expect(preferenceLossSync(there())).toEqual(wanted)
    expect(await preferenceLoss(there())).toEqual(wanted)
    const { referenceChosen: _, referenceRejected: __, ...policy } = there()
    const simpo = { lossType: 'simpo', backend: 'cuda' } as const
    expect(preferenceLossSync({ ...policy, ...lengths }, simpo)).toEqual(
      preferenceLossSync({ chosen: given.chosen, rejected: given.rejected, ...lengths }, simpo),
    )
    const free = { lossType: 'ipo', referenceFree: true, backend: 'cuda' } as const
    expect(preferenceLossSync(there(), free)).toEqual(preferenceLossSync(given, free))
    using stream = new Stream()
    const buffers = there()
    const step = preparePreferenceLoss(buffers, { stream })
    const graph = stream.capture(() => step.enqueue())
    buffers.rejected.copyFrom(logProbs(P, 7))
    graph.launch(stream)
    const now = preferenceLossSync({ ...given, rejected: logProbs(P, 7) }, { backend: 'cuda' })
    expect(step.read()).toEqual(now)
    expect(read(step.buffers.chosenLogProbs, new Float64Array(P))).toEqual(given.chosen)
    expect(read(step.buffers.rejectedLogProbs, new Float64Array(P))).toEqual(logProbs(P, 7))
    expect(read(step.buffers.gradChosen, new Float64Array(P))).toEqual(now.gradLogProbs.chosen)
    expect(read(step.buffers.gradRejected, new Float64Array(P))).toEqual(now.gradLogProbs.rejected)
    expect(read(step.buffers.losses, new Float64Array(P))).toEqual(now.losses)
  })

  it('of single sequences have the loss that arrays have, at once and prepared', () => {
    const sequences = { logProbs: logProbs(B, 1), referenceLogProbs: logProbs(B, 2) }
    const buffers = {
      logProbs: DeviceBuffer.from(sequences.logProbs),
      referenceLogProbs: DeviceBuffer.from(Float32Array.from(sequences.referenceLogProbs)),
    }
    const options = { desirable: DESIRABLE, kl: 0.1, backend: 'cuda' } as const
    const wanted = unpairedPreferenceLossSync(sequences, options)
    expect(unpairedPreferenceLossSync(buffers, options)).toEqual(wanted)
    const free = { ...options, referenceFree: true }
    expect(unpairedPreferenceLossSync(buffers, free)).toEqual(unpairedPreferenceLossSync(sequences, free))
    const step = prepareUnpairedPreferenceLoss(buffers, options)
    step.enqueue()
    expect(step.read()).toEqual(wanted)
    expect(read(step.buffers.coefficients, new Float64Array(B))).toEqual(wanted.gradLogProbs)
  })

  it("come from other libraries' arrays, of which float32 is known", () => {
    const describe = (values: Float64Array | Float32Array): DLTensor & { owner: DeviceBuffer } => {
      const owner = DeviceBuffer.from(values)
      const bits = 8 * values.BYTES_PER_ELEMENT
      return {
        data: owner.ptr,
        device: { device_type: 2, device_id: 0 },
        dtype: { code: 2, bits, lanes: 1 },
        shape: [P],
        owner,
      }
    }
    const arrays = {
      chosen: logProbsFromDLTensor(describe(Float32Array.from(given.chosen))),
      rejected: logProbsFromDLTensor(describe(given.rejected)),
      referenceChosen: logProbsFromDLTensor(describe(Float32Array.from(given.referenceChosen))),
      referenceRejected: logProbsFromDLTensor(describe(given.referenceRejected)),
    }
    expect(preferenceLossSync(arrays)).toEqual(preferenceLossSync(given, { backend: 'cuda' }))
    const half = { ...describe(given.chosen), dtype: { code: 2, bits: 16, lanes: 1 } }
    expect(thrown(() => logProbsFromDLTensor(half)).code).toBe('ERR_INVALID_ARG_VALUE')
    const apart = { ...describe(given.chosen), shape: [2], strides: [2] }
    expect(thrown(() => logProbsFromDLTensor(apart)).message).toContain('array.strides must be those of a contiguous')
    // Half as many of float64 have as many bytes.
    const fewer = logProbsFromDLTensor({ ...describe(Float64Array.from([1, 2])), shape: [2] })
    const four = { data: DeviceBuffer.from(floats(8 * T * V, 3)), shape: [8, T, V] }
    const labels = new Int32Array(8 * T)
    const reference = { chosen: fewer, rejected: fewer }
    expect(thrown(() => fusedPreferenceLossSync(four, labels, { reference })).code).toBe('ERR_SHAPE_MISMATCH')
  })

  it('are refused where they do not fit', () => {
    const logits = { data, shape }
    const [side, long] = [DeviceBuffer.from(given.chosen), DeviceBuffer.from(logProbs(P + 1, 1))]
    const fused = (reference: object, tensor: object = logits, more = {}) =>
      thrown(() => fusedPreferenceLossSync(tensor as never, LABELS, { reference: reference as never, ...more }))
    const onHost = { data: floats(B * T * V, 3), shape }
    const odd = { ptr: side.ptr + 4, byteLength: 16 }
    const cases: [{ code?: string; message: string }, string, string][] = [
      [
        fused({ chosen: side, rejected: long }),
        'ERR_SHAPE_MISMATCH',
        'options.reference.rejected must have 3 elements',
      ],
      [fused({ logProbs: long }), 'ERR_SHAPE_MISMATCH', 'options.reference.logProbs must have 6 elements'],
      [fused({ chosen: side, rejected: given.rejected }), 'ERR_INVALID_ARG_TYPE', 'options.reference.rejected must be'],
      [fused({ chosen: given.chosen, rejected: side }), 'ERR_INVALID_ARG_TYPE', 'options.reference.chosen must be'],
      [
        fused({ chosen: side, rejected: side }, onHost),
        'ERR_INVALID_ARG_TYPE',
        'options.reference.chosen must be in host',
      ],
      [fused({ logProbs: side }, onHost, { backend: 'cuda' }), 'ERR_INVALID_ARG_TYPE', 'must be in host memory'],
      [fused({ logProbs: long, tokenCounts: [1] }), 'ERR_SHAPE_MISMATCH', 'options.reference.logProbs must have 6'],
      [
        fused({ chosen: odd, rejected: odd }, logits, { pairs: [0, 1, 2, 3] }),
        'ERR_INVALID_ARG_VALUE',
        'a multiple of the element size, 8',
      ],
      [
        thrown(() => preferenceLossSync({ chosen: side, rejected: given.rejected })),
        'ERR_INVALID_ARG_TYPE',
        'logProbs.rejected must be device memory, as logProbs.chosen is',
      ],
      [
        thrown(() => preferenceLossSync({ chosen: given.chosen, rejected: side })),
        'ERR_INVALID_ARG_TYPE',
        'logProbs.rejected must be in host memory, as logProbs.chosen is',
      ],
      [
        thrown(() => preferenceLossSync({ ...there(), referenceRejected: long })),
        'ERR_SHAPE_MISMATCH',
        'logProbs.referenceRejected must have 3 elements',
      ],
      [
        thrown(() => preparePreferenceLoss(given as never)),
        'ERR_INVALID_ARG_VALUE',
        'logProbs.chosen must be device memory',
      ],
      [
        thrown(() =>
          prepareUnpairedPreferenceLoss({ logProbs: [1] as never }, { desirable: [1], kl: 0, referenceFree: true }),
        ),
        'ERR_INVALID_ARG_VALUE',
        'sequences.logProbs must be device memory',
      ],
      [
        thrown(() =>
          unpairedPreferenceLossSync({ logProbs: side, referenceLogProbs: [1, 2, 3] }, { desirable: [1, 0, 1], kl: 0 }),
        ),
        'ERR_INVALID_ARG_TYPE',
        'sequences.referenceLogProbs must be device memory',
      ],
      [thrown(() => preferenceLossSync({ ...there() }, { backend: 'cpu' })), 'ERR_INVALID_ARG_VALUE', 'cpu'],
    ]
    for (const [error, code, message] of cases)
      expect([message, error.message, error.code]).toEqual([message, expect.stringContaining(message), code])
    expect(thrown(() => preferenceLossSync({ chosen: side, rejected: side }, { lossType: 'sigmoid' })).code).toBe(
      'ERR_INVALID_ARG_VALUE',
    )
    side.dispose()
    expect(fused({ chosen: side, rejected: side }).code).toBe('ERR_DISPOSED')
  })

  it.runIf(!TESTS_GPU)('stay alive as long as a call, and are refused on another GPU', () => {
    const told = cudaProcess(
      `
      const values = Float64Array.of(-20, -30)
      const options = () => ({ reference: { chosen: there(values), rejected: there(values) } })
      const step = prepareFusedPreferenceLoss({ data: there(host.logits), shape }, host.labels, options())
      const alone = cuda.preparePreferenceLoss({ chosen: there(values), rejected: there(values) }, { lossType: 'cpo' })
      const later = fpl.fusedPreferenceLoss({ data: there(host.logits), shape }, host.labels, options())
      await collected()
      step.enqueue()
      alone.enqueue()
      const wanted = fusedPreferenceLossSync({ data: there(host.logits), shape }, host.labels, { reference: { chosen: values, rejected: values } })
      const far = DeviceBuffer.from(values, { device: 1 })
      const refused = thrown(() => fusedPreferenceLossSync({ data: there(host.logits), shape }, host.labels,
        { reference: { chosen: far, rejected: far } }))
      const both = thrown(() => fpl.preferenceLossSync({ chosen: far, rejected: there(values) }, { lossType: 'cpo' }))
      tell([step.read().loss === wanted.loss, (await later).loss === wanted.loss, alone.read().loss, refused.message, both.message,
        fpl.preferenceLossSync({ chosen: far, rejected: far }, { lossType: 'cpo' }).loss])`,
      { FPL_HOST_DEVICES: '2' },
    ) as [boolean, boolean, number, string, string, number]
    expect(told.slice(0, 2)).toEqual([true, true])
    expect(told[2]).toBe(told[5])
    expect(told[3]).toContain('options.reference.chosen is on device 1, but the logits, or hidden and weight, are on 0')
    expect(told[4]).toContain('logProbs.rejected is on device 0, but logProbs.chosen is on 1')
  })
})
