/**
 * Arguments that lie about themselves or change while they are checked: they are refused or harmless, and never cause
 * an access out of bounds. The random form is `npm run fuzz`.
 */
import { describe, expect, test } from 'vitest'
import {
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  linearSequenceLogProbsSync,
  preferenceLossSync,
  sequenceLogProbs,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { FusedOptions } from '../lib/options/index.js'
import type { DeviceMemory, Labels, Logits } from '../lib/types/index.js'
import { inAnotherRealm } from './platform.js'
import { TARGETS } from './support.js'

const [batch, time, vocab] = [2, 3, 40]
const size = batch * time * vocab

const elements = () => Float32Array.from({ length: size }, (_, i) => ((i * 37) % 101) / 16)
const labels = Int32Array.from({ length: batch * time }, (_, i) => (7 * i) % vocab)
const logits = (data: Float32Array | DeviceMemory = elements()): Logits => ({ data, shape: [batch, time, vocab] })
const reference = { chosen: [-3], rejected: [-4] }

const detach = (view: ArrayBufferView) => structuredClone(view.buffer, { transfer: [view.buffer as ArrayBuffer] })

/** An object with a property that has one value on the first access and another one afterwards. */
function changing<T extends object>(target: T, name: keyof T, then: unknown, times = 1): T {
  let asked = 0
  return new Proxy(target, {
    get: (of, key) => (key === name && asked++ >= times ? then : Reflect.get(of, key, of)),
  })
}

describe.each(TARGETS)('$name', ({ run }) => {
  const wanted = fusedPreferenceLossSync(logits(), labels, { reference, gradient: true, ...run })

  test.each([
    ['length', 2 ** 40],
    ['byteLength', 8],
    ['byteOffset', 4096],
    ['buffer', new ArrayBuffer(4)],
    [Symbol.toStringTag, 'Uint16Array'],
    ['constructor', undefined],
  ])('an array whose own %s is a lie is taken for what it is', async (name, value) => {
    const lying = <T extends object>(array: T) => Object.defineProperty(array, name, { value })
    const out = lying(new Float32Array(size))
    const given = [logits(lying(elements())), lying(labels.slice()), { reference, gradient: out, ...run }] as const
    const { gradLogits, ...results } = fusedPreferenceLossSync(...given)
    const { gradLogits: wantedGradient, ...wantedResults } = wanted
    expect(results).toEqual(wantedResults)
    expect(gradLogits!.data).toBe(out)
    for (let i = 0; i < size; i++) expect(out[i]).toBe(wantedGradient!.data[i as never])
    expect((await fusedPreferenceLoss(...given)).losses).toEqual(wanted.losses)
  })

  test('a reference that would be another one the next time: what is used is what is kept from being overwritten', () => {
    const [policy, model] = [logits(), logits()]
    const other = changing({ logits: model }, 'logits', policy)
    const gradient = model.data as Float32Array
    expect(() => fusedPreferenceLossSync(policy, labels, { reference: other, gradient, ...run })).toThrow(
      'options.gradient would overwrite options.reference.logits.data: they share memory',
    )
    expect(gradient).toEqual(elements())
  })

  test('a list of bytes that calls itself something else', () => {
    const bytes = Object.defineProperties(new Uint8Array(size), {
      [Symbol.toStringTag]: { value: 'Float32Array' },
    }) as unknown as Float32Array
    const view = Object.defineProperties(new DataView(new ArrayBuffer(8)), {
      [Symbol.toStringTag]: { value: 'Float32Array' },
      length: { value: size },
    }) as unknown as Float32Array
    const words = Object.defineProperty(new Int8Array(6), Symbol.toStringTag, { value: 'Int32Array' })
    for (const data of [bytes, view]) {
      expect(() => fusedPreferenceLossSync(logits(data), labels, { reference, ...run })).toThrow(
        expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }),
      )
      expect(() => fusedPreferenceLossSync(logits(), labels, { reference, gradient: data, ...run })).toThrow(
        expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }),
      )
    }
    expect(() => sequenceLogProbsSync(logits(), words as unknown as Labels, run)).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }),
    )
  })

  test('a resizable buffer that denies it', () => {
    const buffer = new (ArrayBuffer as unknown as new (length: number, options: object) => ArrayBuffer)(4 * size, {
      maxByteLength: 8 * size,
    })
    Object.defineProperty(buffer, 'resizable', { value: false })
    expect(() => sequenceLogProbsSync(logits(new Float32Array(buffer)), labels, run)).toThrow(/resizable/)
  })

  test('arrays of another realm', () => {
    const [data, ids, list] = inAnotherRealm('[Float32Array.from(data), Int32Array.from(labels), [...chosen]]', {
      data: elements(),
      labels,
      chosen: reference.chosen,
    })
    expect(data instanceof Float32Array).toBe(false)
    const all = { reference: { chosen: list, rejected: [-4] }, gradient: 'in-place', ...run } as const
    const { gradLogits, ...results } = fusedPreferenceLossSync(logits(data), ids, all)
    const { gradLogits: wantedGradient, ...wantedResults } = wanted
    expect(results).toEqual(wantedResults)
    expect(Array.from(gradLogits!.data as Float32Array)).toEqual(Array.from(wantedGradient!.data as Float32Array))
    // Small enough to go through the arena.
    const few = inAnotherRealm('Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8)')
    const shape = [1, 2, 4]
    const small = (of: Float32Array) => sequenceLogProbsSync({ data: of, shape }, Int32Array.of(3, 1), run).logProbs
    expect(small(few)).toEqual(small(Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8)))
  })

  test('lists that grow shorter once their length has been looked at', () => {
    const list = (length: number) => Array.from({ length }, () => -2)
    const P = 4000
    const pairs = { chosen: list(P), rejected: list(P), referenceChosen: list(P), referenceRejected: list(P) }
    const chosen = preferenceLossSync(pairs, run)
    for (const name of Object.keys(pairs) as (keyof typeof pairs)[]) {
      for (const times of [1, 2, 3]) {
        const given = { ...pairs, [name]: changing(pairs[name], 'length', 1, times) }
        // Its length is read once, so a later change does not matter.
        expect(preferenceLossSync(given, run)).toEqual(chosen)
      }
    }
    for (const times of [1, 2, 3]) {
      const shape = changing([batch, time, vocab], 'length', 1, times)
      const strides = [time * vocab, vocab, 1]
      expect(sequenceLogProbsSync({ data: elements(), shape, strides }, labels, run).logProbs).toHaveLength(batch)
    }
    const offsets = changing([0, 2, 6], 'length', 9)
    const packed = { data: elements(), shape: [6, vocab] }
    expect(sequenceLogProbsSync(packed, labels, { sequenceOffsets: offsets, ...run }).logProbs).toHaveLength(2)
  })

  test.each([-1, 2 ** 31, 2 ** 40, 2 ** 53 - 1])('a list of %d elements', (length) => {
    const list = { length, 0: -1 } as ArrayLike<number>
    const range = expect.objectContaining({ code: 'ERR_OUT_OF_RANGE' })
    expect(() => preferenceLossSync({ chosen: list, rejected: list }, run)).toThrow(range)
    for (const name of ['pairs', 'mask', 'tokenWeights', 'sequenceOffsets']) {
      const tensor = name === 'sequenceOffsets' ? { data: elements(), shape: [6, vocab] } : logits()
      expect(() => sequenceLogProbsSync(tensor, labels, { [name]: list, ...run })).toThrow(range)
    }
  })

  test('options that change their answer are what they were the first time', () => {
    const out = new Float32Array(size).fill(5)
    const other = new Float32Array(3)
    for (const then of [true, 'in-place', other, undefined, 7]) {
      const options = changing(
        { reference, gradient: out, mask: [1, 1, 1, 1, 1, 0], ...run } as FusedOptions,
        'gradient',
        then,
      )
      const { gradLogits } = fusedPreferenceLossSync(logits(), labels, options)
      expect(gradLogits!.data).toBe(out)
      expect(out.subarray(4 * vocab)).toEqual(new Float32Array(2 * vocab))
      out.fill(5)
    }
    const options = changing({ sequenceOffsets: [0, 2, 6], ...run }, 'sequenceOffsets', undefined)
    const packed = { data: elements(), shape: [6, vocab] }
    expect(sequenceLogProbsSync(packed, labels, options).logProbs).toHaveLength(2)
  })

  test('options that are getters of a class count', () => {
    class Options {
      get averageLogProb() {
        return true
      }
    }
    const means = sequenceLogProbsSync(logits(), labels, { averageLogProb: true, ...run }).logProbs
    expect(sequenceLogProbsSync(logits(), labels, Object.assign(new Options(), run)).logProbs).toEqual(means)
  })

  test('a tensor whose strides, or whose neighbour, take memory away', () => {
    const code = expect.stringMatching(/^ERR_(INVALID_ARG_VALUE|SHAPE_MISMATCH|OUT_OF_RANGE)$/)
    const refused = expect.objectContaining({ code })
    const width = 4096
    const big = () => new Float32Array(2 * 3 * width)
    const taking = (array: Float32Array, values: number[]) =>
      new Proxy(values, {
        get(of, key) {
          if (key === '0' && array.length > 0) detach(array)
          return Reflect.get(of, key)
        },
      })
    // Larger than a slot for small arrays: a read past the end would leave the slot.
    const data = big()
    const strides = taking(data, [3 * width, width, 1])
    expect(() => sequenceLogProbsSync({ data, shape: [2, 3, width], strides }, labels, run)).toThrow(refused)
    const weight = { data: new Float32Array(20 * width), shape: [20, width], strides: [width, 1] }
    const hidden = () => ({ data: big(), shape: [2, 3, width] })
    for (const place of ['data', 'shape', 'strides'] as const) {
      const states = hidden()
      const shifty = Object.defineProperty({ ...weight }, place, {
        get() {
          if (states.data.length > 0) detach(states.data)
          return weight[place]
        },
      })
      expect(() => linearSequenceLogProbsSync(states, shifty, new Int32Array(6), run), place).toThrow(refused)
    }
    const table = new Float32Array(20 * width)
    const taken = { data: table, shape: [20, width], strides: taking(table, [width, 1]) }
    expect(() => linearSequenceLogProbsSync(hidden(), taken, new Int32Array(6), run)).toThrow(refused)
  })

  test('an option that takes memory away while the options are read', async () => {
    const refused = expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' })
    for (const name of ['zeroInactive', 'threads', 'signal', 'mask', 'outputs'] as const) {
      for (const which of ['data', 'out', 'labels'] as const) {
        const arrays = { data: elements(), out: new Float32Array(size), labels: labels.slice() }
        const options = {
          reference,
          gradient: arrays.out,
          ...run,
          get [name]() {
            detach(arrays[which])
            return undefined
          },
        }
        expect(() => fusedPreferenceLossSync(logits(arrays.data), arrays.labels, options)).toThrow(refused)
      }
    }
    // And while a list, or the signal, is.
    const ids = labels.slice()
    const mask = new Proxy(Array(6).fill(1), {
      get(of, key) {
        if (key === '3') detach(ids)
        return Reflect.get(of, key)
      },
    })
    expect(() => sequenceLogProbsSync(logits(), ids, { mask, ...run })).toThrow(refused)
    for (const method of ['throwIfAborted', 'addEventListener']) {
      for (const times of [0, 1]) {
        const data = elements()
        let asked = 0
        const act = (name: string) => () => {
          if (name === method && asked++ === times && data.length > 0) detach(data)
        }
        const signal = {
          aborted: false,
          throwIfAborted: act('throwIfAborted'),
          addEventListener: act('addEventListener'),
          removeEventListener() {},
        } as unknown as AbortSignal
        const running = sequenceLogProbs(logits(data), labels, { signal, ...run })
        if (data.length === 0) await expect(running).rejects.toEqual(refused)
        else expect((await running).logProbs).toHaveLength(batch)
      }
    }
  })

  test('a signal that throws when it is listened to', async () => {
    const problem = new Error('not listening')
    const signal = {
      aborted: false,
      throwIfAborted() {},
      addEventListener() {
        throw problem
      },
      removeEventListener() {},
    } as unknown as AbortSignal
    const running = sequenceLogProbs(logits(), labels, { signal, ...run })
    // The js backend reads the signal itself and does not listen to it.
    if (run.backend !== 'js') await expect(running).rejects.toBe(problem)
    else expect((await running).logProbs).toHaveLength(batch)
  })

  test('backward, when what the call gave has been changed or taken away', () => {
    const factors = [0.5, -2]
    for (const averageLogProb of [false, true]) {
      const options = { averageLogProb, ...run }
      const gradient = sequenceLogProbsSync(logits(), labels, options).backwardSync(factors).gradLogits
      for (const spoil of [detach, (view: Int32Array | Float64Array) => void view.fill(0)]) {
        const sums = sequenceLogProbsSync(logits(), labels, options)
        spoil(sums.tokenCounts)
        spoil(sums.logProbs)
        expect(() => sums.backwardSync([])).toThrow(expect.objectContaining({ code: 'ERR_SHAPE_MISMATCH' }))
        expect(sums.backwardSync(factors).gradLogits).toEqual(gradient)
      }
    }
    const sums = sequenceLogProbsSync(logits(), labels, run)
    const out = new Float32Array(size)
    const options = {
      out,
      get zeroInactive() {
        detach(out)
        return true
      },
    }
    expect(() => sums.backwardSync(factors, options)).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }),
    )
  })

  test('lists where options belong', () => {
    const type = expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' })
    // The call does not go through millions of keys.
    const mask = new Uint8Array(2 ** 26) as never
    expect(() => sequenceLogProbsSync(logits(), labels, mask)).toThrow(type)
    expect(() => fusedPreferenceLossSync(logits(), labels, mask)).toThrow(type)
    expect(() => preferenceLossSync(mask, run)).toThrow(type)
  })

  test('messages about what cannot be written', () => {
    const shape = (of: unknown) => sequenceLogProbsSync({ data: elements(), shape: of as number[] }, labels, run)
    const mismatch = expect.objectContaining({ code: 'ERR_SHAPE_MISMATCH' })
    expect(() => shape(new Array(2 ** 32 - 1))).toThrow(mismatch)
    expect(() => shape([Symbol('x')])).toThrow(mismatch)
    const gone = new Float32Array(3)
    detach(gone)
    expect(() => shape(changing([1, 2], 'length', gone, 0))).toThrow(mismatch)
    const type = expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' })
    const nameless = Object.create(null)
    const shy = new Proxy(
      {},
      {
        get: (_, key) => {
          if (key === 'constructor') throw new Error('no')
          return undefined
        },
      },
    )
    for (const value of [nameless, shy, Symbol('x'), { constructor: { name: Symbol('x') } }]) {
      expect(() => shape(value)).toThrow(type)
      expect(() => preferenceLossSync({ chosen: [value as never], rejected: [1] }, run)).toThrow(type)
    }
    const long = 'x'.repeat(2 ** 24)
    expect(() => preferenceLossSync({ chosen: [1], rejected: [1] }, { lossType: long as never, ...run })).toThrow(
      /one of/,
    )
  })
})
