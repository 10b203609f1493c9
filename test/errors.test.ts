/**
 * Bad input: every misuse has its error and code, the message names the argument, and no array of the caller's is
 * written. Each case runs on every backend of this machine, in both forms.
 */
import { describe, expect, test } from 'vitest'
import {
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  getBackends,
  preferenceLoss,
  preferenceLossSync,
  sequenceLogProbs,
  sequenceLogProbsSync,
} from '../lib/index.js'
import { hex, NATIVE } from './support.js'

// biome-ignore lint/suspicious/noExplicitAny: wrong types are the point
type Bag = Record<string, any>
type Case = [title: string, code: string, message: string | RegExp, change: (call: Bag) => void]

const BACKENDS = (['cpu', 'wasm', 'js'] as const).filter((name) => getBackends()[name].available)

const KINDS: Record<string, ErrorConstructor> = {
  ERR_INVALID_ARG_TYPE: TypeError,
  ERR_INVALID_ARG_VALUE: TypeError,
  ERR_OUT_OF_RANGE: RangeError,
  ERR_SHAPE_MISMATCH: RangeError,
  ERR_LABEL_OUT_OF_RANGE: RangeError,
  ERR_BACKEND_UNAVAILABLE: Error,
  ERR_DISPOSED: Error,
}

const [B, T, V] = [4, 3, 5]
const ramp = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i))

function fusedCall(backend: string): Bag {
  return {
    logits: { data: ramp(B * T * V), shape: [B, T, V] },
    labels: Int32Array.from({ length: B * T }, (_, i) => i % V),
    options: {
      backend,
      reference: { chosen: [-1, -2], rejected: [-3, -4] },
      gradient: new Float32Array(B * T * V).fill(7),
    },
  }
}

function sequenceCall(backend: string): Bag {
  const { logits, labels } = fusedCall(backend)
  return { logits, labels, options: { backend } }
}

function lossCall(backend: string): Bag {
  const pairs = { chosen: [-1, -2], rejected: [-3, -4], referenceChosen: [-1, -1], referenceRejected: [-1, -1] }
  return { pairs, options: { backend } }
}

/** The bytes of all typed arrays in a value, each as a string. */
function contents(value: unknown, found: string[] = []): string[] {
  if (ArrayBuffer.isView(value)) {
    found.push(value.byteLength === 0 ? '' : hex(value))
  } else if (typeof value === 'object' && value !== null && !(value instanceof AbortSignal)) {
    for (const inner of Object.values(value)) contents(inner, found)
  }
  return found
}

function expectError(error: unknown, code: string, message: string | RegExp) {
  expect(error).toBeInstanceOf(KINDS[code])
  expect(error).toMatchObject({ code, name: KINDS[code].name })
  if (typeof message === 'string') expect((error as Error).message).toContain(message)
  else expect((error as Error).message).toMatch(message)
}

function thrownBy(call: () => unknown): unknown {
  try {
    call()
  } catch (error) {
    return error
  }
  throw new Error('nothing was thrown')
}

/** Runs the case on every backend, sync and async. */
function table(
  cases: Case[],
  fresh: (backend: string) => Bag,
  sync: (call: Bag) => unknown,
  promised: (call: Bag) => Promise<unknown>,
) {
  for (const backend of BACKENDS) {
    test.each(cases)(`${backend}: %s → %s`, async (_title, code, message, change) => {
      for (const run of [sync, promised]) {
        const call = fresh(backend)
        change(call)
        const before = contents(call)
        // A promise form must reject, not throw.
        const error =
          run === sync
            ? thrownBy(() => sync(call))
            : await promised(call).then(
                () => null,
                (e) => e,
              )
        expectError(error, code, message)
        expect(contents(call)).toEqual(before)
      }
    })
  }
}

/** Sets one option. */
/** Cases of machines without CUDA: those with it go on to look at the device's memory. */
/** A page refuses device memory whatever the backend. */
const NO_DEVICE_MEMORY = ['ERR_INVALID_ARG_VALUE', 'device memory among the arguments'] as const
const withoutCuda = (...cases: Case[]) => (getBackends().cuda.available ? [] : cases)

const option = (name: string, value: unknown) => (call: Bag) => {
  call.options[name] = value
}

// biome-ignore format: one case a line
const LOGITS: Case[] = [
  ['no logits', 'ERR_INVALID_ARG_TYPE', 'logits must be an object', (c) => { c.logits = undefined }],
  ['logits null', 'ERR_INVALID_ARG_TYPE', 'logits must be an object', (c) => { c.logits = null }],
  ['data missing', 'ERR_INVALID_ARG_TYPE', 'logits.data', (c) => { delete c.logits.data }],
  ['data a plain array', 'ERR_INVALID_ARG_TYPE', 'logits.data must be a Float32Array', (c) => { c.logits.data = [1, 2] }],
  ['data float64', 'ERR_INVALID_ARG_TYPE', 'got Float64Array(60)', (c) => { c.logits.data = new Float64Array(60) }],
  ['data a buffer', 'ERR_INVALID_ARG_TYPE', 'logits.data', (c) => { c.logits.data = new ArrayBuffer(240) }],
  ['bits without dtype', 'ERR_INVALID_ARG_TYPE', 'logits.dtype', (c) => { c.logits.data = new Uint16Array(60) }],
  ['bits of float32', 'ERR_INVALID_ARG_VALUE', 'logits.dtype', (c) => { c.logits = { ...c.logits, data: new Uint16Array(60), dtype: 'float32' } }],
  ['dtype against data', 'ERR_INVALID_ARG_VALUE', "logits.dtype must be 'float32'", (c) => { c.logits.dtype = 'bfloat16' }],
  ['unknown dtype', 'ERR_INVALID_ARG_VALUE', "did you mean 'float32'", (c) => { c.logits.dtype = 'flaot32' }],
  ['no shape', 'ERR_INVALID_ARG_TYPE', 'logits.shape must be an array', (c) => { delete c.logits.shape }],
  ['shape of 2 without offsets', 'ERR_SHAPE_MISMATCH', 'logits.shape', (c) => { c.logits.shape = [12, 5] }],
  ['shape of 4', 'ERR_SHAPE_MISMATCH', '[1, 4, 3, 5]', (c) => { c.logits.shape = [1, 4, 3, 5] }],
  ['size NaN', 'ERR_OUT_OF_RANGE', 'logits.shape[1]', (c) => { c.logits.shape = [4, Number.NaN, 5] }],
  ['size negative', 'ERR_OUT_OF_RANGE', 'logits.shape[0]', (c) => { c.logits.shape = [-4, 3, 5] }],
  ['size zero', 'ERR_OUT_OF_RANGE', 'logits.shape[2]', (c) => { c.logits.shape = [4, 3, 0] }],
  ['size fractional', 'ERR_OUT_OF_RANGE', 'got 2.5', (c) => { c.logits.shape = [4, 2.5, 6] }],
  ['size huge', 'ERR_OUT_OF_RANGE', 'logits.shape[0]', (c) => { c.logits.shape = [2 ** 31, 3, 5] }],
  ['size infinite', 'ERR_OUT_OF_RANGE', 'logits.shape[0]', (c) => { c.logits.shape = [Number.POSITIVE_INFINITY, 3, 5] }],
  ['sizes that wrap around 2^32', 'ERR_OUT_OF_RANGE', 'logits.shape', (c) => { c.logits.shape = [65536, 65536, 5] }],
  ['sizes of 2^31 rows and a few', 'ERR_OUT_OF_RANGE', 'logits.shape must be at most 2147483647 rows in all; got 2147488281', (c) => { c.logits.shape = [46341, 46341, 5] }],
  ['sizes past 2^53', 'ERR_OUT_OF_RANGE', 'logits.shape', (c) => { c.logits.shape = [32768, 32768, 2 ** 30] }],
  ['size a string', 'ERR_INVALID_ARG_TYPE', 'logits.shape[0]', (c) => { c.logits.shape = ['4', 3, 5] }],
  ['shape against data', 'ERR_SHAPE_MISMATCH', 'has 60 elements, but shape [4, 3, 6] needs 72', (c) => { c.logits.shape = [4, 3, 6] }],
  ['shape that leaves data over', 'ERR_SHAPE_MISMATCH', 'has 60 elements, but shape [4, 3, 4] needs 48', (c) => { c.logits.shape = [4, 3, 4]; c.labels.fill(1) }],
  ['strides of the wrong length', 'ERR_SHAPE_MISMATCH', 'logits.strides', (c) => { c.logits.strides = [5, 1] }],
  ['strides a number', 'ERR_INVALID_ARG_TYPE', 'logits.strides', (c) => { c.logits.strides = 5 }],
  ['last stride not 1', 'ERR_INVALID_ARG_VALUE', 'logits.strides must end in 1', (c) => { c.logits.strides = [15, 5, 2] }],
  ['stride negative', 'ERR_OUT_OF_RANGE', 'logits.strides[0]', (c) => { c.logits.strides = [-15, 5, 1] }],
  ['stride fractional', 'ERR_OUT_OF_RANGE', 'logits.strides[1]', (c) => { c.logits.strides = [15, 4.5, 1] }],
  ['stride NaN', 'ERR_OUT_OF_RANGE', 'logits.strides[0]', (c) => { c.logits.strides = [Number.NaN, 5, 1] }],
  ['strides that leave the data', 'ERR_OUT_OF_RANGE', 'reaches element 60', (c) => { c.logits.shape = [4, 3, 6]; c.logits.strides = [15, 5, 1] }],
  ['strides that leave the data by far', 'ERR_OUT_OF_RANGE', 'logits.strides', (c) => { c.logits.strides = [Number.MAX_SAFE_INTEGER, 5, 1] }],
  ['detached data', 'ERR_INVALID_ARG_VALUE', 'logits.data is detached', (c) => { structuredClone(c.logits.data, { transfer: [c.logits.data.buffer] }) }],
  ['resizable data', 'ERR_INVALID_ARG_VALUE', 'logits.data is a view of a resizable buffer', (c) => { c.logits.data = new Float32Array(resizable(240)) }],
  ['resizable data, fixed view', 'ERR_INVALID_ARG_VALUE', 'logits.data', (c) => { c.logits.data = new Float32Array(resizable(240), 0, 60) }],
  ...withoutCuda(['device pointer', ...NO_DEVICE_MEMORY, (c) => { c.logits.data = { ptr: 4096n, byteLength: 240 }; if ('gradient' in c.options) c.options.gradient = undefined }]),
]

