/**
 * Writes a small WebAssembly module: one function `run` of a 32-bit integer, with local vectors of four float32, that
 * gives a float32.
 */

/** Instructions as bytes. Local 0 is the function's argument, the vectors are 1, 2, …; all numbers below 64. */
export const instructions = {
  get: (/** @type {number} */ local) => [0x20, local],
  set: (/** @type {number} */ local) => [0x21, local],
  /** A vector of that number. */
  splat: (/** @type {number} */ x) => [0x43, ...new Uint8Array(Float32Array.of(x).buffer), 0xfd, 0x13],
  add: [0xfd, 0xe4, 0x01],
  multiply: [0xfd, 0xe6, 0x01],
  firstLane: [0xfd, 0x1f, 0],
  /** The body as often as the integer in `local` says, which is then 0. */
  repeat: (/** @type {number} */ local, /** @type {number[]} */ body) => [
    ...[0x03, 0x40],
    ...body,
    ...[0x20, local, 0x41, 1, 0x6b, 0x22, local],
    ...[0x0d, 0, 0x0b],
  ],
}

/**
 * @param {{ vectors: number, body: number[] }} code the number of local vectors, and the instructions
 * @returns {Uint8Array}
 */
export function wasmModule({ vectors, body }) {
  const [i32, f32, v128] = [0x7f, 0x7d, 0x7b]
  const code = [1, vectors, v128, ...body, 0x0b]
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 1, i32, 1, f32]),
    ...section(3, [1, 0]),
    ...section(7, [1, 3, ...new TextEncoder().encode('run'), 0, 0]),
    ...section(10, [1, ...length(code), ...code]),
  ])
}

const section = (/** @type {number} */ id, /** @type {number[]} */ content) => [id, ...length(content), ...content]

/** The number of bytes, seven bits each, in four bytes. */
function length(/** @type {number[]} */ content) {
  const bits = (/** @type {number} */ at) => (content.length >> at) & 127
  return [bits(0) | 128, bits(7) | 128, bits(14) | 128, bits(21)]
}
