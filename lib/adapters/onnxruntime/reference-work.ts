/**
 * The work of a pass, which one process does or several ranks share.
 */
import type { BatchArrays, BatchLogProbs } from './reference-batch.js'

/** Where the log-probs of batches are kept. */
export interface Store {
  /** Those of a batch that are there already: of none after one that is not. */
  known(batch: BatchArrays, index: number): BatchLogProbs | undefined
  /** Keeps those of a batch. Of several ranks, rank 0 alone does. */
  add(batch: BatchArrays, logProbs: BatchLogProbs): Promise<void>
}

/** A pass in parts, for one process or several. */
export interface Work<Batch> {
  batches: Iterable<Batch> | AsyncIterable<Batch>
  store: Store
  signal: AbortSignal | undefined
  compute(given: Batch, batch: BatchArrays, index: number): Promise<BatchLogProbs>
  /** Is told of each batch, in order. */
  done(given: Batch, logProbs: BatchLogProbs, resumed: boolean): void
}