// biome-ignore format: one case a line
const TOKENS: Case[] = [
  ['no labels', 'ERR_INVALID_ARG_TYPE', 'labels must be an Int32Array or a BigInt64Array', (c) => { c.labels = undefined }],
  ['labels a plain array', 'ERR_INVALID_ARG_TYPE', 'labels must be an Int32Array or a BigInt64Array, as Int32Array.from(labels) is; got an array of length 12', (c) => { c.labels = Array.from(c.labels) }],
  ['labels in rows', 'ERR_INVALID_ARG_TYPE', 'as Int32Array.from(labels.flat()) is; got an array of length 4', (c) => { c.labels = Array(4).fill([1, 2, 3]) }],
  ['labels float', 'ERR_INVALID_ARG_TYPE', 'as Int32Array.from(labels, Number) is; got Float32Array(12)', (c) => { c.labels = new Float32Array(12) }],
  ['labels a string', 'ERR_INVALID_ARG_TYPE', "labels must be an Int32Array or a BigInt64Array; got 'abc'", (c) => { c.labels = 'abc' }],
  ['labels shifted beforehand', 'ERR_SHAPE_MISMATCH', 'labels must have 12 elements, one per position, and not be shifted beforehand; got 8', (c) => { c.labels = new Int32Array(8) }],
  ['too few labels without a shift', 'ERR_SHAPE_MISMATCH', 'labels must have 12 elements, one per position; got 11', (c) => { c.labels = c.labels.slice(1); c.options.shift = false }],
  ['detached labels', 'ERR_INVALID_ARG_VALUE', 'labels is detached', (c) => { structuredClone(c.labels, { transfer: [c.labels.buffer] }) }],
  ['resizable labels', 'ERR_INVALID_ARG_VALUE', 'labels', (c) => { c.labels = new Int32Array(resizable(48)) }],
  ['label too large', 'ERR_LABEL_OUT_OF_RANGE', 'labels: sequence 2, position 1 is 5', (c) => { c.labels[7] = 5; c.labels[9] = 6 }],
  ['label negative', 'ERR_LABEL_OUT_OF_RANGE', 'sequence 0, position 2 is -1;', (c) => { c.labels[2] = -1 }],
  ['label that no row predicts', 'ERR_LABEL_OUT_OF_RANGE', 'sequence 1, position 0 is 99', (c) => { c.labels[3] = 99 }],
  ['64-bit label', 'ERR_LABEL_OUT_OF_RANGE', 'sequence 1, position 1 is 4294967296', (c) => { c.labels = new BigInt64Array(12); c.labels[4] = 2n ** 32n }],
  ['-100 when not ignored', 'ERR_LABEL_OUT_OF_RANGE', 'in [0, 5), or 0 to be ignored', (c) => { c.options.ignoreIndex = 0; c.labels[1] = -100 }],
  ['unknown option', 'ERR_INVALID_ARG_VALUE', "options.ignoreIndx is not an option; did you mean 'ignoreIndex'?", option('ignoreIndx', 0)],
  ['options a string', 'ERR_INVALID_ARG_TYPE', 'options must be an object', (c) => { c.options = 'cpu' }],
  ['options null', 'ERR_INVALID_ARG_TYPE', 'options must be an object; got null', (c) => { c.options = null }],
  ['shift a number', 'ERR_INVALID_ARG_TYPE', 'options.shift must be a boolean; got 1', option('shift', 1)],
  ['ignoreIndex fractional', 'ERR_OUT_OF_RANGE', 'options.ignoreIndex', option('ignoreIndex', 0.5)],
  ['ignoreIndex a bigint', 'ERR_INVALID_ARG_TYPE', 'options.ignoreIndex', option('ignoreIndex', -100n)],
  ['mask too short', 'ERR_SHAPE_MISMATCH', 'options.mask must have 12 elements', option('mask', [true])],
  ['resizable mask', 'ERR_INVALID_ARG_VALUE', 'options.mask is a view of a resizable buffer', option('mask', new Uint8Array(resizable(12)))],
  ['resizable pairs', 'ERR_INVALID_ARG_VALUE', 'options.pairs is a view of a resizable buffer', option('pairs', new Int32Array(resizable(16)))],
  ['detached weights', 'ERR_INVALID_ARG_VALUE', 'options.tokenWeights is detached', (c) => { const w = new Float32Array(12); structuredClone(w, { transfer: [w.buffer] }); c.options.tokenWeights = w }],
  ['mask too long', 'ERR_SHAPE_MISMATCH', 'options.mask must have 12 elements, one per label; got 13', option('mask', new Uint8Array(13))],
  ['mask of strings', 'ERR_INVALID_ARG_TYPE', 'options.mask[0]', option('mask', Array(12).fill('0'))],
  ['mask with NaN', 'ERR_OUT_OF_RANGE', 'options.mask[4] must be a number or a boolean; got NaN', option('mask', [1, 1, 1, 1, Number.NaN, 1, 1, 1, 1, 1, 1, 1])],
  ['mask with a hole', 'ERR_INVALID_ARG_TYPE', 'options.mask[0] must be a number or a boolean; got undefined', option('mask', new Array(12))],
  ['mask a boolean', 'ERR_INVALID_ARG_TYPE', 'options.mask', option('mask', true)],
  ['tokenWeights too long', 'ERR_SHAPE_MISMATCH', 'options.tokenWeights must have 12 elements', option('tokenWeights', new Float32Array(13))],
  ['tokenWeights NaN', 'ERR_OUT_OF_RANGE', 'options.tokenWeights[5]', option('tokenWeights', new Float32Array(12).fill(1).fill(Number.NaN, 5))],
  ['tokenWeights infinite', 'ERR_OUT_OF_RANGE', 'options.tokenWeights[0]', option('tokenWeights', Array(12).fill(Number.POSITIVE_INFINITY))],
  ['tokenWeights of strings', 'ERR_INVALID_ARG_TYPE', 'options.tokenWeights[0]', option('tokenWeights', Array(12).fill('1'))],
  ['averageLogProb a string', 'ERR_INVALID_ARG_TYPE', 'options.averageLogProb', option('averageLogProb', 'yes')],
  ['temperature 0', 'ERR_OUT_OF_RANGE', 'options.temperature must be a number in [0.001, 1000]; got 0', option('temperature', 0)],
  ['temperature NaN', 'ERR_OUT_OF_RANGE', 'options.temperature', option('temperature', Number.NaN)],
  ['temperature 1001', 'ERR_OUT_OF_RANGE', 'options.temperature', option('temperature', 1001)],
  ['temperature a string', 'ERR_INVALID_ARG_TYPE', 'options.temperature', option('temperature', '1')],
  ['emptySequence unknown', 'ERR_INVALID_ARG_VALUE', "did you mean 'zero'?", option('emptySequence', 'zeros')],
  ['an empty sequence', 'ERR_INVALID_ARG_VALUE', 'labels leave sequence 1 without', (c) => { c.options.emptySequence = 'error'; c.labels.fill(-100, 3, 6) }],
  ['a sequence that a mask empties', 'ERR_INVALID_ARG_VALUE', 'labels leave sequence 2 without', (c) => { c.options.emptySequence = 'error'; c.options.mask = [1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1] }],
  ['ldAlpha 1.5', 'ERR_OUT_OF_RANGE', 'options.ldAlpha', option('ldAlpha', 1.5)],
  ['ldAlpha with a sequence in two pairs', 'ERR_INVALID_ARG_VALUE', 'options.pairs[2]', (c) => { c.options.ldAlpha = 0.5; c.options.pairs = [0, 1, 0, 2] }],
  ['outputs a string', 'ERR_INVALID_ARG_TYPE', 'options.outputs', option('outputs', 'tokenLogProbs')],
  ['outputs unknown', 'ERR_INVALID_ARG_VALUE', 'options.outputs[1] must be one of', option('outputs', ['tokenArgmax', 'tokenArgmin'])],
  ['outputs of numbers', 'ERR_INVALID_ARG_TYPE', 'options.outputs[0]', option('outputs', [1])],
  ['pairs odd', 'ERR_SHAPE_MISMATCH', 'options.pairs', option('pairs', [0, 1, 2])],
  ['pairs empty', 'ERR_SHAPE_MISMATCH', 'options.pairs', option('pairs', [])],
  ['pairs out of range', 'ERR_OUT_OF_RANGE', 'options.pairs[3] must be an integer in [0, 3]; got 4', option('pairs', [0, 1, 2, 4])],
  ['pairs negative', 'ERR_OUT_OF_RANGE', 'options.pairs[0]', option('pairs', Int32Array.of(-1, 1))],
  ['pairs fractional', 'ERR_OUT_OF_RANGE', 'options.pairs[1]', option('pairs', [0, 1.5])],
  ['pairs of itself', 'ERR_INVALID_ARG_VALUE', 'options.pairs[3] must not be', option('pairs', [0, 1, 2, 2])],
  ['pairs of strings', 'ERR_INVALID_ARG_TYPE', 'options.pairs[0]', option('pairs', ['0', '1'])],
  ['offsets with a shape of 3', 'ERR_SHAPE_MISMATCH', 'logits.shape', option('sequenceOffsets', [0, 12])],
  ['offsets that fall', 'ERR_INVALID_ARG_VALUE', 'options.sequenceOffsets[2]', packed([0, 6, 3, 12])],
  ['offsets that stand still', 'ERR_INVALID_ARG_VALUE', 'options.sequenceOffsets[2]', packed([0, 6, 6, 12])],
  ['offsets that start late', 'ERR_INVALID_ARG_VALUE', 'options.sequenceOffsets[0] must be 0', packed([1, 6, 12])],
  ['offsets that end early', 'ERR_SHAPE_MISMATCH', 'options.sequenceOffsets must end at the number of tokens, 12; got 11', packed([0, 6, 11])],
  ['offsets past the end', 'ERR_OUT_OF_RANGE', 'options.sequenceOffsets[2]', packed([0, 6, 13])],
  ['offsets too few', 'ERR_SHAPE_MISMATCH', 'options.sequenceOffsets must have a start and an end; got length 1', packed([0])],
  ['offsets NaN', 'ERR_OUT_OF_RANGE', 'options.sequenceOffsets[1]', packed([0, Number.NaN, 12])],
  ['offsets a number', 'ERR_INVALID_ARG_TYPE', 'options.sequenceOffsets must be an array of rising row numbers; got 12', packed(12)],
  ['offsets null', 'ERR_INVALID_ARG_TYPE', 'options.sequenceOffsets must be an array of rising row numbers; got null', option('sequenceOffsets', null)],
  ['offsets null, of packed logits', 'ERR_INVALID_ARG_TYPE', 'options.sequenceOffsets must be an array of rising row numbers; got null', packed(null)],
  ['offsets of strings', 'ERR_INVALID_ARG_TYPE', "options.sequenceOffsets[1] must be an integer in [0, 12]; got '6'", packed([0, '6', 12])],
  ['64-bit offsets past the end', 'ERR_OUT_OF_RANGE', 'options.sequenceOffsets[1] must be an integer in [0, 12]; got 4294967302n', packed(BigInt64Array.of(0n, 2n ** 32n + 6n, 12n))],
  ['64-bit pairs negative', 'ERR_OUT_OF_RANGE', 'options.pairs[0] must be an integer in [0, 3]; got -1n', option('pairs', BigInt64Array.of(-1n, 1n))],
]

