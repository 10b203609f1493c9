/**
 * Calls of every kind with all that they can give, for comparisons to the bit: on fresh copies of the same arrays, as a
 * Sync call or as a promise.
 */
import * as fpl from '../lib/index.js'
import type { RunOptions } from '../lib/types/index.js'
import { fillRow, OUTPUTS, problemOf, random, type Spec, storage } from './support.js'

export interface Call {
  title: string
  name:
    | 'sequenceLogProbs'
    | 'fusedPreferenceLoss'
    | 'fusedUnpairedPreferenceLoss'
    | 'crossEntropy'
    | 'fusedLinearPreferenceLoss'
  args(spec?: Partial<Spec>): { arrays: unknown[]; options: object }
}

type Functions = Record<string, (...args: unknown[]) => unknown>
type Backward = Pick<fpl.SequenceLogProbs, 'logProbs' | 'backward' | 'backwardSync'>

/** Everything that the Sync form gives; of log-probs also their gradient. */
export function resultSync({ name, args }: Call, run: RunOptions, spec?: Partial<Spec>): object {
  const { arrays, options } = args(spec)
  const result = (fpl as unknown as Functions)[`${name}Sync`](...arrays, { ...options, ...run })
  const { backward: _, backwardSync, ...rest } = result as Backward
  return backwardSync === undefined ? rest : { ...rest, gradient: backwardSync(upstream(rest)) }
}

/** The same of the promise. */
export async function resultOf({ name, args }: Call, run: RunOptions, spec?: Partial<Spec>): Promise<object> {
  const { arrays, options } = args(spec)
  const result = await (fpl as unknown as Functions)[name](...arrays, { ...options, ...run })
  const { backward, backwardSync: _, ...rest } = result as Backward
  return backward === undefined ? rest : { ...rest, gradient: await backward(upstream(rest)) }
}

const upstream = ({ logProbs }: Pick<Backward, 'logProbs'>) => new Float64Array(logProbs.length).fill(0.7)

/** Every number of a result, by its path. */
export function numbersOf(value: unknown, path = ''): [string, ArrayLike<number>][] {
  if (typeof value === 'number') return [[path, [value]]]
  if (ArrayBuffer.isView(value)) return [[path, value as unknown as ArrayLike<number>]]
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([name, part]) => numbersOf(part, `${path}.${name}`))
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

/** Calls with logits, which `spec` describes. */
export const CALLS: readonly Call[] = [
  {
    title: 'sequenceLogProbs, backward',
    name: 'sequenceLogProbs',
    args(spec) {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      return { arrays: [logits, labels], options: { ...options, outputs: OUTPUTS } }
    },
  },
  {
    title: 'fusedPreferenceLoss with a reference, in place',
    name: 'fusedPreferenceLoss',
    args(spec) {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      const reference = { logits: problemOf({ ...SPEC, ...spec, seed: 4 }).logits }
      const more = { reference, outputs: OUTPUTS, weighting: 'wpo', gradient: 'in-place' }
      return { arrays: [logits, labels], options: { ...options, ...more } }
    },
  },
  {
    title: 'fusedPreferenceLoss with sft and ldAlpha',
    name: 'fusedPreferenceLoss',
    args(spec) {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      const lossType = [{ lossType: 'cpo' }, { lossType: 'sft', weight: 0.3 }]
      return { arrays: [logits, labels], options: { ...options, ldAlpha: 0.4, lossType, gradient: true } }
    },
  },
  {
    title: 'fusedUnpairedPreferenceLoss',
    name: 'fusedUnpairedPreferenceLoss',
    args(spec) {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      const sequences = options.sequenceOffsets ? options.sequenceOffsets.length - 1 : logits.shape[0]
      const desirable = Array.from({ length: sequences }, (_, i) => i % 2 === 0)
      const reference = { logProbs: Float64Array.from({ length: sequences }, (_, i) => -40 - i) }
      const more = { desirable, lossType: 'kto', kl: 0.3, reference, gradient: true }
      return { arrays: [logits, labels], options: { ...options, ...more } }
    },
  },
  {
    title: 'crossEntropy',
    name: 'crossEntropy',
    args(spec) {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      const { emptySequence: _, ...tokens } = options
      return { arrays: [logits, labels], options: { ...tokens, labelSmoothing: 0.1, zLoss: 1e-3, gradient: true } }
    },
  },
  {
    title: 'soft-capped logits',
    name: 'crossEntropy',
    args(spec) {
      const { logits, labels, options } = problemOf({ ...SPEC, ...spec })
      return { arrays: [logits, labels], options: { ...options, logitSoftcap: 20, temperature: 1.3, gradient: true } }
    },
  },
]

/** The same for an output layer. */
export const LAYERS: readonly Call[] = (['words', 'features'] as const).map((stored) => ({
  title: `an output layer stored by ${stored}`,
  name: 'fusedLinearPreferenceLoss',
  args() {
    const [batch, time, width, vocab] = [4, 30, 70, 900]
    const next = random(9)
    const hidden = storage('float32', batch * time * width) as Float32Array
    const weight = storage('float32', vocab * width) as Float32Array
    for (let i = 0; i < batch * time; i++) fillRow(hidden, i * width, width, 'float32', 'flat', next)
    for (let i = 0; i < weight.length; i++) weight[i] = next() - 0.5
    const labels = Int32Array.from({ length: batch * time }, (_, i) => (i % 9 === 4 ? -100 : (i * 37) % vocab))
    return {
      arrays: [
        { data: hidden, shape: [batch, time, width] },
        { data: weight, shape: [vocab, width], ...(stored === 'features' && { strides: [1, vocab] }) },
        labels,
      ],
      options: {
        lossType: 'cpo',
        bias: Float32Array.from({ length: vocab }, (_, i) => (i % 7) / 7),
        gradient: { hidden: true, weight: true, bias: true },
      },
    }
  },
}))
