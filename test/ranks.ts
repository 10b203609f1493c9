/**
 * Ranks of one process that meet in memory: communicators written from the interface alone. No assertions here.
 */
import type { Communicator } from '../lib/types/index.js'

/** What a rank has sent. */
export interface Traffic {
  /** Of each collective, in order. */
  collectives: { kind: 'allGather' | 'allReduceSum' | 'barrier'; bytes: number }[]
}

/** A communicator that keeps account of what it sends. */
export type Rank = Communicator & Traffic

/** One collective, at which all ranks meet. */
interface Meeting {
  kind: string
  /** Of each rank that has come. */
  sent: (Uint8Array | undefined)[]
  arrived: number
  all: Promise<void>
  open(): void
  close(reason: Error): void
}

/** Communicators for ranks in the promise form; `lose(rank, error)` ends a rank, and what waits for it rejects. */
export function ranksInMemory(size: number): { ranks: Rank[]; lose(rank: number): void } {
  const meetings: Meeting[] = []
  const lost = new Set<number>()
  const reason = () => new Error(`rank ${[...lost].join(', ')} is gone`)

  const meetingAt = (index: number, kind: string): Meeting => {
    meetings[index] ??= meeting(kind, size)
    if (meetings[index].kind !== kind) throw new Error(`one rank calls ${kind}, another ${meetings[index].kind}`)
    return meetings[index]
  }

  const ranks = Array.from({ length: size }, (_, rank): Rank => {
    let next = 0
    const collectives: Traffic['collectives'] = []
    const meet = async (kind: Traffic['collectives'][number]['kind'], bytes: Uint8Array) => {
      if (lost.size > 0) throw reason()
      collectives.push({ kind, bytes: bytes.byteLength })
      const here = meetingAt(next++, `${kind} of ${bytes.byteLength} bytes`)
      here.sent[rank] = bytes.slice()
      if (++here.arrived === size) here.open()
      await here.all
      return here.sent as Uint8Array[]
    }
    return {
      rank,
      size,
      collectives,
      async allGather(send, receive) {
        if (receive.byteLength !== size * send.byteLength) throw new Error('receive has another size')
        const sent = await meet('allGather', send)
        for (const [r, bytes] of sent.entries()) receive.set(bytes, r * bytes.byteLength)
      },
      async allReduceSum(data) {
        addUp(await meet('allReduceSum', bytesOf(data)), data)
      },
      async barrier() {
        await meet('barrier', new Uint8Array(0))
      },
      abort() {
        lose(rank)
      },
    }
  })

  const lose = (rank: number) => {
    lost.add(rank)
    for (const { arrived, close } of meetings) if (arrived < size) close(reason())
  }
  return { ranks, lose }
}

/** Runs `work` as each of the ranks at once; rejects when all have settled and one has failed, with the first error. */
export async function onRanks<T>(size: number, work: (rank: Rank) => Promise<T>): Promise<T[]> {
  return Promise.all(ranksInMemory(size).ranks.map((rank) => work(rank)))
}

/** The outcome of each rank. */
export async function outcomes<T>(size: number, work: (rank: Rank) => Promise<T>): Promise<PromiseSettledResult<T>[]> {
  return Promise.allSettled(ranksInMemory(size).ranks.map(async (rank) => work(rank)))
}

/** Thrown out of a rank that would have to wait. */
class Waits extends Error {}

/**
 * Runs `work` as each of the ranks on this thread, in the Sync forms: a rank that comes to a collective to which others
 * have yet to come is ended there and begun anew when they have, so `work` must do the same each time.
 */
export function onRanksSync<T>(size: number, work: (rank: Communicator) => T): T[] {
  const sent: Uint8Array[][] = []
  const results = new Map<number, T>()
  while (results.size < size) {
    let moved = false
    for (let rank = 0; rank < size; rank++) {
      if (results.has(rank)) continue
      let next = 0
      const meet = (bytes: Uint8Array): Uint8Array[] => {
        const index = next++
        sent[index] ??= []
        if (sent[index][rank] === undefined) {
          sent[index][rank] = bytes.slice()
          moved = true
        }
        if (sent[index].filter(Boolean).length < size) throw new Waits()
        return sent[index]
      }
      const never = () => Promise.reject(new Error('a Sync form does not wait for promises'))
      try {
        const result = work({
          rank,
          size,
          allGather: never,
          allReduceSum: never,
          barrier: never,
          abort() {},
          allGatherSync: (send, receive) => {
            for (const [r, bytes] of meet(send).entries()) receive.set(bytes, r * bytes.byteLength)
          },
          allReduceSumSync: (data) => addUp(meet(bytesOf(data)), data),
          barrierSync: () => void meet(new Uint8Array(0)),
        })
        results.set(rank, result)
        moved = true
      } catch (error) {
        if (!(error instanceof Waits)) throw error
      }
    }
    if (!moved) throw new Error('the ranks wait for each other')
  }
  return Array.from({ length: size }, (_, rank) => results.get(rank) as T)
}

function meeting(kind: string, size: number): Meeting {
  let open = () => {}
  let close = (_reason: Error) => {}
  const all = new Promise<void>((resolve, reject) => {
    open = resolve
    close = reject
  })
  all.catch(() => {}) // whoever waits for it hears of it
  return { kind, sent: new Array(size), arrived: 0, all, open, close }
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Float64Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}

/** The sum of the arrays, in the order of ranks. */
function addUp(sent: readonly Uint8Array[], data: Float32Array | Float64Array): void {
  const Kind = data.constructor as Float32ArrayConstructor
  data.fill(0)
  for (const [r, { buffer }] of sent.entries()) {
    const values = new Kind(buffer as ArrayBuffer)
    for (let i = 0; i < data.length; i++) data[i] = r === 0 ? values[i] : data[i] + values[i]
  }
}