// biome-ignore format: one case a line
const RUN: Case[] = [
  ['backend unknown', 'ERR_INVALID_ARG_VALUE', "options.backend must be one of 'auto', 'cuda', 'webgpu', 'cpu', 'wasm', 'js'", option('backend', 'gpu')],
  ['backend a number', 'ERR_INVALID_ARG_TYPE', 'options.backend', option('backend', 1)],
  ...withoutCuda(['backend cuda', 'ERR_BACKEND_UNAVAILABLE', "options.backend 'cuda' is not available", option('backend', 'cuda')]),
  ['threads 0', 'ERR_OUT_OF_RANGE', 'options.threads', option('threads', 0)],
  ['threads fractional', 'ERR_OUT_OF_RANGE', 'options.threads', option('threads', 1.5)],
  ['threads a string', 'ERR_INVALID_ARG_TYPE', 'options.threads', option('threads', '4')],
  ['instructionSet unknown', 'ERR_INVALID_ARG_VALUE', "did you mean 'avx2' or 'avx512' or 'avx512bf16'?", option('instructionSet', 'avx')],
  ['instructionSet of another machine', 'ERR_BACKEND_UNAVAILABLE', 'options.instructionSet', option('instructionSet', NATIVE[0]?.run.instructionSet === 'neon' ? 'avx2' : 'neon')],
  ['stream a string', 'ERR_INVALID_ARG_TYPE', 'options.stream', option('stream', '0')],
  ['stream without a GPU', 'ERR_INVALID_ARG_VALUE', 'options.stream is for the cuda backend', option('stream', 0n)],
  ['signal an object', 'ERR_INVALID_ARG_TYPE', 'options.signal must be an AbortSignal', option('signal', { aborted: true })],
  ['signal a controller', 'ERR_INVALID_ARG_TYPE', 'an instance of AbortController', option('signal', new AbortController())],
]

