/**
 * Gradients of an output layer with `gradientPrecision: 'bfloat16'`, and what they may be.
 */
import { expect } from 'vitest'
import { linearCrossEntropySync } from '../lib/index.js'
import type { HeadGradients } from '../lib/types/index.js'
import { decode, encode, gaussian, hex, random, storage, type Target, tooFar } from './support.js'

export const PARTS = ['gradHidden', 'gradWeight', 'gradBias'] as const

/** The largest relative error of one rounding to bfloat16, which has 8 significant bits. */
const UNIT = 2 ** -8
/** Of float32: logits, probabilities and sums. */
const FLOAT = 2 ** -16

export interface Sizes {
  rows: number
  width: number
  vocab: number
  transposed?: boolean
  /** How much the hidden state of a row points to the weights of its label. */
  certainty?: number
  /** Of the rows; random by default. */
  labels?: readonly number[]
}

export function problemOf({ rows, width, vocab, transposed = false, certainty = 0, labels: given }: Sizes) {
  const next = random(rows + width + vocab)
  const labels = Int32Array.from({ length: rows }, (_, i) => given?.[i] ?? Math.floor(next() * vocab))
  const w = Float64Array.from({ length: vocab * width }, () => 0.2 * gaussian(next))
  const ofHidden = (i: number) => gaussian(next) + certainty * w[labels[Math.floor(i / width)] * width + (i % width)]
  const h = Float64Array.from({ length: rows * width }, (_, i) => ofHidden(i))
  const bias = Float32Array.from({ length: vocab }, () => gaussian(next))
  const bits = (list: ArrayLike<number>, at: (i: number) => number = (i) => i) => {
    const stored = storage('bfloat16', list.length)
    for (let i = 0; i < list.length; i++) stored[at(i)] = encode.bfloat16(list[i])
    return stored
  }
  const hidden = { data: bits(h), shape: [1, rows, width], dtype: 'bfloat16' } as const
  const column = (i: number) => (i % width) * vocab + Math.floor(i / width)
  const weight = transposed
    ? ({ data: bits(w, column), shape: [vocab, width], strides: [1, vocab], dtype: 'bfloat16' } as const)
    : ({ data: bits(w), shape: [vocab, width], dtype: 'bfloat16' } as const)
  return { hidden, weight, labels, bias, w: w.map(rounded), h: h.map(rounded), rows, width, vocab, transposed }
}
export const rounded = (x: number) => decode.bfloat16(encode.bfloat16(x))

type Problem = ReturnType<typeof problemOf>
type Options = Parameters<typeof linearCrossEntropySync>[3]

export const step = ({ hidden, weight, labels, bias }: Problem, options: Options) =>
  linearCrossEntropySync(hidden, weight, labels, { bias, shift: false, gradient: true, ...options }) as HeadGradients

export const rowsOf = (step: HeadGradients) => PARTS.map((name) => hex(dataOf(step, name)))
export const dataOf = (step: HeadGradients, name: (typeof PARTS)[number]) =>
  (name === 'gradBias' ? step.gradBias : step[name]?.data) as Float32Array

/** The same, the weight's in the order of its words. */
export function byWords(
  found: HeadGradients,
  name: (typeof PARTS)[number],
  { width, vocab, transposed }: Pick<Sizes, 'width' | 'vocab' | 'transposed'>,
) {
  const data = dataOf(found, name)
  if (name !== 'gradWeight' || !transposed) return data
  return data.map((_, i) => data[(i % width) * vocab + Math.floor(i / width)])
}

