/**
 * onnxruntime-node and transformers.js: takes their tensors as logits, without a copy, and writes the log-probs of a
 * whole data set under a reference model to a small file, batch by batch, once for all training runs.
 */
import { isDeepStrictEqual } from 'node:util'
import { RUN_OPTIONS } from '../../call/run.js'
import { flag } from '../../check/options.js'
import { invalidType, invalidValue } from '../../errors.js'
import { sequenceLogProbsSync } from '../../index.js'
import {
  TOKEN_ARRAYS,
  TOKEN_OPTIONS,
  type TokenArray,
  type TokenOptions,
  tokenOptions,
} from '../../options/token-options.js'
import type { RunOptions } from '../../types/index.js'
import { callback, optionsReader } from '../options.js'
import { type Lock, lockFile } from './lock-file.js'
import { arraysOf, logProbsOf, type ReferenceBatch } from './reference-batch.js'
import {
  appendReferenceLine,
  beginReferenceFile,
  endReferenceFile,
  fingerprintOf,
  type Json,
  type ReferenceFile,
  type ReferenceLine,
  type ReferenceSettings,
  readReferenceFile,
  sorted,
} from './reference-file.js'
import type { OrtTensor } from './tensors.js'

export type { ReferenceBatch } from './reference-batch.js'
export { type OrtTensor, toLogits } from './tensors.js'