// biome-ignore format: one case a line
const LOSS: Case[] = [
  ['lossType unknown', 'ERR_INVALID_ARG_VALUE', "got 'sigmod'; did you mean 'sigmoid'?", option('lossType', 'sigmod')],
  ['lossType of every object', 'ERR_INVALID_ARG_VALUE', "got 'toString'", option('lossType', 'toString')],
  ['lossType a number', 'ERR_INVALID_ARG_TYPE', 'options.lossType', option('lossType', 1)],
  ['lossType an empty list', 'ERR_INVALID_ARG_VALUE', 'options.lossType', option('lossType', [])],
  ['list with an unknown loss', 'ERR_INVALID_ARG_VALUE', 'options.lossType[1].lossType', option('lossType', [{ lossType: 'sft' }, { lossType: 'dpo' }])],
  ['list with an unknown key', 'ERR_INVALID_ARG_VALUE', "options.lossType[0].wieght is not an option; did you mean 'weight'?", option('lossType', [{ lossType: 'sft', wieght: 1 }])],
  ['list with a bad weight', 'ERR_OUT_OF_RANGE', 'options.lossType[0].weight', option('lossType', [{ lossType: 'sft', weight: Number.NaN }])],
  ['list of names', 'ERR_INVALID_ARG_TYPE', 'options.lossType[0]', option('lossType', ['sigmoid'])],
  ['beta 0', 'ERR_OUT_OF_RANGE', 'options.beta must be a finite number > 0; got 0', option('beta', 0)],
  ['beta negative', 'ERR_OUT_OF_RANGE', 'got -0.1', option('beta', -0.1)],
  ['beta NaN', 'ERR_OUT_OF_RANGE', 'options.beta', option('beta', Number.NaN)],
  ['beta infinite', 'ERR_OUT_OF_RANGE', 'options.beta', option('beta', Number.POSITIVE_INFINITY)],
  ['beta a string', 'ERR_INVALID_ARG_TYPE', "options.beta must be a finite number > 0 or an array of such numbers; got '0.1'", option('beta', '0.1')],
  ['beta null', 'ERR_INVALID_ARG_TYPE', 'options.beta', option('beta', null)],
  ['beta of too few pairs', 'ERR_SHAPE_MISMATCH', 'options.beta must have length 2, one per pair; got 1', option('beta', [0.1])],
  ['beta of too many pairs', 'ERR_SHAPE_MISMATCH', 'options.beta must have length 2', option('beta', new Float64Array(3).fill(0.1))],
  ['beta 0 of a pair', 'ERR_OUT_OF_RANGE', 'options.beta[1] must be a finite number > 0; got 0', option('beta', [0.1, 0])],
  ['beta infinite of a pair', 'ERR_OUT_OF_RANGE', 'options.beta[0]', option('beta', [Number.POSITIVE_INFINITY, 1])],
  ['beta a string of a pair', 'ERR_INVALID_ARG_TYPE', 'options.beta[1]', option('beta', [0.1, '0.1'])],
  ['beta an object', 'ERR_INVALID_ARG_TYPE', 'options.beta must be an array of numbers', option('beta', {})],
  ['beta resizable', 'ERR_INVALID_ARG_VALUE', 'options.beta is a view of a resizable buffer', option('beta', new Float64Array(resizable(16)))],
  ['offset NaN', 'ERR_OUT_OF_RANGE', 'options.offset must be a finite number; got NaN', option('offset', Number.NaN)],
  ['offset NaN of a pair', 'ERR_OUT_OF_RANGE', 'options.offset[1] must be a finite number; got NaN', option('offset', [0, Number.NaN])],
  ['offset of too few pairs', 'ERR_SHAPE_MISMATCH', 'options.offset', option('offset', [])],
  ['offset where no loss takes it', 'ERR_INVALID_ARG_VALUE', "options.offset is not used by lossType 'nca_pair'", (c) => { c.options.lossType = 'nca_pair'; c.options.offset = [0, 0] }],
  ['pairWeights negative', 'ERR_OUT_OF_RANGE', 'options.pairWeights must be a finite number >= 0; got -1', option('pairWeights', -1)],
  ['pairWeights negative of a pair', 'ERR_OUT_OF_RANGE', 'options.pairWeights[0] must be a finite number >= 0; got -1', option('pairWeights', [-1, 1])],
  ['pairWeights NaN of a pair', 'ERR_OUT_OF_RANGE', 'options.pairWeights[1]', option('pairWeights', [1, Number.NaN])],
  ['pairWeights infinite of a pair', 'ERR_OUT_OF_RANGE', 'options.pairWeights[0]', option('pairWeights', [Number.POSITIVE_INFINITY, 1])],
  ['pairWeights of too few pairs', 'ERR_SHAPE_MISMATCH', 'options.pairWeights must have length 2, one per pair; got 1', option('pairWeights', [1])],
  ['labelSmoothing of too many pairs', 'ERR_SHAPE_MISMATCH', 'options.labelSmoothing', option('labelSmoothing', [0, 0, 0])],
  ['labelSmoothing ½ of a pair of robust', 'ERR_OUT_OF_RANGE', "options.labelSmoothing[1] must be in [0, 0.5) for lossType 'robust'", (c) => { c.options.lossType = 'robust'; c.options.labelSmoothing = [0.1, 0.5] }],
  ['labelSmoothing 0 of a pair of exo_pair in a list', 'ERR_OUT_OF_RANGE', 'options.labelSmoothing[0]', (c) => { c.options.lossType = [{ lossType: 'sigmoid' }, { lossType: 'exo_pair' }]; c.options.labelSmoothing = [0, 0.1] }],
  ['labelSmoothing above 1 of a pair', 'ERR_OUT_OF_RANGE', 'options.labelSmoothing[1] must be in [0, 1]', option('labelSmoothing', [0, 1.1])],
  ['labelSmoothing null', 'ERR_INVALID_ARG_TYPE', 'options.labelSmoothing', option('labelSmoothing', null)],
  ['labelSmoothing of pairs where no loss takes it', 'ERR_INVALID_ARG_VALUE', 'options.labelSmoothing is not used', (c) => { c.options.lossType = 'hinge'; c.options.labelSmoothing = [0, 0] }],
  ['targetMargin missing', 'ERR_INVALID_ARG_VALUE', "options.targetMargin is needed by lossType 'rpo_sq'", option('lossType', 'rpo_sq')],
  ['targetMargin infinite of a pair', 'ERR_OUT_OF_RANGE', 'options.targetMargin[0]', (c) => { c.options.lossType = 'rpo_bwd_kl'; c.options.targetMargin = [Number.POSITIVE_INFINITY, 1] }],
  ['targetMargin where no loss takes it', 'ERR_INVALID_ARG_VALUE', "the losses that take it: rpo_sq, rpo_bwd_kl, rpo_fwd_kl", option('targetMargin', 1)],
  ['dpopLambda negative', 'ERR_OUT_OF_RANGE', 'options.dpopLambda', (c) => { c.options.lossType = 'dpop'; c.options.dpopLambda = -1 }],
  ['dpopLambda of sigmoid', 'ERR_INVALID_ARG_VALUE', 'options.dpopLambda is not used', option('dpopLambda', 5)],
  ['rewardAlpha NaN', 'ERR_OUT_OF_RANGE', 'options.rewardAlpha', option('rewardAlpha', Number.NaN)],
  ['rewardAlpha of sigmoid', 'ERR_INVALID_ARG_VALUE', "the losses that take it: hinge, ipo, ipo_norm, simpo, cpo", option('rewardAlpha', 0.25)],
  ['rewardAlpha with a reference', 'ERR_INVALID_ARG_VALUE', "options.rewardAlpha is of the policy's log-probs: lossType 'hinge' takes it with referenceFree", (c) => { c.options.lossType = 'hinge'; c.options.rewardAlpha = 0.25 }],
  ['rewardAlpha with a divergence', 'ERR_INVALID_ARG_VALUE', "no other fDivergence than 'reverse_kl'", (c) => { c.options.lossType = 'ipo'; c.options.rewardAlpha = 0.25; c.options.referenceFree = true; c.options.fDivergence = 'js' }],
  ['sftNormalization unknown', 'ERR_INVALID_ARG_VALUE', 'options.sftNormalization', (c) => { c.options.lossType = 'sft'; c.options.sftNormalization = 'pairs' }],
  ['sftNormalization without sft', 'ERR_INVALID_ARG_VALUE', 'options.sftNormalization is not used', option('sftNormalization', 'sum')],
  ['normalizer of tokens for sums of sft', 'ERR_INVALID_ARG_VALUE', "options.normalizer.pairs is needed by lossType 'sft'", (c) => { c.options.lossType = 'sft'; c.options.sftNormalization = 'sum'; c.options.normalizer = { tokens: 9 } }],
  ['labelSmoothing ½ of robust', 'ERR_OUT_OF_RANGE', "options.labelSmoothing must be in [0, 0.5) for lossType 'robust'", (c) => { c.options.lossType = 'robust'; c.options.labelSmoothing = 0.5 }],
  ['labelSmoothing 0 of exo_pair', 'ERR_OUT_OF_RANGE', "options.labelSmoothing must be in (0, 1) for lossType 'exo_pair'", (c) => { c.options.lossType = 'exo_pair'; c.options.labelSmoothing = 0 }],
  ['labelSmoothing above 1', 'ERR_OUT_OF_RANGE', 'options.labelSmoothing', option('labelSmoothing', 1.1)],
  ['labelSmoothing negative', 'ERR_OUT_OF_RANGE', 'options.labelSmoothing', (c) => { c.options.lossType = 'hinge'; c.options.labelSmoothing = -0.1 }],
  ['labelSmoothing NaN', 'ERR_OUT_OF_RANGE', 'options.labelSmoothing', option('labelSmoothing', Number.NaN)],
  ['labelSmoothing a string', 'ERR_INVALID_ARG_TYPE', 'options.labelSmoothing', option('labelSmoothing', '0')],
  ['gamma NaN', 'ERR_OUT_OF_RANGE', 'options.gamma', option('gamma', Number.NaN)],
  ['rewardShift infinite', 'ERR_OUT_OF_RANGE', 'options.rewardShift', option('rewardShift', Number.NEGATIVE_INFINITY)],
  ['discopopTau 0', 'ERR_OUT_OF_RANGE', 'options.discopopTau', option('discopopTau', 0)],
  ['labelSmoothing where no loss takes it', 'ERR_INVALID_ARG_VALUE', "options.labelSmoothing is not used by lossType 'hinge'; the losses that take it: sigmoid, robust", (c) => { c.options.lossType = 'hinge'; c.options.labelSmoothing = 0.1 }],
  ['gamma where no loss takes it', 'ERR_INVALID_ARG_VALUE', "options.gamma is not used by lossType 'sigmoid'; the losses that take it: simpo", option('gamma', 1)],
  ['gamma where no loss of a list takes it', 'ERR_INVALID_ARG_VALUE', "options.gamma is not used by lossType 'orpo', 'sft'", (c) => { c.options.gamma = 0; c.options.lossType = [{ lossType: 'orpo' }, { lossType: 'sft' }, { lossType: 'orpo' }] }],
  ['rewardShift where no loss takes it', 'ERR_INVALID_ARG_VALUE', 'options.rewardShift is not used', option('rewardShift', 1)],
  ['discopopTau where no loss takes it', 'ERR_INVALID_ARG_VALUE', 'options.discopopTau is not used', option('discopopTau', 1)],
  ['alpha of no divergence', 'ERR_INVALID_ARG_VALUE', "options.alpha is used by fDivergence 'alpha' alone; got 2 with 'reverse_kl'", option('alpha', 2)],
  ['alpha of another divergence', 'ERR_INVALID_ARG_VALUE', "got 2 with 'js'", (c) => { c.options.alpha = 2; c.options.fDivergence = 'js' }],
  ['alpha NaN', 'ERR_OUT_OF_RANGE', 'options.alpha', option('alpha', Number.NaN)],
  ['referenceFree a number', 'ERR_INVALID_ARG_TYPE', 'options.referenceFree', option('referenceFree', 1)],
  ['fDivergence unknown', 'ERR_INVALID_ARG_VALUE', "did you mean 'reverse_kl'?", option('fDivergence', 'reverse-kl')],
  ['fDivergence with simpo', 'ERR_INVALID_ARG_VALUE', "options.fDivergence 'js' cannot go with lossType 'apo_zero'", (c) => { c.options.lossType = 'apo_zero'; c.options.fDivergence = 'js' }],
  ['fDivergence in a list', 'ERR_INVALID_ARG_VALUE', "lossType 'cpo'", (c) => { c.options.lossType = [{ lossType: 'cpo' }, { lossType: 'sft' }]; c.options.fDivergence = 'alpha' }],
  ['fDivergence with sft alone', 'ERR_INVALID_ARG_VALUE', "lossType 'sft'", (c) => { c.options.lossType = 'sft'; c.options.fDivergence = 'js' }],
  ['normalizer null', 'ERR_INVALID_ARG_TYPE', "options.normalizer must be 'mean', 'sum', a number > 0 or an object { pairs, tokens }", option('normalizer', null)],
  ['normalizer a boolean', 'ERR_INVALID_ARG_TYPE', 'options.normalizer', option('normalizer', true)],
  ['normalizer a list', 'ERR_INVALID_ARG_TYPE', 'options.normalizer', option('normalizer', [2, 3])],
  ['normalizer unknown', 'ERR_INVALID_ARG_VALUE', "did you mean 'mean'?", option('normalizer', 'means')],
  ['normalizer 0', 'ERR_OUT_OF_RANGE', 'options.normalizer', option('normalizer', 0)],
  ['normalizer negative', 'ERR_OUT_OF_RANGE', 'options.normalizer', option('normalizer', -4)],
  ['normalizer NaN', 'ERR_OUT_OF_RANGE', 'options.normalizer', option('normalizer', Number.NaN)],
  ['normalizer infinite', 'ERR_OUT_OF_RANGE', 'options.normalizer', option('normalizer', Number.POSITIVE_INFINITY)],
  ['normalizer.pairs a string', 'ERR_INVALID_ARG_TYPE', 'options.normalizer.pairs', option('normalizer', { pairs: '8' })],
  ['normalizer.tokens 0', 'ERR_OUT_OF_RANGE', 'options.normalizer.tokens', option('normalizer', { pairs: 8, tokens: 0 })],
  ['normalizer.pair', 'ERR_INVALID_ARG_VALUE', "did you mean 'pairs'?", option('normalizer', { pair: 8 })],
  ['normalizer without pairs', 'ERR_INVALID_ARG_VALUE', "options.normalizer.pairs is needed by lossType 'sigmoid'", option('normalizer', { tokens: 8 })],
  ['normalizer without tokens', 'ERR_INVALID_ARG_VALUE', "options.normalizer.tokens is needed by lossType 'sft'", (c) => { c.options.lossType = [{ lossType: 'cpo' }, { lossType: 'sft' }]; c.options.normalizer = { pairs: 8 } }],
  ['normalizer one number for both', 'ERR_INVALID_ARG_VALUE', "'cpo' is a sum over pairs and 'sft' one over tokens", (c) => { c.options.lossType = [{ lossType: 'sft' }, { lossType: 'cpo' }]; c.options.normalizer = 8 }],
  ['normalizer with aot', 'ERR_INVALID_ARG_VALUE', "options.normalizer must be 'mean' for lossType 'aot'", (c) => { c.options.lossType = 'aot'; c.options.normalizer = 'sum' }],
  ['normalizer with aot_unpaired in a list', 'ERR_INVALID_ARG_VALUE', "for lossType 'aot_unpaired'", (c) => { c.options.lossType = [{ lossType: 'cpo' }, { lossType: 'aot_unpaired' }]; c.options.normalizer = { pairs: 8 } }],
]

