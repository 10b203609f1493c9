/**
 * Ranks that NCCL connects, as threads of this process with a GPU each, which the host plays: the Sync functions of the
 * package, carried out by all of them at once. The functions have to be called as ranks.ts has it, by `onRanksSync`. No
 * assertions here.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads'
import type { Communicator } from '../lib/types/index.js'

// biome-ignore lint/suspicious/noExplicitAny: one way for all functions
type Any = any

// Not that of support.js, whose import of the package is the one that tests replace.
const DIST = new URL('../dist/index.mjs', import.meta.url)

/** The most ranks there are. */
export const MOST = 4
const PATIENCE = 40_000
const ROOM = 4096

// The ranks of each size have a communicator. What they agree on goes through memory that they share.
const PROGRAM = `
  const { parentPort, workerData } = require('node:worker_threads')
  const { rank, most, room, meetings, answered, port } = workerData
  const hostOf = (size) => {
    const words = new Int32Array(meetings[size], 0, 2)
    const slots = Array.from({ length: size }, (_, r) => new Uint8Array(meetings[size], 8 + r * room, room))
    const meet = () => {
      const turn = Atomics.load(words, 1)
      if (Atomics.add(words, 0, 1) === size - 1) {
        Atomics.store(words, 0, 0)
        Atomics.add(words, 1, 1)
        Atomics.notify(words, 1)
        return
      }
      // What wakes a rank may be the notification of the meeting before this one.
      while (Atomics.load(words, 1) === turn) {
        if (Atomics.wait(words, 1, turn, 30000) === 'timed-out') throw new Error('ranks are missing')
      }
    }
    const host = {
      rank, size,
      allGatherSync(send, receive) {
        slots[rank].set(send)
        meet()
        for (let r = 0; r < size; r++) receive.set(slots[r].subarray(0, send.byteLength), r * send.byteLength)
        meet()
      },
      async allGather(send, receive) { host.allGatherSync(send, receive) },
    }
    const never = () => { throw new Error('nobody needs this') }
    for (const name of ['allReduceSum', 'barrier']) host[name] = host[name + 'Sync'] = never
    return Object.assign(host, { abort: never })
  }
  const results = new Map()
  const communicators = []
  const ready = (async () => {
    const library = await import(workerData.library)
    const { ncclCommunicator } = await import(workerData.nccl)
    for (let size = rank + 1; size <= most; size++) communicators[size] = await ncclCommunicator(hostOf(size))
    return library
  })()
  ready.catch(() => {}) // a call tells
  parentPort.on('message', async ({ id, name, args, size, of }) => {
    let answer
    try {
      const library = await ready
      let result
      if (of === undefined) {
        const options = args.at(-1)
        options.communicator = communicators[size]
        result = library[name](...args)
      } else {
        result = results.get(of).backwardSync(...args)
      }
      results.set(id, result)
      const plain = Object.fromEntries(Object.entries(result).filter(([, value]) => typeof value !== 'function'))
      answer = { id, result: plain, hasBackward: 'backwardSync' in result }
    } catch (error) {
      answer = { id, error: { code: error.code, message: error.message, stack: error.stack } }
    }
    port.postMessage(answer)
    Atomics.add(answered, 0, 1)
    Atomics.notify(answered, 0)
  })`

interface Answer {
  id: number
  result: Any
  hasBackward: boolean
  error?: { code: string; message: string }
}

/** An array of the caller's, and what stands for it in the threads. */
interface Sent {
  array: Uint8Array
  before: Uint8Array
  shared: Uint8Array
}

/** The ranks, and the functions of `api` as they carry them out; others are left as they are. */
export class NcclWorkers {
  readonly #workers: Worker[] = []
  readonly #ports: MessagePort[] = []
  readonly #answered = new Int32Array(new SharedArrayBuffer(4))
  readonly #answers = new Map<number, Answer>()
  readonly #sent = new Map<number, Sent[]>()
  #ids = 0

