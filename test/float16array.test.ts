/**
 * Float16Arrays, of runtimes that have them (Node ≥ 24): every result is the same as with a Uint16Array of the same
 * bits. Other runtimes have nothing to test, and this file says so.
 */
import { describe, expect, it } from 'vitest'
import { encodeFloat16 } from '../lib/backends/js/numbers.js'
import {
  fusedLinearPreferenceLossSync,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { Float16ArrayLike, Logits, TypedLogits } from '../lib/types/index.js'
import { TARGETS } from './support.js'

interface Constructor {
  new (length: number): Float16ArrayLike
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): Float16ArrayLike
}
const Float16Array = (globalThis as { Float16Array?: Constructor }).Float16Array
if (Float16Array === undefined) {
  console.warn('float16array.test.ts: this runtime has no Float16Array; nothing is tested here')
}

const [batch, time, vocab, width] = [4, 5, 300, 12]
const shape = [batch, time, vocab]
const labels = Int32Array.from({ length: batch * time }, (_, i) => (i * 37) % vocab)
const options = { lossType: 'cpo', beta: 0.3 } as const

/** Bits of numbers between −4 and 4. */
const bitsOf = (length: number, seed: number) =>
  Uint16Array.from({ length }, (_, i) => encodeFloat16(4 * Math.sin(seed + 1.7 * i)))

/** A Float16Array of these bits, somewhere in a larger buffer. */
function halves(bits: Uint16Array): Float16ArrayLike {
  const buffer = new ArrayBuffer(bits.byteLength + 6)
  new Uint16Array(buffer, 6).set(bits)
  return new Float16Array!(buffer, 6, bits.length)
}

const bitsIn = ({ buffer, byteOffset, byteLength }: ArrayBufferView) =>
  Array.from(new Uint16Array(buffer, byteOffset, byteLength / 2))

describe.skipIf(Float16Array === undefined).each(TARGETS)('a Float16Array, $name', ({ run }) => {
  const bits = bitsOf(batch * time * vocab, 0)
  const asBits = (): Logits => ({ data: bits.slice(), shape, dtype: 'float16' })
  const asHalves = (): Logits => ({ data: halves(bits), shape })
  const wanted = fusedPreferenceLossSync(asBits(), labels, { ...options, ...run, gradient: true })
  const gradient = bitsIn(wanted.gradLogits!.data as Uint16Array)

  it('is read, and its gradient comes as one', () => {
    const got = fusedPreferenceLossSync(asHalves(), labels, { ...options, ...run, gradient: true })
    expect(got.losses).toEqual(wanted.losses)
    expect(got.gradLogits!.data).toBeInstanceOf(Float16Array)
    expect(got.gradLogits!.dtype).toBe('float16')
    expect(bitsIn(got.gradLogits!.data as Float16ArrayLike)).toEqual(gradient)
    expect(gradient.filter((x) => x !== 0).length).toBeGreaterThan(1000)
  })

  it('is written in place, also off the main thread', async () => {
    for (const logits of [asHalves(), asHalves()]) {
      const asked = { ...options, ...run, gradient: 'in-place' } as const
      const got = await (run.backend === 'js' ? fusedPreferenceLossSync : fusedPreferenceLoss)(logits, labels, asked)
      expect(got.gradLogits!.data).toBe(logits.data)
      expect(bitsIn(logits.data as Float16ArrayLike)).toEqual(gradient)
    }
  })

  it('is a destination beside logits of either kind, as bits are', () => {
    const size = bits.length
    for (const [logits, out] of [
      [asBits(), halves(new Uint16Array(size).fill(7))],
      [asHalves(), halves(new Uint16Array(size).fill(7))],
      [asHalves(), new Uint16Array(size).fill(7)],
    ] as const) {
      fusedPreferenceLossSync(logits, labels, { ...options, ...run, gradient: out })
      expect(bitsIn(out)).toEqual(gradient)
    }
  })

  it('is what the backward pass of log-probs writes', () => {
    const [got, wanted] = [asHalves(), asBits()].map(
      (logits) => sequenceLogProbsSync(logits, labels, run).backwardSync([1, -1, 2, 0.5]).gradLogits,
    )
    expect(got.data).toBeInstanceOf(Float16Array)
    expect(bitsIn(got.data as Float16ArrayLike)).toEqual(bitsIn(wanted.data as Uint16Array))
  })

  it('is no bfloat16, and no gradient of float32', () => {
    const before = halves(bits)
    expect(() => sequenceLogProbsSync({ data: before, shape, dtype: 'bfloat16' }, labels, run)).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }),
    )
    const float32 = { data: new Float32Array(bits.length), shape }
    expect(() => fusedPreferenceLossSync(float32, labels, { ...options, ...run, gradient: before })).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }),
    )
    expect(bitsIn(before)).toEqual(Array.from(bits))
  })

  it('is hidden states, weight and bias of an output layer', () => {
    const [hidden, weight, bias] = [batch * time * width, vocab * width, vocab].map((n, i) => bitsOf(n, 1 + i))
    const call = (
      as: (bits: Uint16Array) => Pick<TypedLogits, 'data' | 'dtype'>,
      bias: Uint16Array | Float16ArrayLike,
    ) =>
      fusedLinearPreferenceLossSync(
        { ...as(hidden), shape: [batch, time, width] },
        { ...as(weight), shape: [vocab, width] },
        labels,
        { ...options, ...run, bias, gradient: true },
      )
    const got = call((bits) => ({ data: halves(bits), dtype: 'float16' }), halves(bias))
    const wanted = call((bits) => ({ data: bits, dtype: 'float16' }), bias)
    expect(got.losses).toEqual(wanted.losses)
    expect(got.gradHidden).toEqual(wanted.gradHidden)
    expect(got.gradWeight).toEqual(wanted.gradWeight)
    expect(got.gradBias).toEqual(wanted.gradBias)
    expect(got.losses[0]).toBeGreaterThan(0)
  })
})