/** In float64: the gradients of the mean of the losses, and the sums of the magnitudes that are rounded and of all. */
function oracle({ h, w, bias, labels, rows, width, vocab }: Problem) {
  const zeros = (length: number) => ({
    exact: new Float64Array(length),
    others: new Float64Array(length),
    all: new Float64Array(length),
  })
  const out = { gradHidden: zeros(rows * width), gradWeight: zeros(vocab * width), gradBias: zeros(vocab) }
  for (let r = 0; r < rows; r++) {
    const logits = Float64Array.from({ length: vocab }, (_, v) => {
      let sum = bias[v]
      for (let d = 0; d < width; d++) sum += h[r * width + d] * w[v * width + d]
      return sum
    })
    const top = logits.reduce((a, b) => Math.max(a, b))
    const exps = logits.map((x) => Math.exp(x - top))
    const total = exps.reduce((a, b) => a + b)
    const complement = exps.reduce((a, b, v) => (v === labels[r] ? a : a + b), 0) / total
    for (let v = 0; v < vocab; v++) {
      const isLabel = v === labels[r]
      const gradient = (isLabel ? -complement : exps[v] / total) / rows
      const add = (part: (typeof PARTS)[number], at: number, factor: number) => {
        out[part].exact[at] += gradient * factor
        out[part].all[at] += Math.abs(gradient * factor)
        if (!isLabel) out[part].others[at] += Math.abs(gradient * factor)
      }
      add('gradBias', v, 1)
      for (let d = 0; d < width; d++) {
        add('gradHidden', r * width + d, w[v * width + d])
        add('gradWeight', v * width + d, h[r * width + d])
      }
    }
  }
  return out
}

export function errorOf(got: ArrayLike<number>, wanted: Float64Array): number {
  let [error, norm] = [0, 0]
  for (const [i, x] of wanted.entries()) {
    error += (got[i] - x) ** 2
    norm += x ** 2
  }
  return Math.sqrt(error / norm)
}

/** Words at the borders of panels, tiles, parts and blocks. */
const BORDERS = [
  0, 1, 5, 6, 11, 12, 15, 16, 31, 32, 63, 64, 95, 96, 191, 192, 255, 256, 383, 384, 1151, 1152, 1299, 1300,
]
const AT_BORDERS = { rows: BORDERS.length, width: 270, vocab: 1301, labels: BORDERS }

/** With the largest error of a whole gradient, relative: one rival with nearly all that a label leaves is rounded alone. */
export const SHAPES: [string, number, Sizes][] = [
  ['unlikely labels', 1e-3, { rows: 40, width: 24, vocab: 1301 }],
  ['likely labels', 1e-3, { rows: 40, width: 24, vocab: 1301, certainty: 12 }],
  ['nearly certain labels', UNIT, { rows: 41, width: 24, vocab: 1300, certainty: 30 }],
  ['labels at borders', 1e-3, AT_BORDERS],
  ['labels at borders, words that are not neighbours', 1e-3, { ...AT_BORDERS, transposed: true }],
  ['several groups of rows', 1e-3, { rows: 1101, width: 10, vocab: 40 }],
]

const known = new Map<Sizes, ReturnType<typeof solve>>()
const solve = (sizes: Sizes) => {
  const problem = problemOf(sizes)
  return { problem, wanted: oracle(problem) }
}
/** A problem with its gradients, worked out once for all backends. */
function solved(sizes: Sizes) {
  const found = known.get(sizes) ?? solve(sizes)
  known.set(sizes, found)
  return found
}

/** Within the bounds of docs/numerics.md, and not what it is without rounding. */
export function expectOneRounding(run: Target['run'], sizes: Sizes, most: number, more: Options = {}): void {
  const { problem, wanted } = solved(sizes)
  const got = step(problem, { ...run, ...more, gradientPrecision: 'bfloat16' })
  const full = step(problem, { ...run, ...more, gradientPrecision: 'float32' })
  let differs = false
  for (const name of PARTS) {
    const [data, ofFull] = [byWords(got, name, problem), byWords(full, name, problem)]
    const { exact, others, all } = wanted[name]
    const bound = (_: number, i: number) => (name === 'gradBias' ? 0 : UNIT * others[i]) + FLOAT * all[i] + 1e-37
    expect(tooFar(data, exact, bound), name).toBe(undefined)
    differs ||= data.some((x, i) => x !== ofFull[i])
    expect(errorOf(data, exact), name).toBeLessThan(most)
  }
  // cuda always rounds.
  expect(differs).toBe(run.backend !== 'cuda')
  // The bias has no product.
  expect(dataOf(got, 'gradBias')).toEqual(dataOf(full, 'gradBias'))
}
