/**
 * What the functions need of several processes. `fused-preference-loss/mpi` brings one over MPI; any object of this
 * shape will do.
 */

/**
 * A group of `size` processes, or *ranks*, which call the same methods in the same order. The functions of this package
 * wait for a method before they call the next. `Sync` members may be missing in a communicator that is passed to promise
 * forms alone.
 */
export interface Communicator {
  /** This process, from 0 to `size` − 1. */
  readonly rank: number
  /** The number of processes. */
  readonly size: number
  /**
   * Gathers the bytes of every rank, in the order of ranks. All ranks send the same number of bytes, and
   * `receive.byteLength` is `size * send.byteLength`.
   */
  allGather(send: Uint8Array, receive: Uint8Array): Promise<void>
  allGatherSync?(send: Uint8Array, receive: Uint8Array): void
  /** Adds up the arrays of all ranks, in place: the same bits on every rank. */
  allReduceSum(data: Float32Array | Float64Array): Promise<void>
  allReduceSumSync?(data: Float32Array | Float64Array): void
  /** Waits until every rank has come here. */
  barrier(): Promise<void>
  barrierSync?(): void
  /** Ends all ranks with an exit code; defaults to 1. Does not return where the transport can do it. */
  abort(code?: number): void
}

/**
 * The same processes as NCCL connects them, with a GPU each: what `ncclCommunicator` of `fused-preference-loss/nccl` makes.
 * Calls on the cuda backend that share a vocabulary take it in place of a {@link Communicator}.
 */
export interface NcclRanks {
  /** This process, from 0 to `size` − 1. */
  readonly rank: number
  /** The number of processes. */
  readonly size: number
  /** Index of the GPU. */
  readonly device: number
  /** The communicator that it was made from, over which calls agree before they begin. */
  readonly host: Communicator
  /** NCCL's own. */
  readonly handle: object
}
