/**
 * The result of a row depends on that row alone: its bits do not depend on the rows around it, its place in memory or
 * the way the call runs.
 */
import { describe, expect, test } from 'vitest'
import {
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  getBackends,
  preferenceLossSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { FusedOptions, SequenceOptions } from '../lib/options/index.js'
import type { DType, FusedPreferenceLoss, Logits } from '../lib/types/index.js'
import {
  ALL_NATIVE,
  bytes,
  DTYPES,
  encode,
  gaussian,
  hex,
  NATIVE,
  OUTPUTS,
  problemOf,
  random,
  type Spec,
  STYLES,
  storage,
  TARGETS,
} from './support.js'

/** The kernels work in tiles of 64, blocks of 2048 and, past 16384, segments that threads may share. */
const VOCABULARIES = [1, 7, 64, 65, 2049, 16_384, 16_385, 40_000]
const THREADS = [1, 2, 3, 7]

type Row = Float32Array | Uint16Array

function randomRow(dtype: DType, vocab: number, scale: number, next: () => number): Row {
  return storage(dtype, vocab).map(() => encode[dtype](scale * gaussian(next)))
}

/** `[batch, time, vocab]`, the given rows in order. */
function stack(dtype: DType, rows: readonly Row[], batch: number): Logits {
  const vocab = rows[0].length
  const data = storage(dtype, rows.length * vocab)
  for (const [i, row] of rows.entries()) data.set(row, i * vocab)
  return { data, dtype, shape: [batch, rows.length / batch, vocab] }
}

/** All results of one row of a call, to the bit; each row's gradient has the coefficient 0.75. */
function rowBits(logits: Logits, labels: Int32Array, row: number, options: SequenceOptions): string[] {
  const vocab = logits.shape[logits.shape.length - 1]
  const sums = sequenceLogProbsSync(logits, labels, { shift: false, ...options })
  const more = sequenceLogProbsSync(logits, labels, { shift: false, ...options, outputs: OUTPUTS })
  const gradient = sums.backwardSync(new Float64Array(sums.logProbs.length).fill(0.75)).gradLogits.data as Float32Array
  const tokens = sequenceLogProbsSync(logits, labels, { shift: false, ...options, outputs: ['tokenLogProbs'] })
  return [
    hex(tokens.tokenLogProbs!.subarray(row, row + 1)),
    ...OUTPUTS.map((name) => hex(more[name]!.subarray(row, row + 1))),
    hex(gradient.subarray(row * vocab, (row + 1) * vocab)),
  ]
}

describe.each(TARGETS)('$name', ({ name, run }) => {
  const dtypes = name === 'js' ? (['float32'] as const) : DTYPES
  // js and cuda have none of the host's threads.
  const threadCounts = name === 'js' || name === 'cuda' ? [1] : THREADS

  test.each(VOCABULARIES)('a row of %i logits among others, anywhere', (vocab) => {
    for (const dtype of dtypes) {
      const label = Math.floor(vocab / 3)
      // Logits so far apart that their sums depend on the order, and a temperature.
      for (const [scale, temperature] of [
        [3, 1.7],
        [15, 1],
      ]) {
        const next = random(vocab)
        const row = randomRow(dtype, vocab, scale, next)
        const others = [0, 1].map(() => randomRow(dtype, vocab, scale, next))
        others.push(storage(dtype, vocab).fill(encode[dtype](Number.NaN)))
        const alone = rowBits(stack(dtype, [row], 1), Int32Array.of(label), 0, { ...run, temperature, threads: 1 })
        // The same sequence must also have the same sum.
        const sum = (logits: Logits, labels: Int32Array, s: number, options: SequenceOptions) =>
          sequenceLogProbsSync(logits, labels, { shift: false, ...options }).logProbs[s]
        const aloneSum = sum(stack(dtype, [row], 1), Int32Array.of(label), 0, { ...run, temperature })
        // With few rows, threads share a row; with many, they do not.
        for (const count of vocab > 20_000 ? [2, 9] : [2, 6]) {
          for (const at of [0, count - 1]) {
            const rows = Array.from({ length: count }, (_, i) => (i === at ? row : others[i % 3]))
            const labels = Int32Array.from({ length: count }, (_, i) => (i === at ? label : i % vocab))
            const mask = labels.map((_, i) => Number(i === at || i % 2 === 0))
            for (const threads of threadCounts) {
              const logits = stack(dtype, rows, count)
              const options = { ...run, temperature, threads }
              expect(rowBits(logits, labels, at, options)).toEqual(alone)
              expect(rowBits(logits, labels, at, { ...options, mask })).toEqual(alone)
              expect(sum(logits, labels, at, options)).toBe(aloneSum)
            }
          }
        }
        // Packed, and at an odd address.
        const data = storage(dtype, 3 * (vocab + 1) + 1)
          .fill(encode[dtype](Number.NaN))
          .subarray(1)
        data.set(row, vocab + 1)
        const packed = { data, dtype, shape: [3, vocab], strides: [vocab + 1, 1] }
        const options = { ...run, temperature, sequenceOffsets: [0, 1, 3] }
        expect(rowBits(packed, Int32Array.of(-100, label, -100), 1, options)).toEqual(alone)
      }
    }
  })

  /** A call with all options, on fresh copies of the same arrays. */
  function call(spec: Spec, options: FusedOptions) {
    const { logits, labels, options: tokens } = problemOf(spec)
    const reference = problemOf({ ...spec, style: 'flat' }).logits
    return [logits, labels, { ...tokens, reference: { logits: reference }, ...run, ...options }] as const
  }

  /** To the bit; the gradient without its padding. */
  function bits(result: FusedPreferenceLoss): string[] {
    const { gradLogits, gradLogProbs, tokenCounts } = result
    const { data, shape, strides } = gradLogits!
    const vocab = shape[shape.length - 1]
    const rows = shape.slice(0, -1).reduce((a, b) => a * b)
    const time = shape.length === 3 ? shape[1] : rows
    const [batchStride, timeStride] = strides
      ? [strides.length === 3 ? strides[0] : 0, strides[strides.length - 2]]
      : [time * vocab, vocab]
    const parts = Array.from({ length: rows }, (_, row) => {
      const start = Math.floor(row / time) * batchStride + (row % time) * timeStride
      return hex((data as Float32Array).subarray(start, start + vocab))
    })
    const lists = [
      result.losses,
      result.chosenRewards,
      result.rejectedRewards,
      gradLogProbs.chosen,
      gradLogProbs.rejected,
    ]
    lists.push(result.chosenLogProbs, result.rejectedLogProbs)
    lists.push(Float64Array.of(result.loss, result.accuracy, result.margin))
    return [...lists.map(hex), hex(tokenCounts), ...OUTPUTS.map((output) => hex(result[output]!)), ...parts]
  }

  const specs: Spec[] = [40, 5001, 33_000].flatMap((vocab) =>
    dtypes.map((dtype) => ({
      seed: vocab,
      dtype,
      style: 'model' as const,
      vocab,
      lengths: vocab > 20_000 ? [2, 2] : [5, 5, 5, 5],
      packed: false,
      padding: [1, 3, 5],
      bigint: false,
      masked: true,
      ignored: vocab < 20_000,
      weighted: true,
      options: { shift: vocab < 20_000 },
    })),
  )

  test.each(specs)('a $dtype call with a vocabulary of $vocab: threads, runs, promises, destinations', async (spec) => {
    const common: FusedOptions = { outputs: OUTPUTS, weighting: 'wpo', gradient: true, lossType: 'ipo' }
    const wanted = bits(fusedPreferenceLossSync(...call(spec, { ...common, threads: 1 })))
    const size = spec.lengths.length * spec.lengths[0] * spec.vocab
    for (const threads of threadCounts) {
      for (let again = 0; again < (name === 'js' ? 1 : 3); again++) {
        expect(bits(fusedPreferenceLossSync(...call(spec, { ...common, threads })))).toEqual(wanted)
      }
      for (const gradient of [
        true,
        'in-place',
        storage(spec.dtype, size).fill(encode[spec.dtype](Number.NaN)),
      ] as const) {
        const options = { ...common, threads, gradient }
        expect(bits(fusedPreferenceLossSync(...call(spec, options)))).toEqual(wanted)
        expect(bits(await fusedPreferenceLoss(...call(spec, options)))).toEqual(wanted)
      }
    }
  })

  test('identical policy and reference logits give a margin of exactly 0', () => {
    for (const spec of specs) {
      for (const style of STYLES) {
        const drawn = { ...spec, vocab: Math.min(spec.vocab, 17_000), style }
        const { logits, labels, options } = problemOf(drawn)
        const same = problemOf({ ...drawn, padding: [2, 0, 0] }).logits
        for (const extra of [
          {},
          { outputs: OUTPUTS },
          { weighting: 'wpo' },
          { averageLogProb: true },
        ] as FusedOptions[]) {
          for (const reference of [logits, same]) {
            const given: FusedOptions = { ...options, reference: { logits: reference }, ...run, ...extra }
            const result = fusedPreferenceLossSync(logits, labels, given)
            // Logits of -inf may make log-probs of -inf, whose difference is no number.
            const known = result.chosenLogProbs.every(Number.isFinite) && result.rejectedLogProbs.every(Number.isFinite)
            if (!known) {
              expect(style).toBe('holes')
              continue
            }
            expect(Array.from(result.chosenRewards, Math.abs)).toEqual(Array.from(result.losses, () => 0))
            expect(Array.from(result.rejectedRewards, Math.abs)).toEqual(Array.from(result.losses, () => 0))
            expect([Math.abs(result.margin), result.accuracy]).toEqual([0, 0])
            if (!extra.weighting) expect(result.loss).toBe(Math.LN2)
          }
        }
      }
    }
  })
})

describe.each(NATIVE)('$name, a batch beyond the cache', ({ run }) => {
  // A gradient of more than 16 MB is written past the cache.
  const [batch, time, vocab] = [12, 6, 200_000]
  const size = batch * time * vocab
  const window = Float32Array.from({ length: vocab + 12 * 1009 + 6 * 31 }, (_, i) => ((i * 7919) % 4099) / 512)
  // Every row is another part of the same memory.
  const logits: Logits = { data: window, shape: [batch, time, vocab], strides: [1009, 31, 1] }
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 7 === 3 ? -100 : (i * 104_729) % vocab))

  test.each([
    ['pairs by halves', { lossType: 'sigmoid' }],
    ['pairs in another order, one sequence in none', { lossType: 'ipo', pairs: [9, 2, 0, 7, 11, 1, 3, 8, 6, 4] }],
    ['a sequence in two pairs', { lossType: 'sigmoid', pairs: [0, 7, 0, 8, 3, 9, 4, 10, 5, 11] }],
    ['losses of the whole batch', { lossType: [{ lossType: 'aot' }, { lossType: 'sft', weight: 0.3 }] }],
    ['means and lengths', { lossType: 'simpo', averageLogProb: true }],
  ] as [string, FusedOptions][])('%s', async (_, given) => {
    const halves = Array.from({ length: batch }, (_, i) => (i >> 1) + (i % 2) * (batch / 2))
    const pairs = Array.from(given.pairs ?? halves, Number)
    const pick = (list: ArrayLike<number>, side: number) =>
      Float64Array.from({ length: pairs.length / 2 }, (_, i) => list[pairs[2 * i + side]])
    const reference = {
      chosen: Float64Array.from({ length: pairs.length / 2 }, (_, i) => -30 - 3 * i),
      rejected: Float64Array.from({ length: pairs.length / 2 }, (_, i) => -45 + 2 * i),
    }
    const { averageLogProb } = given
    const sums = sequenceLogProbsSync(logits, labels, { averageLogProb, ...run })
    const { pairs: _pairs, ...lossOptions } = given
    const loss = preferenceLossSync(
      {
        chosen: pick(sums.logProbs, 0),
        rejected: pick(sums.logProbs, 1),
        referenceChosen: reference.chosen,
        referenceRejected: reference.rejected,
        chosenTokenCounts: pick(sums.tokenCounts, 0),
        rejectedTokenCounts: pick(sums.tokenCounts, 1),
      },
      { ...lossOptions, ...run },
    )
    const coefficients = new Float64Array(batch)
    for (let i = 0; i < pairs.length; i += 2) {
      coefficients[pairs[i]] += loss.gradLogProbs.chosen[i / 2]
      coefficients[pairs[i + 1]] += loss.gradLogProbs.rejected[i / 2]
    }
    const wanted = bytes(sums.backwardSync(coefficients).gradLogits.data as Float32Array)

    const gradient = new Float32Array(size)
    const { signal } = new AbortController()
    const check = ({ gradLogits, ...result }: FusedPreferenceLoss) => {
      expect(result).toMatchObject(loss)
      expect(result.chosenLogProbs).toEqual(pick(sums.logProbs, 0))
      expect(bytes(gradLogits!.data as Float32Array).equals(wanted)).toBe(true)
    }
    for (const more of [{ threads: 1 }, { threads: 3 }, { threads: 2, signal }] as FusedOptions[]) {
      const options = { reference, ...given, gradient, ...run, ...more }
      gradient.fill(Number.NaN)
      check(fusedPreferenceLossSync(logits, labels, options))
      gradient.fill(Number.NaN)
      check(await fusedPreferenceLoss(logits, labels, options))
    }
    for (let row = 0; row < batch * time; row++) {
      const start = Math.floor(row / time) * 1009 + (row % time) * 31
      gradient.set(window.subarray(start, start + vocab), row * vocab)
    }
    const whole = { data: gradient, shape: [batch, time, vocab] }
    check(await fusedPreferenceLoss(whole, labels, { reference, ...given, gradient: 'in-place', ...run }))
  })
})

