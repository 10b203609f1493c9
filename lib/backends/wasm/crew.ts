/**
 * The workers of the wasm backend, and the memory that they share: runners, which run jobs, and helpers, which share the
 * work of any one job. None of them keeps the process alive, but for a runner for which a promise waits.
 */
import { warnOnce } from '../../check/warn-once.js'
import { Engine } from './engine.js'
import { platform } from './platform.js'
import type { WorkerStart, WorkerThread } from './platform-type.js'
import { Runner, type Task, WorkerLost } from './runner.js'
import type { Module } from './webassembly.js'

export class Crew {
  readonly engine: Engine
  private readonly runners: Runner[] = []
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

  /** That one of so many runners who has least to do; undefined where there are none to be had. */
  runner(count: number): Runner | undefined {
    while (this.runners.length < count && !this.broken) this.startRunner()
    const runners = this.runners.slice(0, count)
    return runners.sort((a, b) => a.load - b.load)[0]
  }

  /** Runs a task on one of so many runners; false when it was cancelled. */
  run(task: Task, runners: number): Promise<boolean> {
    return this.runner(runners)?.run(task) ?? Promise.reject(new WorkerLost())
  }

  /** Ends the workers, once those who wait for them have their answers. */
  async close(): Promise<void> {
    while (this.runners.some(({ isBusy }) => isBusy)) await new Promise((resolve) => setTimeout(resolve, 1))
    await this.end()
  }

  /** Ends the workers at once. */
  async end(): Promise<void> {
    const workers = [...this.helpers, ...this.runners]
    this.helpers.clear()
    this.runners.length = 0
    await Promise.all(workers.map((worker) => worker.end()))
  }

  private startRunner(): void {
    this.attempt(() => {
      const exit = () => {
        const at = this.runners.indexOf(runner)
        if (at >= 0) this.runners.splice(at, 1)
      }
      const runner: Runner = new Runner(this.engine, this.start(false), { error: (error) => this.fail(error), exit })
      this.runners.push(runner)
    })
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
