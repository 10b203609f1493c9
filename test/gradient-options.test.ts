/**
 * How gradients are written: `gradientDType`, `gradientScale` and `deferredScale`, in all functions that have a gradient, on
 * every backend.
 */
import { describe, expect, test } from 'vitest'
import {
  crossEntropySync,
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLossSync,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLossSync,
  linearCrossEntropySync,
  linearSequenceLogProbsSync,
  preferenceLossSync,
  sequenceLogProbsSync,
  unpairedPreferenceLossSync,
} from '../lib/index.js'
import type { TokenOptions } from '../lib/options/index.js'
import type { DType, HeadGradientRequest, HeadGradients, Logits, LogitsGradient } from '../lib/types/index.js'
import {
  bytes,
  DTYPES,
  decode,
  encode,
  firstDifference,
  gaussian,
  random,
  storage,
  TARGETS,
  logitsOf as tensor,
  tooFar,
  ulp,
  values,
} from './support.js'

const [BATCH, TIME] = [4, 3]
const LABELS = Int32Array.of(3, -100, 0, 1, 2, 5, 5, 5, 1, 4, 0, 6)
const TOKEN_WEIGHTS = [1, 0.5, 2, 1, -1, 0, 0.75, 1, 0.25, 1, 1, 1]
const PER_TOKEN = ['tokenLogProbs', 'logSumExp', 'tokenEntropies', 'tokenMeanLogits'] as const
const CAPPED: TokenOptions = { logitScale: 1.3, logitSoftcap: 4, temperature: 0.8 }

function numbers(count: number, seed: number, scale = 1): Float64Array {
  const next = random(seed)
  return Float64Array.from({ length: count }, () => scale * gaussian(next))
}

const logitsOf = (dtype: DType, vocab: number) =>
  tensor(dtype, [BATCH, TIME, vocab], numbers(BATCH * TIME * vocab, vocab, 3))

/** The same numbers in float32. */
const widened = (logits: Logits): Logits => tensor('float32', [...logits.shape], values(logits))

/** The bits of numbers in an element type. */
function rounded(dtype: DType, list: ArrayLike<number>): Uint8Array {
  const stored = storage(dtype, list.length)
  const [of, to] = [Float32Array.from(list), encode[dtype]] // one kind of array: a loop over several is far slower
  for (let i = 0; i < of.length; i++) stored[i] = to(of[i])
  return bytes(stored)
}

/** By how many numbers of 16 bits two lists differ at the most, given the bytes of the second; 0 or Infinity for float32. */
function mostSteps(data: unknown, others: Uint8Array): number {
  if (!(data instanceof Uint16Array)) return bytes(data as Float32Array).equals(others) ? 0 : Number.POSITIVE_INFINITY
  const right = new Uint16Array(others.buffer, others.byteOffset, data.length)
  // Zeros of both signs are neighbours, and so are the smallest numbers and they.
  const place = (bits: number) => (bits < 0x8000 ? bits : 0x7fff - bits)
  return data.reduce((most, x, i) => Math.max(most, Math.abs(place(x) - place(right[i]))), 0)
}

type Options = TokenOptions & {
  gradient?: true | 'in-place' | Float32Array | Uint16Array
  gradientDType?: DType
  gradientScale?: number
  deferredScale?: boolean
  threads?: number
}

const REFERENCE = { chosen: [-3, -5], rejected: [-4, -2] }
const SEQUENCES = { reference: { logProbs: [-3, -5, -4, -2] }, desirable: [1, 0, 0, 1], kl: 0.1 }

/** All functions that give a gradient with respect to logits. */
const OF_LOGITS: Record<string, (logits: Logits, options: Options) => LogitsGradient> = {
  'sequenceLogProbs, per sequence': (logits, { gradient, gradientDType, gradientScale, deferredScale, ...tokens }) =>
    sequenceLogProbsSync(logits, LABELS, { ...tokens, averageLogProb: true }).backwardSync([1, -0.5, 2, 0.25], {
      gradient,
      gradientDType,
      gradientScale,
      deferredScale,
    }),
  'sequenceLogProbs, per token': (logits, { gradient, gradientDType, gradientScale, deferredScale, ...tokens }) =>
    sequenceLogProbsSync(logits, LABELS, tokens).backwardSync(
      { tokenLogProbs: numbers(8, 5), logProbs: [1, -0.5, 2, 0.25] },
      { gradient, gradientDType, gradientScale, deferredScale },
    ),
  fusedPreferenceLoss: (logits, options) =>
    fusedPreferenceLossSync(logits, LABELS, {
      ...options,
      reference: REFERENCE,
      ldAlpha: 0.5,
      lossType: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight: 0.3 }],
    }) as LogitsGradient,
  fusedUnpairedPreferenceLoss: (logits, options) =>
    fusedUnpairedPreferenceLossSync(logits, LABELS, { ...options, ...SEQUENCES }) as LogitsGradient,
  crossEntropy: (logits, options) => crossEntropySync(logits, LABELS, { ...options, dft: true }) as LogitsGradient,
}