/** Options of {@link writeReferenceLogProbs}. */
export interface ReferenceLogProbsOptions extends Omit<TokenOptions, TokenArray | 'outputs'>, RunOptions {
  /**
   * Identifies the reference model, by a name or an object (`{ name, revision }`), so that the file is not continued
   * with another model. Any value that JSON keeps unchanged. Defaults to none.
   */
  model?: Json | undefined
  /**
   * Called after each batch with the number of batches and pairs done, and whether this batch was in the file already.
   */
  onProgress?: ((progress: { batches: number; pairs: number; resumed: boolean }) => void) | undefined
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

/** The token options that are the same for all batches; they are settings of the file. Arrays belong to each batch. */
const TOKEN_SETTINGS = TOKEN_OPTIONS.filter(
  (name) => !TOKEN_ARRAYS.includes(name as TokenArray) && name !== 'outputs',
) as (keyof TokenSettings)[]

const readOptions = optionsReader([...TOKEN_SETTINGS, ...RUN_OPTIONS, 'model', 'onProgress', 'keepBatches'], {
  ...Object.fromEntries(TOKEN_ARRAYS.map((name) => [name, `is not taken: it belongs to each batch, as batch.${name}`])),
  outputs: 'is not taken: the file holds no per-token results',
})

/**
 * Runs a reference model over preference data and writes the log-probs of all pairs to a file (JSON Lines), after each
 * batch. A call after an interruption continues where the file ends, even if the last line was cut short; it compares
 * the batches in the file with the data and does not run the model on them. `<path>.lock` keeps other writers away
 * meanwhile; the next call removes a lock that a crash has left.
 *
 * @param path of the file.
 * @param batches the data, in an order that stays the same.
 * @param forward returns the reference's logits of a batch: `[batch, time, vocab]`, or `[tokens, vocab]` when packed.
 * @returns the log-probs of all pairs, including those read from the file; with `keepBatches` the `batches`, too.
 * @throws the errors of `sequenceLogProbs` and `forward`; errors in the options are thrown before the model runs.
 *   TypeError `ERR_INVALID_ARG_VALUE` for a file of other data, of other options or of another kind, which is left
 *   unchanged, for a file that another call is writing, and for data without a batch; RangeError `ERR_OUT_OF_RANGE` for
 *   log-probs that are not finite.
 */
export function writeReferenceLogProbs<
  Batch extends ReferenceBatch,
  const Keep extends boolean | undefined = undefined,
>(
  path: string,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  forward: (batch: Batch) => OrtTensor | Promise<OrtTensor>,
  options?: ReferenceLogProbsOptions & { keepBatches?: Keep | undefined },
): Promise<ReferenceLogProbs & KeptBatches<Keep, Batch>>
export async function writeReferenceLogProbs<Batch extends ReferenceBatch>(
  path: string,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  forward: (batch: Batch) => OrtTensor | Promise<OrtTensor>,
  options?: ReferenceLogProbsOptions,
): Promise<ReferenceLogProbs & { batches?: WithReference<Batch>[] }> {
  if (typeof path !== 'string') throw invalidType('path', 'the path of a file', path)
  if (!isIterable(batches)) throw invalidType('batches', 'an array or another iterable of batches', batches)
  if (typeof forward !== 'function') throw invalidType('forward', 'a function of a batch', forward)
  const { model, onProgress, keepBatches, ...run } = readOptions(options)
  const keeps = flag(keepBatches, 'options.keepBatches', false)
  const told = callback(onProgress, 'options.onProgress')
  const settings: ReferenceSettings = { model: modelOf(model) }
  for (const name of TOKEN_SETTINGS) settings[name] = run[name] ?? tokenOptions[name].byDefault
  tryOptions(run)

  const found = await readReferenceFile(path, settings)
  if (found) checkSettings(path, found.settings, settings)
  // A complete file is never written again.
  if (found?.complete) return await written(found)
  const lock = await lockFile(path)
  try {
    const existing = await readReferenceFile(path, settings)
    if (existing) checkSettings(path, existing.settings, settings)
    return await written(existing, lock)
  } finally {
    await lock.release()
  }

  async function written(
    existing: ReferenceFile | undefined,
    lock?: Lock,
  ): Promise<ReferenceLogProbs & { batches?: WithReference<Batch>[] }> {
    const lines: ReferenceLine[] = []
    const kept: WithReference<Batch>[] = []
    let pairs = 0
    let begun = false
    const begin = async () => {
      await lock?.check()
      if (!begun) await beginReferenceFile(path, existing, settings)
      begun = true
    }
    for await (const given of batches) {
      run.signal?.throwIfAborted()
      const batch = arraysOf(given, lines.length)
      const fingerprint = fingerprintOf(batch)
      const known = existing?.lines[lines.length]
      if (existing && (known ? known.fingerprint !== fingerprint : existing.complete)) {
        throw doesNotMatch(
          path,
          `batch ${lines.length} of the data is ${known ? 'another' : 'not in it, though it is complete'}`,
        )
      }
      const line = known ?? { fingerprint, ...(await logProbsOf(batch, await forward(given), lines.length, run)) }
      if (!known) {
        await begin()
        await appendReferenceLine(path, line)
      }
      lines.push(line)
      if (keeps) kept.push({ ...given, reference: joined([line]) })
      pairs += line.chosen.length
      told?.({ batches: lines.length, pairs, resumed: known !== undefined })
    }
    if (existing && existing.lines.length > lines.length) {
      throw doesNotMatch(path, `it has ${existing.lines.length} batches, the data only ${lines.length}`)
    }
    if (lines.length === 0) {
      throw invalidValue('batches', 'gave no batch, and nothing was written; an iterator can be read only once')
    }
    if (!existing?.complete) {
      await begin()
      await endReferenceFile(path, pairs)
    }
    return keeps ? { ...joined(lines), batches: kept } : joined(lines)
  }
}

/**
 * Reads a file that {@link writeReferenceLogProbs} has written.
 *
 * @throws TypeError `ERR_INVALID_ARG_VALUE` for a file that is not complete or is not a reference file.
 */
export async function readReferenceLogProbs(path: string): Promise<ReferenceLogProbs> {
  const { lines, complete } = (await readReferenceFile(path)) as ReferenceFile
  if (!complete) {
    const problem = `is not complete: it ends after ${lines.length} batches; call writeReferenceLogProbs again to continue it`
    throw invalidValue(path, problem)
  }
  return joined(lines)
}

function isIterable(value: unknown): boolean {
  const { [Symbol.iterator]: each, [Symbol.asyncIterator]: later } = Object(value)
  return typeof each === 'function' || typeof later === 'function'
}

/** The model as the file records it. */
function modelOf(model: Json = null): Json {
  let kept: unknown
  try {
    kept = JSON.parse(JSON.stringify(model))
  } catch {
    // Not JSON at all.
  }
  if (!isDeepStrictEqual(kept, model)) {
    throw invalidType('options.model', 'a value that JSON keeps unchanged, such as a name or { name, revision }', model)
  }
  return sorted(model)
}

/** A call on four tokens, which finds errors in the options before the model runs in vain. */
function tryOptions(options: TokenOptions & RunOptions): void {
  const labels = new Int32Array(4).fill(options.ignoreIndex === 0 ? 1 : 0)
  sequenceLogProbsSync({ data: new Float32Array(8), shape: [2, 2, 2] }, labels, options)
}

function checkSettings(path: string, found: ReferenceSettings, wanted: ReferenceSettings): void {
  for (const [name, value] of Object.entries(wanted)) {
    if (JSON.stringify(found?.[name]) !== JSON.stringify(value)) {
      throw doesNotMatch(
        path,
        `it was made with ${name} ${JSON.stringify(found?.[name])}, not ${JSON.stringify(value)}`,
      )
    }
  }
}

function doesNotMatch(path: string, why: string) {
  return invalidValue(path, `cannot be continued: ${why}; use another file, or delete this one`)
}

function joined(lines: readonly ReferenceLine[]): ReferenceLogProbs {
  return {
    chosen: Float64Array.from(lines.flatMap(({ chosen }) => chosen)),
    rejected: Float64Array.from(lines.flatMap(({ rejected }) => rejected)),
  }
}