// biome-ignore format: one case a line
const FUSED: Case[] = [
  ['no reference', 'ERR_INVALID_ARG_VALUE', "options.reference is needed by lossType 'sigmoid'", (c) => { delete c.options.reference }],
  ['no reference for one of a list', 'ERR_INVALID_ARG_VALUE', "lossType 'ipo'", (c) => { delete c.options.reference; c.options.lossType = [{ lossType: 'cpo' }, { lossType: 'ipo' }] }],
  ['reference an array', 'ERR_INVALID_ARG_TYPE', 'options.reference must be an object: { chosen, rejected }, { logProbs } or { logits }; got an array of length 2', option('reference', [-1, -2])],
  ['reference bare log-probs', 'ERR_INVALID_ARG_TYPE', 'got Float64Array(4)', option('reference', new Float64Array(4))],
  ['reference a promise', 'ERR_INVALID_ARG_TYPE', 'options.reference must be the result itself: await it; got an instance of Promise', (c) => { c.options.reference = Promise.resolve(c.options.reference) }],
  ['reference with NaN', 'ERR_OUT_OF_RANGE', 'options.reference.rejected[1] must be a log-prob; got NaN', option('reference', { chosen: [-1, -2], rejected: [-1, Number.NaN] })],
  ['reference with NaN that is not used', 'ERR_OUT_OF_RANGE', 'options.reference.chosen[0]', (c) => { c.options.referenceFree = true; c.options.reference.chosen[0] = Number.NaN }],
  ['reference with NaN for a sequence that has tokens', 'ERR_OUT_OF_RANGE', 'options.reference.chosen[0]', (c) => { c.options.emptySequence = 'nan'; c.options.reference.chosen[0] = Number.NaN }],
  ['reference with NaN for a sequence without, when that is 0', 'ERR_OUT_OF_RANGE', 'options.reference.chosen[0]', (c) => { c.labels.fill(-100, 0, 3); c.options.reference.chosen[0] = Number.NaN }],
  ['reference by sequence with NaN', 'ERR_OUT_OF_RANGE', 'options.reference.logProbs[2] must be a log-prob; got NaN', option('reference', { logProbs: [-1, -2, Number.NaN, -3] })],
  ['reference by sequence, one per pair', 'ERR_SHAPE_MISMATCH', 'options.reference.logProbs must have length 4, one per sequence; got 2', option('reference', { logProbs: [-1, -2] })],
  ['reference by sequence and by pair', 'ERR_INVALID_ARG_TYPE', 'options.reference must be one of { chosen, rejected }, { logProbs } or { logits }, not two', option('reference', { logProbs: [-1, -2, -3, -4], chosen: [-1, -2] })],
  ['reference by sequence and with logits', 'ERR_INVALID_ARG_TYPE', 'not two', (c) => { c.options.reference = { logProbs: [-1, -2, -3, -4], logits: { ...c.logits } } }],
  ['reference of other tokens', 'ERR_INVALID_ARG_VALUE', 'options.reference.tokenCounts[3] is 1, where 2 tokens count in this call: labels or token options differ', option('reference', { logProbs: [-1, -2, -3, -4], tokenCounts: Int32Array.of(2, 2, 2, 1) })],
  ['reference with counts of another length', 'ERR_SHAPE_MISMATCH', 'options.reference.tokenCounts', option('reference', { logProbs: [-1, -2, -3, -4], tokenCounts: [2, 2] })],
  ['counts without log-probs', 'ERR_INVALID_ARG_VALUE', 'options.reference.tokenCounts is not an option', (c) => { c.options.reference.tokenCounts = [2, 2, 2, 2] }],
  ['reference of nothing', 'ERR_INVALID_ARG_TYPE', 'options.reference.chosen must be an array of numbers; got undefined', option('reference', {})],
  ['zeroInactive a number, without a gradient', 'ERR_INVALID_ARG_TYPE', 'options.zeroInactive must be a boolean; got 0', (c) => { c.options.zeroInactive = 0; c.options.gradient = undefined }],
  ['reference null', 'ERR_INVALID_ARG_TYPE', 'options.reference', option('reference', null)],
  ['reference with an unknown key', 'ERR_INVALID_ARG_VALUE', "did you mean 'chosen'?", option('reference', { choosen: [-1, -2], rejected: [-1, -2] })],
  ['reference without rejected', 'ERR_INVALID_ARG_TYPE', 'options.reference.rejected', option('reference', { chosen: [-1, -2] })],
  ['reference too long', 'ERR_SHAPE_MISMATCH', 'options.reference.chosen must have length 2, one per pair; got 4', option('reference', { chosen: [1, 2, 3, 4], rejected: [1, 2] })],
  ['reference of strings', 'ERR_INVALID_ARG_TYPE', 'options.reference.rejected[1]', option('reference', { chosen: [1, 2], rejected: [1, '2'] })],
  ['reference of both kinds', 'ERR_INVALID_ARG_TYPE', 'not two', (c) => { c.options.reference.logits = { ...c.logits } }],
  ['reference logits of another shape', 'ERR_SHAPE_MISMATCH', 'options.reference.logits.shape must be that of logits, [4, 3, 5]; got [4, 5, 3]', (c) => { c.options.reference = { logits: { data: ramp(60), shape: [4, 5, 3] } } }],
  ['reference logits without data', 'ERR_INVALID_ARG_TYPE', 'options.reference.logits.data', (c) => { c.options.reference = { logits: { shape: [4, 3, 5] } } }],
  ['reference logits on a device', 'ERR_INVALID_ARG_VALUE', 'options.reference.logits.data', (c) => { c.options.reference = { logits: { data: { ptr: 1, byteLength: 240 }, shape: [4, 3, 5] } } }],
  ['an odd batch without pairs', 'ERR_SHAPE_MISMATCH', 'the batch has an odd number of sequences, 3, where its first half would be chosen', (c) => { c.logits = { data: ramp(45), shape: [3, 3, 5] }; c.labels = new Int32Array(9) }],
  ['weighting unknown', 'ERR_INVALID_ARG_VALUE', "options.weighting must be one of 'wpo'; got 'wop'", option('weighting', 'wop')],
  ['gradient a string', 'ERR_INVALID_ARG_TYPE', "options.gradient must be true, 'in-place' or a Float32Array; got 'inplace'", option('gradient', 'inplace')],
  ['gradient a plain array', 'ERR_INVALID_ARG_TYPE', 'options.gradient', option('gradient', new Array(60))],
  ['gradient too long', 'ERR_SHAPE_MISMATCH', 'options.gradient must have 60 elements', option('gradient', new Float32Array(61))],
  ['gradient of another dtype', 'ERR_INVALID_ARG_TYPE', 'options.gradient must be a Float32Array', option('gradient', new Uint16Array(60))],
  ['gradient float64', 'ERR_INVALID_ARG_TYPE', 'options.gradient', option('gradient', new Float64Array(60))],
  ['gradient float32 of 16-bit logits', 'ERR_INVALID_ARG_TYPE', 'options.gradient must be a Uint16Array', (c) => { c.logits = { data: new Uint16Array(60), shape: [4, 3, 5], dtype: 'bfloat16' } }],
  ['gradient detached', 'ERR_INVALID_ARG_VALUE', 'options.gradient is detached', (c) => { structuredClone(c.options.gradient, { transfer: [c.options.gradient.buffer] }) }],
  ['gradient resizable', 'ERR_INVALID_ARG_VALUE', 'options.gradient', option('gradient', new Float32Array(resizable(240)))],
  ['gradient on a device', 'ERR_INVALID_ARG_TYPE', 'options.gradient must be in host memory', option('gradient', { ptr: 8, byteLength: 240 })],
  ['gradient over part of the logits', 'ERR_INVALID_ARG_VALUE', 'options.gradient would overwrite part of logits.data', (c) => { const all = ramp(64); c.logits.data = all.subarray(0, 60); c.options.gradient = all.subarray(4) }],
  ['gradient inside the logits', 'ERR_INVALID_ARG_VALUE', 'options.gradient would overwrite part of logits.data', (c) => { c.options.gradient = c.logits.data.subarray(0, 30) }],
  ['gradient over the labels', 'ERR_INVALID_ARG_VALUE', 'overwrite labels', (c) => { c.labels = new Int32Array(c.options.gradient.buffer, 0, 12).fill(0) }],
  ['gradient over the mask', 'ERR_INVALID_ARG_VALUE', 'overwrite options.mask', (c) => { c.options.mask = new Uint8Array(c.options.gradient.buffer, 100, 12) }],
  ['gradient over the weights', 'ERR_INVALID_ARG_VALUE', 'overwrite options.tokenWeights', (c) => { c.options.tokenWeights = c.options.gradient.subarray(48) }],
  ['gradient over the pairs', 'ERR_INVALID_ARG_VALUE', 'overwrite options.pairs', (c) => { c.options.pairs = new Uint8Array(c.options.gradient.buffer, 0, 4); c.options.pairs.set([0, 1, 2, 3]) }],
  ['gradient over the offsets', 'ERR_INVALID_ARG_VALUE', 'overwrite options.sequenceOffsets', (c) => { c.options.reference = { chosen: [-1], rejected: [-2] }; packed(new Int32Array(c.options.gradient.buffer, 8, 3))(c); c.options.sequenceOffsets.set([0, 6, 12]) }],
  ['gradient over the reference by sequence', 'ERR_INVALID_ARG_VALUE', 'overwrite options.reference.logProbs', (c) => { c.options.reference = { logProbs: c.options.gradient.subarray(0, 4).fill(-1) } }],
  ['gradient over the reference', 'ERR_INVALID_ARG_VALUE', 'overwrite options.reference.rejected', (c) => { c.options.reference.rejected = c.options.gradient.subarray(0, 2) }],
  ['gradient over the reference logits', 'ERR_INVALID_ARG_VALUE', 'overwrite options.reference.logits', (c) => { c.options.reference = { logits: { data: c.options.gradient, shape: [4, 3, 5] } } }],
  ['in place over the reference logits', 'ERR_INVALID_ARG_VALUE', 'overwrite options.reference.logits', (c) => { c.options.gradient = 'in-place'; c.options.reference = { logits: { ...c.logits } } }],
  ['in place of broadcast rows', 'ERR_INVALID_ARG_VALUE', 'their rows overlap', (c) => { c.options.gradient = 'in-place'; c.logits.strides = [0, 5, 1] }],
  ['in place of overlapping rows', 'ERR_INVALID_ARG_VALUE', 'their rows overlap', (c) => { c.options.gradient = c.logits.data; c.logits.strides = [15, 4, 1] }],
  ['in place of overlapping sequences', 'ERR_INVALID_ARG_VALUE', 'with strides [11, 5, 1] their rows overlap', (c) => { c.options.gradient = 'in-place'; c.logits.strides = [11, 5, 1] }],
  ['in place of overlapping sequences of one row', 'ERR_INVALID_ARG_VALUE', 'with strides [4, 9, 1] their rows overlap', (c) => { c.options.gradient = 'in-place'; c.options.shift = false; c.logits = { data: ramp(60), shape: [4, 1, 5], strides: [4, 9, 1] }; c.labels = new Int32Array(4) }],
  ['a new array past all memory', 'ERR_OUT_OF_RANGE', 'options.gradient', (c) => { c.options.gradient = true; c.logits = { data: ramp(2 ** 20), shape: [2, 2 ** 15, 2 ** 20], strides: [0, 0, 1] }; c.labels = new Int32Array(2 ** 16); c.options.reference = { chosen: [-1], rejected: [-2] } }],
]