/** Gradients of rows that are no multiples of onehot - softmax. */
const OF_OTHER_FORMS: typeof OF_LOGITS = {
  'sequenceLogProbs, all results': (logits, { gradient, gradientDType, gradientScale, ...tokens }) =>
    sequenceLogProbsSync(logits, LABELS, { ...tokens, outputs: ['tokenEntropies'] }).backwardSync(
      Object.fromEntries(PER_TOKEN.map((name, k) => [name, numbers(8, k)])),
      { gradient, gradientDType, gradientScale },
    ),
  'crossEntropy, smoothed': (logits, options) =>
    crossEntropySync(logits, LABELS, { ...options, labelSmoothing: 0.1, zLoss: 0.01 }) as LogitsGradient,
  'crossEntropy, smoothed over weighted classes': (logits, options) =>
    crossEntropySync(logits, LABELS, {
      ...options,
      labelSmoothing: 0.1,
      classWeights: Float64Array.from({ length: logits.shape[2] }, (_, v) => (v % 5) / 2),
    }) as LogitsGradient,
}
const EVERY_FORM = { ...OF_LOGITS, ...OF_OTHER_FORMS }

/** A head of these sizes: hidden states for the labels, a weight and a bias. */
function headOf(dtype: DType, width: number, vocab: number, batch = BATCH, time = TIME) {
  return {
    hidden: tensor(dtype, [batch, time, width], numbers(batch * time * width, 1)),
    weight: tensor(dtype, [vocab, width], numbers(vocab * width, 2)) as Logits & { shape: [number, number] },
    bias: Float32Array.from(numbers(vocab, 3)),
  }
}
type Head = ReturnType<typeof headOf>

type HeadOptions = TokenOptions & {
  gradient: true | HeadGradientRequest
  gradientDType?: DType
  gradientScale?: number
  accumulate?: boolean
  threads?: number
}

/** All functions that give gradients of an output layer. */
const OF_HEAD: Record<string, (head: Head, labels: Int32Array, options: HeadOptions) => HeadGradients> = {
  linearSequenceLogProbs: (head, labels, { gradient, gradientDType, gradientScale, accumulate, ...tokens }) => {
    const options = { ...tokens, bias: head.bias, outputs: ['tokenEntropies' as const] }
    const sums = linearSequenceLogProbsSync(head.hidden, head.weight, labels, options)
    const given = {
      tokenEntropies: numbers(sums.tokenEntropies!.length, 4),
      logProbs: sums.logProbs.map((x) => -1 / x),
    }
    return sums.backwardSync(given, { gradient, gradientDType, gradientScale, accumulate })
  },
  fusedLinearPreferenceLoss: ({ hidden, weight, bias }, labels, options) =>
    fusedLinearPreferenceLossSync(hidden, weight, labels, { ...options, bias, lossType: 'cpo' }),
  fusedLinearUnpairedPreferenceLoss: ({ hidden, weight, bias }, labels, options) => {
    const desirable = Array.from({ length: hidden.shape[0] }, (_, s) => s % 2)
    const given = { ...options, bias, desirable, lossType: 'bco', referenceFree: true } as const
    return fusedLinearUnpairedPreferenceLossSync(hidden, weight, labels, given)
  },
  linearCrossEntropy: ({ hidden, weight, bias }, labels, options) =>
    linearCrossEntropySync(hidden, weight, labels, { ...options, bias, labelSmoothing: 0.1 }),
}
const partsOf = ({ gradHidden, gradWeight, gradBias }: HeadGradients) =>
  [gradHidden?.data, gradWeight?.data, gradBias].filter(Boolean) as (Float32Array | Uint16Array)[]

