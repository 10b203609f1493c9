/**
 * LD-DPO with labels in device memory, which only the device can count: the same bits as with the same labels in host
 * memory.
 */
import { describe, expect, it } from 'vitest'
import { DeviceBuffer, prepareFusedPreferenceLoss, Stream } from '../lib/cuda/index.js'
import {
  fusedLinearPreferenceLossSync,
  fusedPreferenceLossSync,
  linearSequenceLogProbsSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { FusedOptions, SequenceOptions } from '../lib/options/index.js'
import { CUDA, gaussian, random } from './support.js'

const [B, T, V, D] = [6, 60, 11, 8]
const shape = [B, T, V]

function floats(length: number, seed: number): Float32Array {
  const next = random(seed)
  return Float32Array.from({ length }, () => 2 * gaussian(next))
}

/** Sequences of other lengths, with ignored tokens among the others; the last has none that count. */
function labelsOf(seed: number): Int32Array {
  const next = random(seed)
  const lengths = [60, 38, 3, 56, 60, 0]
  return Int32Array.from({ length: B * T }, (_, i) => {
    const isActive = i % T < lengths[Math.floor(i / T)] && next() > 0.2
    return isActive ? Math.floor(next() * V) : -100
  })
}

const MIXED = [
  { lossType: 'sigmoid', weight: 1 },
  { lossType: 'sft', weight: 0.3 },
] as const

const CASES: Record<string, FusedOptions> = {
  plain: { lossType: 'simpo', ldAlpha: 0.4 },
  'of 0, without shift': { lossType: 'simpo', ldAlpha: 0, shift: false },
  'with weights of tokens': {
    lossType: 'simpo',
    ldAlpha: 0.4,
    tokenWeights: Float64Array.from({ length: B * T }, (_, i) => 1 + (i % 7)),
  },
  'with the likelihood of all tokens, and means': {
    lossType: MIXED,
    ldAlpha: 0.4,
    averageLogProb: true,
    referenceFree: true,
  },
  'with both, and WPO': {
    lossType: MIXED,
    ldAlpha: 0.4,
    referenceFree: true,
    weighting: 'wpo',
    tokenWeights: Float64Array.from({ length: B * T }, (_, i) => 1 + (i % 3)),
  },
  'with pairs, and a sequence that is in none': { lossType: 'simpo', ldAlpha: 0.4, pairs: [0, 3, 2, 1] },
  'with a deferred scale': { lossType: 'simpo', ldAlpha: 0, deferredScale: true },
  // One of them has more rows than a block has threads.
  'of packed sequences': { lossType: 'simpo', ldAlpha: 0.4, sequenceOffsets: [0, 20, 340, 341, B * T] },
}

describe.runIf(CUDA.length > 0)('ldAlpha with labels in device memory', () => {
  const data = CUDA.length > 0 ? DeviceBuffer.from(floats(B * T * V, 3)) : (undefined as never)
  const labels = labelsOf(5)
  const words = (wide: boolean) => (wide ? BigInt64Array.from(labels, BigInt) : labels)
  const gradientOf = (buffer: unknown) => {
    const memory = buffer as DeviceBuffer
    const copy = new Float32Array(memory.byteLength / 4)
    memory.copyTo(copy)
    return copy
  }

  it.each(Object.entries(CASES))('%s: has the bits of labels in host memory', (name, options) => {
    const logits = { data, shape: options.sequenceOffsets ? [B * T, V] : shape }
    const call = (given: Int32Array | DeviceBuffer) => {
      const { gradLogits, ...rest } = fusedPreferenceLossSync(logits, given, { ...options, gradient: true })
      return { gradient: gradientOf(gradLogits.data), rest }
    }
    const found = call(DeviceBuffer.from(words(name.includes('WPO'))))
    const wanted = call(labels)
    expect(found).toEqual(wanted)
    // It counts.
    const { losses } = fusedPreferenceLossSync(logits, labels, { ...options, ldAlpha: 1, deferredScale: false })
    expect(found.rest.losses).not.toEqual(losses)
  })

  it('counts the tokens that count alone, where a thread has several rows', () => {
    const everyOther = labels.map((_, i) => (i % 2 === 0 ? i % V : -100))
    const options: FusedOptions = { lossType: 'simpo', ldAlpha: 0.4, sequenceOffsets: [0, 20, B * T] }
    const call = (given: Int32Array | DeviceBuffer) =>
      fusedPreferenceLossSync({ data, shape: [B * T, V] }, given, options)
    expect(call(DeviceBuffer.from(everyOther))).toEqual(call(everyOther))
  })

  it('leaves the likelihood of all tokens as it is', () => {
    const lossesWith = (ldAlpha: number) =>
      fusedPreferenceLossSync({ data, shape }, DeviceBuffer.from(labels), { lossType: 'sft', ldAlpha }).losses
    expect(lossesWith(0.4)).toEqual(lossesWith(1))
  })

  it('has those of a reference of logits, and of a mask', () => {
    const mask = Uint8Array.from({ length: B * T }, (_, i) => (i % 5 === 1 ? 0 : 1))
    const reference = { logits: { data: DeviceBuffer.from(floats(B * T * V, 4)), shape } }
    const wanted = fusedPreferenceLossSync({ data, shape }, labels, { reference, mask, ldAlpha: 0.3 })
    const there = { reference, mask: DeviceBuffer.from(mask), ldAlpha: 0.3 }
    expect(fusedPreferenceLossSync({ data, shape }, DeviceBuffer.from(labels), there)).toEqual(wanted)
  })

  it('has those of log-probs, and of what goes backward from them', () => {
    const options: SequenceOptions = { ldAlpha: 0.2 }
    const coefficients = [1, -2, 0.5, 3, 1, 1]
    const call = (given: Int32Array | DeviceBuffer) => {
      const sums = sequenceLogProbsSync({ data, shape }, given, options)
      return [sums.logProbs, gradientOf(sums.backwardSync(coefficients).gradLogits.data)]
    }
    expect(call(DeviceBuffer.from(labels))).toEqual(call(labels))
  })

  it('has those of output layers', () => {
    const hidden = { data: DeviceBuffer.from(floats(B * T * D, 6)), shape: [B, T, D] }
    const weight = { data: DeviceBuffer.from(floats(V * D, 7)), shape: [V, D] }
    const there = DeviceBuffer.from(labels)
    const loss = (given: Int32Array | DeviceBuffer) => {
      const options = { lossType: 'simpo' as const, ldAlpha: 0.4, gradient: true as const }
      const { gradHidden, gradWeight, ...rest } = fusedLinearPreferenceLossSync(hidden, weight, given, options)
      return [gradHidden, gradWeight].map(({ data }) => gradientOf(data)).concat(rest as never)
    }
    expect(loss(there)).toEqual(loss(labels))
    const sums = (given: Int32Array | DeviceBuffer) =>
      linearSequenceLogProbsSync(hidden, weight, given, { ldAlpha: 0.4 }).logProbs
    expect(sums(there)).toEqual(sums(labels))
  })

  it('counts anew each time that a prepared call runs, in a graph too', () => {
    using stream = new Stream()
    const there = DeviceBuffer.from(labels)
    const options: FusedOptions = { lossType: 'simpo', ldAlpha: 0.4 }
    const step = prepareFusedPreferenceLoss({ data, shape }, there, { ...options, stream })
    const graph = stream.capture(() => step.enqueue())
    for (const seed of [5, 6, 7]) {
      const now = labelsOf(seed)
      now.copyWithin(seed * T - 3 * T, 0, T)
      there.copyFrom(now)
      graph.launch(stream)
      expect(step.read()).toEqual(fusedPreferenceLossSync({ data, shape }, now, options))
    }
  })

  it('refuses a sequence that is in two pairs', () => {
    const options: FusedOptions = { lossType: 'simpo', ldAlpha: 0.4, pairs: [0, 1, 2, 0] }
    const call = () => fusedPreferenceLossSync({ data, shape }, DeviceBuffer.from(labels), options)
    expect(call).toThrow('options.pairs[3] repeats sequence 0; with ldAlpha each may be in one pair only')
  })
})
