/**
 * Shaders: a shader is one entry point, put together from constants and files.
 */

/** Threads of a workgroup, unless a shader has others. */
export const WORKGROUP = 256

export interface Shader {
  /** Of the variant, by which its pipeline is kept. */
  readonly name: string
  /** Put together where it is compiled. */
  readonly code: string
}

export type ShaderConstants = Record<string, number | boolean>

/** The shader of that name, whose whole numbers are unsigned. */
export function shader(name: string, constants: ShaderConstants, parts: readonly string[]): Shader {
  const lines = Object.entries({ WORKGROUP, ...constants }).map(
    ([key, value]) => `const ${key} = ${value}${Number.isInteger(value) ? 'u' : ''};`,
  )
  return {
    name,
    get code() {
      return withoutUnused([...lines, ...parts].join('\n'))
    },
  }
}

/** The code without the functions that its entry point does not reach: wgpu would compile them all. */
function withoutUnused(code: string): string {
  const functions = functionsOf(code)
  const used = new Set<string>()
  const use = (text: string): void => {
    for (const [name] of text.matchAll(/\w+/g)) {
      if (used.has(name)) continue
      used.add(name)
      use(functions.get(name) ?? '')
    }
  }
  use(code.slice(code.indexOf('@compute')))
  return [...functions].reduce((rest, [name, text]) => (used.has(name) ? rest : rest.replace(text, '')), code)
}

/** The code of each function by its name, but for those with attributes. */
function functionsOf(code: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const { 1: name, index } of code.matchAll(/^fn (\w+)/gm)) {
    let depth = 0
    for (const { 0: brace, index: at } of code.slice(index).matchAll(/[{}]/g)) {
      depth += brace === '{' ? 1 : -1
      if (depth > 0) continue
      found.set(name, code.slice(index, index + at + 1))
      break
    }
  }
  return found
}
