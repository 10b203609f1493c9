/**
 * The wasm backend: its bits are those of the cpu backend's baseline, whatever the memory, the threads and the form of the
 * call; its memory stays small; and what goes wrong is said.
 */
import { execFileSync } from 'node:child_process'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { loadWasm, type WasmBackend } from '../lib/backends/wasm/index.js'
import { partsOf } from '../lib/backends/wasm/parts.js'
import {
  crossEntropySync,
  fusedLinearPreferenceLossSync,
  fusedPreferenceLoss,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLossSync,
  getBackends,
  preferenceLossSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import type { RunOptions } from '../lib/types/index.js'
import {
  DIST,
  DTYPES,
  fillRow,
  firstDifference,
  LOSS_TYPES,
  NATIVE,
  OUTPUTS,
  problemOf,
  random,
  type Spec,
  STYLES,
  storage,
  WASM,
} from './support.js'

const loaded = loadWasm()
const isBuilt = 'backend' in loaded
const backend = isBuilt ? loaded.backend : (undefined as unknown as WasmBackend)
const BASELINE = NATIVE.find(({ run }) => run.instructionSet === 'baseline')
const [wasm] = WASM.map(({ run }) => run)

/** Every number of a result, by its path. */
function numbersOf(value: unknown, path = ''): [string, ArrayLike<number>][] {
  if (typeof value === 'number') return [[path, [value]]]
  if (ArrayBuffer.isView(value)) return [[path, value as unknown as ArrayLike<number>]]
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([name, part]) => numbersOf(part, `${path}.${name}`))
}

function expectSame(result: unknown, wanted: unknown): void {
  const all = numbersOf(result)
  const others = numbersOf(wanted)
  expect(all.map(([path]) => path)).toEqual(others.map(([path]) => path))
  expect(all.length).toBeGreaterThan(2)
  for (const [i, [path, numbers]] of all.entries()) {
    expect({ path, difference: firstDifference(numbers, others[i][1]) }).toEqual({ path, difference: -1 })
  }
}

const SPEC: Spec = {
  seed: 3,
  dtype: 'float32',
  style: 'model',
  vocab: 5001,
  lengths: [6, 6, 6, 6],
  packed: false,
  padding: [1, 3, 5],
  bigint: false,
  masked: true,
  ignored: true,
  weighted: true,
  options: {},
}

/** Calls of every kind with all that they can give, on fresh copies of the same arrays. */
const CALLS: [string, (run: RunOptions, spec?: Partial<Spec>) => unknown][] = [
  [
    'sequenceLogProbs, backward',
    (run, spec) => {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      const result = sequenceLogProbsSync(logits, labels, { ...options, outputs: OUTPUTS, ...run })
      const { backwardSync, ...rest } = result
      return { ...rest, gradient: result.backwardSync(new Float64Array(result.logProbs.length).fill(0.7)) }
    },
  ],
  [
    'fusedPreferenceLoss with a reference, in place',
    (run, spec) => {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      const reference = { logits: problemOf({ ...SPEC, ...spec, seed: 4 }).logits }
      return fusedPreferenceLossSync(logits, labels, {
        ...options,
        ...{ reference, outputs: OUTPUTS, weighting: 'wpo', gradient: 'in-place', ...run },
      })
    },
  ],
  [
    'fusedPreferenceLoss with sft and ldAlpha',
    (run, spec) => {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      const lossType = [{ lossType: 'cpo' as const }, { lossType: 'sft' as const, weight: 0.3 }]
      return fusedPreferenceLossSync(logits, labels, { ...options, ldAlpha: 0.4, lossType, gradient: true, ...run })
    },
  ],
  [
    'fusedUnpairedPreferenceLoss',
    (run, spec) => {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      const sequences = options.sequenceOffsets ? options.sequenceOffsets.length - 1 : logits.shape[0]
      const desirable = Array.from({ length: sequences }, (_, i) => i % 2 === 0)
      const reference = { logProbs: Float64Array.from({ length: sequences }, (_, i) => -40 - i) }
      return fusedUnpairedPreferenceLossSync(logits, labels, desirable, {
        ...options,
        ...{ lossType: 'kto', reference, gradient: true, ...run },
      })
    },
  ],
  [
    'crossEntropy',
    (run, spec) => {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      const { emptySequence: _, ...tokens } = options
      return crossEntropySync(logits, labels, { ...tokens, labelSmoothing: 0.1, zLoss: 1e-3, gradient: true, ...run })
    },
  ],
  [
    'soft-capped logits',
    (run, spec) => {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      return crossEntropySync(logits, labels, { ...options, softcap: 20, temperature: 1.3, gradient: true, ...run })
    },
  ],
]

