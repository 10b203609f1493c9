/**
 * The functions of the package as several ranks call them, with the arguments and results of the functions that have the
 * whole vocabulary: the arguments are cut, and the results of all ranks, which must have the same bits, are put together.
 * Tests of those functions run on these, too (sharded-golden.test.ts).
 */
import { expect } from 'vitest'
import type { Communicator, HeadGradients, HeadWeight, Hidden, HostArray, Labels, Logits } from '../lib/types/index.js'
import { hexOf } from './platform.js'
import { onRanksSync } from './ranks.js'
import {
  type Borders,
  bordersOf,
  columnsOf,
  copyOfColumns,
  joined,
  joinedArrays,
  joinedWords,
  wordsOf,
} from './shards.js'

/** Options and results, whatever the function. */
// biome-ignore lint/suspicious/noExplicitAny: one way for all functions
type Any = any

/** How a vocabulary is cut. */
export interface Cut {
  ranks: number
  even: boolean
  segments: 'exact' | 'merged'
  /** In place of equal or rising shares. */
  borders?: Borders
  /** Ranks have their columns in memory of their own, rather than in that of the whole. */
  copies: boolean
}

/** The functions that are wrapped, all of them Sync. */
type Functions = Record<string, (...args: Any[]) => Any>

/** Names of what each rank has for its columns alone. */
const OWN = new Set(['gradLogits', 'gradWeight', 'gradBias', 'backward', 'backwardSync'])

/** The Sync functions of `api` whose vocabulary can be cut, in one of these ways for each size. */
export function cutFunctions(api: Functions, cuts: readonly Cut[]): Functions {
  // Calls with the same vocabulary have the same bits: they are cut in the same way.
  const cutOf = (vocab: number): Cut & { borders: Borders } => {
    const cut = cuts[vocab % cuts.length]
    const ranks = Math.min(cut.ranks, vocab)
    return { borders: bordersOf(vocab, ranks, cut.even), ...cut, ranks }
  }

  const ofLogits =
    (name: string) =>
    (logits: Logits, labels: Labels, options: Any = {}) => {
      const function_ = api[name]
      const cut = cutOf(logits.shape.at(-1) as number)
      const { borders } = cut
      const inPlace = options.gradient === 'in-place'
      const slice = cut.copies && !inPlace ? copyOfColumns : columnsOf
      const { reference } = options
      const results = onRanksSync(cut.ranks, (rank) => {
        const [start, end] = [borders[rank.rank], borders[rank.rank + 1]]
        const own = { ...options, ...shardOptions(rank, borders, cut) }
        if (reference?.logits) own.reference = { ...reference, logits: slice(reference.logits, start, end) }
        return function_(slice(logits, start, end), labels, own)
      })
      const whole = together(results)
      if (whole.gradLogits) whole.gradLogits = inPlace ? overwritten(logits, options) : gradLogits(results, borders)
      if (whole.backwardSync) {
        whole.backwardSync = (gradient: Any, more: Any) => {
          const found = results.map((result) => result.backwardSync(gradient, more))
          return { ...together(found), gradLogits: gradLogits(found, borders) }
        }
      }
      return whole
    }

  const ofHead =
    (name: string) =>
    (hidden: Hidden, weight: HeadWeight, labels: Labels, options: Any = {}) => {
      const function_ = api[name]
      const cut = cutOf(weight.shape[0])
      const { borders } = cut
      const { reference } = options
      const call = (rank: Communicator) => {
        const [start, end] = [borders[rank.rank], borders[rank.rank + 1]]
        const biasOf = (bias?: HostArray) => bias && { bias: (bias as Float32Array).subarray(start, end) }
        const own = { ...options, ...biasOf(options.bias), ...shardOptions(rank, borders, cut) }
        if (reference?.weight) {
          own.reference = { ...reference, weight: wordsOf(reference.weight, start, end), ...biasOf(reference.bias) }
        }
        return function_(hidden, wordsOf(weight, start, end), labels, own)
      }
      const results = onRanksSync(cut.ranks, call)
      const whole = withHeadGradients(together(results), results, borders)
      if (whole.backwardSync) {
        whole.backwardSync = (gradient: Any, more: Any) => {
          const found = onRanksSync(cut.ranks, (rank) => call(rank).backwardSync(gradient, more))
          return withHeadGradients(together(found), found, borders)
        }
      }
      return whole
    }

  const names = Object.keys(api).filter((name) => /(?:fused|linear|sequence|crossEntropy).*Sync$/.test(name))
  return Object.fromEntries(names.map((name) => [name, /linear/i.test(name) ? ofHead(name) : ofLogits(name)]))
}

function shardOptions(rank: Communicator, borders: Borders, { segments }: Cut) {
  return { communicator: rank, segments, shard: { start: borders[rank.rank], vocab: borders.at(-1) as number } }
}

/** The results of rank 0, which must be those of all. */
export function together(results: readonly Any[]): Any {
  for (const other of results.slice(1)) expect(fingerprint(other)).toEqual(fingerprint(results[0]))
  return { ...results[0] }
}

/** All bits of a result but for those that each rank has of its own. */
function fingerprint(result: Any): unknown {
  if (ArrayBuffer.isView(result)) return hexOf(bytesOf(result))
  if (typeof result === 'number') return hexOf(bytesOf(Float64Array.of(result)))
  if (typeof result !== 'object' || result === null) return result
  return Object.entries(result)
    .filter(([name]) => !OWN.has(name))
    .map(([name, value]) => [name, fingerprint(value)])
}

function gradLogits(results: readonly Any[], borders: Borders): Logits {
  return joined(
    results.map((result) => result.gradLogits),
    borders,
  )
}

function overwritten(logits: Logits, { gradientDType }: Any): Logits {
  return { ...logits, dtype: gradientDType ?? logits.dtype }
}

function withHeadGradients(whole: Any, results: readonly HeadGradients[], borders: Borders): Any {
  if (whole.gradWeight) {
    whole.gradWeight = joinedWords(
      results.map(({ gradWeight }) => gradWeight as HeadWeight),
      borders,
    )
  }
  if (whole.gradBias) whole.gradBias = joinedArrays(results.map(({ gradBias }) => gradBias as HostArray))
  return whole
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
