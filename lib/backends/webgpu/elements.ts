/**
 * How shaders read and write elements of tensors: the functions `loadLogit`, `loadLogits4`, `storeGradient` and
 * `storeGradient4`, whose places are elements of the binding.
 *
 * Four elements go at once where every row begins and ends at a multiple of four; else one by one. Two 16-bit elements
 * share a word: where rows may begin in the middle of one, `wordOfLogits` takes the place of `loadLogits4`, for
 * kernels/shared-words.wgsl. Its halves are then written apart, which takes atomic operations. Four elements are only stored
 * at once where they begin a word.
 */
import type { DType } from '../../types/index.js'

/** How rows of logits are read: `vector`: four elements at a time. */
export interface Reading {
  dtype: DType
  vector: boolean
}

/** Whether rows may begin in the middle of a word. */
export function sharesWords({ dtype, vector }: Reading): boolean {
  return dtype !== 'float32' && !vector
}

/** How a gradient is written, and its logits are read. */
export interface Writing extends Reading {
  /** Of the gradient. */
  outDType: DType
  /** Logits and gradient lie in one buffer, and have one binding. */
  shared: boolean
}

/** The type of a binding's elements. */
function elementOf(dtype: DType, vector: boolean): string {
  if (dtype === 'float32') return vector ? 'vec4f' : 'f32'
  return vector ? 'vec2u' : 'u32'
}

/** The two elements of a word. */
export const UNPACK = {
  float16: 'unpack2x16float(word)',
  bfloat16: 'bitcast<vec2f>(vec2u(word << 16, word & 0xffff0000u))',
}

function loads(name: string, dtype: DType, vector: boolean, word = `${name}[at]`): string {
  if (dtype === 'float32') {
    return vector
      ? `fn loadLogit(at: u32) -> f32 { return ${name}[at / 4][at % 4]; }
fn loadLogits4(at: u32) -> vec4f { return ${name}[at / 4]; }`
      : `fn loadLogit(at: u32) -> f32 { return ${name}[at]; }
fn loadLogits4(at: u32) -> vec4f { return vec4f(${name}[at], ${name}[at + 1], ${name}[at + 2], ${name}[at + 3]); }`
  }
  const unpack = `fn unpackLogits(word: u32) -> vec2f { return ${UNPACK[dtype]}; }`
  return vector
    ? `${unpack}
fn loadLogit(at: u32) -> f32 { return unpackLogits(${name}[at / 4][at / 2 % 2])[at % 2]; }
fn loadLogits4(at: u32) -> vec4f {
  let words = ${name}[at / 4];
  return vec4f(unpackLogits(words.x), unpackLogits(words.y));
}`
    : `${unpack}
fn wordOfLogits(at: u32) -> u32 { return ${word}; }
fn loadLogit(at: u32) -> f32 { return unpackLogits(wordOfLogits(at / 2))[at % 2]; }`
}

/** The functions that read logits from the binding at that place. */
export function loadsFrom(binding: number, { dtype, vector }: Reading): string {
  return `@group(0) @binding(${binding}) var<storage, read> logits: array<${elementOf(dtype, vector)}>;
${loads('logits', dtype, vector)}`
}

/** The functions that read logits and write a gradient, whose bindings are this one and the next, or one for both. */
export function loadsAndStores(binding: number, writing: Writing): string {
  const { dtype, outDType, vector, shared } = writing
  const isAtomic = outDType !== 'float32' && !vector
  const element = isAtomic ? 'atomic<u32>' : elementOf(outDType, vector)
  const place = shared ? binding : binding + 1
  const out = `@group(0) @binding(${place}) var<storage, read_write> gradient: array<${element}>;`
  const word = isAtomic ? 'atomicLoad(&gradient[at])' : undefined
  const reads = shared ? loads('gradient', dtype, vector, word) : loadsFrom(binding, { dtype, vector })
  return [out, reads, stores(outDType, vector), leadOf(writing)].join('\n')
}

/**
 * How far before a row its fours begin: so far that they are whole words of the gradient, or of the logits where only these
 * have two elements to a word.
 */
function leadOf({ dtype, outDType, vector }: Writing): string {
  const hasHalves = (of: DType) => sharesWords({ dtype: of, vector })
  const lead = hasHalves(outDType) ? 'out % 2' : hasHalves(dtype) ? 'start % 2' : '0'
  return `fn leadOf(start: u32, out: u32) -> u32 { return ${lead}; }`
}

function stores(dtype: DType, vector: boolean): string {
  if (dtype === 'float32') {
    return vector
      ? `fn storeGradient(at: u32, x: f32) { gradient[at / 4][at % 4] = x; }
fn storeGradient4(at: u32, x: vec4f) { gradient[at / 4] = x; }`
      : `fn storeGradient(at: u32, x: f32) { gradient[at] = x; }
fn storeGradient4(at: u32, x: vec4f) {
  gradient[at] = x.x;
  gradient[at + 1] = x.y;
  gradient[at + 2] = x.z;
  gradient[at + 3] = x.w;
}`
  }
  const bits = `fn gradientBits(x: f32) -> u32 { return ${dtype}Bits(x); }
fn pairBits(first: f32, second: f32) -> u32 { return ${dtype}Pair(first, second); }`
  return vector
    ? `${bits}
fn storeGradient(at: u32, x: f32) {}
fn storeGradient4(at: u32, x: vec4f) {
  gradient[at / 4] = vec2u(pairBits(x.x, x.y), pairBits(x.z, x.w));
}`
    : `${bits}
fn storeGradient(at: u32, x: f32) {
  let shift = at % 2 * 16;
  atomicAnd(&gradient[at / 2], 0xffff0000u >> shift);
  atomicOr(&gradient[at / 2], gradientBits(x) << shift);
}
fn storeGradient4(at: u32, x: vec4f) {
  atomicStore(&gradient[at / 2], pairBits(x.x, x.y));
  atomicStore(&gradient[at / 2 + 1], pairBits(x.z, x.w));
}`
}
