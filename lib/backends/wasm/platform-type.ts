/**
 * What the wasm backend needs of where it runs.
 */
import type { FoundModule, ModuleName } from './modules.js'
import type { Memory, Module } from './webassembly.js'

/** What a worker gets when it starts. */
export interface WorkerStart {
  readonly module: Module
  readonly memory: Memory
  /** The address where its stack begins. */
  readonly stack: number
  /** It helps with whatever is run; otherwise it runs the jobs that it is sent. */
  readonly helps: boolean
}

/** What is heard of a worker. */
export interface WorkerListeners {
  message(data: unknown): void
  /** It has failed, or could not be started. */
  error(error: Error): void
  /** It is gone. */
  exit(): void
}

export interface WorkerThread {
  post(message: unknown): void
  /** Whether it keeps the process alive, which it does not at first. */
  keepAlive(truth: boolean): void
  end(): Promise<unknown>
}

/** The surroundings: Node.js (and runtimes with its modules) or a browser. */
export interface Platform {
  /** Default number of threads. */
  readonly threads: number
  /** Whether workers can share memory with this thread. */
  readonly sharesMemory: boolean
  /** Whether this thread may wait for others; the main thread of a page may not. */
  readonly maySleep: boolean
  /**
   * The module of that name which lies with the package; undefined where it has to be fetched. Throws an error that says
   * what is wrong with it.
   */
  findModule(name: ModuleName): FoundModule | undefined
  /** The module from the caller's source, or that of the package. */
  fetchModule(name: ModuleName, source: unknown): Promise<FoundModule>
  /** Throws where there are no workers. */
  startWorker(start: WorkerStart, listeners: WorkerListeners): WorkerThread
}
