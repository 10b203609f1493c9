/**
 * The WebAssembly module in one memory: the C++ kernels of native/wasm/module.cc, their heap, and views of it.
 */
import type { LossType, UnpairedLossType } from '../../types/index.js'
import { sharedFields } from '../field-list.js'
import { platform } from './platform.js'
import { type Memory, type Module, WebAssembly } from './webassembly.js'

/** A page of WebAssembly's memory, in bytes. */
const PAGE = 65536
const FIRST_PAGES = 32
/** All that addresses of 32 bits reach, but for the last page. */
const MOST_PAGES = 65535

/** Stack of an instance besides the first, in bytes. */
const STACK = 1 << 20

/** What the module exports. */
export interface Exports {
  _initialize(): void
  description(): number
  allocate(bytes: number): number
  release(address: number): void
  jobBytes(): number
  cancelledAt(): number
  run(values: number, job: number): number
  letCallersSleep(truth: number): void
}

/** Views of the whole memory. */
interface Views {
  readonly float64: Float64Array
  readonly float32: Float32Array
  readonly int32: Int32Array
  readonly uint16: Uint16Array
  readonly uint8: Uint8Array
}

/** No memory is to be had, or the module has run out of it in the middle of a job. */
export class OutOfMemory extends Error {}

/** One memory, and this thread's instance in it. */
export class Engine {
  readonly memory: Memory
  readonly lossNames: readonly LossType[]
  readonly unpairedLossNames: readonly UnpairedLossType[]
  private readonly exports: Exports
  private seen: Views | undefined

  /** Throws an error that says what is wrong with the module. */
  constructor(
    readonly module: Module,
    readonly shared: boolean,
  ) {
    this.memory = new WebAssembly.Memory({ initial: FIRST_PAGES, maximum: MOST_PAGES, shared })
    this.exports = new WebAssembly.Instance(module, { env: { memory: this.memory } }).exports as unknown as Exports
    this.exports._initialize()
    this.exports.letCallersSleep(platform.maySleep ? 1 : 0)
    const [fields, losses, unpairedLosses] = this.textAt(this.exports.description()).split(/\n(?=\n)/)
    if (`${fields}\n` !== sharedFields()) throw new Error('belongs to another version of this package')
    this.lossNames = losses.trim().split('\n') as LossType[]
    this.unpairedLossNames = unpairedLosses.trim().split('\n') as UnpairedLossType[]
  }

  /** Views of the memory as it is now: it may have grown. */
  get views(): Views {
    const { buffer } = this.memory
    if (this.seen?.uint8.buffer !== buffer) {
      this.seen = {
        float64: new Float64Array(buffer, 0, buffer.byteLength >>> 3),
        float32: new Float32Array(buffer),
        int32: new Int32Array(buffer),
        uint16: new Uint16Array(buffer),
        uint8: new Uint8Array(buffer),
      }
    }
    return this.seen as Views
  }

  /** Bytes of the memory. */
  get byteLength(): number {
    return this.memory.buffer.byteLength
  }

  /** The address of memory that begins at a multiple of 64. */
  allocate(bytes: number): number {
    const address = bytes <= MOST_PAGES * PAGE ? this.exports.allocate(bytes) >>> 0 : 0
    if (address === 0) throw new OutOfMemory(`no memory for ${bytes} bytes in the WebAssembly module`)
    // Another thread may have grown the memory, which this thread's buffer need not show yet.
    if (address + bytes > this.byteLength) this.memory.grow(0)
    return address
  }

  release(address: number): void {
    this.exports.release(address)
  }

  /** Bytes that the module needs beside the fields of a job, and the one among them that cancels it. */
  get jobBytes(): number {
    return this.exports.jobBytes()
  }
  get cancelledAt(): number {
    return this.exports.cancelledAt()
  }

  /** Runs the job whose fields are at `values`, with `jobBytes` of memory at `job`; false when it was cancelled. */
  run(values: number, job: number): boolean {
    return this.exports.run(values, job) !== 0
  }

  /** A stack for an instance on another thread: the address where it begins, which is its end. */
  allocateStack(): number {
    return this.allocate(STACK) + STACK
  }

  private textAt(address: number): string {
    const { uint8 } = this.views
    // A copy: decoders refuse shared memory.
    return new TextDecoder().decode(uint8.slice(address, uint8.indexOf(0, address)))
  }
}
