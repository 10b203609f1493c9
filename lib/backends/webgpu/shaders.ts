/**
 * The shaders: each is put together from constants, the files it is made of, and the way its tensors are read and
 * written.
 */
import { loadsAndStores, loadsFrom, type Reading, type Writing } from './elements.js'
import finishGradient from './kernels/finish-gradient.wgsl'
import finishRows from './kernels/finish-rows.wgsl'
import logitsGradient from './kernels/logits-gradient.wgsl'
import numbers from './kernels/numbers.wgsl'
import rounding from './kernels/rounding.wgsl'
import rowState from './kernels/row-state.wgsl'
import rowValues from './kernels/row-values.wgsl'
import rows from './kernels/rows.wgsl'
import sequenceSums from './kernels/sequence-sums.wgsl'
import sweptSums from './kernels/swept-sums.wgsl'
import tokenLogProbs from './kernels/token-log-probs.wgsl'
import tokenState from './kernels/token-state.wgsl'

/** Threads of a workgroup. */
export const WORKGROUP = 256

/** A shader: one entry point. */
export interface Shader {
  /** Of the variant, by which its pipeline is kept. */
  name: string
  code: string
}

type Constant = number | boolean

export function shader(name: string, constants: Record<string, Constant>, parts: readonly string[]): Shader {
  const all = { WORKGROUP, ...constants }
  const lines = Object.entries(all).map(
    ([key, value]) => `const ${key} = ${value}${Number.isInteger(value) ? 'u' : ''};`,
  )
  return { name, code: [...lines, ...parts].join('\n') }
}

/** Stage 1. */
export function tokenLogProbsShader(reading: Reading): Shader {
  const { dtype, vector } = reading
  return shader(`token-log-probs ${dtype} ${vector}`, {}, [
    numbers,
    rows,
    rowState,
    sweptSums,
    loadsFrom(3, reading),
    tokenLogProbs,
  ])
}

/** The end of stage 1. */
export function finishRowsShader(reading: Reading): Shader {
  const { dtype, vector } = reading
  return shader(`finish-rows ${dtype} ${vector}`, {}, [
    numbers,
    rows,
    rowState,
    sweptSums,
    tokenState,
    loadsFrom(4, reading),
    finishRows,
  ])
}

/** Stage 2. */
export function sequenceSumsShader(WEIGHS: boolean, IS_PLAIN: boolean): Shader {
  return shader(`sequence-sums ${WEIGHS} ${IS_PLAIN}`, { WEIGHS, IS_PLAIN }, [
    numbers,
    rows,
    rowState,
    tokenState,
    sequenceSums,
  ])
}

/** Stage 4 begins. */
export function finishGradientShader(WEIGHS: boolean, HAS_OWN: boolean, DEFERS: boolean): Shader {
  return shader(`finish-gradient ${WEIGHS} ${HAS_OWN} ${DEFERS}`, { WEIGHS, HAS_OWN, DEFERS }, [
    numbers,
    rows,
    rowState,
    tokenState,
    rowValues,
    finishGradient,
  ])
}

/** Stage 4. */
export function logitsGradientShader(writing: Writing): Shader {
  const { dtype, outDType, vector, shared } = writing
  return shader(`logits-gradient ${dtype} ${outDType} ${vector} ${shared}`, { FULL: false }, [
    numbers,
    rounding,
    rows,
    rowState,
    tokenState,
    rowValues,
    loadsAndStores(3, writing),
    logitsGradient,
  ])
}
