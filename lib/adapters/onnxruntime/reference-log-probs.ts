/**
 * `referenceLogProbs`: the log-probs of a data set under a reference model, in memory.
 */
import { hashOfText } from '../../call/agreement.js'
import type { ReferenceBatch } from './reference-batch.js'
import {
  checkCount,
  checkPass,
  type KeptBatches,
  type Pass,
  passOptionsReader,
  type ReferenceLogProbs,
  type ReferenceLogProbsOptions,
  runPass,
  tokenSettings,
  type WithReference,
} from './reference-pass.js'
import { agreeAfter, communicatorIn } from './reference-ranks.js'
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
 *   finite; Error `ERR_RANK_FAILED` where another rank of `options.communicator` has failed, with the communicator's errors.
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
  let pass: Pass<Batch> | undefined
  await agreeAfter(communicatorIn(options), 'referenceLogProbs', async () => {
    pass = { batches, forward, options: readOptions(options) }
    await checkPass(pass)
    return { equal: { 'the options': hashOfText(JSON.stringify(tokenSettings(pass.options))) } }
  })
  const { count, result } = await runPass(pass as Pass<Batch>)
  checkCount(count)
  return result
}
