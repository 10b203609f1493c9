/**
 * `NcclCommunicator`: a rank of processes that NCCL connects.
 */
import type { CudaFunctions } from '../../backends/cpu/addon.js'
import { type CudaRange, cudaRange, cudaRangesOverlap, isCudaMemory, streamOf } from '../../backends/cuda/addresses.js'
import { cudaCall, cudaPromise } from '../../backends/cuda/calls.js'
import { Handle } from '../../backends/cuda/handle.js'
import { enqueued, Holds } from '../../backends/cuda/holds.js'
import { nextId } from '../../backends/cuda/index.js'
import { cudaFunctions } from '../../backends/cuda/open.js'
import { markRanks } from '../../backends/cuda/ranks.js'
import { integer, oneOf, optionsObject } from '../../check/options.js'
import { invalidType, invalidValue, shapeMismatch } from '../../errors.js'
import type { Communicator, DeviceMemory, DType, NcclRanks, RunOptions } from '../../types/index.js'

/** Element type of a sum. */
export type SummedType = DType | 'float64'

/** NCCL's number of each type, ncclDataType_t, and bytes of an element. */
const TYPES: Readonly<Record<SummedType, { code: number; bytes: number }>> = {
  float32: { code: 7, bytes: 4 },
  float16: { code: 6, bytes: 2 },
  bfloat16: { code: 9, bytes: 2 },
  float64: { code: 8, bytes: 8 },
}

/** Options of an operation. */
interface OnStream {
  stream?: RunOptions['stream'] | undefined
}

/**
 * A rank of processes that NCCL connects, made by `ncclCommunicator`. Its operations are enqueued on a stream, where they
 * wait for those of the other ranks, and can be captured in a graph. All ranks enqueue the same operations, of the same
 * sizes, in the same order. Calls that share a vocabulary take it as their `communicator`. It is freed by `dispose`, which all ranks call, by `using`, or when it is garbage, and in each
 * case only once no graph needs it any more.
 */
export class NcclCommunicator extends Handle<object> implements NcclRanks {
  /** This process, from 0 to `size` − 1. */
  readonly rank: number
  /** The number of processes. */
  readonly size: number
  /** Index of the GPU. */
  readonly device: number
  /** The communicator that it was made from. */
  readonly host: Communicator

  /** @internal */
  constructor(communicator: object, device: number, host: Communicator) {
    const cuda = cudaFunctions()
    super(communicator, (isForgotten) => cuda.destroyCommunicator(communicator, !isForgotten))
    this.rank = host.rank
    this.size = host.size
    this.device = device
    this.host = host
  }

  /**
   * Gathers the bytes of every rank, in the order of ranks.
   * @param send bytes of this rank
   * @param receive `size` times as many bytes; `send` may be their part of this rank, and must not overlap them otherwise
   * @param options `stream`: defaults to the default stream
   * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
   *   `ERR_SHAPE_MISMATCH`; Error `ERR_NCCL` (another rank has died, for one), `ERR_CUDA`, `ERR_DISPOSED`
   */
  allGather(send: DeviceMemory, receive: DeviceMemory, options: { stream?: RunOptions['stream'] } = {}): void {
    const { stream } = optionsObject<OnStream>(options, 'options', STREAM)
    const [from, to] = [this.#range(send, 'send'), this.#range(receive, 'receive')]
    if (to.byteLength !== this.size * from.byteLength) {
      const wanted = `${this.size * from.byteLength} bytes: those of ${this.size} ranks`
      throw shapeMismatch('receive', `has ${to.byteLength} bytes; it must have ${wanted}`)
    }
    const isInPlace = from.place === to.place + BigInt(this.rank * from.byteLength)
    if (!isInPlace && cudaRangesOverlap(from, to))
      throw invalidValue('send', 'overlaps receive, but is not its own part')
    this.#enqueue([send, receive], stream, (cuda, handle, address) =>
      cuda.allGather(handle, Number(from.place), Number(to.place), from.byteLength, address),
    )
  }

