/**
 * The workers of the wasm backend, and the memory that they share: one that runs the jobs of promises, and helpers that
 * share the work of any job. None of them keeps the process alive, but for the first while a promise waits for it.
 */
import { Worker } from 'node:worker_threads'
import { warnOnce } from '../../check/warn-once.js'
import { Engine, OutOfMemory } from './engine.js'
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

export class Crew {
  readonly engine: Engine
  private runner: Worker | undefined
  private readonly helpers = new Set<Worker>()
  private readonly waiting = new Map<number, Waiting>()
  private lastId = 0
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
    while (this.helpers.size < count && !this.broken) {
      const helper = this.start(true)
      if (helper === undefined) return
      this.helpers.add(helper)
      helper.on('exit', () => this.helpers.delete(helper))
    }
  }

  /** Runs the job at these addresses on a worker; false when it was cancelled. */
  run(addresses: readonly [number, number]): Promise<boolean> {
    this.runner ??= this.startRunner()
    const { runner } = this
    if (runner === undefined) return Promise.reject(new WorkerLost())
    return new Promise((resolve, reject) => {
      const id = ++this.lastId
      if (this.waiting.size === 0) runner.ref()
      this.waiting.set(id, { resolve, reject })
      runner.postMessage({ id, addresses })
    })
  }

  /** Ends the workers, once those who wait for them have their answers. */
  async close(): Promise<void> {
    while (this.waiting.size > 0) await new Promise((resolve) => setTimeout(resolve, 1))
    await this.end()
  }

  /** Ends the workers at once. */
  async end(): Promise<void> {
    const workers = [...this.helpers, ...(this.runner ? [this.runner] : [])]
    this.helpers.clear()
    this.runner = undefined
    await Promise.all(workers.map((worker) => worker.terminate()))
  }

  private startRunner(): Worker | undefined {
    const runner = this.start(false)
    runner?.on('message', (answer: Answer) => this.settle(answer))
    runner?.on('exit', () => {
      if (this.runner === runner) this.runner = undefined
      this.loseAll()
    })
    return runner
  }

  private start(helps: boolean): Worker | undefined {
    const { engine } = this
    try {
      const workerData = { module: engine.module, memory: engine.memory, stack: engine.allocateStack(), helps }
      const worker = new Worker(new URL('./worker.mjs', import.meta.url), { workerData, execArgv: [] })
      worker.on('error', (error) => this.fail(error))
      worker.unref()
      return worker
    } catch (error) {
      this.fail(error)
      return undefined
    }
  }

  private fail(error: unknown): void {
    this.broken = true
    const problem = error instanceof Error ? error.message : String(error)
    warnOnce(
      'FUSED_PREFERENCE_LOSS_NO_WORKERS',
      `fused-preference-loss runs its WebAssembly on one thread, as a worker could not be used: ${problem}`,
    )
  }

  private settle({ id, finished, problem }: Answer): void {
    const waiting = this.waiting.get(id)
    this.waiting.delete(id)
    if (this.waiting.size === 0) this.runner?.unref()
    if (problem === undefined) waiting?.resolve(finished === true)
    else waiting?.reject(new OutOfMemory(problem))
  }

  private loseAll(): void {
    const all = [...this.waiting.values()]
    this.waiting.clear()
    for (const { reject } of all) reject(new WorkerLost())
  }
}
