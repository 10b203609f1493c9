/**
 * A pass that several ranks share: in each round every rank computes one batch, and then all have the log-probs of all.
 */
import { agree, hashOf, hashOfText } from '../../call/agreement.js'
import { communicatorOf } from '../../check/communicator.js'
import type { Communicator } from '../../types/index.js'
import { arraysOf, type BatchArrays, type BatchLogProbs, type ReferenceBatch } from './reference-batch.js'
import type { Work } from './reference-work.js'

/** A batch of a round. */
interface Part<Batch> {
  given: Batch
  batch: BatchArrays
}

/** Goes through the batches. What fails on a rank ends the pass on all of them within a round. */
export async function amongRanks<Batch extends ReferenceBatch>(
  { batches, store, signal, compute, done }: Work<Batch>,
  communicator: Communicator,
): Promise<void> {
  const { rank, size } = communicator
  const source = each(batches)
  let index = 0
  let round: Part<Batch>[] = []
  let computed: BatchLogProbs[] = []
  try {
    do {
      let own: BatchLogProbs | undefined
      const counts = await agreeAfter(communicator, 'a pass of a reference model', async () => {
        await finish()
        await begin()
        const mine = round[rank]
        if (mine) own = await compute(mine.given, mine.batch, index + rank)
        return { equal: { 'the batches': hashOfRound(round, index) }, numbers: [own?.chosen.length ?? 0] }
      })
      computed = await exchanged(
        communicator,
        counts.map(([pairs]) => pairs),
        own,
      )
    } while (round.length > 0)
  } finally {
    await source.return(undefined)
  }

  /** Keeps what the last round has computed. */
  async function finish(): Promise<void> {
    for (const [i, { given, batch }] of round.entries()) {
      if (rank === 0) await store.add(batch, computed[i])
      done(given, computed[i], false)
    }
    index += round.length
  }

  /** Reads the batches of a round, behind those that are known. */
  async function begin(): Promise<void> {
    round = []
    while (round.length < size) {
      signal?.throwIfAborted()
      const { value: given, done: ended } = await source.next()
      if (ended) return
      const place = index + round.length
      const batch = arraysOf(given as Batch, place)
      const known = store.known(batch, place)
      if (known === undefined) round.push({ given, batch })
      else {
        done(given, known, true)
        index++
      }
    }
  }
}

/** What a rank has in common with the others, and tells them. */
export interface Shared {
  /** Hashes, by what they are of. */
  equal?: Record<string, number>
  numbers?: number[]
}

/** The communicator among options that are yet to be checked. */
export function communicatorIn(options: { communicator?: unknown } | undefined): Communicator | undefined {
  const communicator = options?.communicator
  return communicator === undefined ? undefined : communicatorOf(communicator, 'options.communicator')
}

/**
 * Agrees after work that may fail on one rank alone, which then throws its error, and all others `ERR_RANK_FAILED`. Returns
 * the numbers of all ranks. Without a communicator there is this process alone.
 */
export async function agreeAfter(
  communicator: Communicator | undefined,
  call: string,
  work: () => Promise<Shared>,
): Promise<number[][]> {
  if (communicator === undefined) return [(await work()).numbers ?? []]
  const terms = await work().then(
    (found) => () => ({ call, ...found }),
    (error) => () => {
      throw error
    },
  )
  return agree(communicator, terms)
}

async function* each<Batch>(batches: Iterable<Batch> | AsyncIterable<Batch>): AsyncGenerator<Batch, undefined> {
  yield* batches
}

/** The log-probs of all ranks' batches, of so many pairs each. */
async function exchanged(
  communicator: Communicator,
  counts: readonly number[],
  own: BatchLogProbs | undefined,
): Promise<BatchLogProbs[]> {
  const most = Math.max(...counts)
  const send = new Float64Array(2 * most)
  send.set(own?.chosen ?? [])
  send.set(own?.rejected ?? [], most)
  const received = new Float64Array(counts.length * send.length)
  if (most > 0) await communicator.allGather(new Uint8Array(send.buffer), new Uint8Array(received.buffer))
  const side = (start: number, count: number) => Array.from(received.subarray(start, start + count))
  return counts.map((count, r) => ({
    chosen: side(2 * r * most, count),
    rejected: side((2 * r + 1) * most, count),
  }))
}

/** A hash of all that is in the batches, and of their place. */
function hashOfRound(round: readonly Part<unknown>[], index: number): number {
  let hash = hashOf([index, round.length])
  for (const { batch } of round) {
    for (const [name, values] of Object.entries(batch)) {
      if (values === undefined) continue
      const { buffer, byteOffset, byteLength } = ArrayBuffer.isView(values)
        ? values
        : Float64Array.from(Array.from(values, Number))
      hash = hashOf(new Uint8Array(buffer, byteOffset, byteLength), hashOfText(`${name} ${byteLength}`, hash))
    }
  }
  return hash
}
