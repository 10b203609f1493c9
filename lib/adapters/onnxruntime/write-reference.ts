/**
 * `writeReferenceLogProbs` and `readReferenceLogProbs`: the log-probs of a data set under a reference model in a file,
 * which is written batch by batch, once for all training runs.
 */
import { hashOfText } from '../../call/agreement.js'
import { sameJson } from '../../check/json.js'
import { invalidType, invalidValue } from '../../errors.js'
import { type Lock, lockFile } from './lock-file.js'
import type { BatchArrays, BatchLogProbs, ReferenceBatch } from './reference-batch.js'
import {
  appendReferenceLine,
  beginReferenceFile,
  endReferenceFile,
  fingerprintOf,
  type Json,
  type ReferenceFile,
  type ReferenceSettings,
  readReferenceFile,
  sorted,
} from './reference-file.js'
import {
  checkCount,
  checkPass,
  joined,
  type KeptBatches,
  type Pass,
  passOptionsReader,
  type ReferenceLogProbs,
  type ReferenceLogProbsOptions,
  runPass,
  tokenSettings,
  type WithReference,
} from './reference-pass.js'
import { agreeAfter, communicatorIn, type Shared } from './reference-ranks.js'
import type { OrtTensor } from './tensors.js'

/** Options of {@link writeReferenceLogProbs}. */
export interface WriteReferenceLogProbsOptions extends ReferenceLogProbsOptions {
  /**
   * Identifies the reference model, by a name or an object (`{ name, revision }`), so that the file is not continued
   * with another model. Any value that JSON keeps unchanged. Defaults to none.
   */
  model?: Json | undefined
}

const readOptions = passOptionsReader('model')

/**
 * Runs a reference model over preference data and writes the log-probs of all pairs to a file (JSON Lines), after each
 * batch. A call after an interruption continues where the file ends, even if the last line was cut short; it compares
 * the batches in the file with the data and does not run the model on them. `<path>.lock` keeps other writers away
 * meanwhile; the next call removes a lock that a crash has left. Ranks of a `communicator` share the work: rank 0 writes what
 * all have computed, so that the file is the same as that of one process, and any number of ranks can continue it.
 *
 * @param path of the file, which all ranks must see.
 * @param batches the data, in an order that stays the same.
 * @param forward returns the reference's logits of a batch: `[batch, time, vocab]`, or `[tokens, vocab]` when packed.
 * @returns the log-probs of all pairs, including those read from the file; with `keepBatches` the `batches`, too.
 * @throws the errors of `sequenceLogProbs` and `forward`; errors in the options are thrown before the model runs.
 *   TypeError `ERR_INVALID_ARG_VALUE` for a file of other data, of other options or of another kind, which is left
 *   unchanged, for a file that another call is writing, and for data without a batch; RangeError `ERR_OUT_OF_RANGE` for
 *   log-probs that are not finite; Error `ERR_RANK_FAILED` where another rank has failed, with the communicator's errors;
 *   Error `ERR_FEATURE_UNAVAILABLE_ON_PLATFORM` in browsers, where `referenceLogProbs` works.
 */
export function writeReferenceLogProbs<
  Batch extends ReferenceBatch,
  const Keep extends boolean | undefined = undefined,
>(
  path: string,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  forward: (batch: Batch) => OrtTensor | Promise<OrtTensor>,
  options?: WriteReferenceLogProbsOptions & { keepBatches?: Keep | undefined },
): Promise<ReferenceLogProbs & KeptBatches<Keep, Batch>>
export async function writeReferenceLogProbs<Batch extends ReferenceBatch>(
  path: string,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  forward: (batch: Batch) => OrtTensor | Promise<OrtTensor>,
  givenOptions?: WriteReferenceLogProbsOptions,
): Promise<ReferenceLogProbs & { batches?: WithReference<Batch>[] }> {
  const communicator = communicatorIn(givenOptions)
  const writes = communicator === undefined || communicator.rank === 0
  const together = (work: () => Promise<Shared>) => agreeAfter(communicator, 'writeReferenceLogProbs', work)
  let pass: Pass<Batch> | undefined
  let settings: ReferenceSettings = {}
  let existing: ReferenceFile | undefined
  let lock: Lock | undefined
  let begun = false
  try {
    await together(async () => {
      if (typeof path !== 'string') throw invalidType('path', 'the path of a file', path)
      const { model, ...options } = readOptions(givenOptions)
      settings = { model: modelOf(model), ...tokenSettings(options) }
      pass = { batches, forward, options }
      await checkPass(pass)
      existing = await found()
      // A complete file is never written again.
      if (writes && !existing?.complete) lock = await lockFile(path)
      return { equal: { 'the options': hashOfText(JSON.stringify(settings)) } }
    })
    await together(async () => {
      if (!existing?.complete) existing = await found()
      return { equal: { 'what is in the file, which all ranks must see': existing?.bytes ?? 0 } }
    })
    const { count, pairs, result } = await runPass(pass as Pass<Batch>, { known, add })
    await together(async () => {
      if (existing && existing.lines.length > count) {
        throw doesNotMatch(path, `it has ${existing.lines.length} batches, the data only ${count}`)
      }
      checkCount(count)
      if (writes && !existing?.complete) {
        await begin()
        await endReferenceFile(path, pairs)
      }
      return {}
    })
    return result
  } finally {
    await (lock as Lock | undefined)?.release()
  }

  async function found(): Promise<ReferenceFile | undefined> {
    const file = await readReferenceFile(path, settings)
    if (file) checkSettings(path, file.settings, settings)
    return file
  }

  function known(batch: BatchArrays, index: number): BatchLogProbs | undefined {
    const line = existing?.lines[index]
    if (existing && (line ? line.fingerprint !== fingerprintOf(batch) : existing.complete)) {
      const why = line ? 'another' : 'not in it, though it is complete'
      throw doesNotMatch(path, `batch ${index} of the data is ${why}`)
    }
    return line
  }

  async function begin(): Promise<void> {
    await lock?.check()
    if (!begun) await beginReferenceFile(path, existing, settings)
    begun = true
  }

  async function add(batch: BatchArrays, logProbs: BatchLogProbs): Promise<void> {
    await begin()
    await appendReferenceLine(path, { fingerprint: fingerprintOf(batch), ...logProbs })
  }
}

/**
 * Reads a file that {@link writeReferenceLogProbs} has written.
 *
 * @throws TypeError `ERR_INVALID_ARG_VALUE` for a file that is not complete or is not a reference file; Error
 *   `ERR_FEATURE_UNAVAILABLE_ON_PLATFORM` in browsers.
 */
export async function readReferenceLogProbs(path: string): Promise<ReferenceLogProbs> {
  const { lines, complete } = (await readReferenceFile(path)) as ReferenceFile
  if (!complete) {
    const problem = `is not complete: it ends after ${lines.length} batches; call writeReferenceLogProbs again to continue it`
    throw invalidValue(path, problem)
  }
  return joined(lines)
}

/** The model as the file records it. */
function modelOf(model: Json = null): Json {
  let kept: unknown
  try {
    kept = JSON.parse(JSON.stringify(model))
  } catch {
    // Not JSON at all.
  }
  if (!sameJson(kept, model)) {
    throw invalidType('options.model', 'a value that JSON keeps unchanged, such as a name or { name, revision }', model)
  }
  return sorted(model)
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
