/**
 * The `Params` of a shader, in the order of its fields.
 */

/** A field: a whole number, of which shaders see its last 32 bits, numbers in float32, or words. */
type Field = number | Float32Array | Uint32Array

/** The words of the fields, and zeros up to a multiple of 16 bytes. Structures have to come first. */
export function uniforms(...fields: Field[]): Uint32Array {
  const words: number[] = []
  for (const field of fields) {
    if (typeof field === 'number') words.push(field >>> 0)
    else words.push(...new Uint32Array(field.buffer, field.byteOffset, field.length))
  }
  while (words.length % 4 !== 0) words.push(0)
  return Uint32Array.from(words)
}