// biome-ignore format: one case a line
const PREFERENCE: Case[] = [
  ['no pairs', 'ERR_INVALID_ARG_TYPE', 'logProbs must be an object', (c) => { c.pairs = undefined }],
  ['pairs null', 'ERR_INVALID_ARG_TYPE', 'logProbs must be an object', (c) => { c.pairs = null }],
  ['unknown key', 'ERR_INVALID_ARG_VALUE', "did you mean 'referenceChosen'?", (c) => { c.pairs.referenceChosn = [1] }],
  ['chosen missing', 'ERR_INVALID_ARG_TYPE', 'logProbs.chosen', (c) => { delete c.pairs.chosen }],
  ['chosen of strings', 'ERR_INVALID_ARG_TYPE', 'logProbs.chosen[0]', (c) => { c.pairs.chosen = ['-1', '-2'] }],
  ['chosen of bigints', 'ERR_INVALID_ARG_TYPE', 'logProbs.chosen[0]', (c) => { c.pairs.chosen = new BigInt64Array(2) }],
  ['no pair at all', 'ERR_SHAPE_MISMATCH', 'logProbs.chosen', (c) => { c.pairs = { chosen: [], rejected: [] } }],
  ['resizable chosen', 'ERR_INVALID_ARG_VALUE', 'logProbs.chosen is a view of a resizable buffer', (c) => { c.pairs.chosen = new Float64Array(resizable(16)) }],
  ['detached rejected', 'ERR_INVALID_ARG_VALUE', 'logProbs.rejected is detached', (c) => { const r = new Float64Array(2); structuredClone(r, { transfer: [r.buffer] }); c.pairs.rejected = r }],
  ['rejected too short', 'ERR_SHAPE_MISMATCH', 'logProbs.rejected must have length 2', (c) => { c.pairs.rejected = [-1] }],
  ['reference too long', 'ERR_SHAPE_MISMATCH', 'logProbs.referenceChosen', (c) => { c.pairs.referenceChosen = [1, 2, 3] }],
  ['half a reference', 'ERR_INVALID_ARG_TYPE', 'logProbs.referenceRejected', (c) => { delete c.pairs.referenceRejected }],
  ['no reference', 'ERR_INVALID_ARG_VALUE', 'logProbs.referenceChosen', (c) => { delete c.pairs.referenceRejected; delete c.pairs.referenceChosen }],
  ['no lengths for simpo', 'ERR_INVALID_ARG_VALUE', "logProbs.chosenTokenCounts and logProbs.rejectedTokenCounts are needed by lossType 'simpo'", option('lossType', 'simpo')],
  ['no lengths for sft on means', 'ERR_INVALID_ARG_VALUE', 'logProbs.chosenTokenCounts', (c) => { c.options.lossType = 'sft'; c.options.averageLogProb = true }],
  ['reference with NaN', 'ERR_OUT_OF_RANGE', 'logProbs.referenceChosen[1] must be a log-prob; got NaN', (c) => { c.pairs.referenceChosen = [-1, Number.NaN] }],
  ['reference with NaN beside NaN of the other', 'ERR_OUT_OF_RANGE', 'logProbs.referenceRejected[0] must be a log-prob; got NaN', (c) => { c.pairs.referenceRejected = [Number.NaN, -1]; c.pairs.chosen = [Number.NaN, -1] }],
  ['64-bit lengths negative', 'ERR_OUT_OF_RANGE', 'logProbs.chosenTokenCounts[1] must be a number of tokens; got -1n', (c) => { c.pairs.chosenTokenCounts = BigInt64Array.of(1n, -1n); c.pairs.rejectedTokenCounts = [1, 2] }],
  ['lengths of strings', 'ERR_INVALID_ARG_TYPE', "logProbs.rejectedTokenCounts[0] must be a number of tokens; got '1'", (c) => { c.pairs.chosenTokenCounts = [1, 2]; c.pairs.rejectedTokenCounts = ['1', 2] }],
  ['lengths NaN', 'ERR_OUT_OF_RANGE', 'logProbs.chosenTokenCounts[0]', (c) => { c.pairs.chosenTokenCounts = [Number.NaN, 2]; c.pairs.rejectedTokenCounts = [1, 2] }],
  ['no lengths for sft by sequences', 'ERR_INVALID_ARG_VALUE', "are needed by lossType 'sft'", (c) => { c.options.lossType = 'sft'; c.options.sftNormalization = 'sequences' }],
  ['no lengths for sums of means', 'ERR_INVALID_ARG_VALUE', "are needed by lossType 'sft'", (c) => { c.options.lossType = 'sft'; c.options.sftNormalization = 'sum'; c.options.averageLogProb = true }],
  ['no lengths for ipo_norm', 'ERR_INVALID_ARG_VALUE', "are needed by lossType 'ipo_norm'", option('lossType', 'ipo_norm')],
  ['no lengths for scores of sums', 'ERR_INVALID_ARG_VALUE', "are needed by lossType 'sigmoid_norm'", (c) => { c.options.lossType = 'sigmoid_norm'; c.options.averageLogProb = true; c.options.fDivergence = 'js' }],
  ['no lengths for scores of sums, ipo', 'ERR_INVALID_ARG_VALUE', "are needed by lossType 'ipo'", (c) => { c.options.lossType = 'ipo'; c.options.averageLogProb = true; c.options.fDivergence = 'alpha' }],
  ['lengths too short', 'ERR_SHAPE_MISMATCH', 'logProbs.chosenTokenCounts', (c) => { c.pairs.chosenTokenCounts = [1]; c.pairs.rejectedTokenCounts = [1, 2] }],
  ['lengths negative', 'ERR_OUT_OF_RANGE', 'logProbs.rejectedTokenCounts[1]', (c) => { c.pairs.chosenTokenCounts = [1, 2]; c.pairs.rejectedTokenCounts = [1, -2] }],
  ['lengths fractional', 'ERR_OUT_OF_RANGE', 'logProbs.chosenTokenCounts[0]', (c) => { c.pairs.chosenTokenCounts = [1.5, 2]; c.pairs.rejectedTokenCounts = [1, 2] }],
  ['weights among the pairs', 'ERR_INVALID_ARG_VALUE', 'logProbs.pairWeights is not an option', (c) => { c.pairs.pairWeights = [1, 1] }],
  ['weighting', 'ERR_INVALID_ARG_VALUE', 'use fusedPreferenceLoss, or pass pairWeights', option('weighting', 'wpo')],
  ['a token option', 'ERR_INVALID_ARG_VALUE', 'options.shift is not an option', option('shift', true)],
  ['options a number', 'ERR_INVALID_ARG_TYPE', 'options must be an object', (c) => { c.options = 1 }],
]

