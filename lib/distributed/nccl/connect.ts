/**
 * `ncclCommunicator`: connects the processes of another communicator.
 */
import { cudaCall, cudaPromise } from '../../backends/cuda/calls.js'
import { nextId } from '../../backends/cuda/index.js'
import { requireCuda } from '../../backends/cuda/open.js'
import { agree } from '../../call/agreement.js'
import { communicatorOf } from '../../check/communicator.js'
import { between, integer, optionsObject } from '../../check/options.js'
import type { Communicator } from '../../types/index.js'
import { NcclCommunicator } from './communicator.js'

/** Options of {@link ncclCommunicator}. */
export interface NcclOptions {
  /**
   * Index of the GPU; no two ranks may have the same. Defaults to the rank, modulo the number of GPUs of its machine.
   */
  device?: number | undefined
  /**
   * Seconds after which a rank that waits for the others to come to NCCL gives up, as one may have died. Defaults to 60.
   */
  timeout?: number | undefined
}

/** Seconds. */
const TIMEOUT = 60
const MOST_SECONDS = 7 * 24 * 3600

/** Bytes by which ranks find each other, ncclUniqueId. */
const ID_BYTES = 128

/**
 * Connects the ranks of a communicator by NCCL, which is opened the first time. All ranks must call this.
 *
 * @param communicator the ranks: over MPI, or one of your own. Calls that share a vocabulary agree
 *   over it later, too; nothing else does.
 * @returns the same rank, whose collectives work on device memory
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`; Error
 *   `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA`, `ERR_NCCL` (it is not installed, for one), `ERR_RANK_FAILED` (one of these on another rank)
 */
export async function ncclCommunicator(
  communicator: Communicator,
  options: NcclOptions = {},
): Promise<NcclCommunicator> {
  const ranks = communicatorOf(communicator, 'communicator')
  const { rank, size } = ranks
  const own = new Uint8Array(ID_BYTES)
  let [device, seconds] = [0, TIMEOUT]
  await agree(ranks, () => {
    const { device: given, timeout } = optionsObject(options, 'options', new Set(['device', 'timeout']))
    seconds = between(timeout, 'options.timeout', 0.001, MOST_SECONDS, TIMEOUT)
    const { functions: cuda, info } = requireCuda()
    const count = info().devices.length
    device = given === undefined ? rank % count : integer(given, 'options.device', 0, count - 1)
    const version = cudaCall(() => cuda.ncclVersion())
    if (rank === 0) cudaCall(() => cuda.ncclId(own))
    return { call: 'ncclCommunicator', equal: { 'the version of NCCL': version } }
  })
  const ids = new Uint8Array(size * ID_BYTES)
  await ranks.allGather(own, ids)
  const { functions: cuda } = requireCuda()
  const made = cuda.communicator()
  const id = ids.subarray(0, ID_BYTES)
  await cudaPromise(cuda.connect(nextId(), made, device, rank, size, id, seconds))
  return new NcclCommunicator(made, device, ranks)
}
