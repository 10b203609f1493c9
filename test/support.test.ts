/**
 * What many tests rely on sees what is wrong: distances of lists, and the equality of typed arrays (equal-arrays.ts).
 */
import { expect, test } from 'vitest'
import { tooFar } from './support.js'

test('lists are too far apart where one number is, or is none, or is missing', () => {
  const wanted = [1, -2, 0]
  expect(tooFar([1, -2, 0], wanted, () => 0)).toBe(undefined)
  expect(tooFar([1.5, -2.5, 0], wanted, (x) => Math.abs(x) / 2)).toBe(undefined)
  expect(tooFar([1, -2, 0.5], wanted, (x) => Math.abs(x) / 2)).toBe('[2] is 0.5, not 0 ± 0')
  expect(tooFar([1, -1, 1], wanted, (_, i) => i)).toBe(undefined)
  expect(tooFar([1, 0, 1], wanted, (_, i) => i)).toBe('[1] is 0, not -2 ± 1')
  expect(tooFar([1, Number.NaN, 0], wanted, () => 9)).toBe('[1] is NaN, not -2 ± 9')
  expect(tooFar([1, -2], wanted, () => 9)).toBe('2 numbers, not 3')
  expect(tooFar([1, -2, 0, 0], wanted, () => 9)).toBe('4 numbers, not 3')
})

test('typed arrays are equal that have the same type and elements', () => {
  const numbers = Float32Array.of(1, 0, Number.NaN)
  expect(numbers).toEqual(numbers.slice())
  expect({ of: [numbers] }).toEqual({ of: [numbers.slice()] })
  for (const other of [
    Float32Array.of(1, -0, Number.NaN),
    Float32Array.of(1, 0, 2),
    Float32Array.of(1, 0),
    Float64Array.of(1, 0, Number.NaN),
    new Uint8Array(numbers.buffer),
    new Int32Array(numbers.buffer),
  ]) {
    expect(numbers).not.toEqual(other)
    expect({ of: [numbers] }).not.toEqual({ of: [other] })
  }
  // NaN has more than one pattern of bits.
  const [nan, another] = [Uint32Array.of(0x7fc00000), Uint32Array.of(0x7fc00001)]
  expect(new Float32Array(nan.buffer)).toEqual(new Float32Array(another.buffer))
})
