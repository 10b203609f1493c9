/**
 * onnxruntime-node and transformers.js: their tensors as logits, without a copy; and the log-probs of a whole data set
 * under a reference model, written to a small file batch by batch, once for all training runs.
 */
import { viewKind } from '../arrays.js'
import { failure, invalidType, invalidValue, outOfRange } from '../errors.js'
import { sequenceLogProbs } from '../index.js'
import { optionsObject } from '../options.js'
import { pairsOf } from '../pairs.js'
import {
  appendReferenceLine,
  beginReferenceFile,
  endReferenceFile,
  fingerprintOf,
  type ReferenceFile,
  type ReferenceLine,
  type ReferenceSettings,
  readReferenceFile,
} from '../reference-file.js'
import { RUN_OPTIONS } from '../run.js'
import type { HostArray, Labels, Logits, RunOptions, TokenOptions } from '../types.js'

/** What is used of a tensor of onnxruntime or transformers.js. */
export interface OrtTensor {
  readonly type: string
  readonly dims: readonly number[]
  readonly data: unknown
  readonly location?: string
}

/** A batch of pairs, as `preferenceBatches` gives it. All fields but `labels` are optional. */
export interface ReferenceBatch {
  /** `[batch, time]` token ids, or `[tokens]` when packed. */
  labels: Labels
  /** The tokens of the model's input. Not looked at, but part of the batch's fingerprint. */
  inputIds?: Labels
  /** As in `fusedPreferenceLoss`. Defaults to first half chosen, second half rejected. */
  pairs?: ArrayLike<number>
  /** As in `fusedPreferenceLoss`, for packed sequences; the logits may then be `[1, tokens, vocab]`. */
  sequenceOffsets?: ArrayLike<number>
}

/** Options of {@link writeReferenceLogProbs}. */
export interface ReferenceLogProbsOptions
  extends Pick<TokenOptions, 'shift' | 'ignoreIndex' | 'averageLogProb' | 'temperature'>,
    RunOptions {
  /** Name of the reference model, so that the file is not continued with another. Defaults to none. */
  model?: string
  /** Is told after each batch how many batches and pairs are done, and whether this one was in the file already. */
  onProgress?: (progress: { batches: number; pairs: number; resumed: boolean }) => void
}

/** Log-probs of P pairs under the reference, in the order of the data. */
export interface ReferenceLogProbs {
  /** `[P]` */
  chosen: Float64Array
  /** `[P]` */
  rejected: Float64Array
}

const OPTIONS: ReadonlySet<string> = new Set([
  ...RUN_OPTIONS,
  'shift',
  'ignoreIndex',
  'averageLogProb',
  'temperature',
  'model',
  'onProgress',
])

/**
 * A tensor as the logits that every function of this package takes. Nothing is copied.
 *
 * @param tensor float32 or float16, in memory that JavaScript sees.
 * @throws TypeError `ERR_INVALID_ARG_TYPE` for another type; Error `ERR_DISPOSED`, and `ERR_BACKEND_UNAVAILABLE` for a
 *   tensor on a GPU.
 */
export function toLogits(tensor: OrtTensor): Logits {
  if (typeof tensor !== 'object' || tensor === null || !Array.isArray(tensor.dims)) {
    throw invalidType('tensor', 'a tensor { data, dims, type }', tensor)
  }
  const { type, dims, location = 'cpu' } = tensor
  if (type !== 'float32' && type !== 'float16') throw invalidType('tensor.type', "'float32' or 'float16'", type)
  if (location === 'none') throw failure('ERR_DISPOSED', 'tensor: it is disposed')
  if (location !== 'cpu' && location !== 'cpu-pinned') {
    const problem = `tensor: its data are on '${location}'; have the session output it on the cpu (preferredOutputLocation)`
    throw failure('ERR_BACKEND_UNAVAILABLE', problem)
  }
  const data = tensor.data as HostArray
  // float16 is a Float16Array where the runtime has one, else its bits.
  const wanted = type === 'float32' ? ['Float32Array'] : ['Uint16Array', 'Float16Array']
  if (!wanted.includes(viewKind(data)!))
    throw invalidType('tensor.data', `a ${wanted.join(' or ')}, as it is ${type}`, data)
  return { data, shape: dims.slice(), dtype: type }
}

