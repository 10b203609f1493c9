/**
 * Helpers of the tests: the backends and instruction sets of this machine, tensors of any element type, distances in
 * units in the last place, and random problems. No assertions here.
 */
import { LOSSES } from '../lib/backends/js/losses.js'
import { decodeBfloat16, decodeFloat16, encodeBfloat16, encodeFloat16 } from '../lib/backends/js/numbers.js'
import { loadWasm } from '../lib/backends/wasm/index.js'
import { getBackends } from '../lib/index.js'
import type { LossOptions, TokenOptions, TokenOutput } from '../lib/options/index.js'
import { TAKERS } from '../lib/options/loss-options.js'
import type { DType, Labels, Logits, LossType, RunOptions } from '../lib/types/index.js'
import { hexOf, sameBytes, TESTS_GPU, TESTS_PTX, TESTS_SHIPPED, textOf } from './platform.js'
import { DEVICE, TESTS_WEBGPU } from './webgpu/device.js'

/** The built package, which child processes and workers import. */
export const DIST = new URL('../dist/index.mjs', import.meta.url)

/** A way to run a call. */
export interface Target {
  name: string
  run: RunOptions
  /** The only type of output layers that it takes, if it does not take all. */
  dtype?: DType
}

/** The cpu backend, once per instruction set of this machine. */
export const ALL_NATIVE: readonly Target[] = (getBackends().cpu.instructionSets ?? []).map((instructionSet) => ({
  name: `cpu, ${instructionSet}`,
  run: { backend: 'cpu', instructionSet },
}))

/** Without avx512 where avx512bf16 is there: but for one product, these are the same functions. */
export const NATIVE = ALL_NATIVE.filter(
  ({ run }) => run.instructionSet !== 'avx512' || !ALL_NATIVE.some((it) => it.run.instructionSet === 'avx512bf16'),
)

/** The js backend. */
export const JS: Target = { name: 'js', run: { backend: 'js' } }

/** The cuda backend, on the GPU or on the host. */
export const CUDA: readonly Target[] = getBackends().cuda.available ? [{ name: 'cuda', run: { backend: 'cuda' } }] : []

const wasm = await loadWasm()
// With little memory for each job, the logits of nearly all tests pass through it in chunks.
if ('backend' in wasm) wasm.backend.chunk = 4096
else console.log(`wasm left out: ${wasm.reason}; npm run build:wasm builds it`)

/** The wasm backend, where it has been built. */
export const WASM: readonly Target[] = 'backend' in wasm ? [{ name: 'wasm', run: { backend: 'wasm' } }] : []

// Tests of the GPU must not pass on a machine without one.
if (TESTS_GPU) {
  const { available, reason, cublasLt } = getBackends().cuda
  if (!available) throw new Error(`FPL_TEST_GPU is set, but CUDA is not available: ${reason}`)
  if (!cublasLt?.available) throw new Error(`FPL_TEST_GPU is set, but cuBLASLt is not available: ${cublasLt?.reason}`)
}

/** Whether these kernels round a product that is added once, with the sum; js does not multiply in float32. */
export function fusesMultiplyAdds({ backend, instructionSet }: RunOptions): boolean {
  return instructionSet !== 'baseline' && backend !== 'wasm'
}

/** All that take arrays of host memory, and have synchronous forms. */
export const TARGETS: readonly Target[] = TESTS_WEBGPU
  ? []
  : TESTS_PTX
    ? CUDA
    : TESTS_SHIPPED
      ? [...NATIVE, ...CUDA]
      : [...NATIVE, ...CUDA, ...WASM, JS]

/** Those, or the webgpu backend, for the functions of calls.ts. */
export const ALL_TARGETS: readonly Target[] = TESTS_WEBGPU
  ? [{ name: 'webgpu', run: { backend: 'webgpu', gpuDevice: DEVICE } }]
  : TARGETS

/** Of tests that mostly wait for a GPU: several run at a time. */
export const WAITING = { concurrent: TESTS_WEBGPU }

/** How exact token log-probs and gradients are, in float32 ULP: docs/numerics.md. */
export function ulpsOf({ backend }: RunOptions): { logProb: number; gradient: number } {
  return backend === 'webgpu' ? { logProb: 4, gradient: 8 } : { logProb: 2, gradient: 4 }
}

/** What may be lost of a number near 0: devices of WebGPU may have no subnormal numbers. */
export function vanishingOf({ backend }: RunOptions): number {
  return backend === 'webgpu' ? 2 ** -126 : 1e-38
}

/** The relative error of coefficients that are known exactly: of two-float numbers, as docs/webgpu.md has it. */
export function relativeOf({ backend }: RunOptions): number {
  return backend === 'webgpu' ? 2 ** -44 : 0
}

export const DTYPES: readonly DType[] = ['float32', 'float16', 'bfloat16']

