/**
 * Options of adapters: those of the wrapped function, except the ones that an adapter sets itself.
 */

import { optionsObject } from '../check/options.js'
import { invalidType, invalidValue } from '../errors.js'
import type { HeadGradientOptions, HeadOptions, LogitsGradientOptions } from '../types/index.js'

/** The options of losses of logits that an adapter decides about itself. */
export type LogitsGradient = 'gradient' | 'gpuDevice' | keyof LogitsGradientOptions

/** The same of an output layer. */
export type LayerGradient = 'gradient' | 'gpuDevice' | keyof HeadGradientOptions

/** The option of an output layer whose tensors are float32 and not on a GPU: AMX and TF32 do not multiply them. */
export interface ProductsOption {
  /**
   * Whose matrix products the output layer takes: its own, or those of a library of BLAS on this machine, whose bits they
   * are then (docs/blas.md). The last are of the cpu backend. Defaults to 'own'.
   */
  products?: Exclude<HeadOptions['products'], 'amx' | 'tf32'>
}

/**
 * A function that checks options and returns a copy of them.
 *
 * @param names of the options that the adapter takes.
 * @param owned the options of the wrapped function that the adapter sets itself, each with the text that follows the
 *   name in the error. Passed on, they could make a gradient wrong silently.
 */
export function optionsReader(
  names: readonly string[],
  owned: Readonly<Record<string, string>> = {},
): <T extends object>(value: T | undefined) => T {
  const known = new Set([...names, ...Object.keys(owned)])
  return <T extends object>(value: T | undefined): T => {
    const options = optionsObject(value, 'options', known) as Record<string, unknown>
    for (const name of Object.keys(owned)) {
      if (options[name] !== undefined) throw invalidValue(`options.${name}`, owned[name])
      delete options[name]
    }
    return options as T
  }
}

/** Checks a callback: a function, or undefined. */
export function callback<F>(value: F | undefined, name: string): F | undefined {
  if (value !== undefined && typeof value !== 'function') throw invalidType(name, 'a function', value)
  return value
}
