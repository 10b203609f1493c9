/**
 * Shaders: a shader is one entry point, put together from constants and files.
 */

/** Threads of a workgroup, unless a shader has others. */
export const WORKGROUP = 256

export interface Shader {
  /** Of the variant, by which its pipeline is kept. */
  name: string
  code: string
}

export type ShaderConstants = Record<string, number | boolean>

/** The shader of that name, whose whole numbers are unsigned. */
export function shader(name: string, constants: ShaderConstants, parts: readonly string[]): Shader {
  const lines = Object.entries({ WORKGROUP, ...constants }).map(
    ([key, value]) => `const ${key} = ${value}${Number.isInteger(value) ? 'u' : ''};`,
  )
  return { name, code: [...lines, ...parts].join('\n') }
}
