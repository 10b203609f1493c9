/**
 * `referenceLogProbs`: the log-probs of a data set under a reference model, in memory.
 */
import type { ReferenceBatch } from './reference-batch.js'
import {
  checkCount,
  checkPass,
  type KeptBatches,
  passOptionsReader,
  type ReferenceLogProbs,
  type ReferenceLogProbsOptions,
  runPass,
  type WithReference,
} from './reference-pass.js'
import type { OrtTensor } from './tensors.js'

const readOptions = passOptionsReader()

/**
 * Runs a reference model over preference data and gives the log-probs of all pairs, which are kept in memory alone.
 *
 * @param batches the data.
 * @param forward returns the reference's logits of a batch: `[batch, time, vocab]`, or `[tokens, vocab]` when packed.
 * @returns the log-probs of all pairs; with `keepBatches` the `batches`, too.
 * @throws the errors of `sequenceLogProbs` and `forward`; errors in the options are thrown before the model runs.
 *   TypeError `ERR_INVALID_ARG_VALUE` for data without a batch; RangeError `ERR_OUT_OF_RANGE` for log-probs that are not
 *   finite.
 */
export function referenceLogProbs<Batch extends ReferenceBatch, const Keep extends boolean | undefined = undefined>(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  forward: (batch: Batch) => OrtTensor | Promise<OrtTensor>,
  options?: ReferenceLogProbsOptions & { keepBatches?: Keep | undefined },
): Promise<ReferenceLogProbs & KeptBatches<Keep, Batch>>
export async function referenceLogProbs<Batch extends ReferenceBatch>(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  forward: (batch: Batch) => OrtTensor | Promise<OrtTensor>,
  options?: ReferenceLogProbsOptions,
): Promise<ReferenceLogProbs & { batches?: WithReference<Batch>[] }> {
  const pass = { batches, forward, options: readOptions(options) }
  await checkPass(pass)
  const { count, result } = await runPass(pass)
  checkCount(count)
  return result
}