describe.each(TARGETS)('$name', ({ name, run }) => {
  /** The gradient that is rounded. On a GPU the sums of 16-bit logits have bits of their own. */
  const inFloat32 = (call: (typeof EVERY_FORM)[string], logits: Logits, options: Options) => {
    if (name !== 'cuda') return values(call(widened(logits), options).gradLogits)
    return values(call(logits, { ...options, gradientDType: 'float32' }).gradLogits)
  }

  /** How far a gradient may be from the float32 one, rounded: a GPU has other numbers before it rounds to the logits' type. */
  const stepsOf = (dtype: DType, gradientDType = dtype) =>
    name === 'cuda' && dtype !== 'float32' && gradientDType === dtype ? 1 : 0

  describe.each(Object.entries(EVERY_FORM))('gradientDType of %s', (_, call) => {
    test.each([{}, CAPPED])('is that of the float32 gradient, rounded once, %j', (given) => {
      for (const vocab of [7, 64, 131, 2053]) {
        for (const dtype of DTYPES) {
          const logits = logitsOf(dtype, vocab)
          const options = { ...given, ...run, tokenWeights: TOKEN_WEIGHTS, gradient: true } as const
          const wanted = inFloat32(call, logits, options)
          expect(call(logits, options).gradLogits.dtype).toBe(dtype)
          for (const gradientDType of DTYPES) {
            const { data, ...rest } = call(logits, { ...options, gradientDType }).gradLogits
            expect(rest).toEqual({ shape: [BATCH, TIME, vocab], dtype: gradientDType })
            expect(data).toBeInstanceOf(gradientDType === 'float32' ? Float32Array : Uint16Array)
            const steps = mostSteps(data, rounded(gradientDType, wanted))
            expect(steps, `${dtype} ${vocab}`).toBeLessThanOrEqual(stepsOf(dtype, gradientDType))
          }
        }
      }
    })

    test('in given arrays and in place', () => {
      const vocab = 131
      for (const dtype of DTYPES) {
        for (const gradientDType of DTYPES) {
          const logits = logitsOf(dtype, vocab)
          const before = bytes(logits.data as Float32Array).slice()
          const options = { ...run, gradientDType }
          const wanted = bytes(call(logits, { ...options, gradient: true }).gradLogits.data as Float32Array).slice()
          const own = storage(gradientDType, BATCH * TIME * vocab).fill(7)
          const { gradLogits } = call(logits, { ...options, gradient: own })
          expect(gradLogits.data).toBe(own)
          expect(bytes(own).equals(wanted)).toBe(true)
          expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)
          if ((dtype === 'float32') !== (gradientDType === 'float32')) {
            const message = `options.gradientDType is '${gradientDType}', which cannot take the place of logits of ${dtype}`
            const error = expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE', message })
            expect(() => call(logits, { ...options, gradient: 'in-place' })).toThrow(error)
            expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)
            continue
          }
          const inPlace = call(logits, { ...options, gradient: 'in-place' }).gradLogits
          expect([inPlace.data === logits.data, inPlace.dtype]).toEqual([true, gradientDType])
          expect(bytes(logits.data as Float32Array).equals(wanted)).toBe(true)
        }
      }
    })
  })

  test('an array of another type than gradientDType is refused', () => {
    const logits = logitsOf('bfloat16', 7)
    const call = (options: object) => crossEntropySync(logits, LABELS, { ...run, ...options } as Options)
    const refused = (options: object, code: string, message: string) =>
      expect(() => call(options)).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }))
    const TYPE = 'ERR_INVALID_ARG_TYPE'
    const [own, bits] = [new Float32Array(84), new Uint16Array(84)]
    refused(
      { gradient: own },
      TYPE,
      'must be a Uint16Array of its bits, or a Float16Array for float16, as the logits are',
    )
    refused(
      { gradient: bits, gradientDType: 'float32' },
      TYPE,
      'options.gradient must be a Float32Array, as options.gradientDType is float32',
    )
    refused({ gradient: own, gradientDType: 'float16' }, TYPE, 'as options.gradientDType is float16')
    refused({ gradient: new Float32Array(83), gradientDType: 'float32' }, 'ERR_SHAPE_MISMATCH', 'must have 84 elements')
    refused({ gradient: true, gradientDType: 'half' }, 'ERR_INVALID_ARG_VALUE', 'options.gradientDType must be one of')
    refused({ gradientDType: 16 }, TYPE, 'options.gradientDType must be one of')
    // The same memory, but not the same elements.
    const wide = new Float32Array((logits.data as Uint16Array).buffer.slice(0), 0, 42)
    const narrow = { data: new Uint16Array(wide.buffer, 0, 42), shape: [2, 3, 7], dtype: 'bfloat16' } as const
    const labels = LABELS.subarray(0, 6)
    expect(() => crossEntropySync(narrow, labels, { ...run, gradient: wide, gradientDType: 'float32' })).toThrow(
      'would overwrite part of logits.data',
    )
    expect([own, bits].every((array) => array.every((x) => x === 0))).toBe(true)
  })

  test.each(Object.entries(OF_HEAD))('gradientDType of %s is that of float32 sums, rounded once', (_, call) => {
    for (const dtype of DTYPES) {
      const head = headOf(dtype, 5, 131)
      for (const strides of [undefined, [1, 131]]) {
        if (strides) Object.assign(head.weight, { strides })
        const wanted = partsOf(call(head, LABELS, { ...run, gradient: true })) as Float32Array[]
        for (const gradientDType of ['float16', 'bfloat16'] as const) {
          const got = call(head, LABELS, { ...run, gradient: true, gradientDType })
          expect([got.gradHidden!.dtype, got.gradWeight!.dtype]).toEqual([gradientDType, gradientDType])
          expect([got.gradHidden!.shape, got.gradWeight!.strides]).toEqual([[BATCH, TIME, 5], strides])
          for (const [k, part] of partsOf(got).entries()) {
            expect(part).toBeInstanceOf(Uint16Array)
            expect(bytes(part).equals(rounded(gradientDType, wanted[k])), `part ${k}`).toBe(true)
          }
          // What is there already is added before the sum is rounded.
          const given = wanted.map((part, k) => tensor(gradientDType, [part.length], numbers(part.length, k, 0.1)))
          const sums = given.map((part, k) => values(part).map((x, i) => Math.fround(x + wanted[k][i])))
          const [hidden, weight, bias] = given.map(({ data }) => data as Uint16Array)
          call(head, LABELS, { ...run, gradient: { hidden, weight, bias }, gradientDType, accumulate: true })
          for (const [k, part] of given.entries()) {
            const off = values(part).findIndex((x, i) => {
              const [low, high] = [-1, 1].map((side) =>
                decode[gradientDType](encode[gradientDType](sums[k][i] * (1 + side * 2 ** -20) + side * 1e-9)),
              )
              return !(x >= Math.min(low, high) && x <= Math.max(low, high))
            })
            expect(off).toBe(-1)
          }
          expect(() =>
            call(head, LABELS, { ...run, gradient: { hidden: new Float32Array(60) }, gradientDType }),
          ).toThrow(/gradient.hidden must be a boolean or a Uint16Array of its bits/)
        }
      }
    }
  })

  test.each(Object.entries(EVERY_FORM))('gradientScale of %s', (title, call) => {
    const logits = logitsOf('float32', 37)
    const options = { ...run, tokenWeights: TOKEN_WEIGHTS, gradient: true } as const
    const wanted = values(call(logits, options).gradLogits)
    for (const scale of [8, -0.5, 3, 1]) {
      const got = values(call(logits, { ...options, gradientScale: scale }).gradLogits)
      // Where a derivative has several terms, what is left of them is as exact as they are.
      const terms =
        title in OF_LOGITS ? 0 : 1e-6 * Math.abs(scale) * wanted.reduce((a, b) => Math.max(a, Math.abs(b)), 0)
      // The scale is rounded with the gradient's own factor: each is within 2.4 ULP of what it should be.
      const scaled = wanted.map((x) => scale * x)
      expect(tooFar(got, scaled, (x) => 4.8 * ulp(x) + terms)).toBe(undefined)
    }
    // A gradient below float16's smallest number is 0 unless it is scaled.
    const tiny = { ...options, gradientDType: 'float16', tokenWeights: TOKEN_WEIGHTS } as const
    const [lost, kept] = [2 ** -30, 2 ** -2].map((gradientScale) =>
      values(call(logits, { ...tiny, gradientScale }).gradLogits).filter((x) => x !== 0),
    )
    expect(lost.length).toBeLessThan(kept.length / 2)
    for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const error = { code: 'ERR_OUT_OF_RANGE', message: `options.gradientScale must be a finite number; got ${wrong}` }
      expect(() => call(logits, { ...options, gradientScale: wrong })).toThrow(expect.objectContaining(error))
    }
  })

  test.each(Object.entries(OF_HEAD))('gradientScale of %s', (_, call) => {
    const head = headOf('float32', 5, 37)
    const wanted = partsOf(call(head, LABELS, { ...run, gradient: true }))
    const got = partsOf(call(head, LABELS, { ...run, gradient: true, gradientScale: -4 }))
    for (const [k, part] of wanted.entries()) {
      const largest = Math.max(...Array.from(part, Math.abs))
      expect(
        tooFar(
          got[k],
          Array.from(part as Float32Array, (x) => -4 * x),
          () => 4e-6 * largest,
        ),
      ).toBe(undefined)
    }
  })

  test('gradientScale multiplies gradLogProbs, not the loss', () => {
    const pairs = { chosen: [-3, -4], rejected: [-5, -2], referenceChosen: [-2, -5], referenceRejected: [-4, -3] }
    const lossType = [{ lossType: 'aot_unpaired' as const }, { lossType: 'hinge' as const, weight: 0.3 }]
    const { gradLogProbs, ...rest } = preferenceLossSync(pairs, { lossType, ...run })
    const { gradLogProbs: scaled, ...same } = preferenceLossSync(pairs, { lossType, gradientScale: 1024, ...run })
    expect(same).toEqual(rest)
    for (const side of ['chosen', 'rejected'] as const) {
      expect(gradLogProbs[side].every((x) => x !== 0)).toBe(true)
      expect(scaled[side]).toEqual(gradLogProbs[side].map((x) => 1024 * x))
    }
    const sequences = { logProbs: [-3, -4, -5], referenceLogProbs: [-2, -5, -4] }
    const options = { desirable: [1, 0, 1], kl: 0.2, ...run }
    const one = unpairedPreferenceLossSync(sequences, options)
    const other = unpairedPreferenceLossSync(sequences, { ...options, gradientScale: -2 })
    expect(other.loss).toBe(one.loss)
    expect(other.gradLogProbs).toEqual(one.gradLogProbs.map((x) => -2 * x))
  })

  test.each(Object.entries(OF_LOGITS))('deferredScale of %s', (title, call) => {
    for (const given of [{}, CAPPED, { shift: false }]) {
      if ('shift' in given && title.startsWith('sequenceLogProbs, per token')) continue
      for (const dtype of DTYPES) {
        const logits = logitsOf(dtype, 131)
        const options = { ...given, ...run, tokenWeights: TOKEN_WEIGHTS, gradient: true } as const
        const plain = call(logits, options)
        expect(plain).not.toHaveProperty('rowScale')
        const wanted = inFloat32(call, logits, options)
        const { gradLogits, rowScale } = call(logits, { ...options, deferredScale: true, gradientDType: 'float32' })
        const kept = 'shift' in given ? TIME : TIME - 1
        expect(rowScale).toBeInstanceOf(Float64Array)
        expect(rowScale).toHaveLength(BATCH * kept)
        const unit = values(gradLogits)
        // The gradient of log p of each token that takes part, and nothing else.
        const sums = sequenceLogProbsSync(logits, LABELS, { ...given, ...run })
        const ones = { tokenLogProbs: new Float64Array(BATCH * kept).fill(1) }
        const ofLogProbs = values(sums.backwardSync(ones, { gradientDType: 'float32' }).gradLogits)
        for (let row = 0; row < BATCH * TIME; row++) {
          const time = row % TIME
          const scale = time < kept ? rowScale![Math.floor(row / TIME) * kept + time] : 0
          const [from, end] = [row * 131, (row + 1) * 131]
          if (scale === 0) {
            expect(unit.slice(from, end).every((x) => Object.is(x, 0))).toBe(true)
            continue
          }
          const ofRow = unit.slice(from, end)
          expect(firstDifference(ofRow, ofLogProbs.slice(from, end))).toBe(-1)
          const scaled = ofRow.map((x) => scale * x)
          expect(tooFar(scaled, wanted.slice(from, end), (x) => 4 * ulp(x) + 1e-37)).toBe(undefined)
        }
        // In its own type, in place, with other threads.
        const own = call(logits, { ...options, deferredScale: true, threads: 2 })
        expect(mostSteps(own.gradLogits.data, rounded(dtype, unit))).toBeLessThanOrEqual(stepsOf(dtype))
        expect(own.rowScale).toEqual(rowScale)
        const inPlace = call(logits, { ...options, deferredScale: true, gradient: 'in-place' })
        expect(bytes(logits.data as Float32Array).equals(bytes(own.gradLogits.data as Float32Array))).toBe(true)
        expect(inPlace.rowScale).toEqual(rowScale)
      }
    }
  })

  test('deferredScale has the coefficients of the rows', async () => {
    const logits = logitsOf('float32', 37)
    const shared = { ...run, tokenWeights: TOKEN_WEIGHTS, gradient: true, deferredScale: true } as const
    const weights = [0.5, 2, -1, 0, 1, 0.25, 1, 1] // of the labels that rows predict
    const active = [0, 1, 1, 1, 1, 1, 1, 1]
    const ce = crossEntropySync(logits, LABELS, { ...shared, gradientScale: 3 })
    expect(ce.rowScale).toEqual(Float64Array.from(weights, (w, i) => (active[i] && w ? (-w / 7) * 3 : 0)))
    const options = { ...shared, reference: REFERENCE, averageLogProb: true }
    const fused = fusedPreferenceLossSync(logits, LABELS, options)
    const { chosen, rejected } = fused.gradLogProbs
    const bySequence = [...chosen, ...rejected]
    for (const [i, scale] of fused.rowScale!.entries()) {
      const wanted = active[i] ? (weights[i] * bySequence[i >> 1]) / (i < 2 ? 1 : 2) : 0
      expect(Math.abs(scale - wanted)).toBeLessThanOrEqual(1e-16)
    }
    // A call that may be cancelled reads all before it writes.
    for (const signal of [undefined, new AbortController().signal]) {
      const promised = await fusedPreferenceLoss(logitsOf('float32', 37), LABELS, { ...options, signal })
      expect(promised.rowScale).toEqual(fused.rowScale)
      expect(promised.gradLogits).toEqual(fused.gradLogits)
    }
    const packed = { ...logits, shape: [12, 37] }
    const ofPacked = { ...options, sequenceOffsets: [0, 3, 6, 9, 12] }
    const { rowScale, gradLogits } = fusedPreferenceLossSync(packed, LABELS, ofPacked)
    expect([...rowScale!].filter((_, i) => i % 3 < 2)).toEqual([...fused.rowScale!])
    expect([2, 5, 8, 11].map((i) => rowScale![i])).toEqual([0, 0, 0, 0])
    expect(gradLogits!.data).toEqual(fused.gradLogits!.data)
  })

  test('a row without a distribution is NaN under deferredScale, unless it takes no part', () => {
    const logits = logitsOf('float32', 37)
    ;(logits.data as Float32Array).fill(Number.NaN, 0, 37)
    const options = { ...run, gradient: true, deferredScale: true } as const
    const labels = LABELS.with(1, 2)
    const row = (tokenWeights?: number[]) => {
      const { gradLogits, rowScale } = crossEntropySync(logits, labels, { ...options, tokenWeights })
      return { values: values(gradLogits!).slice(0, 37), scale: rowScale![0] }
    }
    const taken = row()
    expect(taken.values.every(Number.isNaN)).toBe(true)
    expect(taken.scale).toBeNaN()
    expect(row([1, 0, ...new Array(10).fill(1)])).toEqual({ values: new Float64Array(37), scale: 0 })
  })

  test('deferredScale is refused where rows have another form, and nothing is written', () => {
    const logits = logitsOf('float32', 7)
    const before = bytes(logits.data as Float32Array).slice()
    const defer = { ...run, gradient: 'in-place', deferredScale: true } as const
    const refused = (call: () => unknown, message: string, code = 'ERR_INVALID_ARG_VALUE') =>
      expect(call).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }))
    const form = ': the gradient of a row is then no multiple of onehot - softmax'
    for (const [name, value] of [
      ['labelSmoothing', 0.1],
      ['zLoss', 0.01],
    ]) {
      refused(
        () => crossEntropySync(logits, LABELS, { ...defer, [name]: value }),
        `options.deferredScale cannot go with ${name}${form}`,
      )
    }
    const sums = sequenceLogProbsSync(logits, LABELS, { ...run, outputs: ['tokenEntropies'] })
    for (const name of PER_TOKEN) {
      if (name === 'tokenLogProbs') continue
      const given = { [name]: new Float64Array(8), logProbs: [1, 1, 1, 1] }
      const call = () => sums.backwardSync(given, { gradient: 'in-place', deferredScale: true })
      refused(call, `options.deferredScale cannot go with gradient.${name}${form}`)
    }
    refused(() => crossEntropySync(logits, LABELS, { ...run, deferredScale: true }), 'options.deferredScale needs')
    const wrong = { ...defer, deferredScale: 1 } as unknown as Options
    refused(() => crossEntropySync(logits, LABELS, wrong), 'options.deferredScale must be a', 'ERR_INVALID_ARG_TYPE')
    expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)
  })

  // What the others do not have: on the host each row of the cuda backend is a block of threads.
  if (name === 'js' || name === 'cuda') return

  test('gradientDType of rows that are written past the cache', () => {
    // More than 16 MB of any type; every row is another part of the same memory.
    const [rows, vocab] = [90, 100_003]
    const window = numbers(vocab + 64 * rows, 9, 3)
    const labels = Int32Array.from({ length: rows }, (_, i) => (i * 7919) % vocab)
    for (const [dtype, gradientDType] of [
      ['float32', 'bfloat16'],
      ['float32', 'float16'],
      ['bfloat16', 'float32'],
      ['float16', 'float32'],
      ['bfloat16', 'float16'],
      ['float16', 'bfloat16'],
    ] as const) {
      const { data } = tensor(dtype, [1, 1, window.length], window)
      const of = (data: Logits['data'], type: DType): Logits => ({
        ...{ data, dtype: type, shape: [1, rows, vocab], strides: [0, 61, 1] },
      })
      const options = { ...run, shift: false, gradient: true } as const
      const got = crossEntropySync(of(data, dtype), labels, { ...options, gradientDType }).gradLogits!
      const wide = Float32Array.from(data as Uint16Array, decode[dtype])
      const wanted = crossEntropySync(of(wide, 'float32'), labels, options).gradLogits!
      expect(bytes(got.data as Uint16Array).equals(rounded(gradientDType, wanted.data as Float32Array))).toBe(true)
    }
  })

  test.each(DTYPES)('where no token counts, gradients of an output layer in %s are zeros', (dtype) => {
    const head = headOf('float32', 5, 37)
    const given = [BATCH * TIME * 5, 37 * 5, 37].map((count) => storage(dtype, count).fill(encode[dtype](Number.NaN)))
    const gradient = { hidden: given[0], weight: given[1], bias: given[2] }
    const labels = new Int32Array(BATCH * TIME).fill(-100)
    linearCrossEntropySync(head.hidden, head.weight, labels, {
      bias: head.bias,
      ...run,
      gradient,
      gradientDType: dtype,
    })
    for (const part of given) expect(bytes(part).every((byte) => byte === 0)).toBe(true)
  })

  test('gradientDType of an output layer in several groups of rows and blocks of words', () => {
    // A group has 96 rows of this width, a block 192 words.
    const [batch, time, width, vocab] = [2, 100, 11_000, 400]
    const head = headOf('bfloat16', width, vocab, batch, time)
    const labels = Int32Array.from({ length: batch * time }, (_, i) => (i * 17) % vocab)
    for (const strides of [undefined, [1, vocab]]) {
      if (strides) Object.assign(head.weight, { strides })
      const [call] = Object.values(OF_HEAD)
      const wanted = partsOf(call(head, labels, { ...run, gradient: true })).map((part) => rounded('bfloat16', part))
      for (const threads of [1, 2]) {
        const options = { ...run, threads, gradient: true, gradientDType: 'bfloat16' } as const
        for (const [k, part] of partsOf(call(head, labels, options)).entries()) {
          expect(bytes(part).equals(wanted[k]), `part ${k}`).toBe(true)
        }
      }
      // Without the weight's, the groups go by one after the other.
      const frozen = { ...run, gradient: { hidden: true, bias: true }, gradientDType: 'bfloat16' } as const
      const [hidden, bias] = partsOf(call(head, labels, frozen))
      expect(bytes(hidden).equals(wanted[0])).toBe(true)
      expect(bytes(bias).equals(wanted[2])).toBe(true)
    }
  })
})