function resizable(byteLength: number): ArrayBuffer {
  const Resizable = ArrayBuffer as unknown as new (length: number, options: { maxByteLength: number }) => ArrayBuffer
  return new Resizable(byteLength, { maxByteLength: 2 * byteLength })
}

function packed(sequenceOffsets: unknown) {
  return (call: Bag) => {
    call.logits.shape = [12, 5]
    call.options.sequenceOffsets = sequenceOffsets
  }
}

describe('fusedPreferenceLoss', () => {
  table(
    [...LOGITS, ...TOKENS, ...RUN, ...LOSS, ...FUSED],
    fusedCall,
    (c) => fusedPreferenceLossSync(c.logits, c.labels, c.options),
    (c) => fusedPreferenceLoss(c.logits, c.labels, c.options),
  )
})

describe('sequenceLogProbs', () => {
  table(
    [...LOGITS, ...TOKENS, ...RUN],
    sequenceCall,
    (c) => sequenceLogProbsSync(c.logits, c.labels, c.options),
    (c) => sequenceLogProbs(c.logits, c.labels, c.options),
  )
})

describe('preferenceLoss', () => {
  table(
    [...RUN, ...LOSS, ...PREFERENCE],
    lossCall,
    (c) => preferenceLossSync(c.pairs, c.options),
    (c) => preferenceLoss(c.pairs, c.options),
  )
})

