/**
 * One pass of a reference model over a data set: its arguments, the loop over the batches, its results.
 */
import { RUN_OPTIONS } from '../../call/run.js'
import { flag } from '../../check/options.js'
import { invalidType, invalidValue } from '../../errors.js'
import { sequenceLogProbs } from '../../index.js'
import {
  TOKEN_ARRAYS,
  TOKEN_OPTIONS,
  type TokenArray,
  type TokenOptions,
  tokenOptions,
} from '../../options/token-options.js'
import type { Communicator, RunOptions } from '../../types/index.js'
import { callback, optionsReader } from '../options.js'
import { arraysOf, type BatchLogProbs, logProbsOf, type ReferenceBatch } from './reference-batch.js'
import { amongRanks } from './reference-ranks.js'
import type { Store, Work } from './reference-work.js'
import type { OrtTensor } from './tensors.js'

/** Options of {@link referenceLogProbs}. */
export interface ReferenceLogProbsOptions extends Omit<TokenOptions, TokenArray | 'outputs'>, RunOptions {
  /**
   * Called after each batch with the number of batches and pairs done, and whether this batch was in the file already
   * (false without a file).
   */
  onProgress?: ((progress: { batches: number; pairs: number; resumed: boolean }) => void) | undefined
  /**
   * Ranks that share the work, each with its own model: rank r computes every batch whose number modulo their number is r.
   * All of them pass the same data and options, and get all results. Defaults to none: this process does all.
   */
  communicator?: Communicator | undefined
  /** Give the batches back, each with its `reference`. All of them are then in memory. Defaults to false. */
  keepBatches?: boolean | undefined
}

/** Log-probs of P pairs under the reference, in the order of the data. */
export interface ReferenceLogProbs {
  /** `[P]` */
  chosen: Float64Array
  /** `[P]` */
  rejected: Float64Array
}

/** A batch with the log-probs of its pairs under the reference, as the losses take them. */
export type WithReference<Batch> = Batch & { reference: ReferenceLogProbs }

/** The batches in the order of the data, if they were to be kept. They may be shuffled: each has its own `reference`. */
export type KeptBatches<Keep, Batch> = Keep extends true ? { batches: WithReference<Batch>[] } : unknown

type TokenSettings = Required<Omit<TokenOptions, TokenArray | 'outputs'>>

/** The token options that are the same for all batches. Arrays belong to each batch. */
const TOKEN_SETTINGS = TOKEN_OPTIONS.filter(
  (name) => !TOKEN_ARRAYS.includes(name as TokenArray) && name !== 'outputs',
) as (keyof TokenSettings)[]

/** Their values, defaults included. */
export function tokenSettings(options: ReferenceLogProbsOptions): TokenSettings {
  const settings = TOKEN_SETTINGS.map((name) => [name, options[name] ?? tokenOptions[name].byDefault])
  return Object.fromEntries(settings)
}

/** A function that checks and copies the options of a pass, and those of `more`. */
export function passOptionsReader(...more: string[]) {
  return optionsReader([...TOKEN_SETTINGS, ...RUN_OPTIONS, 'onProgress', 'keepBatches', 'communicator', ...more], {
    ...Object.fromEntries(
      TOKEN_ARRAYS.map((name) => [name, `is not taken: it belongs to each batch, as batch.${name}`]),
    ),
    outputs: 'is not taken: no per-token results are kept',
  })
}

/** The arguments of a pass. */
export interface Pass<Batch> {
  batches: Iterable<Batch> | AsyncIterable<Batch>
  forward: (batch: Batch) => OrtTensor | Promise<OrtTensor>
  options: ReferenceLogProbsOptions
}

/** Checks the arguments before the model runs in vain: the options in a call on four tokens. */
export async function checkPass<Batch>({ batches, forward, options }: Pass<Batch>): Promise<void> {
  if (!isIterable(batches)) throw invalidType('batches', 'an array or another iterable of batches', batches)
  if (typeof forward !== 'function') throw invalidType('forward', 'a function of a batch', forward)
  const { onProgress, keepBatches, communicator: _, ...run } = options
  flag(keepBatches, 'options.keepBatches', false)
  callback(onProgress, 'options.onProgress')
  const labels = new Int32Array(4).fill(run.ignoreIndex === 0 ? 1 : 0)
  await sequenceLogProbs({ data: new Float32Array(8), shape: [2, 2, 2] }, labels, run)
}

function isIterable(value: unknown): boolean {
  const { [Symbol.iterator]: each, [Symbol.asyncIterator]: later } = Object(value)
  return typeof each === 'function' || typeof later === 'function'
}

const NO_STORE: Store = { known: () => undefined, add: async () => {} }

/** Goes through the batches. Returns their number, that of their pairs, and the result of the pass. */
export async function runPass<Batch extends ReferenceBatch>(
  { batches, forward, options: { onProgress, keepBatches, communicator, ...run } }: Pass<Batch>,
  store: Store = NO_STORE,
) {
  const all: BatchLogProbs[] = []
  const kept: WithReference<Batch>[] = []
  let pairs = 0
  const work: Work<Batch> = {
    batches,
    store,
    signal: run.signal,
    compute: async (given, batch, index) => logProbsOf(batch, await forward(given), index, run),
    done(given, logProbs, resumed) {
      all.push(logProbs)
      if (keepBatches) kept.push({ ...given, reference: joined([logProbs]) })
      pairs += logProbs.chosen.length
      onProgress?.({ batches: all.length, pairs, resumed })
    },
  }
  await (communicator === undefined ? alone(work) : amongRanks(work, communicator))
  const result: ReferenceLogProbs & { batches?: WithReference<Batch>[] } = joined(all)
  if (keepBatches) result.batches = kept
  return { count: all.length, pairs, result }
}

async function alone<Batch extends ReferenceBatch>({ batches, store, signal, compute, done }: Work<Batch>) {
  let index = 0
  for await (const given of batches) {
    signal?.throwIfAborted()
    const batch = arraysOf(given, index)
    const known = store.known(batch, index)
    const logProbs = known ?? (await compute(given, batch, index))
    if (known === undefined) await store.add(batch, logProbs)
    done(given, logProbs, known !== undefined)
    index++
  }
}

/** Refuses data without a batch. */
export function checkCount(count: number): void {
  if (count === 0) throw invalidValue('batches', 'gave no batch; an iterator can be read only once')
}

/** The log-probs of batches, one behind the other. */
export function joined(batches: readonly BatchLogProbs[]): ReferenceLogProbs {
  return {
    chosen: Float64Array.from(batches.flatMap(({ chosen }) => chosen)),
    rejected: Float64Array.from(batches.flatMap(({ rejected }) => rejected)),
  }
}
