/**
 * The communicator over MPI: checks the arrays, and hands them to the addon.
 */
import type { Addon, MpiFunctions } from '../../backends/cpu/addon.js'
import {
  checkNoOverlap,
  checkUnchanged,
  checkView,
  type View,
  viewAs,
  viewKind,
  viewLength,
  watch,
} from '../../check/arrays.js'
import { integer } from '../../check/options.js'
import { type ErrorCode, failure, invalidType, shapeMismatch } from '../../errors.js'
import type { Communicator } from '../../types/index.js'
import type { Library } from './libraries.js'

/**
 * All processes of an MPI job (`MPI_COMM_WORLD`). Calls run one after the other in their order, off the calling thread;
 * promise forms wait on a thread of their own, `Sync` forms on the calling one. Arrays are used where they lie, without
 * a copy: until a promise has settled they must be neither changed nor transferred. If they are transferred all the
 * same, the promise rejects with `ERR_INVALID_ARG_VALUE`.
 *
 * All methods throw (promise forms reject with) `ERR_RANK_FAILED`, on every rank, when the ranks call different methods
 * or pass different sizes, or when a rank has ended; `ERR_MPI` with MPI's own words; `ERR_DISPOSED` after `close`;
 * `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE` and `ERR_SHAPE_MISMATCH` for their arguments.
 */
export interface MpiCommunicator extends Required<Communicator> {
  /** The path of the library, or its name. */
  readonly library: string
  /** The library in its own words, for example 'Open MPI v4.1.4, …'. */
  readonly version: string
  /**
   * In place: sums in the order of ranks, in float64; sums of float32 are rounded once. Each rank sends and receives
   * `2 * (size - 1) / size` times the array's bytes.
   */
  allReduceSum(data: Float32Array | Float64Array): Promise<void>
  /**
   * Ends MPI in this process, once every rank has called it or has ended. The end of the process does the same, so that
   * no program has to. Afterwards MPI cannot be started again.
   */
  close(): Promise<void>
}

const NAMES = 'a Float32Array or a Float64Array'

export class World implements MpiCommunicator {
  readonly rank: number
  readonly size: number
  readonly library: string
  readonly version: string
  readonly #addon: Addon
  readonly #mpi: MpiFunctions

  constructor(addon: Addon, { path, version }: Library, { rank, size }: { rank: number; size: number }) {
    this.rank = rank
    this.size = size
    this.library = path
    this.version = version
    this.#addon = addon
    this.#mpi = addon.mpi
  }

  async allGather(send: Uint8Array, receive: Uint8Array): Promise<void> {
    const [from, to] = this.#checked(send, receive)
    const watched = [watch('send', from), watch('receive', to)]
    await settled(this.#mpi.allGatherAsync(this.#addon.nextId(), from, to)).finally(() => checkUnchanged(watched))
  }

  allGatherSync(send: Uint8Array, receive: Uint8Array): void {
    const [from, to] = this.#checked(send, receive)
    called(() => this.#mpi.allGather(from, to))
  }

  async allReduceSum(data: Float32Array | Float64Array): Promise<void> {
    const array = summable(data)
    const watched = [watch('data', array)]
    await settled(this.#mpi.allReduceSumAsync(this.#addon.nextId(), array)).finally(() => checkUnchanged(watched))
  }

  allReduceSumSync(data: Float32Array | Float64Array): void {
    const array = summable(data)
    called(() => this.#mpi.allReduceSum(array))
  }

  async barrier(): Promise<void> {
    await settled(this.#mpi.barrierAsync(this.#addon.nextId()))
  }

  barrierSync(): void {
    called(() => this.#mpi.barrier())
  }

  abort(code = 1): void {
    this.#mpi.abort(integer(code, 'code', 1, 255))
  }

  async close(): Promise<void> {
    await settled(this.#mpi.closeAsync(this.#addon.nextId()))
  }

  #checked(send: Uint8Array, receive: Uint8Array): [Uint8Array, Uint8Array] {
    const [from, to] = [bytes(send, 'send'), bytes(receive, 'receive')]
    if (to.length !== this.size * from.length) {
      const wanted = `${this.size * from.length} bytes: ${this.size} ranks times those of send`
      throw shapeMismatch('receive', `must have ${wanted}; got ${to.length}`)
    }
    checkNoOverlap('receive', to, [['send', from]])
    return [from, to]
  }
}

/** A view of our own, whose length can be trusted. */
function bytes(array: Uint8Array, name: string): Uint8Array {
  if (viewKind(array) !== 'Uint8Array') throw invalidType(name, 'a Uint8Array', array)
  checkView(array as View, name)
  return viewAs(Uint8Array, array, viewLength(array))
}

function summable(data: Float32Array | Float64Array): Float32Array | Float64Array {
  const kind = viewKind(data)
  if (kind !== 'Float32Array' && kind !== 'Float64Array') throw invalidType('data', NAMES, data)
  checkView(data, 'data')
  return kind === 'Float32Array'
    ? viewAs(Float32Array, data, viewLength(data))
    : viewAs(Float64Array, data, viewLength(data))
}

/** The addon's error, with its code. */
function nativeError(error: unknown) {
  const { message } = error as Error
  const [, code = 'ERR_MPI', text = message] = /^(ERR_\w+): (.*)$/s.exec(message) ?? []
  return failure(code as Extract<ErrorCode, 'ERR_MPI' | 'ERR_RANK_FAILED' | 'ERR_DISPOSED'>, text)
}

/** Makes a call of the addon's. */
export function called(call: () => void): void {
  try {
    call()
  } catch (error) {
    throw nativeError(error)
  }
}

async function settled(promise: Promise<unknown>): Promise<void> {
  try {
    await promise
  } catch (error) {
    throw nativeError(error)
  }
}
