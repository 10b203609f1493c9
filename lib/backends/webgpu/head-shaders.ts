/**
 * The shaders of the output layer.
 */
import type { DType } from '../../types/index.js'
import { UNPACK } from './elements.js'
import headBias from './kernels/head-bias.wgsl'
import headFinish from './kernels/head-finish.wgsl'
import headPlaces from './kernels/head-places.wgsl'
import headProduct from './kernels/head-product.wgsl'
import numbers from './kernels/numbers.wgsl'
import rounding from './kernels/rounding.wgsl'
import rowState from './kernels/row-state.wgsl'
import rowValues from './kernels/row-values.wgsl'
import rows from './kernels/rows.wgsl'
import { type Shader, shader } from './shader.js'

/** Products that are added up before their sum is added to others, along the width and the vocabulary… */
export const GROUP = 128
/** …and along rows, which are multiplied that many at a time at least. */
export const ROW_GROUP = 64

/** Rows and columns of what a workgroup multiplies. */
export const TILE = 64

/** In the place of a row that takes no part. */
const NOWHERE = 0xffffffff

/** A product. */
export interface Product {
  /** Types of the factors. */
  a: DType
  b: DType
  /** The factor whose rows are gathered. */
  gathers?: 'a' | 'b'
  bias?: DType
}

/** `load(at)`: an element of the binding. */
function loader(load: string, binding: number, dtype: DType): string {
  const [type, element] =
    dtype === 'float32' ? ['f32', `${load}Data[at]`] : ['u32', `${load}Unpacked(${load}Data[at / 2])[at % 2]`]
  const unpack = dtype === 'float32' ? '' : `fn ${load}Unpacked(word: u32) -> vec2f { return ${UNPACK[dtype]}; }`
  return `@group(0) @binding(${binding}) var<storage, read> ${load}Data: array<${type}>;
${unpack}
fn ${load}(at: u32) -> f32 { return ${element}; }`
}

/** Params, places, c, a, b, and the bias where there is one. */
export function headProductShader({ a, b, gathers, bias }: Product): Shader {
  const constants = {
    NOWHERE,
    GROUP: gathers === 'b' ? ROW_GROUP : GROUP,
    GATHERS_A: gathers === 'a',
    GATHERS_B: gathers === 'b',
  }
  return shader(`head-product ${a} ${b} ${gathers} ${bias}`, constants, [
    rows,
    loader('loadA', 3, a),
    loader('loadB', 4, b),
    bias ? loader('biasAt', 5, bias) : 'fn biasAt(at: u32) -> f32 { return 0; }',
    headProduct,
  ])
}

/** Params, gradient, sums. */
export function headBiasShader(): Shader {
  return shader('head-bias', { GROUP: ROW_GROUP }, [rows, headBias])
}

/** Params, places, values, the places of rows that take part. */
export function headPlacesShader(): Shader {
  return shader('head-places', { NOWHERE }, [numbers, rows, rowState, rowValues, headPlaces])
}

/** How a gradient is stored: as bits of that many to a word. */
const STORED: Record<DType, { parts: number; decoded: string; encoded: string }> = {
  float32: { parts: 1, decoded: 'bitcast<f32>(bits)', encoded: 'bitcast<u32>(x)' },
  float16: { parts: 2, decoded: 'unpack2x16float(bits).x', encoded: 'float16Bits(x)' },
  bfloat16: { parts: 2, decoded: 'bitcast<f32>(bits << 16)', encoded: 'bfloat16Bits(x)' },
}

/** Params, index, sums, gradient. */
export function headFinishShader(dtype: DType, INDEXED: boolean): Shader {
  const { parts: PARTS, decoded, encoded } = STORED[dtype]
  return shader(`head-finish ${dtype} ${INDEXED}`, { PARTS, INDEXED }, [
    numbers,
    rounding,
    rows,
    `fn decoded(bits: u32) -> f32 { return ${decoded}; }`,
    `fn encoded(x: f32) -> u32 { return ${encoded}; }`,
    headFinish,
  ])
}