  constructor() {
    const meetings = Array.from({ length: MOST + 1 }, (_, size) => new SharedArrayBuffer(8 + size * ROOM))
    const [library, nccl] = [DIST.href, new URL('./distributed/nccl/index.mjs', DIST).href]
    for (let rank = 0; rank < MOST; rank++) {
      const { port1, port2: port } = new MessageChannel()
      const workerData = { rank, most: MOST, room: ROOM, meetings, answered: this.#answered, library, nccl, port }
      this.#workers.push(new Worker(PROGRAM, { eval: true, workerData, transferList: [port] }))
      this.#ports.push(port1)
    }
  }

  async end(): Promise<void> {
    for (const port of this.#ports) port.close()
    await Promise.all(this.#workers.map((worker) => worker.terminate()))
  }

  /** A Sync function, whose options have a rank of `onRanksSync` as their communicator. */
  function(name: string): (...args: Any[]) => Any {
    return (...args) => {
      const { communicator, ...options } = args.at(-1)
      return this.#together(communicator, { name, args: [...args.slice(0, -1), options] }, /^linear/.test(name))
    }
  }

  #together(communicator: Communicator, call: { name?: string; args: Any[]; of?: number }, meets: boolean): Any {
    const { rank, size } = communicator
    // Each rank comes here again and again until all have come: the call has the number that it had the first time.
    const ids = new Float64Array(size)
    const gather = (value: number) => {
      communicator.allGatherSync!(new Uint8Array(Float64Array.of(value).buffer), new Uint8Array(ids.buffer))
    }
    gather(this.#ids++)
    const id = ids[rank]
    if (!this.#sent.has(id)) this.#post(rank, size, id, call)
    gather(id)
    return this.#result(communicator, id, meets)
  }

  #post(rank: number, size: number, id: number, { args, ...call }: { name?: string; args: Any[]; of?: number }): void {
    const sent: Sent[] = []
    this.#workers[rank].postMessage({ id, size, ...call, args: args.map((arg) => shared(arg, sent)) })
    this.#sent.set(id, sent)
  }

  #result(communicator: Communicator, id: number, meets: boolean): Any {
    const { result, hasBackward, error } = this.#answerOf(id)
    if (error) throw Object.assign(new Error(error.message), { code: error.code })
    for (const { array, before, shared } of this.#sent.get(id) as Sent[]) {
      for (let i = 0; i < array.length; i++) if (shared[i] !== before[i]) array[i] = shared[i]
    }
    if (!hasBackward) return result
    const backwardSync = (...args: Any[]) => {
      if (meets) return this.#together(communicator, { args, of: id }, meets)
      const next = this.#ids++
      this.#post(communicator.rank, communicator.size, next, { args, of: id })
      return this.#result(communicator, next, meets)
    }
    return { ...result, backward: backwardSync, backwardSync }
  }

  #answerOf(id: number): Answer {
    for (const end = Date.now() + PATIENCE; ; ) {
      const seen = Atomics.load(this.#answered, 0)
      for (const port of this.#ports) {
        for (let got = messageOf(port); got; got = messageOf(port)) this.#answers.set(got.id, got)
      }
      const answer = this.#answers.get(id)
      if (answer) return answer
      if (Date.now() > end) throw new Error('a rank does not answer')
      Atomics.wait(this.#answered, 0, seen, 1000)
    }
  }
}

function messageOf(port: MessagePort): Answer | undefined {
  return receiveMessageOnPort(port)?.message as Answer | undefined
}

/** The same with arrays in memory that threads share. */
function shared(value: Any, sent: Sent[]): Any {
  if (ArrayBuffer.isView(value)) {
    const array = new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
    const memory = new SharedArrayBuffer(value.byteLength)
    const copy = new Uint8Array(memory)
    copy.set(array)
    sent.push({ array, before: array.slice(), shared: copy })
    return new (value.constructor as Float32ArrayConstructor)(memory)
  }
  if (Array.isArray(value)) return value.map((each) => shared(each, sent))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, shared(each, sent)]))
}
