/**
 * The types of the native code's exports; see native/addon/addon.cc, blas_bindings.h, cuda_bindings.h and
 * mpi_bindings.h.
 */
import type { Device, InstructionSet, LossType, UnpairedLossType } from '../../types/index.js'

/** An array of the host's. */
export type NativeArray = Float64Array | Float32Array | Int32Array | Uint16Array

/** The values passed to the addon: arrays, and addresses on the GPU. */
export type JobArgument = NativeArray | bigint

/** The addon. */
export interface Addon {
  /** The fields that `run` takes, as text: it must equal `jobFields()` of job-arguments.ts. */
  readonly jobFields: string
  /**
   * Where `run` and the other functions that take jobs find the values of a job's fields. They read them before they
   * return.
   */
  readonly values: Float64Array
  /** Where `run` finds small arrays: one slot per field. */
  readonly arena: ArrayBuffer
  run(...job: JobArgument[]): void
  /** `onHiddenRows`: see `RunSettings`. */
  runAsync(id: number, onHiddenRows: ((row: number) => void) | undefined, ...job: JobArgument[]): Promise<boolean>
  cancel(id: number): void
  /** An id that is unique among the calls of all copies of this package; the functions of `cuda` take it too. */
  nextId(): number
  /** Whether the memory of arrays is held while `runAsync` uses it, even when they are transferred meanwhile. */
  readonly holdsMemory: boolean
  readonly cuda: CudaFunctions
  readonly mpi: MpiFunctions
  readonly blas: BlasFunctions
  /** Why products cannot be AMX's. The first call asks the system for them. */
  amxProblem(): string | undefined
  /** Seconds that a sweep over the bytes of `buffer` takes; see native/cpu/limits.h. */
  bandwidth(sweep: string, buffer: ArrayBuffer, target: ArrayBuffer | undefined, threads: number): number
  /** Floating-point operations a second. */
  multiplyAddRate(instructionSet: InstructionSet, threads: number): number
  /** The same of products of bfloat16 pairs; 0 where the CPU has no such instruction. */
  pairProductRate(threads: number): number
  readonly lossNames: readonly LossType[]
  readonly unpairedLossNames: readonly UnpairedLossType[]
  readonly instructionSets: readonly InstructionSet[]
}

/** One side of a copy: an address, or an array of the host's. */
type Side = number | ArrayBufferView

/** Kinds of memory: see native/cuda/api.h. */
export type MemoryKind = 0 | 1 | 2

/**
 * The addon's `cuda`. A function that returns a promise keeps any extra arguments alive until the promise has settled.
 */
export interface CudaFunctions {
  open(path: string): string | undefined
  devices(): Device[]
  cublasLt(): string | undefined
  run(...job: JobArgument[]): void
  runAsync(id: number, ...job: (JobArgument | readonly unknown[])[]): Promise<boolean>
  cancel(id: number): void
  job(...job: JobArgument[]): object
  ready(job: object): void
  readyAsync(id: number, job: object): Promise<boolean>
  runReady(job: object): void
  runReadyAsync(id: number, job: object): Promise<boolean>
  prepare(...job: JobArgument[]): object
  enqueue(prepared: object, stream: number): void
  read(prepared: object, stream: number): void
  destroyPrepared(prepared: object): void
  destroyPreparedAsync(id: number, prepared: object): Promise<boolean>
  workspaceBytes(prepared: object): number
  resultAt(prepared: object, array: ArrayBufferView): number
  allocate(device: number, bytes: number): number
  release(device: number, address: number, bytes: number): void
  releaseAsync(id: number, device: number, address: number, bytes: number): Promise<boolean>
  trim(device: number): void
  collect(): void
  memoryAt(address: number, bytes: number): { first: MemoryKind; last: MemoryKind; device: number }
  copy(device: number, kind: number, to: Side, from: Side, bytes: number, stream: number): void
  copyAsync(
    id: number,
    device: number,
    kind: number,
    to: Side,
    from: Side,
    bytes: number,
    stream: number,
    keep: readonly unknown[],
  ): Promise<boolean>
  fill(device: number, address: number, byte: number, bytes: number, stream: number): void
  createStream(device: number): number
  destroyStream(device: number, stream: number): void
  synchronize(device: number, stream: number): void
  synchronizeAsync(id: number, device: number, stream: number): Promise<boolean>
  createEvent(device: number): number
  destroyEvent(device: number, event: number): void
  recordEvent(device: number, event: number, stream: number): void
  waitForEvent(device: number, stream: number, event: number): void
  milliseconds(device: number, start: number, end: number): number
  beginCapture(device: number, stream: number): void
  endCapture(device: number, stream: number): number
  discardCapture(device: number, stream: number): void
  launchGraph(device: number, graph: number, stream: number): void
  destroyGraph(device: number, graph: number): void
  ncclVersion(): number
  ncclId(bytes: Uint8Array): void
  communicator(): object
  connect(
    id: number,
    communicator: object,
    device: number,
    rank: number,
    size: number,
    bytes: Uint8Array,
    seconds: number,
  ): Promise<boolean>
  addressOf(communicator: object): bigint
  allGather(communicator: object, send: number, receive: number, bytes: number, stream: number): void
  allReduceSum(communicator: object, data: number, count: number, type: number, stream: number): void
  broadcast(communicator: object, data: number, bytes: number, root: number, stream: number): void
  waitFor(id: number, communicator: object, stream: number): Promise<boolean>
  abortCommunicator(communicator: object): void
  destroyCommunicator(communicator: object, now: boolean): void
}

/** The addon's `blas`. */
export interface BlasFunctions {
  /** The number of the library at this path, or by this name; or why it cannot be used. */
  open(path: string): number | string
  /** Seconds of the bare products of an output layer's step, by the library that was opened last; for the benchmarks. */
  stepSeconds(rows: number, width: number, vocab: number, threads: number): number
}

/** The addon's `mpi`. Errors begin with their code and ': '. */
export interface MpiFunctions {
  /** What a library is, or why it cannot be used. */
  describe(path: string): { version: string; handles: 'open-mpi' | 'mpich' | 'standard' } | string
  /** `longest`: the most bytes of a message. */
  open(path: string, longest: number): void
  world(): { rank: number; size: number } | undefined
  allGather(send: Uint8Array, receive: Uint8Array): void
  allGatherAsync(id: number, send: Uint8Array, receive: Uint8Array): Promise<boolean>
  allReduceSum(data: Float32Array | Float64Array): void
  allReduceSumAsync(id: number, data: Float32Array | Float64Array): Promise<boolean>
  barrier(): void
  barrierAsync(id: number): Promise<boolean>
  closeAsync(id: number): Promise<boolean>
  abort(code: number): void
  exiting(code: number): void
}