/** The same for an output layer. */
function linear(run: RunOptions, stored: 'words' | 'features' = 'words') {
  const [batch, time, width, vocab] = [4, 30, 70, 900]
  const next = random(9)
  const hidden = storage('float32', batch * time * width) as Float32Array
  const weight = storage('float32', vocab * width) as Float32Array
  for (let i = 0; i < batch * time; i++) fillRow(hidden, i * width, width, 'float32', 'flat', next)
  for (let i = 0; i < weight.length; i++) weight[i] = next() - 0.5
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 9 === 4 ? -100 : (i * 37) % vocab))
  return fusedLinearPreferenceLossSync(
    { data: hidden, shape: [batch, time, width] },
    { data: weight, shape: [vocab, width], ...(stored === 'features' && { strides: [1, vocab] }) },
    labels,
    {
      lossType: 'cpo',
      bias: Float32Array.from({ length: vocab }, (_, i) => (i % 7) / 7),
      gradient: { hidden: true, weight: true, bias: true },
      ...run,
    },
  )
}

describe.runIf(isBuilt)('the wasm backend', () => {
  const { chunk } = backend ?? {}
  afterEach(() => {
    backend.chunk = chunk
  })
  afterAll(() => backend.close())

  test('is one of getBackends', () => {
    const { wasm, js } = getBackends()
    expect(wasm).toEqual({ available: true, simd: true, threads: expect.any(Number), path: expect.any(String) })
    expect(js).toEqual({ available: true })
  })

  describe.runIf(BASELINE !== undefined)('gives the bits of the baseline', () => {
    const baseline = { ...BASELINE?.run, threads: 1 }

    test.each(CALLS)('%s, any logits', (_, call) => {
      for (const dtype of DTYPES) {
        for (const style of STYLES) {
          for (const more of [{}, { packed: true, lengths: [1, 9, 2, 5] }] as Partial<Spec>[]) {
            const spec = { ...more, dtype, style, vocab: 1 + 997 * (1 + STYLES.indexOf(style)) }
            expectSame(call(wasm, spec), call(baseline, spec))
          }
        }
      }
    })

    test.each(['words', 'features'] as const)('an output layer stored by %s', (stored) => {
      expectSame(linear(wasm, stored), linear(baseline, stored))
    })

    test.each(LOSS_TYPES)('%s', (lossType) => {
      const pairs = { chosen: [-3, -40, 0], rejected: [-5, -2, -9], referenceChosen: [-4, -4, -1] }
      const lengths = { chosenLengths: [3, 9, 1], rejectedLengths: [4, 2, 2], referenceRejected: [-4, -3, -9] }
      const call = (run: RunOptions) => preferenceLossSync({ ...pairs, ...lengths }, { lossType, ...run })
      expectSame(call(wasm), call(baseline))
    })
  })

  test.each(CALLS)('%s: the same bits from any chunks and threads', (_, call) => {
    backend.chunk = 1 << 24
    const wanted = call({ ...wasm, threads: 1 })
    for (const bytes of [1, 20_004, 90_000, 1 << 24]) {
      backend.chunk = bytes
      for (const threads of [1, 2, 5]) expectSame(call({ ...wasm, threads }), wanted)
    }
  })

  test('an output layer has the same bits from any number of threads', () => {
    const wanted = linear({ ...wasm, threads: 1 })
    for (const threads of [2, 3]) expectSame(linear({ ...wasm, threads }), wanted)
  })
})