test.runIf(NATIVE.length > 0)('the instruction sets of this machine, best first', () => {
  const { instructionSet, instructionSets } = getBackends().cpu
  // The first two come in the order that is the faster on this CPU.
  const known = process.arch === 'x64' ? ['avx512', 'avx512bf16', 'avx2', 'baseline'] : ['neon']
  const inThisOrder = [...instructionSets!].sort((a, b) => known.indexOf(a) - known.indexOf(b))
  if (instructionSets![0] === 'avx512bf16') inThisOrder.splice(0, 2, 'avx512bf16', 'avx512')
  expect(instructionSets).toEqual(inThisOrder)
  expect(known.at(-1)).toBe(instructionSets!.at(-1))
  if (!process.env.FUSED_PREFERENCE_LOSS_INSTRUCTION_SET) expect(instructionSet).toBe(instructionSets![0])
  expect(ALL_NATIVE.map(({ run }) => run.instructionSet)).toEqual(instructionSets)
})

const FUSED_MULTIPLY_ADD = NATIVE.filter(({ run }) => run.instructionSet !== 'baseline')

test.runIf(NATIVE.length > 0)('instruction sets with a fused multiply-add give the same bits', () => {
  if (FUSED_MULTIPLY_ADD.length < 2) {
    // This machine has nothing to compare; it must then be one of these.
    expect(['neon', 'avx2,baseline', 'baseline']).toContain(getBackends().cpu.instructionSets!.join())
    return
  }
  for (const style of STYLES) {
    for (const dtype of DTYPES) {
      for (const vocab of VOCABULARIES) {
        const spec = { seed: vocab, dtype, style, vocab, lengths: [2, 2], options: { shift: false } }
        const flags = { packed: false, bigint: false, masked: false, ignored: false, weighted: false }
        const { logits, labels } = problemOf({ ...spec, ...flags, padding: [0, 0, 0] })
        const results = FUSED_MULTIPLY_ADD.map(({ run }) =>
          rowBits(logits, labels as Int32Array, 1, { ...run, temperature: 0.9 }),
        )
        for (const result of results) expect(result).toEqual(results[0])
      }
    }
  }
})