describe.each(BACKENDS)('%s', (backend) => {
  test('backward checks its gradient and its destination', async () => {
    const call = sequenceCall(backend)
    const { backward, backwardSync } = sequenceLogProbsSync(call.logits, call.labels, call.options)
    const bad: [code: string, message: string, gradient: unknown, options?: unknown][] = [
      ['ERR_INVALID_ARG_TYPE', 'gradient must be an array of numbers', undefined],
      ['ERR_SHAPE_MISMATCH', 'gradient must have length 4, one per sequence; got 3', [1, 2, 3]],
      ['ERR_INVALID_ARG_TYPE', 'gradient[1]', [1, '2', 3, 4]],
      [
        'ERR_INVALID_ARG_VALUE',
        "options.gradients is not an option; did you mean 'gradient'?",
        [1, 2, 3, 4],
        { gradients: true },
      ],
      [
        'ERR_INVALID_ARG_TYPE',
        "options.gradient must be true, 'in-place' or a Float32Array; got 'inplace'",
        [1, 2, 3, 4],
        { gradient: 'inplace' },
      ],
      [
        'ERR_INVALID_ARG_TYPE',
        "options.gradient must be true, 'in-place' or a Float32Array; got false",
        [1, 2, 3, 4],
        { gradient: false },
      ],
      ['ERR_INVALID_ARG_TYPE', 'options.zeroInactive must be a boolean; got 1', [1, 2, 3, 4], { zeroInactive: 1 }],
      ['ERR_SHAPE_MISMATCH', 'options.gradient', [1, 2, 3, 4], { gradient: new Float32Array(3) }],
      ['ERR_INVALID_ARG_VALUE', 'options.gradient', [1, 2, 3, 4], { gradient: new Float32Array(call.labels.buffer) }],
      ['ERR_INVALID_ARG_VALUE', 'options.gradient', [1, 2, 3, 4], { gradient: call.logits.data.subarray(5) }],
    ]
    const before = contents(call)
    for (const [code, message, gradient, options] of bad) {
      expectError(
        thrownBy(() => backwardSync(gradient as number[], options as object)),
        code,
        message,
      )
      await expect(backward(gradient as number[], options as object)).rejects.toMatchObject({
        code,
        message: expect.stringContaining(message),
      })
    }
    expect(contents(call)).toEqual(before)
    expect(backwardSync([1, 2, 3, 4], { gradient: true }).gradLogits).toEqual(backwardSync([1, 2, 3, 4]).gradLogits)
  })

  test('backward cannot read logits that it has overwritten, or that are gone', () => {
    const call = sequenceCall(backend)
    const first = sequenceLogProbsSync(call.logits, call.labels, call.options)
    expect(first.backwardSync([1, 1, 1, 1], { gradient: 'in-place' }).gradLogits.data).toBe(call.logits.data)
    expectError(
      thrownBy(() => first.backwardSync([1, 1, 1, 1])),
      'ERR_DISPOSED',
      'overwritten',
    )

    const second = sequenceLogProbsSync(call.logits, call.labels, call.options)
    structuredClone(call.logits.data, { transfer: [call.logits.data.buffer] })
    expectError(
      thrownBy(() => second.backwardSync([1, 1, 1, 1])),
      'ERR_INVALID_ARG_VALUE',
      'logits.data was detached',
    )
  })

  test('an array that is transferred during the call', async () => {
    const moved: [string, (call: Bag) => Float32Array][] = [
      ['logits.data', (call) => call.logits.data],
      ['options.gradient', (call) => call.options.gradient],
      ['options.reference.logits.data', (call) => call.options.reference.logits.data],
    ]
    for (const [name, pick] of moved) {
      const call = fusedCall(backend)
      call.options.reference = { logits: { data: ramp(60), shape: [4, 3, 5] } }
      const promise = fusedPreferenceLoss(call.logits, call.labels, call.options)
      // The copy stays referenced until the call has ended.
      const copy = structuredClone(pick(call), { transfer: [pick(call).buffer as ArrayBuffer] })
      expectError(
        await promise.then(
          () => null,
          (error) => error,
        ),
        'ERR_INVALID_ARG_VALUE',
        `${name} was detached`,
      )
      expect(copy).toHaveLength(60)
    }
    const call = sequenceCall(backend)
    const given = new Float32Array(60)
    const { backward } = sequenceLogProbsSync(call.logits, call.labels, call.options)
    const writes = backward([1, 2, 3, 4], { gradient: given })
    structuredClone(given, { transfer: [given.buffer] })
    await expect(writes).rejects.toThrow('options.gradient was detached')
    const reads = backward([1, 2, 3, 4])
    structuredClone(call.logits.data, { transfer: [call.logits.data.buffer] })
    await expect(reads).rejects.toThrow('logits.data was detached')
  })

  test('a getter that detaches the logits while the options are read', () => {
    const call = fusedCall(backend)
    Object.defineProperty(call.options, 'threads', {
      enumerable: true,
      get: () => void structuredClone(call.logits.data, { transfer: [call.logits.data.buffer] }),
    })
    const error = thrownBy(() => fusedPreferenceLossSync(call.logits, call.labels, call.options))
    expectError(error, 'ERR_INVALID_ARG_VALUE', 'logits.data is detached')
  })

  test('an aborted signal gives its reason', async () => {
    const reason = new Error('enough')
    const call = fusedCall(backend)
    call.options.signal = AbortSignal.abort(reason)
    const before = contents(call)
    expect(thrownBy(() => fusedPreferenceLossSync(call.logits, call.labels, call.options))).toBe(reason)
    await expect(fusedPreferenceLoss(call.logits, call.labels, call.options)).rejects.toBe(reason)
    expect(contents(call)).toEqual(before)
  })

  test('a signal that aborts after the call gives its reason or comes too late', async () => {
    const call = fusedCall(backend)
    const controller = new AbortController()
    call.options.signal = controller.signal
    const before = contents(call)
    const promise = fusedPreferenceLoss(call.logits, call.labels, call.options)
    controller.abort(new Error('enough'))
    const outcome = await promise.then(
      () => 'done',
      (error) => error.message,
    )
    expect(['done', 'enough']).toContain(outcome)
    if (outcome === 'enough') expect(contents(call)).toEqual(before)
  })
})

describe.each(BACKENDS)('%s accepts', (backend) => {
  const accepted: [string, (call: Bag) => void][] = [
    [
      'no options but the backend',
      (c) => {
        c.options = { backend, lossType: 'cpo' }
      },
    ],
    [
      'shared memory',
      (c) => {
        c.logits.data = new Float32Array(new SharedArrayBuffer(240))
        c.labels = new Int32Array(new SharedArrayBuffer(48))
        c.options.gradient = new Float32Array(new SharedArrayBuffer(240))
      },
    ],
    [
      'a destination beside the logits in one buffer',
      (c) => {
        const all = ramp(120)
        c.logits.data = all.subarray(60)
        c.options.gradient = all.subarray(0, 60)
      },
    ],
    [
      'a destination after the logits in one buffer',
      (c) => {
        const all = ramp(120)
        c.logits.data = all.subarray(0, 60)
        c.options.gradient = all.subarray(60)
      },
    ],
    [
      'padded rows',
      (c) => {
        c.logits = { data: ramp(4 * 3 * 8), shape: [4, 3, 5], strides: [24, 8, 1] }
      },
    ],
    [
      'padded rows in place',
      (c) => {
        c.logits = { data: ramp(4 * 3 * 8), shape: [4, 3, 5], strides: [24, 8, 1] }
        c.options.gradient = 'in-place'
      },
    ],
    [
      'time before batch in place',
      (c) => {
        c.logits.strides = [5, 20, 1]
        c.options.gradient = 'in-place'
      },
    ],
    [
      'broadcast rows',
      (c) => {
        c.logits = { data: ramp(5), shape: [4, 3, 5], strides: [0, 0, 1] }
      },
    ],
    [
      'undefined options',
      (c) => {
        Object.assign(c.options, {
          beta: undefined,
          mask: undefined,
          pairs: undefined,
          gradient: undefined,
          signal: undefined,
        })
      },
    ],
    [
      'constants at their defaults with a loss that does not take them',
      (c) => {
        c.options.lossType = 'hinge'
        Object.assign(c.options, { labelSmoothing: 0, gamma: 0.5, rewardShift: 0, discopopTau: 0.05, alpha: 0.5 })
      },
    ],
    [
      'constants that one loss of a list takes',
      (c) => {
        c.options.lossType = [
          { lossType: 'ipo' },
          { lossType: 'simpo' },
          { lossType: 'bco_pair' },
          { lossType: 'discopop' },
        ]
        Object.assign(c.options, { labelSmoothing: 0.1, gamma: 1, rewardShift: 1, discopopTau: 1 })
      },
    ],
    [
      'the default divergence with any loss',
      (c) => {
        c.options.lossType = 'simpo'
        c.options.fDivergence = 'reverse_kl'
      },
    ],
    [
      'a reference that a loss does not need',
      (c) => {
        c.options.lossType = 'orpo'
      },
    ],
    [
      'referenceFree with and without a reference',
      (c) => {
        c.options.referenceFree = true
      },
    ],
    [
      'one chosen against many',
      (c) => {
        c.options.pairs = [0, 1, 0, 2, 0, 3]
        c.options.reference = { chosen: [1, 1, 1], rejected: [1, 1, 1] }
      },
    ],
  ]
  test.each(accepted)('%s', async (_title, change) => {
    const call = fusedCall(backend)
    change(call)
    expect(fusedPreferenceLossSync(call.logits, call.labels, call.options).loss).toBeTypeOf('number')
    const again = fusedCall(backend)
    change(again)
    expect((await fusedPreferenceLoss(again.logits, again.labels, again.options)).loss).toBeTypeOf('number')
  })

  test('strides of one row, which say nothing, and those of others are those of the gradient in place', () => {
    const one = { data: ramp(5), shape: [1, 1, 5], strides: [0, 0, 1] }
    const sums = sequenceLogProbsSync(one, Int32Array.of(3), { backend: backend as 'cpu', shift: false })
    expect(sums.backwardSync([1], { gradient: 'in-place' }).gradLogits).toMatchObject({
      data: one.data,
      strides: [0, 0, 1],
    })
    const call = fusedCall(backend)
    const strides = [30, 7, 1]
    const wide = { data: ramp(4 * 30), shape: [4, 3, 5], strides }
    const options = { ...call.options, gradient: 'in-place' }
    const { gradLogits } = fusedPreferenceLossSync(wide, call.labels, options)
    expect(gradLogits).toEqual({ data: wide.data, shape: [4, 3, 5], dtype: 'float32', strides })
  })

  test('exactly the array of the logits as the destination, in place', () => {
    const call = fusedCall(backend)
    const { gradLogits } = fusedPreferenceLossSync(call.logits, call.labels, { ...call.options, gradient: true })
    const data = call.logits.data.subarray(0)
    const inPlace = fusedPreferenceLossSync(call.logits, call.labels, { ...call.options, gradient: data })
    expect(inPlace.gradLogits?.data).toBe(data)
    expect(call.logits.data).toEqual(gradLogits?.data)
  })
})
