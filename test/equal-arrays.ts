/**
 * Has `toEqual` take typed arrays of one type for equal that have the same bytes: element by element it takes a second for a
 * million. Those whose bytes differ it still compares by elements, which may be NaN or say where they differ.
 */
import { expect } from 'vitest'

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView) => new Uint8Array(buffer, byteOffset, byteLength)

function sameBytes(a: unknown, b: unknown): true | undefined {
  if (!ArrayBuffer.isView(a) || !ArrayBuffer.isView(b) || a.constructor !== b.constructor) return undefined
  return Buffer.compare(bytesOf(a), bytesOf(b)) === 0 || undefined
}

expect.addEqualityTesters([sameBytes])