export const OUTPUTS: readonly TokenOutput[] = [
  'tokenLogProbs',
  'tokenEntropies',
  'tokenArgmax',
  'logSumExp',
  'sumSquaredProbs',
]

/** Converts a value to the stored form in an array of that type, and back. */
export const encode: Record<DType, (value: number) => number> = {
  float32: Math.fround,
  float16: encodeFloat16,
  bfloat16: encodeBfloat16,
}
export const decode: Record<DType, (stored: number) => number> = {
  float32: (value) => value,
  float16: decodeFloat16,
  bfloat16: decodeBfloat16,
}

/** An array of host memory of this type: numbers for float32, bits for the others. */
export function storage(dtype: DType, length: number): Float32Array | Uint16Array {
  return dtype === 'float32' ? new Float32Array(length) : new Uint16Array(length)
}

class Bytes extends Uint8Array<ArrayBuffer> {
  equals(other: Uint8Array): boolean {
    return sameBytes(this, other)
  }
}

/** The bytes of an array, for comparisons to the bit. */
export function bytes({ buffer, byteOffset, byteLength }: ArrayBufferView): Bytes {
  return new Bytes(buffer as ArrayBuffer, byteOffset, byteLength)
}

/** The same as text. */
export function hex(array: ArrayBufferView): string {
  return hexOf(bytes(array))
}

/** The first index at which two lists differ (-0 and 0 differ, NaN equals NaN); -1 if they do not differ. */
export function firstDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const length = Math.max(a.length, b.length)
  for (let i = 0; i < length; i++) if (!Object.is(a[i], b[i])) return i
  return -1
}

/**
 * Where two lists are first further apart than `bound(wanted, i)`, in words; undefined if they nowhere are. To assert it of
 * every number takes a hundred times as long.
 */
export function tooFar(
  got: ArrayLike<number>,
  wanted: ArrayLike<number>,
  bound: (wanted: number, i: number) => number,
): string | undefined {
  if (got.length !== wanted.length) return `${got.length} numbers, not ${wanted.length}`
  for (let i = 0; i < wanted.length; i++) {
    const most = bound(wanted[i], i)
    if (!(Math.abs(got[i] - wanted[i]) <= most)) return `[${i}] is ${got[i]}, not ${wanted[i]} ± ${most}`
  }
  return undefined
}

/** The elements of a contiguous tensor, as numbers. */
export function values({ data, dtype = 'float32' }: Logits): Float64Array {
  const numbers = new Float64Array(data as Float32Array | Uint16Array)
  if (dtype !== 'float32') for (let i = 0; i < numbers.length; i++) numbers[i] = decode[dtype](numbers[i])
  return numbers
}

/** Contiguous logits with these elements, rounded to the type. */
export function logitsOf(dtype: DType, shape: number[], elements: ArrayLike<number>): Logits {
  const data = storage(dtype, elements.length)
  for (let i = 0; i < elements.length; i++) data[i] = encode[dtype](elements[i])
  return { data, dtype, shape }
}

const float32 = new Float32Array(1)
const float32Bits = new Uint32Array(float32.buffer)

/** The spacing of the float32 numbers at `x`. */
export function ulp(x: number): number {
  float32[0] = Math.abs(x)
  return 2 ** (Math.min(Math.max(float32Bits[0] >>> 23, 1), 254) - 150)
}

/** A random number generator: uniform in [0, 1), the same for the same seed. */
export function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), state | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A random number with mean 0 and variance 1, near enough to normal. */
export function gaussian(next: () => number): number {
  return (next() + next() + next() + next() - 2) * Math.sqrt(3)
}

/** The kind of logits: see {@link fillRow}. */
export const STYLES = ['model', 'wide', 'flat', 'certain', 'holes', 'bits', 'far', 'rising'] as const
export type Style = (typeof STYLES)[number]

/** Fills `vocab` elements from `start` with finite logits, or -inf for some of 'holes'. */
export function fillRow(
  data: Float32Array | Uint16Array,
  start: number,
  vocab: number,
  dtype: DType,
  style: Style,
  next: () => number,
): void {
  const put = (i: number, value: number) => {
    data[start + i] = encode[dtype](value)
  }
  const offset = style === 'far' ? (next() - 0.5) * 5000 : 0
  const top = Math.floor(next() * vocab)
  for (let i = 0; i < vocab; i++) {
    switch (style) {
      case 'model':
      case 'far':
        put(i, 3 * gaussian(next) + offset)
        break
      case 'wide':
        put(i, (next() - 0.5) * 400)
        break
      case 'flat':
        put(i, 1 + next() / 64)
        break
      case 'certain':
        put(i, i === top ? 8 + 25 * next() : gaussian(next))
        break
      case 'holes':
        put(i, next() < 0.4 ? Number.NEGATIVE_INFINITY : 4 * gaussian(next))
        break
      case 'rising':
        put(i, (i / vocab) * 300 + gaussian(next))
        break
      case 'bits':
        if (dtype === 'float32') {
          float32Bits[0] = finiteBits(next() * 2 ** 32, 0x7f800000, 0x40000000)
          data[start + i] = float32[0]
        } else if (dtype === 'float16') {
          data[start + i] = finiteBits(next() * 2 ** 16, 0x7c00, 0x4000)
        } else {
          data[start + i] = finiteBits(next() * 2 ** 16, 0x7f80, 0x4000)
        }
        break
    }
  }
}

