/**
 * onnxruntime-node and transformers.js: takes their tensors as logits, without a copy, and writes the log-probs of a
 * whole data set under a reference model to a small file, batch by batch, once for all training runs.
 */
import { isDeepStrictEqual } from 'node:util'
import { pairsOf } from '../../call/pairs.js'
import { RUN_OPTIONS } from '../../call/run.js'
import { viewKind } from '../../check/arrays.js'
import { invalidType, invalidValue, outOfRange } from '../../errors.js'
import { sequenceLogProbs, sequenceLogProbsSync } from '../../index.js'
import {
  TOKEN_ARRAYS,
  TOKEN_OPTIONS,
  type TokenArray,
  type TokenOptions,
  tokenOptions,
} from '../../options/token-options.js'
import type { Labels, RunOptions, TokenValues } from '../../types/index.js'
import { callback, optionsReader } from '../options.js'
import { type Lock, lockFile } from './lock-file.js'
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
import { hostData, isTensor, type OrtTensor, toLogits } from './tensors.js'

export { type OrtTensor, toLogits } from './tensors.js'

/** A batch of pairs, as `preferenceBatches` makes it. Where a field is a tensor, its data are used. */
export interface ReferenceBatch {
  /** `[batch, time]` token ids, or `[tokens]` when packed. */
  labels: Labels | OrtTensor
  /** The tokens of the model's input. They are not read, but they are part of the batch's fingerprint. */
  inputIds?: ArrayLike<number | bigint> | OrtTensor | undefined
  /** As in `fusedPreferenceLoss`: positions that do not count. Use the same mask in training. Defaults to none. */
  mask?: TokenValues | BigInt64Array | OrtTensor | undefined
  /** As in `fusedPreferenceLoss`. Use the same weights in training. Defaults to 1. */
  tokenWeights?: ArrayLike<number> | OrtTensor | undefined
  /** As in `fusedPreferenceLoss`. Defaults to first half chosen, second half rejected. */
  pairs?: ArrayLike<number> | BigInt64Array | OrtTensor | undefined
  /** As in `fusedPreferenceLoss`, for packed sequences; the logits may then be `[1, tokens, vocab]`. */
  sequenceOffsets?: ArrayLike<number> | BigInt64Array | OrtTensor | undefined
}

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
}

/** Log-probs of P pairs under the reference, in the order of the data. */
export interface ReferenceLogProbs {
  /** `[P]` */
  chosen: Float64Array
  /** `[P]` */
  rejected: Float64Array
}

type TokenSettings = Required<Omit<TokenOptions, TokenArray | 'outputs'>>

/** The token options that are the same for all batches; they are settings of the file. Arrays belong to each batch. */
const TOKEN_SETTINGS = TOKEN_OPTIONS.filter(
  (name) => !TOKEN_ARRAYS.includes(name as TokenArray) && name !== 'outputs',
) as (keyof TokenSettings)[]

const readOptions = optionsReader([...TOKEN_SETTINGS, ...RUN_OPTIONS, 'model', 'onProgress'], {
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
 * @returns the log-probs of all pairs, including those read from the file.
 * @throws the errors of `sequenceLogProbs` and `forward`; errors in the options are thrown before the model runs.
 *   TypeError `ERR_INVALID_ARG_VALUE` for a file of other data, of other options or of another kind, which is left
 *   unchanged, for a file that another call is writing, and for data without a batch; RangeError `ERR_OUT_OF_RANGE` for
 *   log-probs that are not finite.
 */
export async function writeReferenceLogProbs<Batch extends ReferenceBatch>(
  path: string,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  forward: (batch: Batch) => OrtTensor | Promise<OrtTensor>,
  options?: ReferenceLogProbsOptions,
): Promise<ReferenceLogProbs> {
  if (typeof path !== 'string') throw invalidType('path', 'the path of a file', path)
  if (!isIterable(batches)) throw invalidType('batches', 'an array or another iterable of batches', batches)
  if (typeof forward !== 'function') throw invalidType('forward', 'a function of a batch', forward)
  const { model, onProgress, ...run } = readOptions(options)
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

  async function written(existing: ReferenceFile | undefined, lock?: Lock): Promise<ReferenceLogProbs> {
    const lines: ReferenceLine[] = []
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
    return joined(lines)
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

type BatchArrays = Record<keyof ReferenceBatch, ArrayLike<number | bigint> | undefined>

/** The arrays of a batch. */
function arraysOf(batch: ReferenceBatch, index: number): BatchArrays {
  if (typeof batch !== 'object' || batch === null) throw invalidType(`batches[${index}]`, 'an object { labels }', batch)
  const { labels, inputIds, mask, tokenWeights, pairs, sequenceOffsets } = batch
  const given = { labels, inputIds, mask, tokenWeights, pairs, sequenceOffsets }
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue
    const where = `batches[${index}].${name}`
    const array = isTensor(value) ? hostData(value, where) : value
    if (viewKind(array) === undefined) checkElements(array, where)
    Object.assign(given, { [name]: array })
  }
  if (labels === undefined) throw invalidType(`batches[${index}].labels`, 'an Int32Array or a BigInt64Array', labels)
  return given as BatchArrays
}

/** Refuses values that have no fingerprint, such as lists of lists. */
function checkElements(array: unknown, name: string): void {
  const length = (array as Partial<ArrayLike<unknown>> | null)?.length
  if (typeof array !== 'object' || typeof length !== 'number') throw invalidType(name, 'an array or a tensor', array)
  for (let i = 0; i < length; i++) {
    const element = (array as ArrayLike<unknown>)[i]
    if (!['number', 'bigint', 'boolean'].includes(typeof element)) {
      throw invalidType(`${name}[${i}]`, 'a number, because the array must be flat', element)
    }
  }
}

/** Log-probs of one batch, by pair. */
async function logProbsOf(
  { labels, mask, tokenWeights, pairs: order, sequenceOffsets }: BatchArrays,
  tensor: OrtTensor,
  index: number,
  run: TokenOptions & RunOptions,
): Promise<{ chosen: number[]; rejected: number[] }> {
  const logits = toLogits(tensor)
  const { shape } = logits
  if (sequenceOffsets && shape.length === 3 && shape[0] === 1) logits.shape = shape.slice(1)
  const ofBatch = {
    mask: narrow(mask),
    tokenWeights: narrow(tokenWeights),
    pairs: narrow(order),
    sequenceOffsets: narrow(sequenceOffsets),
  }
  const { logProbs } = await sequenceLogProbs(logits, labels as Labels, { ...run, ...ofBatch })
  const bad = logProbs.findIndex((logProb) => !Number.isFinite(logProb))
  if (bad >= 0) throw outOfRange(`batch ${index}: the log-prob of sequence ${bad}`, 'finite', logProbs[bad])
  const pairs = pairsOf(ofBatch.pairs, logProbs.length)
  const side = (which: 0 | 1) => Array.from({ length: pairs.length / 2 }, (_, i) => logProbs[pairs[2 * i + which]!]!)
  return { chosen: side(0), rejected: side(1) }
}

/** 64-bit integers as numbers. */
function narrow(values: ArrayLike<number | bigint> | undefined): ArrayLike<number> | undefined {
  return viewKind(values) === 'BigInt64Array' ? Array.from(values!, Number) : (values as ArrayLike<number> | undefined)
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