  /**
   * Adds up the elements of all ranks, in place. The order in which they are added up is NCCL's.
   * @param data the elements
   * @param options `dtype`: their type, 'float32', 'float16', 'bfloat16' or 'float64'. Defaults to 'float32'. `stream`:
   *   defaults to the default stream
   * @throws as `allGather`
   */
  allReduceSum(data: DeviceMemory, options: { dtype?: SummedType; stream?: RunOptions['stream'] } = {}): void {
    const { dtype, stream } = optionsObject<OnStream & { dtype?: SummedType }>(options, 'options', DTYPE_STREAM)
    const { code, bytes } = TYPES[oneOf(dtype, 'options.dtype', Object.keys(TYPES) as SummedType[], 'float32')]
    const { place: at, byteLength } = this.#range(data, 'data', bytes)
    if (byteLength % bytes !== 0) {
      throw shapeMismatch('data', `has ${byteLength} bytes; its elements have ${bytes} bytes each`)
    }
    this.#enqueue([data], stream, (cuda, handle, address) =>
      cuda.allReduceSum(handle, Number(at), byteLength / bytes, code, address),
    )
  }

  /**
   * Copies the bytes of one rank to all others, in place.
   * @param options `root`: the rank that has the bytes. Defaults to 0. `stream`: defaults to the default stream
   * @throws as `allGather`
   */
  broadcast(data: DeviceMemory, options: { root?: number; stream?: RunOptions['stream'] } = {}): void {
    const { root = 0, stream } = optionsObject<OnStream & { root?: number }>(options, 'options', ROOT_STREAM)
    integer(root, 'options.root', 0, this.size - 1)
    const { place: at, byteLength } = this.#range(data, 'data')
    this.#enqueue([data], stream, (cuda, handle, address) =>
      cuda.broadcast(handle, Number(at), byteLength, root, address),
    )
  }

  /**
   * Waits, off the calling thread, for all enqueued work of a stream, as its own `synchronize` does. Where another rank
   * has died and operations would wait for ever, this one rejects, and ends them.
   * @throws Error `ERR_NCCL`, `ERR_CUDA` (the GPU has failed), `ERR_DISPOSED`
   */
  async synchronize(stream: NonNullable<RunOptions['stream']> = 0): Promise<void> {
    const { handle } = this
    const address = Number(streamOf(stream, this.device))
    const holds = new Holds([this, stream])
    try {
      await cudaPromise(cudaFunctions().waitFor(nextId(), handle, address))
    } finally {
      holds.letGo(false)
    }
  }

  /**
   * Ends all operations on this rank, those that wait for other ranks too; what they were to write is then undefined. All
   * later ones throw `ERR_NCCL`.
   */
  abort(): void {
    cudaFunctions().abortCommunicator(this.handle)
  }

  #range(memory: unknown, name: string, elementSize = 1): CudaRange {
    if (!isCudaMemory(memory)) throw invalidType(name, 'device memory', memory)
    const range = cudaRange(memory, name, elementSize)
    if (range.device !== this.device) {
      throw invalidValue(name, `is on device ${range.device}, but the communicator is on device ${this.device}`)
    }
    return range
  }

  #enqueue(
    memory: readonly DeviceMemory[],
    stream: RunOptions['stream'],
    call: (cuda: CudaFunctions, handle: object, stream: number) => void,
  ): void {
    const { handle } = this
    const address = Number(streamOf(stream ?? 0, this.device))
    cudaCall(() => call(cudaFunctions(), handle, address))
    enqueued(this, ...memory)
  }
}

markRanks(NcclCommunicator.prototype)

const STREAM = new Set(['stream'])
const DTYPE_STREAM = new Set(['dtype', 'stream'])
const ROOT_STREAM = new Set(['root', 'stream'])