/**
 * Runs a reference model over preference data and writes the log-probs of all pairs to a file (JSON Lines), after each
 * batch. Called again after an interruption it goes on where the file ends, a line cut short included; batches that
 * are in the file are compared with the data, and the model does not see them.
 *
 * @param path of the file.
 * @param batches the data, in an order that stays the same.
 * @param forward gives the reference's logits of a batch: `[batch, time, vocab]`, or `[tokens, vocab]` when packed.
 * @returns the log-probs of all pairs, those read from the file included.
 * @throws what `sequenceLogProbs` and `forward` throw; TypeError `ERR_INVALID_ARG_VALUE` for a file of other data, of
 *   other options or of another kind, which is left as it is; RangeError `ERR_OUT_OF_RANGE` for log-probs that are not
 *   finite.
 */
export async function writeReferenceLogProbs<Batch extends ReferenceBatch>(
  path: string,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  forward: (batch: Batch) => OrtTensor | Promise<OrtTensor>,
  options?: ReferenceLogProbsOptions,
): Promise<ReferenceLogProbs> {
  const { model, onProgress, ...run } = optionsObject(options, 'options', OPTIONS)
  const { shift = true, ignoreIndex = -100, averageLogProb = false, temperature = 1 } = run
  const settings = { model: model ?? null, shift, ignoreIndex, averageLogProb, temperature }
  const existing = await readReferenceFile(path, settings)
  if (existing) checkSettings(path, existing.settings, settings)

  const lines: ReferenceLine[] = []
  let pairs = 0
  let begun = false
  const begin = async () => {
    if (!begun) await beginReferenceFile(path, existing, settings)
    begun = true
  }
  for await (const batch of batches) {
    const { labels, inputIds, pairs: order, sequenceOffsets } = batch
    const fingerprint = fingerprintOf({ labels, inputIds, pairs: order, sequenceOffsets })
    const known = existing?.lines[lines.length]
    if (existing && (known ? known.fingerprint !== fingerprint : existing.complete)) {
      throw doesNotMatch(
        path,
        `batch ${lines.length} of the data is ${known ? 'another' : 'not in it, though it is complete'}`,
      )
    }
    const line = known ?? { fingerprint, ...(await logProbsOf(batch, await forward(batch), lines.length, run)) }
    if (!known) {
      await begin()
      await appendReferenceLine(path, line)
    }
    lines.push(line)
    pairs += line.chosen.length
    onProgress?.({ batches: lines.length, pairs, resumed: known !== undefined })
  }
  if (existing && existing.lines.length > lines.length) {
    throw doesNotMatch(path, `it has ${existing.lines.length} batches, the data only ${lines.length}`)
  }
  if (!existing?.complete) {
    await begin()
    await endReferenceFile(path, pairs)
  }
  return joined(lines)
}

/**
 * Reads a file that {@link writeReferenceLogProbs} has written.
 *
 * @throws TypeError `ERR_INVALID_ARG_VALUE` for a file that is not complete or is no such file.
 */
export async function readReferenceLogProbs(path: string): Promise<ReferenceLogProbs> {
  const { lines, complete } = (await readReferenceFile(path)) as ReferenceFile
  if (!complete) {
    const problem = `is not complete: it ends after ${lines.length} batches; call writeReferenceLogProbs again to go on`
    throw invalidValue(path, problem)
  }
  return joined(lines)
}

/** Log-probs of one batch, by pair. */
async function logProbsOf(
  { labels, pairs: order, sequenceOffsets }: ReferenceBatch,
  tensor: OrtTensor,
  index: number,
  run: TokenOptions & RunOptions,
): Promise<{ chosen: number[]; rejected: number[] }> {
  const logits = toLogits(tensor)
  const { shape } = logits
  if (sequenceOffsets && shape.length === 3 && shape[0] === 1) logits.shape = shape.slice(1)
  const { logProbs } = await sequenceLogProbs(logits, labels, { ...run, sequenceOffsets })
  const bad = logProbs.findIndex((logProb) => !Number.isFinite(logProb))
  if (bad >= 0) throw outOfRange(`batch ${index}: the log-prob of sequence ${bad}`, 'finite', logProbs[bad])
  const pairs = pairsOf(order, logProbs.length)
  const side = (which: 0 | 1) => Array.from({ length: pairs.length / 2 }, (_, i) => logProbs[pairs[2 * i + which]!]!)
  return { chosen: side(0), rejected: side(1) }
}

function checkSettings(path: string, found: ReferenceSettings, wanted: ReferenceSettings): void {
  for (const [name, value] of Object.entries(wanted)) {
    if (found?.[name] !== value) {
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
