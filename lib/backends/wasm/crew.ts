/**
 * The workers of the wasm backend, and the memory that they share: one that runs the jobs of promises, and helpers that
 * share the work of any job. None of them keeps the process alive, but for the first while a promise waits for it.
 */
import { warnOnce } from '../../check/warn-once.js'
import { Engine, OutOfMemory } from './engine.js'
import { platform } from './platform.js'
import type { WorkerStart, WorkerThread } from './platform-type.js'
import type { Module } from './webassembly.js'

/** The answer of a worker to a job. */
interface Answer {
  id: number
  finished?: boolean
  problem?: string
}

/** The worker is gone, or has never come. */
export class WorkerLost extends Error {}

interface Waiting {
  resolve(finished: boolean): void
  reject(error: Error): void
}

/** The worker that runs jobs, and those who wait for it. It keeps the process alive while there are any. */
class Runner {
  private readonly worker: WorkerThread
  private readonly waiting = new Map<number, Waiting>()
  private lastId = 0
  private gone = false

  constructor(start: WorkerStart, error: (error: Error) => void) {
    const message = (answer: unknown) => this.hear(answer as Answer)
    this.worker = platform.startWorker(start, { message, error, exit: () => this.leave() })
  }

  get isBusy(): boolean {
    return this.waiting.size > 0
  }

  run(addresses: readonly [number, number]): Promise<boolean> {
    if (this.gone) return Promise.reject(new WorkerLost())
    return new Promise((resolve, reject) => {
      const id = ++this.lastId
      if (!this.isBusy) this.worker.keepAlive(true)
      this.waiting.set(id, { resolve, reject })
      this.worker.post({ id, addresses })
    })
  }

  end(): Promise<unknown> {
    return this.worker.end()
  }

  private hear({ id, finished, problem }: Answer): void {
    const waiting = this.waiting.get(id)
    this.waiting.delete(id)
    if (!this.isBusy) this.worker.keepAlive(false)
    if (problem === undefined) waiting?.resolve(finished === true)
    else waiting?.reject(new OutOfMemory(problem))
  }

  private leave(): void {
    this.gone = true
    for (const { reject } of this.waiting.values()) reject(new WorkerLost())
    this.waiting.clear()
  }
}

export class Crew {
  readonly engine: Engine
  private runner: Runner | undefined
  private readonly helpers = new Set<WorkerThread>()
  private broken = false

  constructor(module: Module) {
    this.engine = new Engine(module, true)
  }

  /** Whether workers can be had, as far as is known. */
  get works(): boolean {
    return !this.broken
  }

  /** Sees to it that there are so many helpers. They may take a while to come; nobody waits for them. */
  wantHelpers(count: number): void {
    while (this.helpers.size < count && !this.broken) this.startHelper()
  }

  /** Runs the job at these addresses on a worker; false when it was cancelled. */
  run(addresses: readonly [number, number]): Promise<boolean> {
    this.runner ??= this.attempt(() => new Runner(this.start(false), (error) => this.fail(error)))
    return this.runner?.run(addresses) ?? Promise.reject(new WorkerLost())
  }

  /** Ends the workers, once those who wait for them have their answers. */
  async close(): Promise<void> {
    while (this.runner?.isBusy) await new Promise((resolve) => setTimeout(resolve, 1))
    await this.end()
  }

  /** Ends the workers at once. */
  async end(): Promise<void> {
    const workers = [...this.helpers]
    const { runner } = this
    this.helpers.clear()
    this.runner = undefined
    await Promise.all([runner?.end(), ...workers.map((worker) => worker.end())])
  }

  private startHelper(): void {
    this.attempt(() => {
      const exit = () => this.helpers.delete(helper)
      const listeners = { message: () => {}, error: (error: Error) => this.fail(error), exit }
      const helper = platform.startWorker(this.start(true), listeners)
      this.helpers.add(helper)
    })
  }

  private start(helps: boolean): WorkerStart {
    const { engine } = this
    return { module: engine.module, memory: engine.memory, stack: engine.allocateStack(), helps }
  }

  private attempt<T>(begin: () => T): T | undefined {
    try {
      return begin()
    } catch (error) {
      this.fail(error)
      return undefined
    }
  }

  private fail(error: unknown): void {
    this.broken = true
    warnAlone(error)
  }
}

/** Warns that calls run on one thread, and says why. */
export function warnAlone(error: unknown): void {
  const problem = error instanceof Error ? error.message : String(error)
  warnOnce(
    'FUSED_PREFERENCE_LOSS_NO_WORKERS',
    `fused-preference-loss runs its WebAssembly on one thread, as a worker could not be used: ${problem}`,
  )
}