function finiteBits(bits: number, infinity: number, topExponentBit: number): number {
  return (bits & infinity) === infinity ? bits & ~topExponentBit : bits
}

/** The description of a random call, in a few numbers that can be printed. */
export interface Spec {
  seed: number
  dtype: DType
  style: Style
  vocab: number
  /** Lengths of the sequences; equal ones unless packed. */
  lengths: number[]
  packed: boolean
  /** Unused elements before the first row, after each row, and after each sequence (not when packed). */
  padding: [before: number, row: number, sequence: number]
  bigint: boolean
  masked: boolean
  ignored: boolean
  weighted: boolean
  options: TokenOptions
}

/** A random call. */
export interface Problem {
  logits: Logits
  labels: Labels
  options: TokenOptions
  /** Rows of all sequences. */
  rows: number
  /** Whether a row predicts a label that counts, and which. */
  active: (row: number) => boolean
  target: (row: number) => number
  /** First element of a row in `logits.data`. */
  start: (row: number) => number
}

/** Builds the call. Padding, and rows that predict nothing, hold NaN; labels that are masked hold garbage. */
export function problemOf(spec: Spec): Problem {
  const { dtype, vocab, lengths, packed, padding } = spec
  const next = random(spec.seed)
  const rows = lengths.reduce((a, b) => a + b)
  const options: TokenOptions = { ...spec.options }
  const shift = options.shift === false ? 0 : 1
  const ignoreIndex = options.ignoreIndex ?? -100

  const labels = new (spec.bigint ? BigInt64Array : Int32Array)(rows)
  const mask = Array.from({ length: rows }, () => !spec.masked || next() < 0.7)
  const targets = new Int32Array(rows).fill(-1)
  let row = 0
  for (const length of lengths) {
    for (let t = 0; t < length; t++, row++) {
      const ignored = spec.ignored && next() < 0.3
      const label = !mask[row] ? (next() < 0.5 ? 2 ** 31 - 1 : -7) : ignored ? ignoreIndex : Math.floor(next() * vocab)
      labels[row] = spec.bigint ? BigInt(label) : label
      if (mask[row] && label !== ignoreIndex && t >= shift) targets[row - shift] = label
    }
  }
  if (spec.masked) options.mask = mask
  if (spec.weighted) options.tokenWeights = Array.from({ length: rows }, () => 2 * next() - 0.5)
  if (packed) {
    const offsets = [0]
    for (const length of lengths) offsets.push(offsets[offsets.length - 1] + length)
    options.sequenceOffsets = offsets
  }

  const time = packed ? rows : lengths[0]
  const timeStride = vocab + padding[1]
  const batchStride = time * timeStride + padding[2]
  const start = (r: number) => Math.floor(r / time) * batchStride + (r % time) * timeStride
  const end = start(rows - 1) + vocab
  const data = storage(dtype, padding[0] + end)
    .fill(encode[dtype](Number.NaN))
    .subarray(padding[0])
  for (let r = 0; r < rows; r++) if (targets[r] >= 0) fillRow(data, start(r), vocab, dtype, spec.style, next)
  const logits: Logits = packed
    ? { data, dtype, shape: [rows, vocab], strides: [timeStride, 1] }
    : { data, dtype, shape: [lengths.length, time, vocab], strides: [batchStride, timeStride, 1] }
  if (padding[1] === 0 && padding[2] === 0) delete logits.strides
  return { logits, labels, options, rows, start, active: (r) => targets[r] >= 0, target: (r) => targets[r] }
}

/** The cases of a file in golden/, one a line. */
export async function goldenCases<T>(name: string): Promise<T[]> {
  const lines = (await textOf(`golden/${name}.jsonl`)).trimEnd().split('\n')
  return lines.map((line) => JSON.parse(line))
}

/** The same, but of cases with logits one of `of`; and two of those without, since each file has to have a test. */
export const someGoldenCases = (of: number) => async (name: string) => {
  const cases = await goldenCases(name)
  // After their inputs.
  if (name === 'losses' || name === 'unpaired') return cases.slice(0, 2)
  return cases.filter((_, i) => i % of === 1)
}

export const LOSS_TYPES = Object.keys(LOSSES) as LossType[]

/** What the losses of a call need that has no default. */
export function neededBy(...lossTypes: LossType[]): Pick<LossOptions, 'targetMargin'> {
  return lossTypes.some((lossType) => TAKERS.targetMargin.includes(lossType)) ? { targetMargin: 0.7 } : {}
}
